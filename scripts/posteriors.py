"""Errors of posterior samplers on 25 modes, next to published numbers.

  python scripts/posteriors.py                  # all cells, resumable; then the tables
  python scripts/posteriors.py --fast           # one cell with few samples, as a test
  python scripts/posteriors.py --only d=8       # cells of one dimension; see --help

Problems: `grid25` in 8, 80 or 800 dimensions, A = U diag(s) V' with s ~ U(0, 1) sorted and
y = A x + noise_std n of a draw x, for d_y = 1, 2, 4 and noise_std = 0.01, 0.1, 1 (the protocol of
B. Dowling's thesis, github.com/bd3dowling/diffusion-research, after Cardoso et al.'s). Every method
has the exact prior score, 100 steps and one grid. A row is one problem and one method: sliced W1 of
1,000 samples against 1,000 exact ones, the floor of that, total variation of the modes' weights,
errors of mean and credible intervals, and costs.

Rows are appended to posteriors.jsonl in results/posteriors/, or in --out; what is there already is
not measured again. The tables are written to posteriors.csv.
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
import numpy as np

from scorelab.cli.exit import exit_with
from scorelab.inverse import (
  POSTERIOR_SAMPLERS,
  POSTERIORS,
  CountedPredict,
  Observation,
  observed,
  tmpd,
)
from scorelab.metrics import METRICS, Reference
from scorelab.plotting import write_csv
from scorelab.runs.files import append_jsonl, read_jsonl
from scorelab.samplers import SAMPLERS
from scorelab.schedules import Grid, VarianceExploding, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import grid25
from scorelab.typing import Array, Key, Samples
from scripts import outputs

# Dowling's sliced W1, midpoint and half-range over seeds and noises: by method, then d, d_y.
PUBLISHED = {
  "dps": {(8, 1): 8.18, (8, 2): 2.72, (8, 4): 0.95, (80, 1): 5.03, (80, 2): 3.14, (80, 4): 1.32},
  "pigdm": {(8, 1): 3.16, (8, 2): 0.94, (8, 4): 0.09, (80, 1): 3.08, (80, 2): 1.68, (80, 4): 0.84},
  "tmpd": {(8, 1): 3.31, (8, 2): 1.34, (8, 4): 0.37, (80, 1): 2.42, (80, 2): 1.35, (80, 4): 1.14},
}


class Problem(NamedTuple):
  """A cell and its seed."""

  d: int
  d_y: int
  noise_std: float
  seed: int


class Protocol(NamedTuple):
  """Sizes of a run of the study."""

  problems: tuple[Problem, ...]
  methods: tuple[str, ...]
  num_samples: int = 1000
  num_steps: int = 100
  chunk: int = 100


Run = Callable[[Key, GaussianMixture, Array, Grid, Observation], Samples]


def exact(key: Key, target: GaussianMixture, x: Array, grid: Grid, seen: Observation) -> Samples:
  """Ancestral steps with the exact conditional score: prior and discretisation are left."""
  return SAMPLERS["ancestral"](key, target.given(seen).predict, x, grid, variance="optimal")


def guided(name: str) -> Run:
  """A posterior method with ancestral steps."""

  def run(key: Key, target: GaussianMixture, x: Array, grid: Grid, seen: Observation) -> Samples:
    conditional = POSTERIORS[name](target.predict, seen)
    samples = SAMPLERS["ancestral"](key, conditional, x, grid)
    gradients = conditional.gradients if isinstance(conditional, CountedPredict) else 0
    return samples._replace(gradients=gradients * samples.nfe)

  return run


def own(name: str, **options: Any) -> Run:
  """A sampler of posteriors."""

  def run(key: Key, target: GaussianMixture, x: Array, grid: Grid, seen: Observation) -> Samples:
    return POSTERIOR_SAMPLERS[name](key, target.predict, x, grid, seen, **options)

  return run


METHODS: dict[str, Run] = {
  "exact": exact,
  **{name: guided(name) for name in ("dps", "pigdm", "tmpd", "ddnm")},
  **{name: own(name) for name in ("dps_steps", "ddrm", "diffpir", "repaint", "pnp_dm")},
  "daps": own("daps", langevin_steps=0),
  "mcgdiff": own("mcgdiff", particles=32),
  "fps_smc": own("fps_smc", particles=32),
  "tds": own("tds", particles=32),
  "ours": own("tds", particles=32, twist=tmpd, data_std=1.0),
}
PARTICLES = ("mcgdiff", "fps_smc", "tds", "ours")

CELLS = tuple(itertools.product((8, 80, 800), (1, 2, 4), (0.01, 0.1, 1.0)))


def protocol(*, fast: bool, seeds: int, methods: Sequence[str], only: dict[str, float]) -> Protocol:
  """The problems and methods of a run; `only` has fields of Problem."""
  problems = (Problem(*cell, seed) for seed in range(seeds) for cell in CELLS)
  chosen = tuple(p for p in problems if only.items() <= p._asdict().items())
  if fast:
    return Protocol((Problem(8, 2, 0.1, 0),), ("exact", "pigdm", "ours"), 200, 20, 50)
  return Protocol(chosen, tuple(methods))


def make(problem: Problem) -> tuple[GaussianMixture, Observation]:
  """The target and the observation of a problem."""
  rng = np.random.default_rng([problem.seed, problem.d_y, problem.d])
  u, _, vt = np.linalg.svd(rng.normal(size=(problem.d_y, problem.d)), full_matrices=False)
  a = u @ np.diag(np.sort(rng.uniform(size=problem.d_y))[::-1]) @ vt
  target = grid25(problem.d)
  draw, noise = jax.random.split(jax.random.key(problem.seed))
  return target, observed(noise, a, target.sample(draw, 1)[0], problem.noise_std)


def make_grid(d: int, num_steps: int) -> Grid:
  """Levels uniform in log-SNR: modes are chosen at much noise, where Karras' are few.

  They start at 9 standard deviations of the modes' means, which spread along two directions only,
  by 11.3 sqrt(d / 2) in each.
  """
  schedule = VarianceExploding(sigma_min=0.02, sigma_max=100 * (d / 2) ** 0.5)
  return uniform_log_snr(schedule, num_steps)


@functools.lru_cache(maxsize=4)
def program(method: str, d: int, num_samples: int, num_steps: int, chunk: int) -> Any:
  """(key, observation) -> samples [num_samples, d], and the counts; one program per d and d_y."""
  target, grid, counts = grid25(d), make_grid(d, num_steps), {}

  def run(key: Key, seen: Observation) -> Array:
    start, key = jax.random.split(key)
    x = grid.prior(start, (num_samples, d))

    def part(inputs: tuple[Key, Array]) -> Array:
      samples = METHODS[method](inputs[0], target, inputs[1], grid, seen)
      counts.update(nfe=samples.nfe, gradients=samples.gradients, particles=samples.particles)
      return samples.x

    if method not in PARTICLES:
      return part((key, x))
    parts = num_samples // chunk
    return jax.lax.map(part, (jax.random.split(key, parts), x.reshape(parts, chunk, d))).reshape(
      x.shape
    )

  return jax.jit(run), counts


def measure(problem: Problem, method: str, run: Protocol) -> dict[str, Any]:
  """One row: a method on a problem."""
  target, seen = make(problem)
  posterior = target.given(seen)
  keys = [jax.random.fold_in(jax.random.key(problem.seed), i) for i in range(4)]
  reference = np.asarray(posterior.sample(keys[0], run.num_samples))
  law = Reference(reference, posterior)

  def sliced(x: np.ndarray) -> float:
    return METRICS["sliced_wasserstein"](keys[1], x, law, p=1)

  sample, counts = program(method, problem.d, run.num_samples, run.num_steps, run.chunk)
  began = time.perf_counter()
  x = np.asarray(sample(keys[2], seen))
  row = {**problem._asdict(), "method": method, "seconds": time.perf_counter() - began, **counts}
  row |= {
    "num_samples": run.num_samples,
    "num_steps": run.num_steps,
    "sliced_w1": sliced(x),
    "floor": sliced(np.asarray(posterior.sample(keys[3], run.num_samples))),
    **{name: METRICS[name](None, x, law) for name in ("mode_weight_tv", "mean_shift")},
    "interval_error": METRICS["interval_error"](None, x, law),
  }
  return {name: _rounded(value, 6) for name, value in row.items()}


def _rounded(value: Any, digits: int) -> Any:
  """A float to this many digits, None if it is not finite."""
  if not isinstance(value, float):
    return value
  return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  """Means over noises and seeds by d, d_y and method, with the ratio to the floor."""
  rows, out = list(rows), []
  cells = sorted({(row["d"], row["d_y"]) for row in rows})
  for (d, d_y), method in itertools.product(cells, METHODS):
    found = [r for r in rows if (r["d"], r["d_y"], r["method"]) == (d, d_y, method)]
    kept = [r for r in found if r["sliced_w1"] is not None]
    if not found:
      continue
    row = {"d": d, "d_y": d_y, "method": method, "problems": len(found)}
    row["exploded"] = len(found) - len(kept)
    value, floor, tv = (
      np.array([r[name] for r in kept]) for name in ("sliced_w1", "floor", "mode_weight_tv")
    )
    if kept:
      ratio = value.mean() / floor.mean()
      row |= {"sliced_w1": value.mean(), "sem": _sem(value), "floor": floor.mean()}
      row |= {"over_floor": ratio, "over_floor_sem": _sem(value - ratio * floor) / floor.mean()}
      row |= {"mode_weight_tv": tv.mean()}
    row["published"] = PUBLISHED.get(method, {}).get((d, d_y))
    out.append(row | {name: found[0][name] for name in ("nfe", "gradients")})
  names = list(dict.fromkeys(name for row in out for name in row))
  return [{name: _rounded(row.get(name), 5) for name in names} for row in out]


def _sem(values: np.ndarray) -> float:
  """Standard error of the mean; nan for one value."""
  return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def printed(rows: Sequence[dict[str, Any]]) -> str:
  """The table in Markdown."""
  names = ("d", "d_y", "method", "problems", "exploded", "sliced_w1", "over_floor")
  names = (*names, "over_floor_sem", "mode_weight_tv", "published")
  lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
  for row in rows:
    cells = (row[name] if isinstance(row[name], str) else _shown(row[name]) for name in names)
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _shown(value: float | None) -> str:
  """A number to three digits; nothing for none, as read from a file or not."""
  return "" if value is None or np.isnan(value) else f"{value:.3g}"


def _field(text: str) -> tuple[str, float]:
  name, _, value = text.partition("=")
  if name not in Problem._fields:
    raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(Problem._fields)}=number")
  return name, float(value)


def main(argv: list[str] | None = None) -> int:
  """Measures what is missing, then writes the table."""
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
  run = protocol(fast=args.fast, seeds=args.seeds, methods=args.methods, only=dict(args.only))
  path = out / "posteriors.jsonl"
  names = (*Problem._fields, "method")
  done = {tuple(row[name] for name in names) for row in read_jsonl(path)}
  for method, problem in itertools.product(run.methods, run.problems):
    if (*problem, method) not in done:
      append_jsonl(path, measure(problem, method, run))
  rows = table(read_jsonl(path))
  write_csv(out / "posteriors.csv", rows, "python scripts/posteriors.py")
  print(printed(rows))
  return 0


if __name__ == "__main__":
  exit_with(main)
