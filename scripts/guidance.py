"""Laws of guided samples: guided samplers against the tilted law p(x)^(1-w) p(x | c)^w.

  python scripts/guidance.py            # the tables and the figures
  python scripts/guidance.py --fast     # a small part of it, as a test

With exact scores, so that what differs from the tilted law is guidance's own error and that of the
steps. Two overlapping modes on the line, eight on a ring that overlap, and the nine modes, which do
not. Measured is the energy distance of 2,000 samples from as many exact draws of the tilted law,
over that of exact draws, on average: 1 + D / floor, with D the energy distance of the two laws, by
all pairs of 8 times 2,000 samples, and the floor 2 E|x - x'| / 2,000. Standard errors are the
jackknife's over the 8 keys. A sampler without particles takes at most 64 evaluations.

Process, grid and order are those whose exact law of one mode (scorelab.exact) is nearest to it at
64 evaluations: variance-preserving with beta_max = 30, Karras' levels with rho = 12, dpmpp_3m.

The tables go to results/guidance/, or to --out: guidance.csv, and exact.csv of samplers without
noise, on the two modes and on the ring (not with --fast) by quadrature and on one of the nine in
closed form. So do the figures; --reference writes the committed ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import hyp1f1
from scipy.stats import norm

from scorelab.cli.exit import exit_with
from scorelab.exact import gaussian_law
from scorelab.exact.energy import energy_of_nodes, mean_apart
from scorelab.metrics import mean_pairwise_distance
from scorelab.plotting import save, write_csv
from scorelab.predictions.guidance import GUIDANCES, Sources, extrapolated
from scorelab.samplers import SAMPLERS
from scorelab.samplers.feynman_kac import feynman_kac_cloud
from scorelab.schedules import Grid, VarianceExploding, VariancePreserving, karras
from scorelab.targets import GaussianMixture, nine_modes, ring, truth_of, two_modes_1d
from scorelab.targets.tilted import tilted
from scorelab.typing import Array, Key
from scripts import outputs
from scripts.drawing import guidance as drawing

SCALES = (1.0, 1.5, 3.0, 7.0, 10.0)
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


FREE, FLOW = "classifier_free", "dpmpp_3m"
METHODS = (
  Method("classifier-free, flow", FREE, FLOW, 64),
  Method("classifier-free, SDE", FREE, "ancestral", 64),
  Method("classifier-free, interval", FREE, FLOW, 64, {}, {"guidance_high": 1.0}),
  Method("classifier-free, falling scale", FREE, FLOW, 64, {}, {"guidance_half": 1.0}),
  Method("classifier-free, corrected", FREE, "predictor_corrector", 32, {"event_ndim": 1}),
  Method("particles, by score", FREE, "feynman_kac", 64),
  Method("particles, by density", FREE, "feynman_kac", 64, {"weights": "density"}),
  Method("tilted, one node", "tilted", FLOW, 64, {}, {"guidance_nodes": 1}),
  Method("tilted", "tilted", FLOW, 64, {}, {"guidance_nodes": 17}),
)


def grid_of(method: Method) -> Grid:
  """Returns the grid of a method."""
  return karras(VariancePreserving(beta_max=30.0), method.num_steps, rho=12.0)


def guided_samples(
  method: Method, target: GaussianMixture, label: int, scale: float, given: Array | None = None
) -> Any:
  """Returns a compiled function of (key, n, static) that draws by a method: samples and nfe.

  Starts are `given` [n, d], or else drawn.
  """
  grid = grid_of(method)

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
    x = grid.prior(start, (n, target.dim)) if given is None else given
    found = SAMPLERS[method.sampler](moves, predict, x, grid, **method.options)
    return found.x, found.nfe

  return jax.jit(draw, static_argnums=1)


class ExactSets(NamedTuple):
  """Exact draws of a tilted law.

  Attributes:
    points: [keys, n, d].
    between: mean distances between the sets of two keys, [keys, keys]; without pairs of one point.
    floor: expected energy distance of n exact draws from n others.
  """

  points: np.ndarray
  between: np.ndarray
  floor: float


def exact_sets(
  target: GaussianMixture, label: int, scale: float, num_keys: int, n: int
) -> ExactSets:
  """Returns exact draws of the tilted law."""
  draw = jax.jit(tilted(target, label, scale).sample, static_argnums=1)
  keys = jax.random.split(jax.random.key(0), num_keys)
  points = np.stack([np.asarray(draw(key, n)) for key in keys])
  between = mean_distances(points, points)
  return ExactSets(points, between, float(between.mean()) * 2 / n)


def mean_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the mean distances between sets of x and of y, both [keys, n, d]: [keys, keys].

  If y is x, pairs of a point with itself are left out.
  """
  means = np.array([[mean_pairwise_distance(one, other) for other in y] for one in x])
  if y is x:
    means[np.diag_indices(len(x))] *= x.shape[1] / (x.shape[1] - 1)
  return means


