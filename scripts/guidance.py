"""Laws of guided samples: guided samplers against the tilted law p(x)^(1-w) p(x | c)^w.

  python scripts/guidance.py            # the table and the figures
  python scripts/guidance.py --fast     # a small part of it, as a test

With exact scores, so that what differs from the tilted law is guidance's own error and that of the
steps. Two overlapping modes on the line, eight on a ring that overlap, and the nine modes, which do
not; a variance-preserving process. Energy distance of 2,000 samples from as many exact draws of the
tilted law, over that of exact draws, means over the keys with the standard error of the paired
ratio. A sampler without particles takes at most 64 evaluations.

The table, guidance.csv, and the figures go to results/guidance/, or to --out; --reference writes
the committed ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.cli.exit import exit_with
from scorelab.metrics import energy_distance
from scorelab.metrics.ratios import ratio_of_means
from scorelab.plotting import save, write_csv
from scorelab.predictions.guidance import GUIDANCES, Sources, extrapolated
from scorelab.samplers import SAMPLERS
from scorelab.samplers.feynman_kac import feynman_kac_cloud
from scorelab.schedules import VarianceExploding, VariancePreserving, karras
from scorelab.targets import GaussianMixture, nine_modes, ring, truth_of, two_modes_1d
from scorelab.targets.tilted import tilted
from scorelab.typing import Array, Key
from scripts import outputs
from scripts.drawing import guidance as drawing

SCALES = (1.5, 3.0, 7.0, 10.0)
TARGETS: dict[str, tuple[Callable[[], GaussianMixture], int]] = {
  "two modes": (lambda: two_modes_1d(2.0), 0),
  "ring": (lambda: ring(8, std=0.8), 0),
  "nine modes": (nine_modes, 0),
}


class Method(NamedTuple):
  """A guided sampler.

  Attributes:
    name: for the table.
    guidance: of GUIDANCES.
    sampler: of SAMPLERS.
    num_steps: steps on Karras' grid.
    options: of the sampler.
    guiding: of the guidance, in addition to the scale.
  """

  name: str
  guidance: str
  sampler: str
  num_steps: int
  options: Mapping[str, Any] = MappingProxyType({})
  guiding: Mapping[str, Any] = MappingProxyType({})


METHODS = (
  Method("classifier-free, flow", "classifier_free", "heun", 32),
  Method("classifier-free, SDE", "classifier_free", "ancestral", 64),
  Method("classifier-free, interval", "classifier_free", "heun", 32, {}, {"guidance_high": 1.0}),
  Method("particles, by score", "classifier_free", "feynman_kac", 64),
  Method("particles, by density", "classifier_free", "feynman_kac", 64, {"weights": "density"}),
  Method("tilted, one node", "tilted", "heun", 32, {}, {"guidance_nodes": 1}),
  Method("tilted", "tilted", "heun", 32, {}, {"guidance_nodes": 17}),
)


def guided_samples(method: Method, target: GaussianMixture, label: int, scale: float) -> Any:
  """Returns a compiled function of (key, n, static) that draws by a method: samples and nfe."""
  grid = karras(VariancePreserving(), method.num_steps)

  def draw(key: Key, n: int) -> tuple[Array, int]:
    start, moves = jax.random.split(key)
    sources = Sources(
      lambda label: truth_of(target).bind(None, label),
      jnp.full(n, label),
      None,
      target.num_classes,
      target.log_class_prob,
    )
    make = GUIDANCES[method.guidance].make
    predict = make(sources, guidance_scale=scale, **method.guiding)
    x = grid.prior(start, (n, target.dim))
    found = SAMPLERS[method.sampler](moves, predict, x, grid, **method.options)
    return found.x, found.nfe

  return jax.jit(draw, static_argnums=1)


def measure(method: Method, name: str, scale: float, num_keys: int, n: int) -> dict[str, Any]:
  """One row of the table."""
  make, label = TARGETS[name]
  target = make()
  law = tilted(target, label, scale)
  draw, exact = guided_samples(method, target, label, scale), jax.jit(law.sample, static_argnums=1)
  distances, floors, nfe = [], [], 0
  for key in jax.random.split(jax.random.key(0), num_keys):
    own, reference, floor = jax.random.split(key, 3)
    x, nfe = draw(own, n)
    points = np.asarray(exact(reference, n))
    distances.append(energy_distance(None, np.asarray(x), points))
    floors.append(energy_distance(None, np.asarray(exact(floor, n)), points))
  over, sem = ratio_of_means(distances, floors)
  return {
    "target": name,
    "scale": scale,
    "method": method.name,
    "nfe": int(nfe),
    "energy_distance": float(np.mean(distances)),
    "floor": float(np.mean(floors)),
    "over_floor": over,
    "over_floor_sem": sem,
  }


def gaussian_variances(scales: np.ndarray, particles: int) -> list[dict[str, float]]:
  """Variances of guided samples of N(0, 1) out of N(0, 2): laws in closed form, and particles.

  The tilted law has 2 / (1 + w); the guided flow 2^(1 - w), the guided reverse SDE
  (2 - 2^(2 - 2 w)) / (2 w - 1), on variance-exploding processes of infinite noise.
  """
  strong, weak = (GaussianMixture([1.0], [[0.0]], [v]) for v in (1.0, 2.0))
  grid = karras(VarianceExploding(), 16)

  @jax.jit
  def corrected(key: Key, scale: Array) -> Array:
    start, moves = jax.random.split(key)

    def pair(x: Array, level: Any) -> Any:
      return strong.predict(x, level), weak.predict(x, level)

    predict = extrapolated(pair, guidance_scale=scale)
    x = grid.prior(start, (32, particles, 1))
    found = feynman_kac_cloud(moves, predict, x, grid, weights="density")
    weights, x = jnp.exp(found.log_weights), found.x[..., 0]
    mean = jnp.sum(weights * x, axis=1, keepdims=True)
    return jnp.sum(weights * (x - mean) ** 2, axis=1)

  rows = []
  for index, scale in enumerate(scales):
    found = np.asarray(corrected(jax.random.key(index), jnp.asarray(scale)))
    rows.append(
      {
        "scale": float(scale),
        "tilted": 2 / (1 + scale),
        "flow": 2 ** (1 - scale),
        "sde": (2 - 2 ** (2 - 2 * scale)) / (2 * scale - 1),
        "particles": float(found.mean()),
        "particles_sem": float(found.std(ddof=1)) / len(found) ** 0.5,
      }
    )
  return rows


def clouds(scales: tuple[float, ...], n: int) -> dict[tuple[str, float], np.ndarray]:
  """Samples of the nine modes' first class by method and scale, and exact ones, for the map."""
  make, label = TARGETS["nine modes"]
  target, found = make(), {}
  for scale in scales:
    law = tilted(target, label, scale)
    draws = jax.jit(law.sample, static_argnums=1)(jax.random.key(0), n)
    found["tilted law", scale] = np.asarray(draws)
    for index in (0, 1, 6):
      method = METHODS[index]
      x, _ = guided_samples(method, target, label, scale)(jax.random.key(1), n)
      found[method.name, scale] = np.asarray(x)
  return found


