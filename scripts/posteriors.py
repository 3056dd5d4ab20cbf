"""Errors of posterior samplers on 25 modes, next to published numbers.

  python scripts/posteriors.py                  # all cells, resumable; then the tables
  python scripts/posteriors.py --fast           # one cell with few samples, as a test
  python scripts/posteriors.py --only d=8       # cells of one dimension; see --help

Problems: `grid25` in 8, 80 or 800 dimensions, A = U diag(s) V' with s ~ U(0, 1) sorted and
y = A x + noise_std n of a draw x, for d_y = 1, 2, 4. Protocols: `pooled`, equal weights and
noise_std = 0.01, 0.1, 1 (B. Dowling's thesis, github.com/bd3dowling/diffusion-research), sliced W1
of 1,000 samples against 1,000 exact ones; `authors`, that of MCGDiff's authors' code (Cardoso et
al., ICLR 2024), weights ~ N(0, 1)^2 and noise_std = max(s) U(0, 1), max-sliced W2 of 1,000 samples
against 10,000 under 100 directions. Every method has the exact prior score and at most 100 steps.

Samples are drawn in the subspace of the modes and of the rows of A (`reduced`); what is outside it
are independent normals of the method's own width there, which is measured on N(0, 1).

Seeds from 0 are reported; the grid and the particles of `ours` were chosen on seeds from 1000.
Rows are appended to posteriors.jsonl in results/posteriors/, or in --out; what is there already is
not measured again. The tables are written to posteriors.csv, budgets.csv, mcgdiff.csv and
published.csv, the figure to posteriors.png.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.cli.exit import exit_with
from scorelab.inverse import (
  POSTERIOR_SAMPLERS,
  POSTERIORS,
  CountedPredict,
  Observation,
  Reduced,
  observed,
  reduced,
  tmpd,
)
from scorelab.metrics import METRICS, Reference
from scorelab.plotting import style, write_csv
from scorelab.runs.files import append_jsonl, read_jsonl
from scorelab.samplers import SAMPLERS
from scorelab.schedules import Grid, VarianceExploding, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import grid25
from scorelab.typing import Array, Key, Samples
from scripts import outputs
from scripts.posterior_tables import budgets, compared, one_noise, printed, table
from scripts.posterior_tables import figure as draw

FLOORS = 4  # exact sample sets that the floor is the mean over
_CLOUD = 3200  # particles at a time: what stays in a processor's cache
_REST = 20_000  # samples from which a method's width outside the subspace is measured


class Problem(NamedTuple):
  """A cell and its seed; noise_std is None in the protocol `authors`, which draws it."""

  protocol: str
  d: int
  d_y: int
  noise_std: float | None
  seed: int


class Sizes(NamedTuple):
  """Sizes of a run of the study."""

  num_samples: int = 1000
  num_steps: int = 100


Run = Callable[[Key, GaussianMixture, Array, Grid, Observation, GaussianMixture], Samples]


class Method(NamedTuple):
  """A method of the study.

  Attributes:
    run: (key, target, starts, grid, observation, posterior) -> samples.
    levels: 'all', or 'modes' for those at which modes are undecided.
    num_steps: at most; the study's own are 100.
    particles: per sample.
    alone: the same with one particle, whose samples outside the subspace have the same law.
    true_start: whether starts are exact.
  """

  run: Run
  levels: str = "all"
  num_steps: int = 100
  particles: int = 1
  alone: Run | None = None
  true_start: bool = False


def exact(
  key: Key, target: GaussianMixture, x: Array, grid: Grid, seen: Observation, law: GaussianMixture
) -> Samples:
  """Ancestral steps with the exact conditional score: prior and discretisation are left."""
  del target, seen
  return SAMPLERS["ancestral"](key, law.predict, x, grid, variance="optimal")


def exact_within(
  key: Key, target: GaussianMixture, x: Array, grid: Grid, seen: Observation, law: GaussianMixture
) -> Samples:
  """The same to the last noisy level, and an exact draw of x_0 there: the best on `ours`' grid."""
  stepping, ending = jax.random.split(key)
  samples = exact(stepping, target, x, grid, seen, law)
  return samples._replace(x=law.sample_posterior(ending, samples.path[-2], grid[-2]))


