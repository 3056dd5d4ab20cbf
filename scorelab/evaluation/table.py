"""Formats evaluation results as aligned text, and names its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scorelab.evaluation import exact_laws
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.experiment.sampler_spec import make_labels
from scorelab.metrics.budget import BUDGET, PARTS


def row_labels(rows: list[dict[str, Any]]) -> list[str]:
  """Returns the labels of evaluation.json's rows; old runs, which store none, get new ones."""
  if all("label" in row for row in rows):
    return [row["label"] for row in rows]
  return make_labels(
    [(row["sampler"], row.get("num_steps", ""), row.get("options") or {}) for row in rows]
  )


def format_table(result: dict[str, Any]) -> str:
  """Formats evaluation.json as aligned text: one block per metric, one line per row.

  A guided row shows its network calls next to its NFE.
  """
  blocks, labels = [], row_labels(result["rows"])
  for name in result["rows"][0]["metrics"]:
    if name in exact_laws.NAMES.values():
      blocks.append(_exact_block(name, labels, result["rows"]))
      continue
    found = [part for part in PARTS if any(part in row["metrics"][name] for row in result["rows"])]
    cells = [["sampler", "NFE", name, "", "/ floor", *found]]
    for label, row in zip(labels, result["rows"], strict=True):
      numbers = row["metrics"][name]
      value = numbers["value"]
      cells.append(
        [
          label,
          _calls(row),
          _number(value),
          f"+- {_number(numbers['sem'])}",
          _ratio(numbers),
          *(_number(numbers.get(part), signed=part != "floor") for part in found),
        ]
      )
    blocks.append(cells)
  blocks += _without_law(labels, result["rows"])
  trained = {}  # by values, those of a sampler apart
  for group in result.get("groups", [result]):
    over = {k: v for k, v in group.get("over", {}).items() if not k.startswith("sampler.")}
    trained["".join(f", {k.split('.')[1]} = {v:g}" for k, v in over.items())] = group
  for where, group in trained.items():
    blocks += _more_blocks(group, where)
  blocks += _of_other_laws(labels, result["rows"])
  if "num_exact" in result["protocol"]:
    blocks.append([[floor_note(result["protocol"])]])
  if "num_members" in result["protocol"]:
    blocks.append([[f"mean and standard error over {result['protocol']['num_members']} seeds"]])
  return "\n\n".join(map(align, blocks))


def _of_other_laws(labels: list[str], rows: list[dict[str, Any]]) -> list[list[list[str]]]:
  """Formats which rows are compared with another law than the others: a line for each law."""
  named: dict[str, list[str]] = {}
  for label, row in zip(labels, rows, strict=True):
    if "law" in row:
      named.setdefault(row["law"], []).append(label)
  return [[[f"of the law {law}, its floor too: {', '.join(of)}"]] for law, of in named.items()]


def _calls(row: Mapping[str, Any]) -> str:
  """Formats a row's NFE, with its network calls if they are more."""
  more = f" ({row['network_calls']})" if "network_calls" in row else ""
  return f"{row['nfe']}{more}"


def _exact_block(name: str, labels: list[str], rows: list[dict[str, Any]]) -> list[list[str]]:
  """Formats an exact distance: its error is that of the arithmetic, or of the seeds' mean."""
  cells = [["sampler", "NFE", name, "", *BUDGET]]
  for label, row in zip(labels, rows, strict=True):
    numbers = row["metrics"][name]
    error = numbers["error"] if numbers["sem"] is None else numbers["sem"]
    parts = (_significant(numbers[part], signed=part != "floor") for part in BUDGET)
    cells.append([label, _calls(row), _significant(numbers["value"]), _error(error), *parts])
  return cells


