"""The table and the figure of scripts/pareto.py, from the rows that it keeps."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from scorelab.metrics.ratios import ratio_of_means
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import pareto, read_csv, save, write_csv
from scorelab.plotting.curves import Curve

NEAR = 1.1
METRICS = ("max_sliced_wasserstein", "energy_distance", "mode_weight_tv", "within_mode_std")
STOCHASTIC = (
  *("euler_maruyama", "predictor_corrector", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"),
  "ddim eta=1",
)
NAMES = {
  "nine_modes": "nine modes",
  "grid25_8": "25 modes in 8 d",
  "grid25_80": "25 modes in 80 d",
}


def finest_solutions(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
  """By target, METRICS[0] of the probability flow to the least tolerance, key by key.

  By the exact score, or the learned one where there is no other.
  """
  return {target: row["values"][METRICS[0]] for target, row in _finest(rows).items()}


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns lines of the table: every row next to the floor of its keys, and the finest solution.

  Each metric has its mean over the keys, the standard error, the floor's mean and its error, the
  ratio of the two means with its paired error, and the standard error of the paired difference.
  METRICS[0] also has the ratio to the finest solution from the same starts, against the same
  references, and the standard error of `values - NEAR * finest`; both NaN if there is none with the
  same keys.
  """
  floors = {(r["target"], r["num_keys"]): r["values"] for r in rows if r["score"] == "floor"}
  solutions = finest_solutions(rows)
  lines = []
  for row in (row for row in rows if row["score"] != "floor"):
    floor = floors[row["target"], row["num_keys"]]
    names = ("target", "score", "label", "num_steps", "nfe", "tolerance", "grid", "num_keys")
    line = {name: row[name] for name in names}
    for metric in METRICS:
      values = np.array(row["values"].get(metric, [np.nan]), float)
      exact = np.array(floor.get(metric, [np.nan]), float)
      line[metric], line[f"{metric}_sem"] = mean_and_sem(values)
      line[f"{metric}_floor"], line[f"{metric}_floor_sem"] = mean_and_sem(exact)
      ratio = ratio_of_means(values, exact) if len(values) == len(exact) else (np.nan, np.nan)
      line[f"{metric}_over_floor"], line[f"{metric}_over_floor_sem"] = ratio
      line[f"{metric}_gap_sem"] = mean_and_sem(values - exact)[1]
    values = np.array(row["values"][METRICS[0]], float)
    finest = np.array(solutions.get(row["target"], []), float)
    alike = len(finest) == len(values) > 1
    beyond = values - NEAR * finest if alike else np.array([np.nan])
    line["over_finest"] = float(np.mean(values) / np.mean(finest)) if alike else np.nan
    line["beyond"], line["beyond_sem"] = mean_and_sem(beyond)
    lines.append(line)
  return lines


def panels(lines: Sequence[dict[str, Any]], metric: str = METRICS[0]) -> list[pareto.Panel]:
  """The figure's panels: a curve for each sampler on each target by each score.

  Args:
    lines: of `summarise`, or of pareto.csv.
    metric: its name.
  """
  few = min(line["num_keys"] for line in lines)
  lines = [line for line in lines if line["num_keys"] == few]  # all of the same keys
  labels = list(dict.fromkeys(line["label"] for line in lines))
  found = []
  for target in dict.fromkeys(line["target"] for line in lines):
    first = next(line for line in lines if line["target"] == target)
    floor, sem = first[f"{metric}_floor"], first.get(f"{metric}_floor_sem", np.nan)
    for score in ("exact", "learned"):
      here = [line for line in lines if (line["target"], line["score"]) == (target, score)]
      curves = []
      for number, label in enumerate(labels):
        own = sorted((li for li in here if li["label"] == label), key=lambda line: line["nfe"])
        nfe, value, sem_of = (
          np.array([line[name] for line in own], float) for name in ("nfe", metric, f"{metric}_sem")
        )
        look = pareto.line_style(label.split()[0], dashed=label in STOCHASTIC, number=number)
        if own:
          curves.append(Curve(label, nfe, value, sem_of, look))
      if curves:
        name = NAMES.get(target, target)
        found.append(pareto.Panel(name, score, curves, floor, sem))
  return found