def guided(name: str) -> Method:
  """A posterior method with ancestral steps."""

  def run(key, target, x, grid, seen, law) -> Samples:
    del law
    conditional = POSTERIORS[name](target.predict, seen)
    samples = SAMPLERS["ancestral"](key, conditional, x, grid)
    gradients = conditional.gradients if isinstance(conditional, CountedPredict) else 0
    return samples._replace(gradients=gradients * samples.nfe)

  return Method(run)


def own(name: str, particles: int = 1, **options: Any) -> Method:
  """A sampler of posteriors."""

  def of(number: int) -> Run:
    more = {} if particles == 1 else {"particles": number}

    def run(key, target, x, grid, seen, law) -> Samples:
      del law
      return POSTERIOR_SAMPLERS[name](key, target.predict, x, grid, seen, **options, **more)

    return run

  return Method(of(particles), particles=particles, alone=of(1))


def ours(particles: int) -> Method:
  """Twisted particles with Tweedie's covariance, and steps only where modes are undecided.

  Steps and the last draw have the variance within a mode, exact for any step once x_t tells which
  mode it is of: no step is needed at less noise.
  """
  method = own("tds", particles, twist=tmpd, data_std=1.0)
  return method._replace(levels="modes", num_steps=50)


METHODS: dict[str, Method] = {
  "exact": Method(exact),
  "exact_start": Method(exact, true_start=True),
  "modes": Method(exact_within, levels="modes", num_steps=50),
  "modes_start": Method(exact_within, levels="modes", num_steps=50, true_start=True),
  **{name: guided(name) for name in ("dps", "pigdm", "tmpd", "ddnm")},
  **{name: own(name) for name in ("dps_steps", "ddrm", "diffpir", "repaint", "pnp_dm")},
  "daps": own("daps", langevin_steps=0),
  "mcgdiff": own("mcgdiff", 32),
  "mcgdiff_128": own("mcgdiff", 128),
  "fps_smc": own("fps_smc", 32),
  "tds": own("tds", 32),
  "ours_8": ours(8),
  "ours": ours(32),
}
CELLS = tuple(itertools.product((8, 80, 800), (1, 2, 4)))
NOISES = (0.01, 0.1, 1.0)
AUTHORS = ("exact", "dps", "ddrm", "mcgdiff", "mcgdiff_128", "ours")


def problems(seeds: int) -> list[Problem]:
  """All problems, seed by seed, so that a run that is stopped has some of every cell."""
  found = []
  for seed in range(seeds):
    found += [Problem("pooled", *cell, noise, seed) for cell in CELLS for noise in NOISES]
  # As many problems of the other protocol, in the dimension that its authors published.
  found += [Problem("authors", 8, d_y, None, i) for i in range(3 * seeds) for d_y in (1, 2, 4)]
  return found


@functools.lru_cache(maxsize=128)
def make(problem: Problem) -> tuple[GaussianMixture, Observation]:
  """The target and the observation of a problem."""
  rng = np.random.default_rng([problem.seed, problem.d_y, problem.d])
  u, _, vt = np.linalg.svd(rng.normal(size=(problem.d_y, problem.d)), full_matrices=False)
  values = np.sort(rng.uniform(size=problem.d_y))[::-1]
  weights, noise_std = None, problem.noise_std
  if noise_std is None:
    weights, noise_std = tuple(rng.normal(size=25) ** 2), values.max() * rng.uniform()
  target = grid25(problem.d, weights)
  draw_key, noise = jax.random.split(jax.random.key(problem.seed))
  a = u @ np.diag(values) @ vt
  return target, observed(noise, a, target.sample(draw_key, 1)[0], noise_std)


