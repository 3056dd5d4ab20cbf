"""Results of a sweep: metrics of its runs as a text table and as CSV."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from scorelab.evaluation.table import align, row_labels
from scorelab.metrics.statistics import mean_and_sem
from scorelab.sweep.board import short_names
from scorelab.sweep.plan import Row
from scorelab.sweep.tasks import Outcome

Line = dict[str, Any]


def read_evaluation(workdir: pathlib.Path) -> dict[str, Any]:
  """Reads a run's evaluation.json; {} if it is missing or incomplete."""
  try:
    found = json.loads((workdir / "evaluation.json").read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def metric_of(result: Mapping[str, Any], spec: str) -> tuple[float, float]:
  """Returns a number of evaluation.json and its standard error; nan if missing.

  Args:
    result: contents of the file.
    spec: 'METRIC', for the main sampler; 'METRIC@ROW', for the row with this label, such as
      'heun-16'; or a path, such as 'girsanov.total'.
  """
  name, _, label = spec.partition("@")
  rows = result.get("rows") or []
  if label:
    labelled = zip(row_labels(rows) if rows else (), rows, strict=True)
    rows = [row for own, row in labelled if own == label]
  found = rows[0].get("metrics", {}).get(name) if rows else None
  if found is not None:
    return number(found.get("value")), number(found.get("sem"))
  *path, last = name.split(".")
  inner: Any = result
  for part in path:
    inner = inner.get(part) if isinstance(inner, Mapping) else None
  if not path or not isinstance(inner, Mapping):
    return math.nan, math.nan
  return number(inner.get(last)), number(inner.get(f"{last}_sem"))


def number(value: Any) -> float:
  """Returns a JSON number, or nan for anything else."""
  return float(value) if isinstance(value, (int, float)) else math.nan


def default_metrics(rows: Sequence[Row]) -> list[str]:
  """Returns the first three metrics of the config."""
  return list(rows[0].config["evaluation"]["metrics"][:3])


def differing(rows: Sequence[Row]) -> list[str]:
  """Returns the fields that differ between rows; for a single row, all that it sets."""
  fields = dict.fromkeys(field for row in rows for field in row.point)
  return [f for f in fields if len(rows) == 1 or len({row.point.get(f) for row in rows}) > 1]


def collect(
  rows: Sequence[Row], outcomes: Mapping[pathlib.Path, Outcome], metrics: Sequence[str]
) -> list[Line]:
  """Returns a line for each row: the fields that differ, its state, its metrics, its folder."""
  fields = differing(rows)
  lines = []
  for row in rows:
    outcome = outcomes.get(row.task.workdir, Outcome("waiting"))
    result = read_evaluation(row.task.workdir) if outcome.state == "done" else {}
    line: Line = {field: row.point.get(field, "") for field in fields}
    line["state"] = outcome.state
    for metric in metrics:
      line[metric], line[f"{metric}_sem"] = metric_of(result, metric)
    lines.append(line | {"workdir": row.task.shown()})
  return lines


def over_seeds(lines: Sequence[Line], metrics: Sequence[str]) -> list[Line]:
  """Averages lines that differ only in the seed, with standard errors over seeds."""
  groups: dict[tuple[str, ...], list[Line]] = {}
  for line in lines:
    if line["state"] == "done":
      key = tuple(str(v) for k, v in line.items() if k not in _own(metrics))
      groups.setdefault(key, []).append(line)
  means = []
  for group in groups.values():
    mean = {k: v for k, v in group[0].items() if k not in _own(metrics)}
    mean["seeds"] = len(group)
    for metric in metrics:
      mean[metric], mean[f"{metric}_sem"] = mean_and_sem([line[metric] for line in group])
    means.append(mean)
  return means


def _own(metrics: Sequence[str]) -> set[str]:
  """Returns the columns in which lines of one group may differ."""
  return {"seed", "state", "workdir", *metrics, *(f"{metric}_sem" for metric in metrics)}


def format_lines(lines: Sequence[Line], metrics: Sequence[str]) -> str:
  """Formats lines as aligned text; a metric with its standard error, if available."""
  fields = [k for k in lines[0] if k not in metrics and k not in {f"{m}_sem" for m in metrics}]
  names = short_names([f for f in fields if f not in ("state", "workdir", "seeds")])
  cells = [[*metrics, *(names.get(field, field) for field in fields)]]
  for line in lines:
    shown = [_with_error(line[m], line[f"{m}_sem"]) for m in metrics]
    cells.append([*shown, *(str(line[field]) for field in fields)])
  order = [*range(len(metrics), len(cells[0])), *range(len(metrics))]
  return align([[row[i] for i in order] for row in cells])


def _with_error(value: float, sem: float) -> str:
  if math.isnan(value):
    return "-"
  return f"{value:.4g}" + ("" if math.isnan(sem) else f" +- {sem:.2g}")
