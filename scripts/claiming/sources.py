"""Numbers of committed files, configs and the published list, for bindings."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
from typing import Any

import numpy as np

from scorelab.plotting import read_csv
from scripts import published

REFERENCE = pathlib.Path(__file__).parents[2] / "results" / "reference"

_read = functools.cache(read_csv)


def values(file: str, column: str, **where: Any) -> np.ndarray:
  """A column of a CSV under results/reference/, in the rows where the other columns fit.

  Args:
    file: path below results/reference/.
    column: its name.
    **where: a value that a column must have, or a function of it that must be true.

  Raises:
    LookupError: no row fits.
  """
  rows = [row for row in _read(REFERENCE / file) if _fits(row, where)]
  if not rows:
    raise LookupError(f"{file} has no row with {where}")
  return np.array([row[column] for row in rows], float)


def value(file: str, column: str, **where: Any) -> float:
  """The number of the only row that fits.

  Raises:
    LookupError: several rows fit, or none.
  """
  found = values(file, column, **where)
  if found.size > 1:
    raise LookupError(f"{file} has {found.size} rows with {where}")
  return float(found[0])


def _fits(row: dict[str, Any], where: dict[str, Any]) -> bool:
  return all(want(row[n]) if callable(want) else row[n] == want for n, want in where.items())


def evaluation(config: str, file: str = "evaluation.json") -> dict[str, Any]:
  """A committed evaluation."""
  return json.loads((REFERENCE / config / file).read_text())


def measured(config: str, metric: str, part: str = "value", **where: Any) -> float:
  """A number of the only row of an evaluation whose sampler, steps, NFE and options fit."""
  found = []
  for row in evaluation(config)["rows"]:
    known = {"sampler": row["sampler"], "num_steps": row["num_steps"], "nfe": row["nfe"]}
    if all((known | row["options"]).get(name) == want for name, want in where.items()):
      found.append(row["metrics"][metric][part])
  if len(found) != 1:
    raise LookupError(f"{config} has {len(found)} rows with {where}")
  return found[0]


def setting(config: str, field: str) -> Any:
  """The value of a field of a config, as it stands without options."""
  found = importlib.import_module(f"configs.{config}").get_config()
  for name in field.split("."):
    found = found[name]
  return found


def theirs(config: str, quantity: str, at: str = "") -> float:
  """A published number."""
  (entry,) = (
    e for e in published.entries() if (e.config, e.quantity, e.at) == (config, quantity, at)
  )
  return entry.mean


def benchmark(case: str, match: str, side: str) -> float:
  """The median ratio of a side's time to ours, of a match."""
  record = json.loads((REFERENCE / "benchmarks" / f"{case}.json").read_text())
  (found,) = (m for m in record["matches"] if m["match"] == match)
  return found["ratios"][side]["median"]


def where_least(file: str, column: str, by: str) -> float:
  """The value of one column in the row where another is least; empty cells do not count."""
  return float(values(file, column)[np.nanargmin(values(file, by))])
