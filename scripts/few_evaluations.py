"""The best sampler and grid of five evaluations on the nine modes, found on the exact distance.

  python scripts/few_evaluations.py                             # the exact scores
  python scripts/few_evaluations.py --networks results/pareto   # and those of scripts/pareto.py
  python scripts/few_evaluations.py --fast                      # a small part of it, as a test

The levels of every candidate, the noisiest included, descend on the energy distance of the
sampler's law from the mixture, which has no floor: starts on a lattice, the mixture in closed form
(`scorelab.exact.energy`). They begin at the best of 37 stock grids. The best candidate's grid is
then measured with other starts, next to its best stock grid: exactly, and as in docs/pareto.md, by
2000 samples against 10,000 in floors, on targets for which it was not made too, on their own scale.
Checkerboard has a learned score alone.

The numbers go to results/few_evaluations/, or to --out; --reference writes the committed ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from scorelab.cli.exit import exit_with
from scorelab.exact.energy import energy_from_mixture, lattice_starts, mixture_apart
from scorelab.exact.grid_search import to_log_snrs, to_widths
from scorelab.exact.responses import in_float64
from scorelab.metrics import Reference, energy_distance
from scorelab.metrics.ratios import ratio_of_means
from scorelab.plotting import write_csv
from scorelab.samplers import SAMPLERS, ZeroNoise
from scorelab.schedules import VarianceExploding, given_log_snrs
from scorelab.targets import TARGETS
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict
from scripts import outputs
from scripts.pareto_study import Protocol, open_subject
from scripts.stock_grids import make_all, spacings

SCHEDULE = VarianceExploding(0.02, 80.0, 7.0)  # that of configs/ncsn_gmm.py
SPACINGS = spacings((0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
FOUND = "found"


class Candidate(NamedTuple):
  """A sampler whose steps to the data take five evaluations."""

  sampler: str
  num_steps: int = 5
  options: Mapping[str, Any] = types.MappingProxyType({})

  @property
  def label(self) -> str:
    """For the table."""
    return " ".join([self.sampler, *(f"{k}={v}" for k, v in self.options.items())])

  def ends(self, predict: Predict, log_snrs: Array, normals: Array) -> Array:
    """The samples from standard normal starts, on the grid of these log-SNRs [N]."""
    grid = given_log_snrs(SCHEDULE, self.num_steps, log_snrs=log_snrs)
    start = jnp.exp(-log_snrs[0]) * normals
    return SAMPLERS[self.sampler](ZeroNoise(), predict, start, grid, **self.options).x


CANDIDATES = (
  Candidate("dpmpp_singlestep", options={"solver_type": "heun"}),
  Candidate("dpmpp_singlestep"),
  Candidate("dpmpp_2m"),
  Candidate("ipndm"),
  Candidate("deis"),
  Candidate("unipc", options={"order": 3}),
  Candidate("heun", 3),
)


class Sizes(NamedTuple):
  """Points of a lattice in the search, in its end and in the measurement; descents; keys."""

  search: int = 1000
  polish: int = 4000
  fine: int = 16_000
  descents: int = 2
  keys: int = 20
  samples: int = 2000
  candidates: int = len(CANDIDATES)


FAST = Sizes(100, 100, 200, 1, 2, 50, 1)


def stock_levels(num_steps: int) -> dict[str, np.ndarray]:
  """Log-SNRs [N] of the stock grids, by name."""
  made = make_all(SPACINGS, SCHEDULE, num_steps)
  names = [spacing.name for spacing in SPACINGS]
  return {k: np.asarray(g.levels.log_snr[:-1]) for k, g in zip(names, made, strict=True)}


def exact_energy(candidate: Candidate, target: GaussianMixture, count: int) -> Any:
  """`log_snrs [N] -> exact energy distance` from a lattice of so many starts."""
  normals = jnp.asarray(lattice_starts(count))

  def loss(log_snrs: Array) -> Array:
    return energy_from_mixture(candidate.ends(target.predict, log_snrs, normals), target)

  return loss


def descend(loss: Callable[[Array], Array], begin: np.ndarray) -> tuple[float, np.ndarray]:
  """The least loss by quasi-Newton steps from the log-SNRs `begin`, and its log-SNRs."""

  def levels(free: Array) -> Array:
    return to_log_snrs(free[0], free[1:])

  run = jax.jit(jax.value_and_grad(lambda free: loss(levels(free))))

  def finite(free: np.ndarray) -> tuple[float, np.ndarray]:
    value, slope = (np.asarray(a, float) for a in run(jnp.asarray(free)))
    if np.isfinite(value) and np.isfinite(slope).all():
      return float(value), slope
    return 1e3, np.zeros_like(free)  # the line search turns back

  first = np.concatenate([begin[:1], np.asarray(to_widths(jnp.asarray(begin)))])
  found = minimize(finite, first, jac=True, method="BFGS", options={"maxiter": 60})
  return float(found.fun), np.asarray(levels(jnp.asarray(found.x)))


def search(candidate: Candidate, target: GaussianMixture, sizes: Sizes) -> dict[str, Any]:
  """A candidate's best stock grid and the grid found, with their exact distances."""
  stock = stock_levels(candidate.num_steps)
  loss = exact_energy(candidate, target, sizes.search)
  run = jax.jit(loss)
  order = sorted(stock, key=lambda name: float(np.nan_to_num(run(stock[name]), nan=np.inf)))
  found = [descend(loss, stock[name]) for name in order[: sizes.descents]]
  _, levels = min(found, key=lambda item: item[0])
  fine = jax.jit(exact_energy(candidate, target, sizes.fine))
  row = {"label": candidate.label, "stock": order[0], "stock_energy": float(fine(stock[order[0]]))}
  row |= {"found_energy": float(fine(levels)), "log_snrs": levels}
  print(
    f"{candidate.label}: {row['stock_energy']:.5f} ({order[0]}) -> {row['found_energy']:.5f}",
    flush=True,
  )
  return row


