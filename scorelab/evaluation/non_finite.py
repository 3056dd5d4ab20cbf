"""Explains numbers of an evaluation that are not finite: which they are, and the likely cause."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.experiment.keys import Stream
from scorelab.experiment.row import Row
from scorelab.experiment.spec import Experiment
from scorelab.metrics.budget import PARTS
from scorelab.predictions import noised
from scorelab.schedules import Level, uniform_log_snr
from scorelab.targets import truth_of
from scorelab.typing import Array, Key, MixtureTarget, Params, Predict

# Of finite samples: none on a mode, or none of some class, which is infinitely unbalanced.
_MAY_LACK_A_VALUE = {"within_mode_std", "class_imbalance"}
_SHOWN = 4  # faults in one line
_MOST = 10**8  # numbers of a path that is kept to look for the level


def first_level(row: Row, key: Key, predict: Predict, start: Array) -> str:
  """Returns the first level at which a row's samples are not finite; '' if it is not found.

  Runs the sampler again, on fewer samples if the path of all would not fit into memory.

  Args:
    row: a row whose samples are not all finite.
    key, predict, start: the arguments of the first run; start is [n, *event].
  """
  start = start[: max(1, _MOST // (max(row.num_steps, 1) * start[0].size))]
  path = np.asarray(jax.jit(lambda key, x: row.run(key, predict, x).path)(key, start))
  bad = np.flatnonzero(~np.isfinite(path.reshape(len(path), -1)).all(1))
  if not bad.size:
    return ""
  step = int(bad[0])
  where = f"from step {step + 1} of {len(path)} on"
  if row.grid is None or step >= row.grid.num_steps:
    return where
  level = row.grid[step]
  alpha, sigma = float(level.alpha), float(level.sigma)
  return f"{where}, at {f'sigma / alpha = {sigma / alpha:.3g}' if alpha else 'pure noise'}"


def find(
  result: Mapping[str, Any],
  sets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
  *,
  exact: bool = True,
) -> list[str]:
  """Returns a phrase for each row with a number that is not finite.

  Args:
    result: contents of evaluation.json.
    sets: the sample sets of each row, by label; `lost` names the sets that are not finite and the
      level where that starts.
    exact: True if there is an exact score, and so every part of the budget.
  """
  found = []
  for row in result["rows"]:
    bad = [name for name, numbers in row["metrics"].items() if _is_bad(numbers, exact)]
    lost = sets.get(row["label"], {}).get("lost", {})
    if not {name.partition(":")[0] for name in bad} <= _MAY_LACK_A_VALUE or lost:
      found.append(f"{row['label']}: {', '.join(bad)} ({_cause(lost, exact)})")
  return found


def find_in_tables(experiment: Experiment, params: Params, result: Mapping[str, Any]) -> list[str]:
  """Returns a phrase for each other table that has a number that is not finite.

  A phrase names the levels and the cause.

  Args:
    experiment, params: the evaluated model.
    result: contents of evaluation.json; None stands for a number that is not finite.
  """
  errors, bound = result.get("score_error", {}), result.get("girsanov", {})
  found = []
  if bad := _levels_of(errors, "absolute", "relative"):
    found.append(f"score error at sigma = {_some(bad)}")
  names = [name for name in ("prior", "learning", "total") if bound and bound[name] is None]
  if (bad := _levels_of(bound, "density")) or names:
    at = f" at sigma / alpha = {_some(bad)}" if bad else ""
    found.append(f"Girsanov's bound: {', '.join(names or ['density'])}{at}")
  if "likelihood" in result:
    known = isinstance(experiment.target, MixtureTarget)
    found += [f"log-likelihood by the {fault}" for fault in _faults(result["likelihood"], known)]
  if not found:
    return []
  cause = _explain(experiment, params, errors.get("sigma", ()))
  return [f"{fault} ({cause})" for fault in found]


def _levels_of(table: Mapping[str, Any], *names: str) -> list[float]:
  """Returns the levels of a table at which a number is not finite."""
  columns = zip(table.get("sigma", ()), *(table.get(name, ()) for name in names), strict=True)
  return [sigma for sigma, *numbers in columns if None in numbers]


def _faults(likelihood: Mapping[str, Any], known: bool) -> list[str]:
  """Returns the entries of the likelihood that lack a number.

  Points that the adaptive solver gives up are no fault: the table counts them.

  Args:
    likelihood: the likelihood of evaluation.json.
    known: True if the exact law has a density.
  """
  known &= likelihood["bin_width"] is None
  found = []
  for reading, names in (
    ("probability flow", ("flow", "kl") if known else ("flow",)),
    ("variational bound", ("bound", "bound_kl") if known else ("bound",)),
  ):
    if bad := [name for name in names if likelihood[name] is None]:
      found.append(f"{reading}: {', '.join(bad)}")
    elif "flow" in names and likelihood["failed"] and likelihood["method"] != "adaptive":
      found.append(f"{reading}: {likelihood['failed']} of {likelihood['points']} points")
  return found


def _explain(experiment: Experiment, params: Params, ratios: Sequence[float]) -> str:
  """Returns which of the network and the exact score is not finite at noised data, and where.

  Args:
    experiment, params: the evaluated model; a conditional network gets the labels of the draws.
    ratios: sigma / alpha of levels to check, in addition to 48 between the schedule's ends.
  """
  here, key = experiment.at(experiment.numbers), experiment.key(Stream.SCORE_ERROR, 2)
  data_key, noise_key = jax.random.split(key)
  drawn = here.draw_data(data_key, 64)
  label = drawn.get("label")
  between = uniform_log_snr(here.schedule, 48, to_data=False).levels
  ratios = [*(between.sigma / between.alpha).tolist(), *ratios]
  levels = here.schedule.at_ratio(jnp.asarray(ratios))
  sources: dict[str, Predict] = {"network": here.parameterization.bind(params, label)}
  if experiment.evaluation.comparable:
    sources["exact score"] = truth_of(experiment.target).bind({}, label)
  for name, predict in sources.items():

    def is_finite(level: Level, predict: Predict = predict) -> Array:
      x, _ = noised(noise_key, drawn["x"], level)
      return jnp.isfinite(predict(x, level).score).all()

    finite = np.asarray(jax.jit(functools.partial(jax.lax.map, is_finite))(levels))
    if bad := [ratio for ratio, fine in zip(ratios, finite, strict=True) if not fine]:
      return f"the {name} is not finite at sigma / alpha = {_some(bad)}"
  return f"{' and '.join(sources)} are finite at noised data of all levels"


def in_one_line(faults: Sequence[str]) -> str:
  """Returns the first faults of an evaluation and the number of remaining ones."""
  more = len(faults) - _SHOWN
  return "; ".join(faults[:_SHOWN]) + (f"; and {more} more in evaluation.json" if more > 0 else "")


def _some(levels: Sequence[float]) -> str:
  """Returns the first level and the number of remaining ones."""
  more = f" and {len(levels) - 1} other levels" if len(levels) > 1 else ""
  return f"{levels[0]:.3g}{more}"


def _is_bad(numbers: Mapping[str, float | None], exact: bool) -> bool:
  parts = ("value", *(part for part in PARTS if part in numbers)) if exact else ("value", "floor")
  return any(numbers[part] is None for part in parts)


def _cause(lost: Mapping[str, str], exact: bool) -> str:
  """Returns why a row's numbers are not finite, judged by which of its sets are not finite."""
  if not lost:
    return "the samples are finite, the metric has no value for them"
  cause = ", with the network alone" if exact else ""
  if lost.keys() - {"network"}:
    cause = ", with the exact score too: the cause is the sampler or its grid"
  level = next(filter(None, lost.values()), "")
  return f"samples are not finite{' ' * bool(level)}{level}{cause}"
