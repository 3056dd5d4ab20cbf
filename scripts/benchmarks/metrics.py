"""Distances between sets of points: ours against POT's, OTT's, SciPy's and scikit-learn's.

Values are compared before anything is timed, and the most memory that a call takes is reported. As
there are more points there are fewer projections, so that ten million projected values are sorted
at each size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import metrics
from scripts.benchmarks.limits import products, sorting
from scripts.benchmarks.paired_timing import Bar, Match
from scripts.benchmarks.timed_processes import Side, Task

SIZES = (2000, 10_000, 100_000, 1_000_000)
_VALUES = 10**7
_MIB = 2**20


def points(n: int, dim: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Two sets of n points, float32: unit normal ones, and some with other moments."""
  x, y = np.random.default_rng(0).normal(size=(2, n, dim))
  return x.astype(np.float32), (1.2 * y + 0.3).astype(np.float32)


def directions_of(num: int) -> np.ndarray:
  """Unit vectors, [2, num]."""
  drawn = np.random.default_rng(1).normal(size=(2, num)).astype(np.float32)
  return drawn / np.linalg.norm(drawn, axis=0)


def timed(value: Callable[[], Any], amounts: dict[str, float] | None = None) -> Task:
  """A task that finds one number."""
  found: list[float] = []

  def call() -> None:
    found[:] = [float(value())]  # which waits for it

  return Task(call, lambda: found[0], amounts or {})


def sliced(n: int, num: int, name: str, engine: str | None = None) -> Task:
  """Ours."""
  (x, y), directions = points(n), directions_of(num)
  function = metrics.METRICS[name]
  return timed(
    lambda: function(None, x, y, projections=directions, engine=engine),
    {"value sorted": 2.0 * n * num},
  )


def sliced_by_pot(n: int, num: int, name: str, backend: str) -> Task:
  """POT's; 'jax' gives it JAX arrays."""
  import ot

  (x, y), directions = points(n), directions_of(num)
  given: list[Any] = [x, y, directions]
  if backend == "jax":
    given = [jnp.asarray(a) for a in given]
  function: Any = getattr(ot, f"{name}_distance")
  return timed(lambda: function(given[0], given[1], projections=given[2]))


def sliced_by_ott(n: int, num: int, name: str) -> Task:
  """OTT's, jitted: the mean over projections of W_2^2, or the largest."""
  from ott.tools import sliced as ott_sliced  # pyrefly: ignore[missing-import]

  (x, y), directions = (jnp.asarray(a) for a in points(n)), directions_of(num)

  @jax.jit
  def distance(x: jax.Array, y: jax.Array) -> jax.Array:
    mean, out = ott_sliced.sliced_wasserstein(x, y, proj_fn=lambda x: x @ directions)
    return jnp.sqrt(out.ot_costs.max() if name == "max_sliced_wasserstein" else mean)

  return timed(lambda: distance(x, y))


