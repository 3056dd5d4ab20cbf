"""Annealing with an exact score: samplers of p(x)^3 against exact draws of it.

  python scripts/annealing.py            # the table
  python scripts/annealing.py --fast     # a small part of it, as a test

The law p is an even mixture of 40 Gaussians in the plane, of std softplus(1) = 1.313, with means
uniform on [-40, 40]^2. Its score at every level is exact. The power 3 of it is a mixture of all
products of three components, so that it can be drawn from exactly. Samplers follow 3 times the
score: the SDE alone, or with particles that are weighted and resampled. A run draws 10,000 samples
in 1,000 steps, equally spaced in log-SNR from sigma = 200 to 0.02 on a variance-exploding process.
The particles of a run are one cloud. W1 is that of the first 2,500 samples from as many exact
draws, by linear programming; the floor is that of exact draws.

The nearest published experiment is table A1 of Skreta et al., "Feynman-Kac Correctors in Diffusion"
(ICML 2025, arXiv 2503.02819): 40 modes in the plane, true score, 10,000 samples, 1,000 steps. Its
other settings are not stated in full: its numbers stand next to these, which is no comparison.

The table, annealing.csv, goes to results/guidance/, or to --out; --reference writes the committed
one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ot

from scorelab.cli.exit import exit_with
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import write_csv
from scorelab.predictions import Prediction
from scorelab.predictions.guidance import extrapolated
from scorelab.samplers import ddim
from scorelab.samplers.feynman_kac import feynman_kac_cloud
from scorelab.samplers.noise import as_noise
from scorelab.samplers.particles import resampled
from scorelab.schedules import Grid, Level, VarianceExploding, uniform_log_snr
from scorelab.targets import GaussianMixture
from scorelab.typing import Array, Key, Predict
from scripts import outputs

POWER = 3
_STD = np.log1p(np.e)


class Method(NamedTuple):
  """A sampler of the annealed law; `options` are those of the particles, None for the SDE alone.

  Attributes:
    name: for the table.
    options: of `feynman_kac_cloud`.
    published: mean and standard deviation of W1 in the nearest published experiment.
    half: sigma / alpha at which the power is 2, halfway from 1 at pure noise to 3 at the data.
  """

  name: str
  options: Mapping[str, Any] | None
  published: tuple[float, float] | None = None
  half: float = np.inf


METHODS = (
  Method("SDE alone", None, (11.30, 0.30)),
  Method("birth-death, by score", MappingProxyType({"resampling": "birth_death"}), (7.80, 3.99)),
  Method("systematic, by score", MappingProxyType({}), (6.26, 3.96)),
  Method("systematic, by density", MappingProxyType({"weights": "density"})),
  Method("the same, power rising late", MappingProxyType({"weights": "density"}), half=1.0),
)


def forty_modes() -> GaussianMixture:
  """Returns the mixture p."""
  means = np.random.default_rng(0).uniform(-40, 40, (40, 2))
  return GaussianMixture(np.full(40, 1 / 40), means, np.full(40, _STD**2))


def cubed(target: GaussianMixture) -> GaussianMixture:
  """Returns p^3, normalised, of an isotropic mixture p of one variance s^2.

  A product of components i, j, k is a Gaussian of variance s^2 / 3 at their mean m, with weight
  w_i w_j w_k exp(-(|m_i|^2 + |m_j|^2 + |m_k|^2 - 3 |m|^2) / (2 s^2)). Less than 1e-9 is left out.
  """
  means, logs = np.asarray(target.means, float), np.asarray(target.log_weights, float)
  square = float(np.asarray(target.variances, float).ravel()[0])
  i, j, k = (a.ravel() for a in np.indices((len(means),) * POWER))
  middle = (means[i] + means[j] + means[k]) / POWER
  squares = np.sum(means**2, axis=1)
  apart = squares[i] + squares[j] + squares[k] - POWER * np.sum(middle**2, axis=1)
  logs = logs[i] + logs[j] + logs[k] - apart / (2 * square)
  weights = np.exp(logs - logs.max())
  weights /= weights.sum()
  kept = weights > 1e-9
  return GaussianMixture(
    weights[kept] / weights[kept].sum(), middle[kept], np.full(kept.sum(), square / POWER)
  )


def annealed(target: GaussianMixture, half: float) -> Predict:
  """Returns the prediction of q_t^3: the score of q_t, extrapolated from a flat density's."""

  def pair(x: Array, level: Level) -> tuple[Prediction, Prediction]:
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    flat = Prediction.of(
      x, level, "score", score=zero, x0_variance=1e9 * one, log_density=zero[..., 0]
    )
    return target.predict(x, level), flat

  return extrapolated(pair, guidance_scale=float(POWER), guidance_half=half)


