"""Writes the tables of README.md and docs/ from the committed files of results/reference.

  python scripts/tables.py            # rewrites every table
  python scripts/tables.py --check    # only says which differ; exit code 1 if any does

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`; TABLES has a function for each
name.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from scorelab.plotting import read_csv
from scripts import annealing, posterior_tables, published
from scripts.benchmark import CASES
from scripts.benchmarks import table
from scripts.drawing import exact_budgets, guidance, pareto

ROOT = pathlib.Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- /table -->\n", re.DOTALL)

Row = dict[str, Any]


def rows_of(file: str, **where: Any) -> list[Row]:
  """Rows of a CSV under results/reference/ in which these columns have these values."""
  found = read_csv(REFERENCE / file)
  return [row for row in found if all(row[name] == value for name, value in where.items())]


def row_of(file: str, **where: Any) -> Row:
  """The only such row."""
  (row,) = rows_of(file, **where)
  return row


def markdown(header: list[str], rows: list[list[str]]) -> str:
  """A Markdown table."""
  lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
  return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def with_error(row: Row, name: str, digits: int, error: str = "") -> str:
  """Mean and standard error, or nothing if there is no such number."""
  value, sem = row[name], row[error or f"{name}_sem"]
  return "" if math.isnan(value) else f"{value:.{digits}f} ± {sem:.{digits}f}"


def headline() -> str:
  """The nine modes by our best settings, with 90 keys."""
  result = json.loads((REFERENCE / "ncsn_gmm" / "evaluation_90_keys.json").read_text())
  header = ["sampler", "NFE", "max-SW2", "/ floor", "energy distance", "/ floor"]
  header += ["mode-weight TV", "off-mode share"]
  names = ("max_sliced_wasserstein", "energy_distance", "mode_weight_tv", "off_mode_share")
  lines = []
  for row in result["rows"]:
    sw, energy, tv, off = (row["metrics"][name] for name in names)
    eta = row["options"].get("eta")
    label = f"`{row['sampler']}`" + ("" if eta is None else f", eta = {eta:g}")
    lines.append(
      [
        *(f"{label}, {row['num_steps']} steps", str(row["nfe"])),
        *(with_error(sw, "value", 3, "sem"), with_error(sw, "over_floor", 2)),
        *(with_error(energy, "value", 4, "sem"), with_error(energy, "over_floor", 2)),
        *(with_error(tv, "value", 4, "sem"), f"{off['value']:.2%}".replace("%", " %")),
      ]
    )
  exact = ["floor (exact samples)", "", with_error(sw, "floor", 3), "1"]
  exact += [with_error(energy, "floor", 4), "1", with_error(tv, "floor", 4)]
  return markdown(header, [*lines, [*exact, f"{off['floor']:.2%}".replace("%", " %")]])


def score_matching() -> str:
  """Every loss, at the data and at all levels, after each budget of steps."""
  header = ["loss", "steps", "at the data: worst mode", "by ULA: off-mode", "at all levels: median"]
  header += ["worst level", "bound on the reverse SDE's KL, nats"]
  header += ["by annealed Langevin: max-SW2", "energy distance", "mode-weight TV", "time of a step"]
  file, lines = "score_matching.csv", []
  losses = ("ncsn", "hyvarinen", "hutchinson", "sliced_vr", "sliced", "sliced_fd")
  for steps in (1000, 4000):
    base = row_of(file, study="levels", loss="ncsn", steps=steps)["seconds_per_step"]
    for loss in losses:
      data = rows_of(file, study="data", loss=loss, steps=steps)
      levels = rows_of(file, study="levels", loss=loss, steps=steps)
      cells = [f"`{loss}`", str(steps), "", "", *[""] * 6]
      for row in data:
        cells[2:4] = [
          with_error(row, "worst_score_error", 4),
          f"{100 * row['off_mode_share']:.0f} %",
        ]
      for row in levels:
        cells[4:] = [with_error(row, "median_score_error", 4)]
        cells += [with_error(row, "worst_score_error", 3), with_error(row, "kl_bound", 3)]
        cells += [with_error(row, "max_sliced_wasserstein", 2)]
        cells += [with_error(row, "energy_distance", 3), with_error(row, "mode_weight_tv", 3)]
      seconds = next(row["seconds_per_step"] for row in (*levels, *data))
      lines.append([*cells, f"{seconds / base:.1f}"])
  return markdown(header, lines)


def circles() -> str:
  """The two circles, ours over five seeds and the published numbers."""

  def numbers(config: str, quantity: str, row: str, digits: int) -> list[str]:
    where = {"config": config, "quantity": quantity} | ({"row": row} if row else {})
    ours = with_error(row_of("circles.csv", **where), "value", digits, "sem")
    entries = [e for e in published.entries() if e.file == "circles.csv" and e.where == where]
    return [ours, ", ".join(f"{x:.{digits}f}" for e in entries for x in e.published)]

  lines = []
  for config, title, digits in (
    ("one_step_circles", "one step", 6),
    ("ddpm_circles_published", "many steps", 4),
  ):
    for steps in (5000, 10_000, 60_000):
      cells = numbers(config, f"loss at {steps}", "", digits)
      lines.append([f"{title}: loss at {steps:,} steps", *cells])
  once, many = "one_step_circles", "ddpm_circles_published"
  slips = "renoise-100-variance=None-slips=True-denoise=False"
  for title, config, row, digits in (
    ("one step: distance", once, "ddim-1", 2),
    ("ancestral", many, "ancestral-100-variance=large", 3),
    ("re-noised, as published", many, slips, 3),
    ("re-noised, its slips mended", many, "renoise-100", 3),
    ("`ddpm_circles`, our settings, ancestral", "ddpm_circles", "ancestral-100-variance=small", 4),
  ):
    lines.append([title, *numbers(config, "support_distance", row, digits)])
  return markdown(["", "ours", "published"], lines)


def digits() -> str:
  """The score SDEs on digits."""
  lines = []
  names = {"euler_time": "Euler in time", "heun": "Heun"}
  for row in read_csv(REFERENCE / "digits" / "processes.csv"):
    bits = with_error(row, "bits_per_dim", 2)
    frechet = with_error(row, "frechet", 2)
    sampler = f"{names[row['sampler']]}, {row['nfe']:.0f}"
    floor = f"{row['frechet_floor']:.2f}"
    lines.append(
      [f"`{row['config']}`", sampler, frechet, floor, f"{row['confident_share']:.2f}", bits]
    )
  header = ["config", "sampler, NFE", "Frechet", "of real digits", "confident share"]
  return markdown([*header, "bits a dimension"], lines)


def pareto_table(make: Callable[[list[Row]], str]) -> Callable[[], str]:
  """A table of the rows of pareto.csv."""
  return lambda: make(read_csv(REFERENCE / "pareto" / "pareto.csv"))


def exact_table(make: Callable[[list[Row]], str]) -> Callable[[], str]:
  """A table of the rows of exact_budgets.csv."""
  return lambda: make(read_csv(REFERENCE / "exact_budgets" / "exact_budgets.csv"))


def exact_plane() -> str:
  """The front of the nine modes, of plane.csv."""
  rows = read_csv(REFERENCE / "exact_budgets" / "plane.csv")
  return exact_budgets.front_table(rows, exact_budgets.PLANE)


def found_grids() -> str:
  """Samplers of five evaluations, each on its best stock grid and on the grid found for it."""
  header = ["sampler", "best stock grid", "energy distance", "found: sigma / alpha", "found"]
  lines = []
  for row in sorted(read_csv(REFERENCE / "few_evaluations" / "found.csv"), key=_found_energy):
    levels = ", ".join(f"{math.exp(-float(value)):.3g}" for value in row["log_snrs"].split())
    cells = [f"`{row['label']}`", row["stock"], f"{row['stock_energy']:.4f}"]
    lines.append([*cells, levels, f"{row['found_energy']:.4f}"])
  return markdown(header, lines)


def _found_energy(row: Row) -> float:
  return row["found_energy"]


def transferred_grid() -> str:
  """The found grid next to the best stock grid on every target and score."""
  rows = read_csv(REFERENCE / "few_evaluations" / "transfer.csv")
  header = ["target, score", "found, exact: floors", "20 keys: floors"]
  header += ["best stock grid", "exact: floors", "20 keys: floors"]
  lines = []
  for target, score in dict.fromkeys((row["target"], row["score"]) for row in rows):
    found, stock = (row for row in rows if (row["target"], row["score"]) == (target, score))
    cells = []
    for row in (found, stock):
      expected = row["expected_over_floor"]
      exact = "" if math.isnan(expected) else f"{expected:.2f}"
      cells.append([exact, with_error(row, "over_floor", 2)])
    name = f"{pareto.NAMES.get(target, target)}, {score}"
    lines.append([name, *cells[0], stock["grid"], *cells[1]])
  return markdown(header, lines)


def guided() -> str:
  """Guided samplers against the tilted law."""
  return guidance.table(read_csv(REFERENCE / "guidance" / "guidance.csv"))


def guided_exactly() -> str:
  """Guided samplers without noise, by quadrature or in closed form."""
  return guidance.exact_table(read_csv(REFERENCE / "guidance" / "exact.csv"))


def annealed() -> str:
  """Samplers of the cube of a mixture."""
  return annealing.table(read_csv(REFERENCE / "guidance" / "annealing.csv"))


def benchmarks() -> str:
  """All timings."""
  return table.table(REFERENCE / "benchmarks", list(CASES))


def posterior_table() -> str:
  """Posterior samplers on 25 modes."""
  return posterior_tables.printed(read_csv(REFERENCE / "posteriors" / "posteriors.csv")) + "\n"


def posterior_budgets() -> str:
  """Parts of each method's distance from the exact posterior."""
  rows = read_csv(REFERENCE / "posteriors" / "budgets.csv")
  return posterior_tables.printed_budgets(rows) + "\n"


