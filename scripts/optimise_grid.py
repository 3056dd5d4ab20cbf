"""A grid of few steps, found by descent on an exact distance, against every stock grid.

  python scripts/optimise_grid.py                                      # dpmpp_2m, 6 NFE
  python scripts/optimise_grid.py --sampler ipndm --num-steps 8
  python scripts/optimise_grid.py --distance kl                        # two modes on the line
  python scripts/optimise_grid.py --workdir results/ncsn_gmm/<run id>  # and on a learned score

The grid is found by `scorelab.exact.find_grid`, without a sample: on the nine modes by the energy
distance or by the bound on the KL of ancestral sampling, on two modes on the line by KL or W2. It
is compared with all stock grids of scorelab.schedules, with several sigma_min and rho: by exact
distances, and by max-sliced W2 of samples, every grid of a key from the same starts. A grid of the
nine modes is also compared on two targets that it was not made for, and on the learned score. With

Todo:
Numbers and a figure go to results/optimised_grid/, or to --out; --reference writes the committed
ones.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.errors import RunError
from scorelab.exact import find_grid, flow_distances_on, grid_kl_bound
from scorelab.exact.energy import energy_from_mixture, lattice_starts
from scorelab.exact.responses import in_float64
from scorelab.metrics import Reference, max_sliced_wasserstein
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import comparisons, save, write_csv
from scorelab.samplers import SAMPLERS, ZeroNoise
from scorelab.schedules import VarianceExploding, given_log_snrs
from scorelab.targets import TARGETS
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict, Sampler
from scripts import outputs
from scripts.drawing.source import open_source
from scripts.stock_grids import make_all, spacings

SCHEDULE = VarianceExploding(0.02, 80.0, 7.0)  # that of configs/ncsn_gmm.py
SPACINGS = spacings((0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
STARTS = 4001  # of the lattice, other ones than the search has
SAMPLED = "max_sw2"
# By the distance of the descent: the targets, the first for the search, and the exact measures, the
# first to choose where to begin and the best of the grids found.
PLANE, LINE = ("nine_modes", "ring", "grid25"), ("two_modes_1d",)
STUDIES = {
  "energy": (PLANE, ("energy",)),
  "bound": (PLANE, ("energy", "bound")),
  "kl": (LINE, ("kl", "w2")),
  "w2": (LINE, ("w2", "kl")),
}
NEW = "optimised"


class Problem(NamedTuple):
  """Test problem for a grid: a target, and a score of it.

  Attributes:
    name: for the table.
    target: the mixture.
    predict: what few steps follow.
  """

  name: str
  target: GaussianMixture
  predict: Predict

  @property
  def learned(self) -> bool:
    """True if the score is not the target's own."""
    return self.predict != self.target.predict


def exact(name: str) -> Problem:
  """The exact score of a mixture."""
  target = TARGETS[name]()
  assert isinstance(target, GaussianMixture)
  return Problem(name, target, target.predict)


def stock_grids(num_steps: int) -> dict[str, np.ndarray]:
  """Log-SNRs [num_steps] of every stock grid, by name."""
  made = make_all(SPACINGS, SCHEDULE, num_steps)
  names = [spacing.name for spacing in SPACINGS]
  return {k: np.asarray(g.levels.log_snr[:-1]) for k, g in zip(names, made, strict=True)}


def few_steps(sampler: Sampler, predict: Predict, num_steps: int) -> Callable[..., Array]:
  """`(starts, log_snrs [num_steps]) -> ends`, jitted: one program for all grids."""

  @jax.jit
  def run(x: Array, log_snrs: Array) -> Array:
    grid = given_log_snrs(SCHEDULE, num_steps, log_snrs=log_snrs)
    return sampler(ZeroNoise(), predict, x, grid).x

  return run


def exact_values(
  problem: Problem, sampler: Sampler, grids: dict[str, np.ndarray], measure: str
) -> dict[str, float]:
  """Each grid's exact distance; none if it is the bound and the score is learned."""
  num_steps = len(next(iter(grids.values())))
  if measure == "energy":
    run = few_steps(sampler, problem.predict, num_steps)
    starts = float(SCHEDULE.sigma_max) * jnp.asarray(lattice_starts(STARTS))
    ends = {name: np.asarray(run(starts, log_snrs)) for name, log_snrs in grids.items()}
    with jax.enable_x64(True):
      target, distance = in_float64(problem.target), jax.jit(energy_from_mixture)
      return {k: float(distance(jnp.asarray(x, float), target)) for k, x in ends.items()}
  with jax.enable_x64(True):
    target, schedule = in_float64(problem.target), in_float64(SCHEDULE)
    made = [given_log_snrs(schedule, num_steps, log_snrs=jnp.asarray(v)) for v in grids.values()]
    if measure == "bound":
      values = [] if problem.learned else [grid_kl_bound(target, grid).value for grid in made]
    else:
      found = flow_distances_on(made, sampler, target.predict, target)
      values = [own[measure].value for own in found]
  return dict(zip(grids, values, strict=False))