def make_grid(d: int | Array, levels: str, num_steps: int) -> Grid:
  """Levels uniform in log-SNR: modes are chosen at much noise, where Karras' are few.

  In units of the modes' distances from each other, which grow with sqrt(d / 2): they are 8 there,
  and the modes' means have a standard deviation of 11.3 in each of two directions.
  """
  unit: Any = (jnp.asarray(d) / 2) ** 0.5
  low, high = (0.02, 100 * unit) if levels == "all" else (0.5 * unit, 100 * unit)
  return uniform_log_snr(VarianceExploding(sigma_min=low, sigma_max=high), num_steps)


@functools.cache
def program(name: str, sizes: Sizes, outside: bool = False) -> tuple[Any, dict[str, int]]:
  """(key, d, target, observation, posterior) -> samples [n, r], and the counts.

  One program for all problems of a shape, and so for all dimensions. `outside` has one particle.
  """
  method, counts = METHODS[name], {}
  steps = min(method.num_steps, sizes.num_steps)
  number = 1 if outside else method.particles
  run = method.alone if outside and method.alone else method.run
  n = _REST if outside else sizes.num_samples

  def sample(
    key: Key, d: Array, target: GaussianMixture, seen: Observation, law: GaussianMixture
  ) -> Array:
    grid = make_grid(d, method.levels, steps)
    start, true, key = jax.random.split(key, 3)
    x = grid.prior(start, (n, target.dim))
    x = x + law.sample(true, n) if method.true_start else x

    def part(inputs: tuple[Key, Array]) -> Array:
      samples = run(inputs[0], target, inputs[1], grid, seen, law)
      counts.update(nfe=samples.nfe, gradients=samples.gradients, particles=samples.particles)
      return samples.x

    if number == 1:
      return part((key, x))
    chunk = max(k for k in range(1, n + 1) if n % k == 0 and k * number <= _CLOUD)
    inputs = jax.random.split(key, n // chunk), x.reshape(n // chunk, chunk, -1)
    return jax.lax.map(part, inputs).reshape(x.shape)

  return jax.jit(sample), counts


@functools.cache
def width(name: str, d: int, sizes: Sizes) -> float:
  """Standard deviation that a method gives to coordinates which are N(0, 1) and not observed."""
  target = GaussianMixture([1.0], [[0.0]], [1.0])
  seen = Observation([[0.0]], [0.0], 1.0)
  sample, _ = program(name, sizes, outside=True)
  return float(np.std(np.asarray(sample(jax.random.key(1), d, target, seen, target))))


class Truth(NamedTuple):
  """A problem, its exact samples and the floor, which all methods share."""

  problem: Reduced
  posterior: GaussianMixture
  reference: Reference
  measure: Callable[[np.ndarray], float]
  floor: float


@functools.lru_cache(maxsize=32)
def truth(problem: Problem, sizes: Sizes) -> Truth:
  """Returns what all methods of a problem are compared with."""
  few = reduced(*make(problem))
  posterior = few.target.given(few.observation)
  authors = problem.protocol == "authors"
  keys = jax.random.split(jax.random.key(problem.seed), 2 + FLOORS)

  def draws(key: Key, n: int) -> np.ndarray:
    inside, outside = jax.random.split(key)
    rest = jax.random.normal(outside, (n, problem.d))
    return few.embed(posterior.sample(inside, n), rest)

  size = sizes.num_samples * (10 if authors else 1)
  reference = Reference(draws(keys[0], size))

  def measure(x: np.ndarray) -> float:
    if authors:
      metric, options = METRICS["max_sliced_wasserstein"], {"num_projections": 100}
      return metric(keys[1], x, reference, **options)
    return METRICS["sliced_wasserstein"](keys[1], x, reference, p=1)

  floor = np.mean([measure(draws(key, sizes.num_samples)) for key in keys[2:]])
  return Truth(few, posterior, reference, measure, float(floor))


def measured(problem: Problem, name: str, sizes: Sizes) -> dict[str, Any]:
  """One row: a method on a problem."""
  true = truth(problem, sizes)
  sample, counts = program(name, sizes)
  key, rest = jax.random.split(jax.random.fold_in(jax.random.key(problem.seed), 1))
  began = time.perf_counter()
  few = true.problem
  z = np.asarray(sample(key, problem.d, few.target, few.observation, true.posterior))
  seconds = time.perf_counter() - began
  outside = width(name, problem.d, sizes) * jax.random.normal(rest, (len(z), problem.d))
  inside = Reference(np.asarray(true.posterior.sample(rest, len(z))), true.posterior)
  row = {
    **problem._asdict(),
    "method": name,
    **counts,
    "seconds": seconds,
    "num_samples": sizes.num_samples,
    "num_steps": min(METHODS[name].num_steps, sizes.num_steps),
    "distance": true.measure(few.embed(z, outside)),
    "floor": true.floor,
    "mode_weight_tv": METRICS["mode_weight_tv"](None, z, inside),
    "interval_error": METRICS["interval_error"](None, z, inside),
  }
  return {field: rounded(value) for field, value in row.items()}


def rounded(value: Any) -> Any:
  """A float to six digits, None if it is not finite."""
  if not isinstance(value, float):
    return value
  return float(f"{value:.6g}") if np.isfinite(value) else None


def plan(
  *, fast: bool, seeds: int, methods: Sequence[str], only: dict[str, float]
) -> tuple[list[tuple[Problem, str]], Sizes]:
  """The problems of a run with their methods, in order; `only` has fields of Problem."""
  if fast:
    chosen = Problem("pooled", 80, 2, 0.1, 0)
    names = ("exact_start", "exact", "pigdm", "ours")
    return [(chosen, name) for name in names], Sizes(200, 20)
  found = [
    (problem, name)
    for problem in problems(seeds)
    for name in methods
    if problem.protocol == "pooled" or name in AUTHORS
    if only.items() <= problem._asdict().items()
  ]
  # Seed by seed, also of the protocol that has thrice as many.
  found.sort(key=lambda pair: pair[0].seed // (3 if pair[0].protocol == "authors" else 1))
  return found, Sizes()


def write(out: pathlib.Path, rows: Iterable[dict[str, Any]]) -> str:
  """Writes the tables and the figure; returns the main table in Markdown."""
  rows, command = list(rows), "python scripts/posteriors.py"
  pooled = [row for row in rows if row["protocol"] == "pooled"]
  authors = [row for row in rows if row["protocol"] == "authors"]
  main = table(pooled, [*METHODS])
  if not main:
    return "no pooled problem is measured"
  write_csv(out / "posteriors.csv", main, command)
  if parts := budgets(pooled):
    write_csv(out / "budgets.csv", parts, command)
  if thesis := one_noise(pooled, "mcgdiff", 80, 1.0):
    write_csv(out / "mcgdiff.csv", thesis, command)
  write_csv(out / "published.csv", compared(pooled, authors), command)
  style.save(draw(main), out / "posteriors.png", command)
  return printed(main)


def _field(text: str) -> tuple[str, float | str]:
  name, _, value = text.partition("=")
  if name not in Problem._fields:
    raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(Problem._fields)}=value")
  return name, value if name == "protocol" else float(value)


def main(argv: list[str] | None = None) -> int:
  """Measures what is missing, then writes the tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--fast", action="store_true", help="one cell, three methods, 200 samples")
  parser.add_argument("--seeds", type=int, default=7, help="problems per cell and noise [7]")
  parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
  parser.add_argument("--only", nargs="+", type=_field, default=[], metavar="FIELD=NUMBER")
  default = outputs.RESULTS / "posteriors"
  outputs.add_arguments(parser, str(default), "posteriors")
  args = parser.parse_args(argv)
  out: pathlib.Path = outputs.directory(parser, args, default, "posteriors")
  out.mkdir(parents=True, exist_ok=True)
  cells, sizes = plan(fast=args.fast, seeds=args.seeds, methods=args.methods, only=dict(args.only))
  path = out / "posteriors.jsonl"
  names = (*Problem._fields, "method")
  done = {tuple(row[name] for name in names) for row in read_jsonl(path)}
  for problem, name in cells:
    if (*problem, name) not in done:
      append_jsonl(path, measured(problem, name, sizes))
  print(write(out, read_jsonl(path)))
  return 0


if __name__ == "__main__":
  exit_with(main)
