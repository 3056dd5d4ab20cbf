"""Exact error budgets of samplers: errors against evaluations without sampling noise.

  python scripts/exact_budgets.py            # all of it, then the table and the figure
  python scripts/exact_budgets.py --fast     # a small part of it, as a test
  python scripts/exact_budgets.py --plane    # nine modes in the plane, in a quarter of an hour

Every sampler of affine steps on 37 grids with 4 to 128 evaluations: uniform and quadratic times,
and levels uniform in log-SNR or Karras' with four exponents, to seven cleanest levels. Two targets
with their exact scores, a variance-preserving process, steps to the data. A Gaussian in 64
dimensions with variances k^-1.5: KL in nats and W2, and the prior's part of each. Two modes on the
line: deterministic samplers but plms from the true start, KL and W2 with the quadrature's error.

In the plane: the same deterministic samplers on the nine modes from the true start, on eight grids
with 8 to 64 evaluations: KL to a tenth of it. A map that folds has a lower bound only, with an
infinite error; it is on no front.

The table and the figure go to results/exact_budgets/, or to --out; --reference writes the committed
ones. Two processes share the samplers.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from scorelab.cli.exit import exit_with
from scorelab.exact import end_law, flow_distances_on, flow_kl, gaussian_laws_on
from scorelab.plotting import save, write_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import Grid, VariancePreserving
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import nine_modes, two_modes_1d
from scripts import outputs
from scripts.compilation import compile_quickly
from scripts.drawing import exact_budgets as drawing
from scripts.pareto_study import Entry
from scripts.stock_grids import Spacing, make_all, spacings

DETERMINISTIC = (
  Entry("rk4", 4),
  Entry("heun", 2),
  Entry("dpm_solver_2", 2),
  Entry("midpoint", 2),
  Entry("dpmpp_2s", 2),
  Entry("lms"),
  Entry("dpmpp_3m"),
  Entry("unipc"),
  Entry("dpmpp_singlestep"),
  Entry("ipndm"),
  Entry("deis"),
  Entry("dpmpp_2m"),
  Entry("ddim"),
  Entry("euler_time"),
)
ENTRIES = (
  *DETERMINISTIC,
  Entry("plms", last=2),  # on the line few steps of it fold most maps, which takes a minute
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
SPACINGS = spacings((0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5))
BUDGETS = (4, 8, 16, 32, 64, 128)


class Protocol(NamedTuple):
  """Samplers, budgets, grids and targets of a run of the study."""

  entries: tuple[Entry, ...] = ENTRIES
  spacings: tuple[Spacing, ...] = SPACINGS
  budgets: tuple[int, ...] = BUDGETS
  targets: tuple[str, ...] = ("gaussian", "two modes")


_FEW = {f"{kind}, {low}" for kind in ("log-SNR", "karras 7") for low in ("0.02", "0.05", "0.1")}
PROTOCOLS = {
  "whole": Protocol(),
  "fast": Protocol((Entry("dpmpp_2m"), Entry("ancestral")), SPACINGS[:4], (4, 8)),
  "plane": Protocol(
    DETERMINISTIC,
    tuple(s for s in SPACINGS if s.name in _FEW | {"uniform", "quadratic"}),
    (8, 16, 32, 64),
    ("nine modes",),
  ),
}


def gaussian() -> GaussianMixture:
  """The Gaussian in 64 dimensions."""
  return GaussianMixture([1.0], np.zeros((1, 64)), (np.arange(1, 65) ** -1.5)[None])


@functools.lru_cache(maxsize=16)
def line() -> GaussianMixture:
  """Two modes on the line, four of their standard deviations apart."""
  return two_modes_1d(separation=2.0)


@functools.lru_cache(maxsize=64)
def make_grids(chosen: tuple[str, ...], num_steps: int) -> list[Grid]:
  """The grids of these names."""
  return make_all([s for s in SPACINGS if s.name in chosen], VariancePreserving(), num_steps)


def measure(entry: Entry, protocol: Protocol) -> list[dict[str, Any]]:
  """Rows of a sampler: every target, grid and budget that allows two steps."""
  rows, names = [], tuple(s.name for s in protocol.spacings)
  with jax.enable_x64(True):
    for budget in protocol.budgets:
      if (num_steps := entry.steps(budget)) < 2:
        continue
      grids = make_grids(names, num_steps)
      found = [
        (target, MEASURES[target](entry, grids))
        for target in protocol.targets
        if target == "gaussian" or entry in DETERMINISTIC
      ]
      own = {
        "label": entry.label,
        "budget": budget,
        "num_steps": num_steps,
        "nfe": nfe_of(entry, num_steps),
      }
      for target, numbers in found:
        rows += [
          {"target": target, **own, "grid": name, **more}
          for name, more in zip(names, numbers, strict=True)
        ]
  return rows


def measure_gaussian(entry: Entry, grids: list[Grid]) -> list[dict[str, float]]:
  """KL and W2 of a sampler on the Gaussian, and the prior's share of each."""
  target, rows = gaussian(), []
  laws = gaussian_laws_on(grids, SAMPLERS[entry.sampler], target, **entry.options)
  last = end_law(target, grids[0])
  for own in laws:
    row = {}
    for name in ("kl", "w2"):
      value, discretisation = (getattr(own[start], name)(last) for start in ("prior", "true"))
      row |= {name: value, f"{name}_prior": value - discretisation}
    rows.append(row)
  return rows