def in_floors(
  run: Callable[[Array, np.ndarray], Array],
  grids: dict[str, np.ndarray],
  law: Any,
  samples: int,
  keys: range,
) -> dict[str, tuple[float, float]]:
  """Each grid's mean energy distance over that of exact samples, and its paired standard error."""
  values: dict[str, list[float]] = {name: [] for name in ("floor", *grids)}
  for number in keys:
    own = jax.random.split(jax.random.fold_in(jax.random.key(3), number), 3)
    start = jax.random.normal(own[0], (samples, 2))
    reference = Reference(np.asarray(law.sample(own[1], 5 * samples)), law)
    values["floor"].append(
      energy_distance(None, np.asarray(law.sample(own[2], samples)), reference)
    )
    for name, levels in grids.items():
      values[name].append(energy_distance(None, np.asarray(run(start, levels)), reference))
  floor = np.array(values.pop("floor"))
  return {name: ratio_of_means(np.array(own), floor) for name, own in values.items()}


def measure(
  candidate: Candidate, levels: np.ndarray, networks: pathlib.Path | None, sizes: Sizes
) -> list[dict[str, Any]]:
  """Rows of the found grid and the best stock grid, on every target by every score."""
  home, rows = TARGETS["nine_modes"](), []
  for name in ("nine_modes", "ring", "grid25", "checkerboard"):
    law: Any = TARGETS[name]()
    ratio = float(np.log(law.scale / home.scale))  # the grids go to the target's scale
    stock = {k: v - ratio for k, v in stock_levels(candidate.num_steps).items()}
    for score, predict in scores_of(name, law, networks).items():
      run = jax.jit(lambda x, levels, p=predict: candidate.ends(p, levels, x))
      grids, exact, floor = stock | {FOUND: levels - ratio}, {}, np.nan
      if score == "exact":
        with jax.enable_x64(True):
          loss = jax.jit(exact_energy(candidate, in_float64(law), sizes.polish))
          exact = {k: float(loss(v)) for k, v in grids.items()}
          floor = float(mixture_apart(law)) * 1.2 / sizes.samples  # 1 / n + 1 / (5 n)
        quality = {k: exact[k] for k in stock}
      else:
        pilots = in_floors(run, stock, law, sizes.samples // 2, range(100, 102))
        quality = {k: mean for k, (mean, _) in pilots.items()}
      best = min(quality, key=lambda k: np.nan_to_num(quality[k], nan=np.inf))
      chosen = {FOUND: grids[FOUND], best: stock[best]}
      for grid, (mean, sem) in in_floors(
        run, chosen, law, sizes.samples, range(sizes.keys)
      ).items():
        row = {"target": name, "score": score, "sampler": candidate.label, "grid": grid}
        energy = exact.get(grid, np.nan)
        row |= {"exact_energy": energy, "expected_over_floor": 1 + energy / floor}
        row |= {"over_floor": mean, "over_floor_sem": sem}
        rows.append(row)
        print(f"{name}, {score}, {grid}: {mean:.2f} +- {sem:.2f} floors", flush=True)
  return rows


def scores_of(name: str, law: Any, networks: pathlib.Path | None) -> dict[str, Predict]:
  """The exact score of a mixture, and the learned one if there are networks."""
  scores: dict[str, Predict] = {"exact": law.predict} if isinstance(law, GaussianMixture) else {}
  if networks is not None and name in ("nine_modes", "checkerboard"):
    subject = open_subject(name, networks, Protocol())
    params, data_std = subject.models["learned"]
    scaled: Any = subject.experiment.parameterization
    scores["learned"] = dataclasses.replace(scaled, data_std=data_std).bind(params)
  return scores


def main(argv: list[str] | None = None) -> int:
  """Searches, measures and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--networks", type=pathlib.Path, help="the runs of scripts/pareto.py")
  parser.add_argument("--fast", action="store_true", help="one candidate, few points and keys")
  default = outputs.RESULTS / "few_evaluations"
  outputs.add_arguments(parser, str(default), "few_evaluations")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, default, "few_evaluations")
  sizes = FAST if args.fast else Sizes()
  with jax.enable_x64(True):
    target = in_float64(TARGETS["nine_modes"]())
    found = [search(candidate, target, sizes) for candidate in CANDIDATES[: sizes.candidates]]
    best = min(found, key=lambda row: row["found_energy"])
    candidate = next(c for c in CANDIDATES if c.label == best["label"])
    levels = descend(exact_energy(candidate, target, sizes.polish), best["log_snrs"])[1]
    fine = jax.jit(exact_energy(candidate, target, sizes.fine))
    best |= {"found_energy": float(fine(levels)), "log_snrs": levels}
    print(f"polished: {best['found_energy']:.5f}", flush=True)
  command = "python scripts/few_evaluations.py"
  if args.networks:
    command += " --networks results/pareto"
  rows = [
    row | {"log_snrs": " ".join(f"{value:.4f}" for value in row["log_snrs"])} for row in found
  ]
  write_csv(out / "found.csv", rows, command)
  write_csv(out / "transfer.csv", measure(candidate, levels, args.networks, sizes), command)
  numbers = ", ".join(f"{value:.4f}" for value in levels)
  print(f"{candidate.label}: sampler.grid = 'given', sampler.log_snrs = ({numbers})")
  return 0


if __name__ == "__main__":
  exit_with(main)