def search(
  problem: Problem,
  sampler: Sampler,
  grids: dict[str, np.ndarray],
  distance: str,
  iterations: int,
) -> tuple[np.ndarray, str]:
  """The best log-SNRs found from the best stock grid of each kind, and which of these it was."""
  rank = STUDIES[distance][1][0]
  stock = exact_values(problem, sampler, grids, rank)
  best_of: dict[str, str] = {}  # the name of the best stock grid of each kind
  for spacing in sorted(SPACINGS, key=lambda spacing: -stock[spacing.name]):
    best_of[spacing.grid] = spacing.name
  found: dict[str, np.ndarray] = {}
  for name in best_of.values():
    result = find_grid(
      sampler, problem.target, SCHEDULE, jnp.asarray(grids[name]),
      distance=distance, iterations=iterations,
    )  # fmt: skip
    found[name] = result.log_snrs
    print(f"from {name}: {distance} {result.begin:.5f} -> {result.value:.5f}", flush=True)
  values = exact_values(problem, sampler, found, rank)
  best = min(values, key=lambda name: values[name])
  return found[best], best


def sampled_values(
  problem: Problem, sampler: Sampler, grids: dict[str, np.ndarray], num_keys: int, size: int
) -> dict[str, np.ndarray]:
  """Each grid's max-sliced W2 on several keys, [num_keys] by name."""
  run = few_steps(sampler, problem.predict, len(next(iter(grids.values()))))
  values = {name: np.zeros(num_keys) for name in grids}
  for k in range(num_keys):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), k), 3)
    starts = jax.random.normal(keys[0], (size, problem.target.dim))
    starts = float(SCHEDULE.sigma_max) * starts
    reference = Reference(np.asarray(problem.target.sample(keys[1], 2 * size)), problem.target)
    for name, log_snrs in grids.items():
      x = np.asarray(run(starts, log_snrs))
      values[name][k] = max_sliced_wasserstein(keys[2], x, reference, num_projections=200)
  return values


def measure(
  problem: Problem,
  sampler: Sampler,
  grids: dict[str, np.ndarray],
  distance: str,
  num_keys: int,
  size: int,
) -> dict[str, dict[str, np.ndarray]]:
  """Values of all grids by measure: [1] of exact ones, and of max-sliced W2 [num_keys].

  The bound is compared among grids that end at the same level: it is on the law there.
  """
  found: dict[str, dict[str, np.ndarray]] = {}
  for name in STUDIES[distance][1]:
    alike = {
      k: v for k, v in grids.items() if name != "bound" or abs(v[-1] - grids[NEW][-1]) < 1e-3
    }
    if values := exact_values(problem, sampler, alike, name):
      found[name] = {grid: np.array([value]) for grid, value in values.items()}
  return found | {SAMPLED: sampled_values(problem, sampler, grids, num_keys, size)}


def compare(values: dict[str, dict[str, np.ndarray]], problem: str) -> list[dict[str, Any]]:
  """A row for each grid and measure: its mean, and how much less the optimised grid has."""
  rows = []
  for name, by_grid in values.items():
    for grid, own in by_grid.items():
      gain = own - by_grid[NEW]
      mean, sem = mean_and_sem(gain) if len(gain) > 1 else (float(gain[0]), 0.0)
      row = {"on": problem, "measure": name, "grid": grid, "mean": float(own.mean())}
      rows.append(row | {"gain": mean, "gain_sem": sem})
  return rows


def best_stock(rows: list[dict[str, Any]], problem: str, measure_name: str) -> dict[str, Any]:
  """The row of the stock grid that is best on a problem by a measure."""
  chosen = [r for r in rows if r["on"] == problem and r["measure"] == measure_name]
  return min(
    (r for r in chosen if r["grid"] != NEW), key=lambda r: np.nan_to_num(r["mean"], nan=np.inf)
  )


def least_gain(rows: list[dict[str, Any]], problem: str, measure_name: str) -> float:
  """The least of the gains over the stock grids, each in its own standard errors."""
  chosen = [r for r in rows if r["on"] == problem and r["measure"] == measure_name]
  # A grid that the descent did not leave has neither a gain nor an error.
  return min(r["gain"] / (r["gain_sem"] or 1) for r in chosen if r["grid"] != NEW)