def excess(x: np.ndarray, exact: ExactSets) -> tuple[float, float]:
  """Returns the energy distance of samples from the law by all pairs of all keys, and its error.

  2 E|x - y| - E|x - x'| - E|y - y'| as a U-statistic, which is 0 on average for exact samples. The
  standard error is the jackknife's over the keys.
  """
  own, mixed = mean_distances(x, x), mean_distances(x, exact.points)
  num_keys, n = x.shape[:2]
  # Of the ordered pairs of distinct points, by block of two keys.
  pairs = np.full((num_keys, num_keys), float(n * n)) - n * np.eye(num_keys)

  def distance(kept: np.ndarray) -> float:
    block = np.ix_(kept, kept)
    same = own[block] + exact.between[block]
    return 2 * float(mixed[block].mean()) - float(np.average(same, weights=pairs[block]))

  every = np.arange(num_keys)
  without = np.array([distance(np.delete(every, k)) for k in every])
  sem = np.sqrt((num_keys - 1) / num_keys * np.sum((without - without.mean()) ** 2))
  return distance(every), float(sem)


def measure(
  method: Method, target: GaussianMixture, label: int, scale: float, exact: ExactSets
) -> dict[str, Any]:
  """Returns a row of the table, without the target's name."""
  draw = guided_samples(method, target, label, scale)
  num_keys, n = exact.points.shape[:2]
  drawn = [draw(key, n) for key in jax.random.split(jax.random.key(1), num_keys)]
  distance, sem = excess(np.stack([np.asarray(x) for x, _ in drawn]), exact)
  return {
    "scale": scale,
    "method": method.name,
    "nfe": int(drawn[0][1]),
    "excess": distance,
    "floor": exact.floor,
    "over_floor": 1 + distance / exact.floor,
    "over_floor_sem": sem / exact.floor,
  }


def on_the_line(method: Method, scale: float, n: int = 2000, num: int = 4000) -> dict[str, Any]:
  """Returns 1 + D / floor of a sampler without noise on the two modes, by quadrature.

  D = 2 int (F - G)^2 with F and G the distribution functions of samples and tilted law, and the
  floor (2 / n) 2 int G (1 - G). F is that of `num` starts at equally likely quantiles.
  """
  make, label = TARGETS["two modes"]
  target = make()
  law, grid = tilted(target, label, scale), grid_of(method)
  shares = (np.arange(num) + 0.5) / num
  start = float(grid.schedule.prior_std(grid[0])) * norm.ppf(shares)
  found = guided_samples(method, target, label, scale, jnp.asarray(start)[:, None])
  x = np.sort(np.asarray(found(jax.random.key(0), num)[0])[:, 0])
  mean, std = (float(moment[0]) for moment in (law.mean, jnp.sqrt(law.variance)))
  places = np.linspace(min(mean - 9 * std, x[0]), max(mean + 9 * std, x[-1]), 20_001)
  density = np.exp(np.asarray(law.log_prob(jnp.asarray(places)[:, None])))
  width = places[1] - places[0]
  exact = np.cumsum(density) * width - density * width / 2
  sampled = np.interp(places, x, shares, left=0.0, right=1.0)
  floor = 2 / n * 2 * np.sum(exact * (1 - exact)) * width
  over = 1 + 2 * np.sum((sampled - exact) ** 2) * width / floor
  return {"target": "two modes", "scale": scale, "method": method.name, "over_floor": float(over)}


