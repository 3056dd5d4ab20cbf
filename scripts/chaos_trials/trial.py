"""An undisturbed run, and others that must have the same bits."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scorelab.config.command_line import read_config
from scorelab.experiment.build import build
from scorelab.runs.sharding import make_layout
from scorelab.runs.workdir import Workdir
from scorelab.training import ensembles
from scorelab.training.restore import restore_trained
from scripts.chaos_trials.runs import RUN, TICK, BrokenError, Lab, Process, count_lines, snapshot

_VARYING = {"timings.jsonl", "LOCK"}  # the clock's share, and the last process's name


def print_line(text: str) -> None:
  """Prints a line at once."""
  print(text, flush=True)


@dataclasses.dataclass(frozen=True)
class Timetable:
  """Durations of the phases of an undisturbed run.

  Attributes:
    seconds: that each phase takes; of training, a line, and of saving, a checkpoint.
    lines: of metrics.jsonl.
  """

  seconds: Mapping[str, float]
  lines: int


@dataclasses.dataclass(frozen=True)
class Trial:
  """The undisturbed run that disturbed runs are compared with.

  Attributes:
    lab: starts runs.
    root: the folder of all runs.
    times: durations of the undisturbed run.
    state: its final state.
  """

  lab: Lab
  root: pathlib.Path
  times: Timetable
  state: Mapping[str, np.ndarray]

  def folder(self, name: str) -> pathlib.Path:
    """A new folder for a run."""
    folder = self.root / name
    folder.mkdir(parents=True)
    return folder

  def compare(self, folder: pathlib.Path) -> None:
    """Raises BrokenError unless the run in a folder has the bits of the undisturbed one."""
    found = differences(self.root / "undisturbed" / RUN, folder / RUN)
    found += state_differences(self.state, final_state(self.lab.arguments, folder / RUN))
    if found:
      raise BrokenError(f"{folder.name} DIFFERS: {'; '.join(found[:10])}")
    lines = f"{self.times.lines} lines of metrics, evaluation, samples and figures"
    print_line(f"{folder.name}: the same bits in {len(self.state)} arrays, {lines}")


def make_trial(lab: Lab, root: pathlib.Path) -> Trial:
  """Makes the undisturbed run, and makes it again: the second one is timed and compared, too."""
  print_line("undisturbed, which compiles; then again, which is timed")
  for name in ("undisturbed", "timed"):
    (root / name).mkdir(parents=True)
    times = watch(lab.start(root / name))
  print_line(", ".join(f"{phase} {seconds:.2g} s" for phase, seconds in times.seconds.items()))
  trial = Trial(lab, root, times, final_state(lab.arguments, root / "undisturbed" / RUN))
  trial.compare(root / "timed")
  return trial


def watch(process: Process) -> Timetable:
  """Waits for an undisturbed run."""
  seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
  last, saves, before = time.monotonic(), 0, ""
  while process.popen.poll() is None:
    time.sleep(TICK)
    phase, now = process.phase(), time.monotonic()
    seconds[phase] += min(now - last, 0.1)  # more than that, and we were not running either
    saves += phase == "saving" != before
    before, last = phase, now
  process.require_success()
  seconds["saving"] /= max(saves, 1)
  lines = count_lines(process.workdir)
  seconds["training"] /= max(lines, 1)
  return Timetable(seconds, lines)


def final_state(arguments: Sequence[str], workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the last checkpoint, by name: parameters, averages, optimiser, step.

  Args:
    arguments: main.py's, with --config=...
    workdir: a finished run's.
  """
  (file,) = (a.removeprefix("--config=") for a in arguments if a.startswith("--config="))
  jax.config.update("jax_platforms", "cpu")  # the runs themselves may want all of a GPU's memory
  config = read_config(file, [a for a in arguments if a.startswith("--config.")])
  program = None
  if ensembles.is_ensemble(config):
    ensemble = ensembles.build(config)
    experiment = ensemble.experiment
    program = ensembles.make_program(ensemble, make_layout(experiment.sharding))
  else:
    config.ensemble.seeds = None
    experiment = build(config)
  state: Any = restore_trained(experiment, Workdir(workdir), program)
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in leaves}


def state_differences(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> list[str]:
  """The names of the arrays whose bits differ."""
  if old.keys() != new.keys():
    return ["the state has other arrays"]
  return [f"{name} differs" for name in old if old[name].tobytes() != new[name].tobytes()]


def differences(straight: pathlib.Path, disturbed: pathlib.Path) -> list[str]:
  """Returns differences between a run's folder and the undisturbed run's, except checkpoints.

  Every file has the same bytes, except for timings.jsonl, the lock and the git revision.
  """
  old, new = (
    {k: v for k, v in snapshot(path).items() if not k.startswith("checkpoints/")}
    for path in (straight, disturbed)
  )
  found = [f"{name} is missing" for name in sorted(old.keys() - new.keys())]
  found += [f"{name} is too much" for name in sorted(new.keys() - old.keys())]
  for name in sorted((old.keys() & new.keys()) - _VARYING):
    if name == "metrics.jsonl" and old[name] != new[name]:
      found.append(_line_difference(old[name], new[name]))
    elif _comparable(name, old[name]) != _comparable(name, new[name]):
      found.append(f"{name} differs")
  return found


def _comparable(name: str, content: bytes) -> Any:
  """Returns the part of a file that must be equal."""
  return {**json.loads(content), "git": None} if name == "environment.json" else content


def _line_difference(old: bytes, new: bytes) -> str:
  a, b = old.splitlines(), new.splitlines()
  first = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
  where = "" if first is None else f"; line {first + 1} is the first that differs"
  return f"metrics.jsonl has {len(b)} lines, not {len(a)}{where}"