def measure_line(entry: Entry, grids: list[Grid]) -> list[dict[str, float]]:
  """KL and W2 of a deterministic sampler on two modes from the true start, and their errors."""
  target, sampler = line(), SAMPLERS[entry.sampler]
  found = flow_distances_on(grids, sampler, target.predict, target, start="true", **entry.options)
  return [
    {name: own[name].value for name in own} | {f"{name}_error": own[name].error for name in own}
    for own in found
  ]


def measure_plane(entry: Entry, grids: list[Grid]) -> list[dict[str, float]]:
  """KL of a deterministic sampler on the nine modes from the true start, and its error."""
  target, sampler = nine_modes(), SAMPLERS[entry.sampler]
  found = [
    flow_kl(sampler, target.predict, target, grid, start="true", rtol=0.1, **entry.options)
    for grid in grids
  ]
  return [{"kl": own.value, "kl_error": own.error} for own in found]


MEASURES = {"gaussian": measure_gaussian, "two modes": measure_line, "nine modes": measure_plane}


def nfe_of(entry: Entry, num_steps: int) -> int:
  """Evaluations of a run."""
  return entry.calls * (num_steps - 1) + entry.last


def measure_number(name: str, number: int) -> list[dict[str, Any]]:
  """Rows of a protocol's sampler, for a process of its own."""
  return measure(PROTOCOLS[name].entries[number], PROTOCOLS[name])


def measure_all(name: str) -> list[dict[str, Any]]:
  """All rows. JAX traces more than it computes: two processes share the work, threads cannot."""
  numbers, one = range(len(PROTOCOLS[name].entries)), functools.partial(measure_number, name)
  if name == "fast":
    parts = [one(number) for number in numbers]
  else:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, compile_quickly) as pool:
      parts = list(pool.map(one, numbers))
  rows = [row for part in parts for row in part]
  names = list(dict.fromkeys(name for row in rows for name in row))
  return [{name: _rounded(row.get(name)) for name in names} for row in rows]


def _rounded(value: Any) -> Any:
  """A float to ten digits, which is what is known of it."""
  return float(f"{value:.10g}") if isinstance(value, float) else value


def main(argv: list[str] | None = None) -> int:
  """Measures, then writes the table and the figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument("--fast", action="store_true", help="two samplers, few budgets and grids")
  kind.add_argument("--plane", action="store_true", help="the nine modes, to plane.csv and .png")
  default = outputs.RESULTS / "exact_budgets"
  outputs.add_arguments(parser, str(default), "exact_budgets")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, default, "exact_budgets")
  began = time.perf_counter()
  compile_quickly()
  rows = measure_all("fast" if args.fast else "plane" if args.plane else "whole")
  print(f"{len(rows)} exact budgets in {time.perf_counter() - began:.0f} s")
  name, panels = ("plane", drawing.PLANE) if args.plane else ("exact_budgets", drawing.PANELS)
  command = f"python scripts/exact_budgets.py{' --plane' * args.plane}"
  write_csv(out / f"{name}.csv", rows, command)
  save(drawing.error_against_nfe(rows, panels), out / f"{name}.png", command)
  print(drawing.front_table(rows, panels))
  if not args.plane:
    print(drawing.fewest_table(rows))
  return 0


if __name__ == "__main__":
  exit_with(main)