def summary(rows: list[dict[str, Any]], problem: str, measure_name: str) -> str:
  """The optimised grid next to the best stock grid, with standard errors of what is sampled."""
  best = best_stock(rows, problem, measure_name)
  said = f"{best['mean'] - best['gain']:.5f}, best stock {best['mean']:.5f} ({best['grid']})"
  if measure_name != SAMPLED:
    return said
  least = least_gain(rows, problem, measure_name)
  return (
    f"{said}, gain {best['gain']:.4f} +- {best['gain_sem']:.4f}; "
    f"over every stock grid at least {least:.1f} errors"
  )


def pair_of(row: dict[str, Any]) -> tuple[str, str]:
  """Target and measure of a row."""
  return row["on"], row["measure"]


def main(argv: list[str] | None = None) -> int:
  """Searches, compares and writes; 0, or 1 after a line that says what is wrong."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--sampler", default="dpmpp_2m", choices=("dpmpp_2m", "ipndm", "euler"))
  parser.add_argument("--num-steps", type=int, default=6, help="of the grid, and its NFE [6]")
  parser.add_argument("--distance", default="energy", choices=[*STUDIES], help="descended on")
  parser.add_argument("--iterations", type=int, default=200, help="of each descent, at most [200]")
  parser.add_argument("--keys", type=int, default=10, help="of the samples, at least 2 [10]")
  parser.add_argument("--size", type=int, default=1000, help="samples of a key [1000]")
  parser.add_argument("--workdir", type=pathlib.Path, help="a finished run of configs/ncsn_gmm.py")
  outputs.add_arguments(parser, "results/optimised_grid", "optimised_grid")
  args = parser.parse_args(argv)
  for option, value, least in (
    ("num-steps", args.num_steps, 2), ("iterations", args.iterations, 1), ("keys", args.keys, 2),
    ("size", args.size, 2),
  ):  # fmt: skip
    if value < least:
      parser.error(f"--{option} {value}: must be at least {least}")
  targets, measures = STUDIES[args.distance]
  if args.workdir and targets != PLANE:
    parser.error(f"--workdir: needs --distance energy or bound, not {args.distance}")
  own = outputs.RESULTS / "optimised_grid"
  out = outputs.directory(parser, args, own, "optimised_grid")
  command = "python scripts/optimise_grid.py"
  for option in ("sampler", "num_steps", "distance", "iterations", "keys", "size"):
    if getattr(args, option) != parser.get_default(option):
      command += f" --{option.replace('_', '-')} {getattr(args, option)}"
  problems = [exact(name) for name in targets]
  if args.workdir:
    try:
      source = open_source("ncsn_gmm", args.workdir, out, args.keys)
    except RunError as error:
      print(error, file=sys.stderr)
      return 1
    learned = source.experiment.parameterization.bind(source.params)
    problems.insert(1, problems[0]._replace(name="nine_modes, learned", predict=learned))
    command += " --workdir results/ncsn_gmm/<run id>"

  begun = time.monotonic()
  sampler = SAMPLERS[args.sampler]
  stock = stock_grids(args.num_steps)
  log_snrs, begin = search(problems[0], sampler, stock, args.distance, args.iterations)
  print(f"found in {time.monotonic() - begun:.0f} s", flush=True)
  grids = stock | {NEW: log_snrs}
  rows = []
  for problem in problems:
    values = measure(problem, sampler, grids, args.distance, args.keys, args.size)
    rows += compare(values, problem.name)
    for name in values:
      print(f"{problem.name}, {name}: {summary(rows, problem.name, name)}", flush=True)
  stem = f"{args.sampler}_{args.num_steps}"
  stem += "" if args.distance == parser.get_default("distance") else f"_{args.distance}"
  write_csv(out / f"{stem}.csv", rows, command)
  levels = [
    {"grid": name, "level": i, "log_snr": float(value), "sigma": float(np.exp(-value))}
    for name, values in grids.items()
    for i, value in enumerate(values)
  ]
  write_csv(out / f"{stem}_levels.csv", levels, command)
  gains = [(*pair, best_stock(rows, *pair)) for pair in dict.fromkeys(map(pair_of, rows))]
  shown = {NEW: np.exp(-log_snrs)}
  bests = [row["grid"] for on, _, row in gains if on == problems[0].name]
  for name in dict.fromkeys(["uniform", begin, *bests]):
    shown[name] = np.exp(-stock[name])
  text = (
    f"{args.sampler}, {args.num_steps} NFE: found on the exact score of {targets[0]} by the "
    f"distance {args.distance!r}, without samples; {', '.join(measures)}: exact;\n{SAMPLED}: "
    f"{args.keys} keys of {args.size} samples, mean and two standard errors; in brackets the best "
    "stock grid"
  )
  save(comparisons.grids(shown, gains, text), out / f"{stem}.png", command)
  numbers = ", ".join(f"{value:.3f}" for value in log_snrs)
  print(f"sampler.grid = 'given', sampler.log_snrs = ({numbers})")
  return 0


if __name__ == "__main__":
  sys.exit(main())
