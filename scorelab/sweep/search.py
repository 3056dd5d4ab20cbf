"""Search by Optuna: every trial is a point, and its result influences the next points."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scorelab.sweep.plan import Point, Range, SweepError

Measure = Callable[[Sequence[Point]], list[float | None]]
"""Runs points; their objectives, nan if one failed and None if one was stopped."""


def open_study(root: pathlib.Path, name: str, maximise: bool, seed: int) -> Any:
  """Opens or creates the study of this name in root/optuna.log.

  Raises:
    SweepError: Optuna is not installed.
  """
  try:
    import optuna
  except ImportError:
    raise SweepError("--optuna needs Optuna: pip install -e '.[optuna]'") from None
  from optuna.storages import JournalStorage
  from optuna.storages.journal import JournalFileBackend

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  root.mkdir(parents=True, exist_ok=True)
  storage = JournalStorage(JournalFileBackend(str(root / "optuna.log")))
  study = optuna.create_study(
    storage=storage,
    study_name=name,
    direction="maximize" if maximise else "minimize",
    load_if_exists=True,
  )
  # A sampler of the same seed would draw what it drew when the study was begun.
  study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
  for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
    # It was interrupted: its point is tried again, and its runs resume.
    study.enqueue_trial(trial.params, skip_if_exists=False)
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
  return study


def search(
  study: Any,
  number: int,
  batch: int,
  grid: Mapping[str, Sequence[str]],
  ranges: Mapping[str, Range],
  measure: Measure,
) -> bool:
  """Runs trials in batches of `batch` until `number` have a value or have failed.

  Returns:
    True if the search is complete; False if a run was stopped.
  """
  from optuna.trial import TrialState

  def ended() -> int:
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return len(complete) + sum("failed" in t.user_attrs for t in trials)

  while (missing := number - ended()) > 0:
    trials = [study.ask() for _ in range(min(batch, missing))]
    points = [_point(trial, grid, ranges) for trial in trials]
    values = measure(points)
    for trial, value in zip(trials, values, strict=True):
      if value is None:
        continue  # it stays 'running', and is asked again
      if math.isnan(value):
        trial.set_user_attr("failed", True)
        study.tell(trial, state=TrialState.FAIL)
      else:
        study.tell(trial, value)
    if None in values:
      return False
  return True


def _point(trial: Any, grid: Mapping[str, Sequence[str]], ranges: Mapping[str, Range]) -> Point:
  """Returns the point that a trial suggests."""
  for field, values in grid.items():
    trial.suggest_categorical(field, list(values))
  for field, r in ranges.items():
    if r.whole:
      trial.suggest_int(field, int(r.low), int(r.high), log=r.log)
    else:
      trial.suggest_float(field, r.low, r.high, log=r.log)
  return _typed(trial.params)


def _typed(params: Mapping[str, Any]) -> Point:
  """Formats a trial's parameters for the command line: floats with four significant digits."""
  return {f: f"{v:.4g}" if isinstance(v, float) else str(v) for f, v in params.items()}


def points_tried(study: Any) -> list[Point]:
  """Returns the distinct points of all trials, in order."""
  points = [_typed(trial.params) for trial in study.get_trials(deepcopy=False) if trial.params]
  return list({tuple(point.items()): point for point in points}.values())