def mcgdiff_80() -> str:
  """MCGDiff in 80 dimensions next to a thesis's numbers."""
  rows = read_csv(REFERENCE / "posteriors" / "mcgdiff.csv")
  return posterior_tables.printed_one_noise(rows) + "\n"


def posteriors_published() -> str:
  """Published distances next to ours."""
  rows = read_csv(REFERENCE / "posteriors" / "published.csv")
  return posterior_tables.printed_published(rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {
  "headline": headline,
  "score_matching": score_matching,
  "circles": circles,
  "digits": digits,
  "pareto_max_sw2": pareto_table(lambda lines: pareto.fewest(lines, pareto.METRICS[0])),
  "pareto_energy": pareto_table(lambda lines: pareto.fewest(lines, pareto.METRICS[1])),
  "pareto_90_keys": pareto_table(lambda lines: pareto.few_evaluations(lines, 10)),
  "exact_front": exact_table(exact_budgets.front_table),
  "exact_plane": exact_plane,
  "posteriors": posterior_table,
  "posterior_budgets": posterior_budgets,
  "mcgdiff_80": mcgdiff_80,
  "posteriors_published": posteriors_published,
  "exact_fewest": exact_table(exact_budgets.fewest_table),
  "found_grids": found_grids,
  "transferred_grid": transferred_grid,
  "guidance": guided,
  "guidance_exact": guided_exactly,
  "annealing": annealed,
  "published": lambda: published.as_markdown(published.verdicts(REFERENCE)),
  "verdicts": lambda: published.counts_as_markdown(published.verdicts(REFERENCE)),
  "benchmarks": benchmarks,
}


def written(text: str) -> str:
  """Returns the page with its tables rewritten.

  Raises:
    ValueError: it names a table that there is not.
  """

  def make(block: re.Match[str]) -> str:
    name = block[1]
    if name not in TABLES:
      raise ValueError(f"table {name!r} is not known (known: {', '.join(TABLES)})")
    return f"<!-- table: {name} -->\n{TABLES[name]()}\n<!-- /table -->\n"

  return BLOCK.sub(make, text)


def main(argv: list[str] | None = None) -> int:
  """Writes what differs, or says so; the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--check", action="store_true", help="write nothing; 1 if a table differs")
  check = parser.parse_args(argv).check
  stale = [page for page in PAGES if written(page.read_text()) != page.read_text()]
  for page in stale:
    print(f"{page.relative_to(ROOT)}: {'differs from its files' if check else 'written'}")
    if not check:
      page.write_text(written(page.read_text()))
  return int(check and bool(stale))


if __name__ == "__main__":
  sys.exit(main())
