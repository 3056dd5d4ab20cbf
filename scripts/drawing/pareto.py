"""The table and the figure of scripts/pareto.py, from the rows that it keeps."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from scorelab.plotting import pareto, save, write_csv
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
  found: dict[str, dict[str, Any]] = {}
  solved = [row for row in rows if row.get("tolerance") is not None]
  for row in sorted(solved, key=lambda row: (row["score"] != "exact", row["tolerance"])):
    found.setdefault(row["target"], row)
  return {target: row["values"][METRICS[0]] for target, row in found.items()}


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Lines of the table: every row beside the floor of its keys, and the finest solution.

  Each metric has its mean over the keys, the standard error, the floor's mean, the ratio of the
  two means, and the standard error of the paired difference from the floor. METRICS[0] also has
  the ratio to the finest solution from the same starts, against the same references, and the
  standard error of `values - NEAR * finest`; both NaN where there is none with the same keys.
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
      root = len(values) ** 0.5
      deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
      apart = np.std(values - exact, ddof=1) if len(values) > 1 else np.nan
      line[metric] = float(np.mean(values))
      line[f"{metric}_sem"] = float(deviation / root)
      line[f"{metric}_floor"] = float(np.mean(exact))
      line[f"{metric}_over_floor"] = float(np.mean(values) / np.mean(exact))
      line[f"{metric}_gap_sem"] = float(apart / root)
    values = np.array(row["values"][METRICS[0]], float)
    finest = np.array(solutions.get(row["target"], []), float)
    alike = len(finest) == len(values) > 1
    beyond = values - NEAR * finest if alike else np.array([np.nan])
    line["over_finest"] = float(np.mean(values) / np.mean(finest)) if alike else np.nan
    line["beyond"] = float(np.mean(beyond))
    line["beyond_sem"] = float(np.std(beyond, ddof=1) / len(beyond) ** 0.5) if alike else np.nan
    lines.append(line)
  return lines


def panels(rows: Sequence[dict[str, Any]], metric: str = METRICS[0]) -> list[pareto.Panel]:
  """The figure's panels: a curve for each sampler on each target by each score."""
  lines = summarise(rows)
  few = min(line["num_keys"] for line in lines)
  lines = [line for line in lines if line["num_keys"] == few]  # all of the same keys
  labels = list(dict.fromkeys(line["label"] for line in lines))
  found = []
  for target in dict.fromkeys(line["target"] for line in lines):
    exact = next(r for r in rows if r["target"] == target and r["score"] == "floor")
    floor = np.array(exact["values"][metric], float)
    sem = float(np.std(floor, ddof=1) / len(floor) ** 0.5) if len(floor) > 1 else np.nan
    for score in ("exact", "learned"):
      here = [line for line in lines if (line["target"], line["score"]) == (target, score)]
      curves = []
      for number, label in enumerate(labels):
        own = sorted((li for li in here if li["label"] == label), key=lambda line: line["nfe"])
        nfe, value, sem_of = (
          np.array([line[name] for line in own], float) for name in ("nfe", metric, f"{metric}_sem")
        )
        look = pareto.look(label.split()[0], dashed=label in STOCHASTIC, number=number)
        if own:
          curves.append(Curve(label, nfe, value, sem_of, look))
      if curves:
        name = NAMES.get(target, target)
        found.append(pareto.Panel(name, score, curves, float(floor.mean()), sem))
  return found


def fewest(lines: Sequence[dict[str, Any]]) -> str:
  """A Markdown table: the fewest NFE at which each sampler comes within NEAR finest solutions.

  A star marks what holds by the mean alone: less than two standard errors of the paired difference
  below the limit.
  """
  few = min(line["num_keys"] for line in lines)
  lines = [line for line in lines if line["num_keys"] == few]  # as the finest solutions have
  columns = list(dict.fromkeys((line["target"], line["score"]) for line in lines))
  titles = [f"{NAMES.get(target, target)}, {score}" for target, score in columns]
  table = [["sampler", *titles], ["---"] * (len(columns) + 1)]
  for label in dict.fromkeys(line["label"] for line in lines):
    cells = [f"`{label}`"]
    for column in columns:
      own = [li for li in lines if (li["target"], li["score"]) == column and li["label"] == label]
      own.sort(key=lambda line: line["nfe"])
      within = [line for line in own if line["beyond"] <= 0]
      if not own:
        cells.append("")
      elif not within:
        cells.append("-")
      else:
        first = within[0]
        star = "" if -first["beyond"] >= 2 * first["beyond_sem"] else "*"
        cells.append(f"{first['nfe']:.0f}{star}")
    table.append(cells)
  return _markdown(table)


def few_evaluations(lines: Sequence[dict[str, Any]], keys: int) -> str:
  """A Markdown table of the cells that were measured with more than so many keys."""
  table = [["score", "sampler", "NFE", "grid", "max-SW2", "/ floor", "energy distance / floor"]]
  table[0] += ["mode-weight TV", "within-mode std"]
  table.append(["---"] * len(table[0]))
  many = [line for line in lines if line["num_keys"] > keys]
  for line in sorted(many, key=lambda line: (line["score"], line["nfe"], line[METRICS[0]])):
    value, sem, floor, tv, std = (
      line[name]
      for name in (METRICS[0], f"{METRICS[0]}_sem", f"{METRICS[0]}_over_floor", *METRICS[2:])
    )
    cells = [line["score"], f"`{line['label']}`", f"{line['nfe']:.0f}", line["grid"]]
    cells += [f"{value:.3f} ± {sem:.3f}", f"{floor:.2f}"]
    cells += [f"{line['energy_distance_over_floor']:.2f}", f"{tv:.4f}", f"{std:.3f}"]
    table.append(cells)
  return _markdown(table)


def _markdown(table: list[list[str]]) -> str:
  return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def write(
  rows: Sequence[dict[str, Any]], out: pathlib.Path, command: str, text: str, keys: int
) -> None:
  """pareto.csv and pareto.png, and the tables of the README on standard output."""
  lines = summarise(rows)
  write_csv(out / "pareto.csv", lines, command)
  text += f";\nmean and standard error over {keys} keys; dashed: samplers that draw noise"
  save(pareto.pareto(panels(rows), METRICS[0], text), out / "pareto.png", command)
  print(fewest(lines))
  print()
  print(few_evaluations(lines, keys))