def main(argv: list[str] | None = None) -> int:
  """Measures, then writes the tables and the figures."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--fast", action="store_true", help="two methods and few samples")
  default = outputs.RESULTS / "guidance"
  outputs.add_arguments(parser, str(default), "guidance")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, default, "guidance")
  command = "python scripts/guidance.py"
  methods = (METHODS[0], METHODS[6]) if args.fast else METHODS
  names = ["two modes"] if args.fast else list(TARGETS)
  num_keys, n = (2, 100) if args.fast else (20, 2000)
  rows = []
  for name in names:
    for scale in SCALES[:2] if args.fast else SCALES:
      for method in methods:
        rows.append(measure(method, name, scale, num_keys, n))
        print(drawing.line(rows[-1]), flush=True)
  write_csv(out / "guidance.csv", rows, command)
  variances = gaussian_variances(np.linspace(1, 10, 4 if args.fast else 19), 256)
  write_csv(out / "variances.csv", variances, command)
  save(drawing.variances(variances), out / "variances.png", command)
  save(drawing.over_floor(rows), out / "guidance.png", command)
  found = clouds((1.0, 3.0) if args.fast else (1.0, 3.0, 7.0), 100 if args.fast else 4000)
  save(drawing.maps(found), out / "maps.png", command)
  return 0


if __name__ == "__main__":
  exit_with(main)
