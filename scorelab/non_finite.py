"""Faults of an evaluation: which of its numbers are not finite, and why as far as it is known."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from scorelab.rows import Row
from scorelab.typing import Array, Key, Predict

# Of finite samples: none on a mode, or none of some class, which is infinitely unbalanced.
_MAY_LACK_A_VALUE = {"within_mode_std", "class_imbalance"}
_MOST = 10**8  # numbers of a path that is kept to look for the level


def first_level(row: Row, key: Key, predict: Predict, start: Array) -> str:
  """Returns from which level of a row on samples are not finite, '' if it is not found.

  Runs the sampler again, on fewer samples if the path of all would not fit into memory.

  Args:
    row: a row whose samples are not all finite.
    key, predict, start: with which they were drawn, [n, *event].
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
  result: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> list[str]:
  """Returns a phrase for each row or table with a number that is not finite.

  Args:
    result: what evaluation.json holds.
    sets: those of each row, by its label; `lost` tells which are not finite and from which level.
  """
  exact, found = "score_error" in result, []
  for row in result["rows"]:
    bad = [name for name, numbers in row["metrics"].items() if _is_bad(numbers, exact)]
    lost = sets.get(row["label"], {}).get("lost", {})
    if not {name.partition(":")[0] for name in bad} <= _MAY_LACK_A_VALUE or lost:
      found.append(f"{row['label']}: {', '.join(bad)} ({_cause(lost, exact)})")
  errors = result.get("score_error", {})
  levels = zip(errors.get("sigma", ()), errors.get("relative", ()), strict=True)
  return found + [f"score error at sigma = {s:g}" for s, error in levels if not np.isfinite(error)]


def _is_bad(numbers: Mapping[str, float | None], exact: bool) -> bool:
  parts = ("value", "floor", *(("prior", "discretisation", "learning") if exact else ()))
  return any(numbers[part] is None for part in parts)


def _cause(lost: Mapping[str, str], exact: bool) -> str:
  """Returns why numbers of a row are not finite, from which of its sets are not."""
  if not lost:
    return "the samples are finite, the metric has no value for them"
  cause = ", with the network alone" if exact else ""
  if lost.keys() - {"network"}:
    cause = ", with the exact score too: the cause is the sampler or its grid"
  level = next(filter(None, lost.values()), "")
  return f"samples are not finite{' ' * bool(level)}{level}{cause}"
