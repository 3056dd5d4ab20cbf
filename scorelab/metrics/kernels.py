"""Distances between distributions through kernels of pairs of points.

Szekely and Rizzo, "Energy statistics: A class of statistics based on distances", Journal of
Statistical Planning and Inference 143 (2013). Binkowski et al., "Demystifying MMD GANs", ICLR 2018
(arXiv 1801.01401), section 4: the kernel distance of features, KID.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from scorelab.metrics.reference import Reference, as_pair
from scorelab.typing import Array, Key, PointSet, ReferenceSet

_COORDINATES = 8  # summed in one loop, without an [n, m] array between them
_BLOCK = 2**13  # points of x and of y at a time
_IN_CACHE = 2**20  # kernel values at a time: 8 MiB, which are worked on where they are
_SQUARES = 2**18  # squared distances at a time: 1 MiB in float32, which stays in a core's cache


@jax.jit
def mean_distances(x: Array, y: Array) -> Array:
  """Returns mean_j |x_i - y_j| of x [n, d] and y [m, d], of shape [n]. Jittable.

  Differences are formed in the points' own precision, in every dimension: |x|^2 + |y|^2 - 2 x.y
  would cancel for modes that are tight and far apart. Means are in float64 where JAX has it
  enabled: a float32 sum of distances of about one size rounds all of them the same way.
  """
  n, d = x.shape
  if d <= _COORDINATES:
    # Written out over the coordinates, XLA fuses it all into one loop: no [n, m] array is made.
    return _mean_root(functools.reduce(jnp.add, ((x[:, i, None] - y[:, i]) ** 2 for i in range(d))))
  y = _by_coordinates(y)
  size = min(n, max(1, _SQUARES // y.shape[-1]))

  def mean_of(x: Array) -> Array:
    x = _by_coordinates(x)

    def add(i: Array, squares: Array) -> Array:
      # Indexed one coordinate at a time: XLA vectorises this, and not a loop over x[i] and y[i].
      return squares + sum((x[i, j][:, None] - y[i, j]) ** 2 for j in range(_COORDINATES))

    zeros = jnp.zeros((size, y.shape[-1]), x.dtype)
    return _mean_root(jax.lax.fori_loop(0, len(x), add, zeros))

  blocks = jnp.pad(x, ((0, -n % size), (0, 0))).reshape(-1, size, d)
  return jax.lax.map(mean_of, blocks).reshape(-1)[:n]


def _by_coordinates(x: Array) -> Array:
  """Splits [n, d] into [ceil(d / c), c, n], c coordinates at a time; zeros fill the last group."""
  padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % _COORDINATES)))
  return padded.T.reshape(-1, _COORDINATES, len(x))


def _mean_root(squares: Array) -> Array:
  """Returns the means [n] of the roots of [n, m]."""
  return jnp.sqrt(squares).mean(1, dtype=jnp.result_type(float))


def mean_pairwise_distance(x: PointSet, y: ArrayLike | None = None) -> float:
  """Returns mean_ij |x_i - y_j|, Euclidean, over all pairs; y = x by default.

  Distances are in float64 if x or y is, else in float32; means are in float64. Works on blocks of
  pairs, so that memory does not grow with n m.

  Args:
    x: [n] or [n, ...], trailing axes flattened.
    y: [m] or [m, ...].

  Raises:
    ValueError: the dimensions differ, or a set is empty.
  """
  x, y = as_pair(x, x if y is None else y)
  dtype = np.result_type(x, y)
  total = 0.0
  with jax.enable_x64(True):
    # One block more of y than of x: XLA makes square products several times slower on the CPU.
    x_blocks = np.array_split(x, len(x) // _BLOCK + 1)
    y_blocks = np.array_split(y, min(len(y), len(y) // _BLOCK + 2))
    for rows, columns in itertools.product(x_blocks, y_blocks):
      means = mean_distances(jnp.asarray(rows, dtype), jnp.asarray(columns, dtype))
      total += float(np.asarray(means).sum()) * len(columns)
  return float(total / (len(x) * len(y)))


def energy_distance(
  key: Key | None, x: PointSet, y: ReferenceSet | Reference, *, unbiased: bool = False
) -> float:
  """2 E|x - y| - E|x - x'| - E|y - y'|, in the data's units, with no root; 0 is a match.

  By default the V-statistic: all pairs, the zero ones of a point with itself too. It is the
  distance between the two empirical distributions (never negative, SciPy's squared), and so has
  a floor, E|x - x'| (1 / n + 1 / m) for exact samples. The U-statistic leaves those pairs out:
  exact samples give 0 on average, and often less.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n] or [n, ...], trailing axes flattened.
    y: the reference points, or a Reference, which remembers E|y - y'|.
    unbiased: the U-statistic instead of the V-statistic; needs n, m >= 2.

  Returns:
    The distance; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, a set is empty or too small, or the reference has no points.
  """
  del key
  x, points = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  n, m = x.shape[0], points.shape[0]
  if unbiased and min(n, m) < 2:
    raise ValueError(f"unbiased = True with {n} and {m} points, must be at least 2 each")
  if not np.isfinite(x).all():
    return float("nan")
  x_self = mean_pairwise_distance(x)
  if isinstance(y, Reference):
    y_self = y.cached("mean_pairwise_distance", lambda: mean_pairwise_distance(points))
  else:
    y_self = mean_pairwise_distance(points)
  if unbiased:
    x_self, y_self = x_self * n / (n - 1), y_self * m / (m - 1)
  return 2 * mean_pairwise_distance(x, points) - x_self - y_self


def kernel_distance(
  key: Key | None,
  x: PointSet,
  y: ReferenceSet | Reference,
  *,
  degree: int = 3,
  unbiased: bool = True,
) -> float:
  """The squared maximum mean discrepancy with the kernel (x.y / d + 1)^degree; 0 is a match.

  It compares the moments up to the degree. Of a classifier's features it is KID; the U-statistic of
  all pairs has no bias, so that numbers of different n and m compare, and is often negative for
  exact samples.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n] or [n, ...], trailing axes flattened.
    y: the reference points, or a Reference, which remembers the mean of k(y, y').
    degree: at least 1, whole; 3 is KID's.
    unbiased: leaves the pairs of a point with itself out, which needs n, m >= 2; else all pairs
      count, and the distance is that of the two empirical distributions, never negative.

  Returns:
    The distance; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, the degree is none, a set is too small, or there are no
      points.
  """
  del key
  x, points = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  if degree < 1 or degree % 1:
    raise ValueError(f"degree = {degree}, must be at least 1 and whole")
  if unbiased and min(len(x), len(points)) < 2:
    raise ValueError(f"unbiased = True with {len(x)} and {len(points)} points, must be at least 2")
  if not np.isfinite(x).all():
    return float("nan")

  def mean(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.T.astype(np.float64) / a.shape[1]
    blocks = np.array_split(a, len(a) * b.shape[1] // _IN_CACHE + 1)
    total = sum(_power(rows @ b + 1, degree).sum() for rows in blocks)
    return float(total / (len(a) * b.shape[1]))

  def self_mean(a: np.ndarray) -> float:
    if not unbiased:
      return mean(a, a)
    own = float(_power((a.astype(np.float64) ** 2).mean(1) + 1, degree).mean())
    return (len(a) * mean(a, a) - own) / (len(a) - 1)

  name = ("mean kernel", degree, unbiased)
  kept = isinstance(y, Reference)
  y_self = y.cached(name, lambda: self_mean(points)) if kept else self_mean(points)
  return self_mean(x) + y_self - 2 * mean(x, points)


def _power(x: np.ndarray, degree: int) -> np.ndarray:
  """x^degree by products: NumPy's own power takes about twenty times as long."""
  result = x.copy()
  for _ in range(int(degree) - 1):
    result *= x
  return result