def in_the_plane(method: Method, scale: float, n: int = 2000, num: int = 65) -> dict[str, Any]:
  """Returns 1 + D / floor of a sampler without noise on the ring, by quadrature.

  Nodes of the start, `num` along an axis, are carried by the sampler; nodes of the tilted law are
  weighted by its density. Their characteristic functions give D.
  """
  make, label = TARGETS["ring"]
  target = make()
  law, grid = tilted(target, label, scale), grid_of(method)
  units, weights = _normal_nodes(num)
  start = float(grid.schedule.prior_std(grid[0])) * units
  found = guided_samples(method, target, label, scale, jnp.asarray(start))
  x = found(jax.random.key(0), len(start))[0]
  stds = np.sqrt(np.asarray(law.variance))
  units, _ = _normal_nodes(2 * num - 1)
  y = jnp.asarray(np.asarray(law.mean) + stds * units)
  density = np.exp(np.asarray(jax.jit(law.log_prob)(y), float))
  with jax.enable_x64(True):
    x, start_weights = jnp.asarray(x, float), jnp.asarray(weights)
    y, shares = jnp.asarray(y, float), jnp.asarray(density / density.sum())
    spread = jnp.sqrt(jnp.min(jnp.linalg.eigvalsh(jnp.cov(x.T, aweights=start_weights))))
    highest = 9 / float(spread), 9 / float(stds.min())
    distance = energy_of_nodes(x, start_weights, y, shares, highest=highest)
    over = 1 + distance / (2 / n * mean_apart(y, shares))
  return {"target": "ring", "scale": scale, "method": method.name, "over_floor": float(over)}


def _normal_nodes(num: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns nodes of N(0, I) in the plane, [num^2, 2], and their weights, up to 8 std."""
  line = np.linspace(-8, 8, num)
  nodes = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
  weights = np.exp(-np.sum(nodes**2, axis=-1) / 2)
  return nodes, weights / weights.sum()


def of_one_mode(method: Method, n: int = 2000) -> float:
  """Returns 1 + D / floor of a sampler without noise on one of the nine modes, in closed form.

  Modes are so far apart that P(c | x_0) = 1: the tilted law of any scale is the class, and tilted
  guidance its sampler, whose law is Gaussian. E|z| of z ~ N(m, v I) in the plane is Rice's mean.
  """
  with jax.enable_x64(True):
    modes = nine_modes()
    variance = float(np.ravel(modes.covariances)[0])
    mode = GaussianMixture([1.0], np.asarray(modes.means[:1], float), [variance])
    law = gaussian_law(SAMPLERS[method.sampler], mode, grid_of(method))
    shift = float(np.sum((law.mean - np.asarray(mode.means[0])) ** 2))

  def apart(square: float, v: float) -> float:
    return float(np.sqrt(v * np.pi / 2) * hyp1f1(-0.5, 1, -square / (2 * v)))

  within = apart(0, 2 * variance)
  sampled = float(law.variances[0])
  distance = 2 * apart(shift, variance + sampled) - apart(0, 2 * sampled) - within
  return 1 + distance / (2 / n * within)


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
    for index in (0, 1, -1):
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
  methods = (METHODS[0], METHODS[-1]) if args.fast else METHODS
  names = ["two modes"] if args.fast else list(TARGETS)
  num_keys, n = (2, 100) if args.fast else (8, 2000)
  rows = []
  for name in names:
    make, label = TARGETS[name]
    target = make()
    for scale in SCALES[1:3] if args.fast else SCALES:
      exact = exact_sets(target, label, scale, num_keys, n)
      for method in methods:
        rows.append({"target": name, **measure(method, target, label, scale, exact)})
        print(drawing.line(rows[-1]), flush=True)
  write_csv(out / "guidance.csv", rows, command)
  flows = [method for method in methods if method.sampler == FLOW]
  exact_rows = [on_the_line(method, scale) for method in flows for scale in SCALES]
  if not args.fast:
    exact_rows += [in_the_plane(method, scale) for method in flows for scale in SCALES]
  one_mode = {"target": "nine modes", "method": "tilted", "over_floor": of_one_mode(METHODS[-1])}
  exact_rows += [one_mode | {"scale": scale} for scale in SCALES]
  write_csv(out / "exact.csv", exact_rows, command)
  variances = gaussian_variances(np.linspace(1, 10, 4 if args.fast else 19), 256)
  write_csv(out / "variances.csv", variances, command)
  save(drawing.variances(variances), out / "variances.png", command)
  save(drawing.over_floor(rows), out / "guidance.png", command)
  found = clouds((1.0, 3.0) if args.fast else (1.0, 3.0, 7.0), 100 if args.fast else 4000)
  save(drawing.maps(found), out / "maps.png", command)
  return 0


if __name__ == "__main__":
  exit_with(main)
