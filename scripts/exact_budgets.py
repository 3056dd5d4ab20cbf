"""Exact error budgets of samplers: errors against evaluations without sampling noise.

  python scripts/exact_budgets.py            # all of it, then the table and the figure
  python scripts/exact_budgets.py --fast     # a small part of it, as a test

Two targets with their exact scores, a variance-preserving process, steps to the data. A Gaussian in
64 dimensions with variances k^-1.5: every sampler of affine steps on every grid of the schedule's
own range, KL in nats and W2, split into prior and discretisation; there is no floor. Two modes on
the line: every deterministic sampler on Karras' grid, KL, W1, W2 and the energy distance, with the
error of the quadrature and the folds of the map.

The table and the figure go to results/exact_budgets/, or to --out; --reference writes the committed
ones.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from scorelab.cli.exit import exit_with
from scorelab.exact import end_law, flow_distances, gaussian_laws
from scorelab.plotting import save, write_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import GRIDS, Grid, VariancePreserving
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d
from scripts import outputs
from scripts.drawing import exact_budgets as drawing
from scripts.pareto_study import Entry

DETERMINISTIC = (
  Entry("ddim"),
  Entry("dpmpp_2m"),
  Entry("heun", 2),
  Entry("dpmpp_3m"),
  Entry("unipc"),
  Entry("rk4", 4),
  Entry("ipndm"),
  Entry("deis"),
  Entry("lms"),
  Entry("dpmpp_singlestep"),
  Entry("dpm_solver_2", 2),
  Entry("midpoint", 2),
  Entry("dpmpp_2s", 2),
  Entry("euler_time"),
)
ENTRIES = (
  *DETERMINISTIC,
  Entry("ancestral"),
  Entry("ddim", options={"eta": 0.5}),
  Entry("euler_maruyama"),
  Entry("dpmpp_2m_sde"),
  Entry("dpmpp_3m_sde"),
  Entry("dpmpp_sde", 2),
  Entry("dpm_solver_2_ancestral", 2),
  Entry("dpmpp_2s_ancestral", 2),
  Entry("heun", 2, options={"churn": 4.0}),
  Entry("renoise"),
)
SPACINGS = ("uniform", "quadratic", "timesteps", "karras", "uniform_log_snr")
BUDGETS = (4, 8, 16, 32, 64, 128)
LINE_BUDGETS = (4, 8, 16, 32)


class Protocol(NamedTuple):
  """Samplers, budgets and grids of a run of the study."""

  entries: tuple[Entry, ...] = ENTRIES
  spacings: tuple[str, ...] = SPACINGS
  budgets: tuple[int, ...] = BUDGETS
  line_budgets: tuple[int, ...] = LINE_BUDGETS


FAST = Protocol((ENTRIES[1], ENTRIES[14]), ("karras",), (4, 8), (4,))


def make_grid(spacing: str, num_steps: int) -> Grid:
  """The grid of the schedule's own range, to the data."""
  return GRIDS[spacing](VariancePreserving(), num_steps)


def measure_gaussian(entry: Entry, protocol: Protocol) -> list[dict[str, Any]]:
  """Rows of a sampler on the Gaussian: every grid and budget."""
  variances = np.arange(1, 65) ** -1.5
  target = GaussianMixture([1.0], np.zeros((1, 64)), variances[None])
  rows = []
  for budget in protocol.budgets:
    for spacing in protocol.spacings:
      grid = make_grid(spacing, entry.steps(budget))
      laws = gaussian_laws(SAMPLERS[entry.sampler], target, grid, **entry.options)
      row = _row("gaussian", entry, spacing, budget)
      last = end_law(target, grid)
      for name in ("kl", "w2"):
        value, discretisation = (getattr(laws[start], name)(last) for start in ("prior", "true"))
        row |= {name: value, f"{name}_prior": value - discretisation}
        row |= {f"{name}_discretisation": discretisation}
      rows.append(row)
  return rows


def measure_line(entry: Entry, protocol: Protocol) -> list[dict[str, Any]]:
  """Rows of a deterministic sampler on two modes, from the true start."""
  target, rows = two_modes_1d(), []
  for budget in protocol.line_budgets:
    grid = make_grid("karras", entry.steps(budget))
    predict, sampler = target.predict, SAMPLERS[entry.sampler]
    found = flow_distances(sampler, predict, target, grid, start="true", **entry.options)
    row = _row("two modes", entry, "karras", budget)
    for name, exact in found.items():
      row |= {name: exact.value, f"{name}_error": exact.error, "folds": exact.folds}
    rows.append(row)
  return rows


def _row(target: str, entry: Entry, spacing: str, budget: int) -> dict[str, Any]:
  num_steps = entry.steps(budget)
  nfe = entry.calls * (num_steps - 1) + entry.last
  names = {"target": target, "sampler": entry.sampler, "label": entry.label}
  return names | {"grid": spacing, "num_steps": num_steps, "nfe": nfe}


def measure_all(protocol: Protocol) -> list[dict[str, Any]]:
  """All rows; XLA compiles for two samplers at a time."""
  with jax.enable_x64(True), concurrent.futures.ThreadPoolExecutor(2) as pool:
    tasks = [functools.partial(measure_gaussian, e, protocol) for e in protocol.entries]
    tasks += [
      functools.partial(measure_line, e, protocol) for e in protocol.entries if e in DETERMINISTIC
    ]

    def in_float64(task: Any) -> list[dict[str, Any]]:
      with jax.enable_x64(True):  # a thread has its own
        return task()

    rows = [row for rows in pool.map(in_float64, tasks) for row in rows]
  names = list(dict.fromkeys(name for row in rows for name in row))
  return [{name: row.get(name) for name in names} for row in rows]


def main(argv: list[str] | None = None) -> int:
  """Measures, then writes the table and the figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--fast", action="store_true", help="two samplers, few budgets")
  default = outputs.RESULTS / "exact_budgets"
  outputs.add_arguments(parser, str(default), "exact_budgets")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, default, "exact_budgets")
  began = time.perf_counter()
  rows = measure_all(FAST if args.fast else Protocol())
  print(f"{len(rows)} exact budgets in {time.perf_counter() - began:.0f} s")
  command = "python scripts/exact_budgets.py"
  write_csv(out / "exact_budgets.csv", rows, command)
  save(drawing.error_against_nfe(rows), out / "exact_budgets.png", command)
  print(drawing.table(rows))
  return 0


if __name__ == "__main__":
  exit_with(main)