def _without_law(labels: list[str], rows: list[dict[str, Any]]) -> list[list[list[str]]]:
  """Formats why rows have no exact distance, or not all of it: a line for each reason."""
  named: dict[str, list[str]] = {}
  for label, row in zip(labels, rows, strict=True):
    if "not_exact" in row:
      named.setdefault(row["not_exact"], []).append(label)
  lines = [[f"no exact law, {', '.join(of)}: {reason}"] for reason, of in named.items()]
  if len(named) == 1 and len(next(iter(named.values()))) == len(rows):
    lines = [[f"no exact laws: {next(iter(named))}"]]
  return [lines] if lines else []


def _significant(value: float | None, signed: bool = False) -> str:
  """Formats a number with four significant digits; '-' for None."""
  return "-" if value is None else f"{value:{'+' if signed else ''}.4g}"


def _error(value: float | None) -> str:
  return "+- -" if value is None else f"+- {value:.0e}"


def _more_blocks(result: Mapping[str, Any], where: str) -> list[list[list[str]]]:
  """Formats results that do not depend on the sampler: score error, bound, likelihood."""
  blocks, errors = [], result.get("score_error", {})
  if errors:
    cells = [["sigma", *(f"{s:g}" for s in errors["sigma"])]]
    cells.append([f"relative score error{where}", *map(_short, errors["relative"])])
    if "relative_sem" in errors:
      cells.append(["+-", *map(_short, errors["relative_sem"])])
    blocks.append(cells)
  if "relative_by_mode" in errors:
    by_mode = errors["relative_by_mode"]
    cells = [["mode", *map(str, range(1, len(by_mode) + 1))]]
    cells.append([f"at sigma = {errors['sigma'][0]:g}{where}", *map(_short, by_mode)])
    if "relative_by_mode_sem" in errors:
      cells.append(["+-", *map(_short, errors["relative_by_mode_sem"])])
    blocks.append(cells)
  if "girsanov" in result:
    bound, parts = result["girsanov"], ("prior", "learning", "total")
    cells = [
      [f"bound on KL(data || model), nats{where}", *parts],
      ["reverse SDE, by Girsanov's theorem"],
    ]
    cells[1] += [f"{_number(bound[part])} +- {_number(bound[f'{part}_sem'])}" for part in parts]
    blocks.append(cells)
  if "flow" in result:
    flow = result["flow"]
    cells = [["sigma", *map(_short, flow["sigma"])]]
    cells.append([f"exact KL(data || probability flow), nats{where}", *map(_short, flow["kl"])])
    cells.append(["+-", *map(_short, flow["error"])])
    chain = result.get("ancestral")
    if chain is not None:
      name = f"ancestral sampler, {chain['num_steps']} steps"
      cells.append([f"exact KL(data || {name}), nats{where}", *map(_short, chain["kl"])])
      cells.append(["+-", *map(_short, chain["error"])])
    blocks.append(cells)
    if chain is not None and "refused" in chain:
      blocks.append([[f"no exact law: {chain['refused']}"]])
  if "likelihood" in result:
    cells = likelihood_evaluation.table(result["likelihood"], result.get("girsanov"))
    cells[0][0] += where
    blocks.append(cells)
  return blocks


def _ratio(numbers: Mapping[str, float | None]) -> str:
  """Formats value over floor with its error, '1.09 +- 0.03'; old evaluations have no error."""
  value, floor = numbers["value"], numbers["floor"]
  if value is None or not floor:
    return "-"
  error = numbers.get("over_floor_sem")
  return f"{value / floor:.2f}" + (f" +- {error:.2f}" if error is not None else "")


def _number(value: float | None, signed: bool = False) -> str:
  """Formats a number with at most four significant digits; '-' for None."""
  if value is None:
    return "-"
  return f"{value:+.4f}" if signed else f"{value:.4f}"


def floor_note(protocol: Mapping[str, Any]) -> str:
  """Returns the sample sizes of a floor, if they differ from those of the values."""
  return (
    f"floors: of {protocol['num_exact']} exact samples, where rows have {protocol['num_samples']}"
  )


def _short(value: float | None) -> str:
  """Formats a number, possibly small, with three significant digits; '-' for None."""
  return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def align(cells: list[list[str]]) -> str:
  """Aligns columns of text: the first to the left, the others to the right."""
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  )