def fewest(lines: Sequence[dict[str, Any]], metric: str = METRICS[0]) -> str:
  """A Markdown table: the NFE from which on each sampler stays within NEAR finest solutions.

  A budget counts only if the criterion holds at it and at every larger one that was measured: the
  curves are noisy and some cross the limit more than once. For METRICS[0] a star marks a margin
  below two standard errors of the paired difference, at that budget or a larger one. Of the other
  metrics the table has no paired differences from the finest solution, and no stars.
  """
  few = min(line["num_keys"] for line in lines)
  lines = [line for line in lines if line["num_keys"] == few]  # as the finest solutions have
  columns = list(dict.fromkeys((line["target"], line["score"]) for line in lines))
  titles = [f"{NAMES.get(target, target)}, {score}" for target, score in columns]
  table = [["sampler", *titles], ["---"] * (len(columns) + 1)]
  finest = _finest(lines)
  for label in dict.fromkeys(line["label"] for line in lines):
    cells = [f"`{label}`"]
    for target, score in columns:
      own = [
        li for li in lines if (li["target"], li["score"], li["label"]) == (target, score, label)
      ]
      own.sort(key=lambda line: line["nfe"])
      if metric == METRICS[0]:
        holds = [line["beyond"] <= 0 for line in own]
      else:
        limit = NEAR * finest[target][metric] if target in finest else float("nan")
        holds = [line[metric] <= limit for line in own]
      kept = own[_start_of_last_streak(holds) :]
      if not own:
        cells.append("")
      elif not kept:
        cells.append("-")
      else:
        doubtful = metric == METRICS[0] and any(-li["beyond"] < 2 * li["beyond_sem"] for li in kept)
        cells.append(f"{kept[0]['nfe']:.0f}" + "*" * doubtful)
    table.append(cells)
  return _markdown(table)


def _start_of_last_streak(holds: Sequence[bool]) -> int:
  """Index from which on all are true; the length if the last is not."""
  index = len(holds)
  while index and holds[index - 1]:
    index -= 1
  return index


def _finest(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Finest probability flow of each target: least tolerance, by the exact score if there is one."""
  found: dict[str, dict[str, Any]] = {}
  solved = [row for row in rows if row.get("tolerance") is not None and row["tolerance"] > 0]
  for row in sorted(solved, key=lambda row: (row["score"] != "exact", row["tolerance"])):
    found.setdefault(row["target"], row)
  return found


def few_evaluations(lines: Sequence[dict[str, Any]], keys: int) -> str:
  """A Markdown table of all cells that were measured with more than so many keys."""
  table = [["score", "sampler", "NFE", "grid", "max-SW2", "/ floor"]]
  table[0] += ["energy distance / floor", "mode-weight TV", "within-mode std"]
  table.append(["---"] * len(table[0]))
  many = [line for line in lines if line["num_keys"] > keys]
  for line in sorted(many, key=lambda line: (line["score"], line["nfe"], line[METRICS[0]])):
    cells = [line["score"], f"`{line['label']}`", f"{line['nfe']:.0f}", line["grid"]]
    cells += [_with_error(line, METRICS[0], 3)]
    cells += [_with_error(line, f"{metric}_over_floor", 2) for metric in METRICS[:2]]
    cells += [f"{line[METRICS[2]]:.4f}", f"{line[METRICS[3]]:.2f}"]
    table.append(cells)
  return _markdown(table)


def _with_error(line: dict[str, Any], name: str, digits: int) -> str:
  """Mean and standard error; the mean alone if the table has no error for it."""
  error = line.get(f"{name}_sem")
  return f"{line[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _markdown(table: list[list[str]]) -> str:
  return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def other_rows(out: pathlib.Path, targets: Collection[str]) -> list[dict[str, Any]]:
  """Returns the lines of out/pareto.csv of other targets than these, as `summarise` has them."""
  path = out / "pareto.csv"
  lines = read_csv(path) if path.exists() else []
  return [
    {**line, **{name: int(line[name]) for name in ("num_steps", "num_keys")}}
    for line in lines
    if line["target"] not in targets
  ]


def write(
  lines: Sequence[dict[str, Any]], out: pathlib.Path, command: str, text: str, keys: int
) -> None:
  """Writes pareto.csv and pareto.png; prints the tables of docs/pareto.md.

  Args:
    lines: of `summarise`, or of pareto.csv.
    out: the folder.
    command: what a reader types to get them.
    text: the caption: sizes.
    keys: fewest number of keys of a line.
  """
  write_csv(out / "pareto.csv", lines, command)
  text += f";\nmean and standard error over {keys} keys; dashed: samplers that draw noise"
  text += "; in colour: on the front of that panel"
  save(pareto.pareto(panels(lines), METRICS[0], text), out / "pareto.png", command)
  for metric in METRICS[:2]:
    print(f"{metric}:\n{fewest(lines, metric)}\n")
  print(few_evaluations(lines, keys))