def _projections(n: int, quick: bool) -> int:
  return 5 if quick else min(1000, _VALUES // n)


def _sliced_matches(name: str, quick: bool, bars: tuple[Bar, ...]) -> list[Match]:
  matches = []
  for n in (80,) if quick else SIZES:
    size: dict[str, Any] = {"n": n, "num": _projections(n, quick), "name": name}
    sides = {
      "ours": Side(sliced, size),
      "POT": Side(sliced_by_pot, {**size, "backend": "numpy"}),
      "POT on JAX": Side(sliced_by_pot, {**size, "backend": "jax"}),
      "OTT": Side(sliced_by_ott, size),
    }
    matches.append(
      Match(
        f"{n:,} v {n:,} points, {size['num']} projections",
        sides,
        {"sorting": Side(sorting, {"rows": size["num"], "columns": n})},
        # POT's own float32 and float64 differ by 6e-4, at a million points by 5e-3.
        rtol=1e-3 if n < 10**6 else 1e-2,
        rounds=5,
        bars=bars,
      )
    )
  return matches


def sliced_wasserstein(quick: bool) -> list[Match]:
  """Sliced W_2 in the plane, with the directions given."""
  return _sliced_matches("sliced_wasserstein", quick, (Bar("ratio", "POT", 10.0),))


def max_sliced_wasserstein(quick: bool) -> list[Match]:
  """Max-sliced W_2 in the plane, with the directions given."""
  return _sliced_matches("max_sliced_wasserstein", quick, ())


def energy(n: int) -> Task:
  """Ours; its arithmetic is 3 pairs of sets, 2 differences, squares and a root each."""
  x, y = points(n)
  return timed(lambda: metrics.energy_distance(None, x, y), {"FLOP": 3.0 * n * n * 7})


def energy_by_scipy(n: int) -> Task:
  """SciPy's distances in float64, a few rows at a time."""
  from scipy.spatial.distance import cdist

  x, y = (a.astype(np.float64) for a in points(n))

  def mean(a: np.ndarray, b: np.ndarray) -> float:
    rows = max(1, 2**24 // len(b))
    total = sum(cdist(a[i : i + rows], b).sum() for i in range(0, len(a), rows))
    return float(total) / (len(a) * len(b))

  return timed(lambda: 2 * mean(x, y) - mean(x, x) - mean(y, y))


def energy_by_torch(n: int) -> Task:
  """PyTorch's distances, a few rows at a time."""
  import torch

  from scripts.benchmarks.torch_training import device, use_all_cores

  use_all_cores()
  x, y = (torch.from_numpy(a).to(device()) for a in points(n))

  def mean(a: Any, b: Any) -> float:
    rows = max(1, 2**24 // len(b))
    exact = "donot_use_mm_for_euclid_dist"  # else float32 cancels
    parts = (torch.cdist(part, b, compute_mode=exact) for part in a.split(rows))
    return sum(float(part.mean(1).double().sum()) for part in parts) / len(a)

  return timed(lambda: 2 * mean(x, y) - mean(x, x) - mean(y, y))


def energy_distance(quick: bool) -> list[Match]:
  """Energy distance in the plane, of all pairs; a million points have too many for a CPU."""
  matches = []
  for n in (80,) if quick else SIZES[:3]:
    sides = {
      "ours": Side(energy, {"n": n}),
      "SciPy": Side(energy_by_scipy, {"n": n}),
      "PyTorch": Side(energy_by_torch, {"n": n}),
    }
    bars = (Bar("memory", "ours", 2048.0 * _MIB),)
    rounds = 10 if n <= 10_000 else 3
    name = f"{n:,} v {n:,} points"
    # Of energies of about 1, from means of about 2.
    limits = products(quick)
    matches.append(Match(name, sides, limits, rtol=1e-3, atol=1e-4, rounds=rounds, bars=bars))
  return matches


def kernel(n: int, dim: int) -> Task:
  """Ours: KID's cubic kernel, in float64."""
  x, y = points(n, dim)
  return timed(lambda: metrics.kernel_distance(None, x, y), {"FLOP": 3.0 * n * n * 2 * dim})


def kernel_by_sklearn(n: int, dim: int) -> Task:
  """scikit-learn's kernel, the whole matrix at once, in float64."""
  from sklearn.metrics.pairwise import polynomial_kernel

  x, y = (a.astype(np.float64) for a in points(n, dim))

  def own(a: np.ndarray) -> float:
    k = polynomial_kernel(a, degree=3, coef0=1)
    return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

  return timed(
    lambda: own(x) + own(y) - 2 * polynomial_kernel(x, y, degree=3, coef0=1).mean(),
  )


def mmd(quick: bool) -> list[Match]:
  """The kernel distance (MMD with a cubic kernel) of 64 features, as KID has it."""
  matches = []
  for n in (80,) if quick else SIZES[:3]:
    size = {"n": n, "dim": 64}
    sides = {"ours": Side(kernel, size)}
    if n <= 10_000:  # 80 GB beyond
      sides["scikit-learn"] = Side(kernel_by_sklearn, size)
    rounds = 10 if n <= 10_000 else 3
    name = f"{n:,} v {n:,} points"
    matches.append(Match(name, sides, products(quick), rtol=1e-6, rounds=rounds))
  return matches