def sampler(method: Method, target: GaussianMixture, grid: Grid, n: int) -> Callable[[Key], Array]:
  """Returns a compiled function of a key that draws n samples."""
  predict = annealed(target, method.half)

  def draw(key: Key) -> Array:
    start, moves, ends = jax.random.split(key, 3)
    # The cube of a wide Gaussian is narrower by the root of 3.
    x = grid.prior(start, (n, target.dim))
    if method.options is None:
      return ddim(moves, predict, x / POWER**0.5, grid, eta=1.0).x
    narrower = 1.0 if method.options.get("weights") == "density" else POWER**0.5
    cloud = feynman_kac_cloud(moves, predict, x[None] / narrower, grid, **method.options)
    index, _ = resampled(as_noise(ends), cloud.log_weights, 1.0)
    # Ancestors are in order, and so are the particles that they leave.
    return jax.random.permutation(ends, cloud.x[0, index[0]])

  return jax.jit(draw)


def measure(method: Method, num_runs: int, num_steps: int, n: int) -> dict[str, Any]:
  """One row of the table."""
  target = forty_modes()
  law, compared = cubed(target), min(n, 2500)
  grid = uniform_log_snr(VarianceExploding(0.02, 200.0), num_steps, to_data=False)
  draw, exact = sampler(method, target, grid, n), jax.jit(law.sample, static_argnums=1)
  found, floors = [], []
  for key in jax.random.split(jax.random.key(0), num_runs):
    own, reference, floor = jax.random.split(key, 3)
    points = exact(reference, compared)
    found.append(w1(draw(own)[:compared], points))
    floors.append(w1(exact(floor, compared), points))
  mean, sem = mean_and_sem(found)
  published = method.published or (np.nan, np.nan)
  return {
    "method": method.name,
    "runs": num_runs,
    "w1": mean,
    "w1_sem": sem,
    "w1_std": float(np.std(found, ddof=1)),
    "floor": float(np.mean(floors)),
    "floor_std": float(np.std(floors, ddof=1)),
    "published": published[0],
    "published_std": published[1],
  }


def w1(x: Array, y: Array) -> float:
  """Returns the 1-Wasserstein distance between two sets of points [n, d]."""
  cost = ot.dist(np.asarray(x, float), np.asarray(y, float), metric="euclidean")
  return float(np.asarray(ot.emd2([], [], cost, numItermax=10_000_000)))


def line(row: Mapping[str, Any]) -> str:
  """One line of the table, as printed."""
  return (
    f"{row['method']:24} W1 {row['w1']:6.3f} +- {row['w1_sem']:.3f}, spread {row['w1_std']:.3f}"
    f"   (floor {row['floor']:.3f}, spread {row['floor_std']:.3f})"
  )


def table(rows: list[dict[str, Any]]) -> str:
  """A Markdown table: W1 by method, with the spread over runs."""
  lines = [["sampler", "W1", "spread over runs", "published W1, spread"], ["---"] * 4]
  for row in rows:
    known = np.isfinite(row["published"])
    shown = f"{row['published']:.2f}, {row['published_std']:.2f}" if known else ""
    lines.append(
      [row["method"], f"{row['w1']:.2f} ± {row['w1_sem']:.2f}", f"{row['w1_std']:.2f}", shown]
    )
  floor = rows[0]
  lines.append(["exact draws", f"{floor['floor']:.2f}", f"{floor['floor_std']:.2f}", ""])
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(argv: list[str] | None = None) -> int:
  """Measures, and writes the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--fast", action="store_true", help="few samples, steps and runs")
  default = outputs.RESULTS / "guidance"
  outputs.add_arguments(parser, str(default), "guidance")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, default, "guidance")
  sizes = (2, 50, 200) if args.fast else (8, 1000, 10_000)
  rows = []
  for method in METHODS:
    rows.append(measure(method, *sizes))
    print(line(rows[-1]), flush=True)
  write_csv(out / "annealing.csv", rows, "python scripts/annealing.py")
  return 0


if __name__ == "__main__":
  exit_with(main)
