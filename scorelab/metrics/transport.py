"""Optimal transport on the line, for many projections at once: kernels for NumPy and JAX alike.

Every function here takes NumPy arrays and gives NumPy arrays, or takes JAX arrays, under jit too,
and gives JAX arrays. On the line the cost is that of matching quantiles,

    W_p^p(F, G) = int_0^1 |F^-1(u) - G^-1(u)|^p du.

Peyre and Cuturi, "Computational Optimal Transport", 2019 (arXiv 1803.00567), remark 2.30.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.typing import Array

AnyArray: TypeAlias = Any
"""A NumPy or a JAX array; what is computed from it is of the same library."""


class SortedProjections(NamedTuple):
  """Sorted projections of n points onto m directions.

  Attributes:
    directions: [d, m], unit columns.
    values: [m, n], increasing along the last axis.
    cumulative: [m, n], the cumulative weights in that order, 1 at the end; None if uniform.
  """

  directions: AnyArray
  values: AnyArray
  cumulative: AnyArray | None = None


class Marginal(Protocol):
  """One-dimensional laws along m directions, such as `targets.marginals.Marginals`: a pytree."""

  @property
  def mean(self) -> Array: ...  # [m]

  @property
  def second_moment(self) -> Array: ...  # [m]

  def cdf(self, x: Array, /) -> Array: ...  # [n, m] -> [n, m]

  def quantile(self, u: Array, /) -> Array: ...  # [n] -> [n, m]

  def partial_mean(self, x: Array, /) -> Array: ...  # E[X 1{X <= x}], [n, m] -> [n, m]

  def shifted(self, by: Array, /) -> Marginal: ...  # the laws of X + by, for by [m]

  @property
  def has_atoms(self) -> Array: ...  # [], whether any point has mass


class MarginalCells(NamedTuple):
  """A distribution's laws along m directions, cut into n cells of equal mass.

  Attributes:
    directions: [d, m], unit columns.
    centre: [m], the laws' means.
    laws: the laws of the distances from there: squares of positions far from 0 would cancel.
    partial_means: [m, n + 1], int_0^(i/n) Q(u) du of the quantile function Q, for i = 0..n.
  """

  directions: Array
  centre: Array
  laws: Marginal
  partial_means: Array


def project_and_sort(
  x: AnyArray, directions: AnyArray, weights: AnyArray | None = None
) -> SortedProjections:
  """Projects x [n, d] onto directions [d, m], and sorts; weights [n] are >= 0 and sum to 1."""
  xp = _namespace(x)
  with jax.default_matmul_precision("highest"):  # TF32 would round the fourth digit
    # Each projection contiguous: what sorts fastest.
    values = directions.T.astype(x.dtype) @ x.T
  if weights is None:
    return SortedProjections(directions, xp.sort(values, axis=-1))
  order = xp.argsort(values, axis=-1)
  cumulative = xp.cumsum(weights[order], axis=-1)
  values = xp.take_along_axis(values, order, axis=-1)
  return SortedProjections(directions, values, cumulative / cumulative[:, -1:])


def transport_cost(x: SortedProjections, y: SortedProjections, p: int) -> AnyArray:
  """W_p^p of two sets of points in each projection, [m], for p = 1 or 2."""
  xp = _namespace(x.values)
  n, m = x.values.shape[-1], y.values.shape[-1]
  if x.cumulative is None and y.cumulative is None:
    i, j, lengths = _uniform_segments(n, m)
    # A set with as many points as there are segments is its own quantile function.
    x_quantiles = x.values if len(i) == n else xp.take(x.values, i, axis=-1)
    y_quantiles = y.values if len(j) == m else xp.take(y.values, j, axis=-1)
    lengths = lengths.astype(x.values.dtype)
  else:
    i, j, lengths = _segments(_cumulative(x, xp), _cumulative(y, xp), xp)
    x_quantiles = xp.take_along_axis(x.values, i, axis=-1)
    y_quantiles = xp.take_along_axis(y.values, j, axis=-1)
  gaps = x_quantiles - y_quantiles
  return ((xp.abs(gaps) if p == 1 else gaps * gaps) * lengths).sum(-1)


def _namespace(x: AnyArray) -> Any:
  return jnp if isinstance(x, jax.Array) else np


def _cumulative(x: SortedProjections, xp: Any) -> AnyArray:
  """The cumulative weights, [m, n], written out where they are uniform."""
  if x.cumulative is not None:
    return x.cumulative
  n = x.values.shape[-1]
  return xp.broadcast_to(xp.arange(1, n + 1) / n, x.values.shape)


def _segments(
  x_cumulative: AnyArray, y_cumulative: AnyArray, xp: Any
) -> tuple[AnyArray, AnyArray, AnyArray]:
  """Cuts [0, 1] into segments on which both quantile functions are constant.

  From cumulative weights [..., n] and [..., m], in any common unit: which points of x and of y
  are the quantiles there, and the lengths of the segments; each [..., n + m].
  """
  n, m = x_cumulative.shape[-1], y_cumulative.shape[-1]
  ends = xp.concatenate([x_cumulative, y_cumulative], axis=-1)
  order = xp.argsort(ends, axis=-1)
  ends = xp.take_along_axis(ends, order, axis=-1)
  lengths = xp.diff(ends, axis=-1, prepend=xp.zeros_like(ends[..., :1]))
  ends_x = (order < n).astype(int)  # whether the segment ends with a point of x, or of y
  i = xp.minimum(xp.cumsum(ends_x, axis=-1) - ends_x, n - 1)
  j = xp.minimum(xp.cumsum(1 - ends_x, axis=-1) - (1 - ends_x), m - 1)
  return i, j, lengths


@functools.lru_cache(maxsize=64)
def _uniform_segments(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`_segments` of uniform weights: the same in every projection, so found once, in integers."""
  i, j, lengths = _segments(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n, np)
  kept = lengths > 0
  return i[kept], j[kept], lengths[kept] / (n * m)


def marginal_cells(
  laws: Marginal, directions: Array, n: int, precise: bool = False
) -> MarginalCells:
  """Cuts the laws along directions [d, m] into n cells of equal mass.

  Args:
    laws: the laws.
    directions: [d, m].
    n: at least 1.
    precise: whether to invert in the laws' own precision; float32 is much faster, and enough where
      there are no atoms: the derivative of the partial mean in u is the quantile Q, so that the
      last term takes out the first order of an error in q.
  """
  centre, u = laws.mean, jnp.arange(1, n) / n
  laws = laws.shifted(-centre)
  dtype = directions.dtype if precise else jnp.float32
  q = jax.tree.map(lambda a: a.astype(dtype), laws).quantile(u.astype(dtype))
  q = q.astype(directions.dtype)
  inner = laws.partial_mean(q) + q * (u[:, None] - laws.cdf(q))
  first, last = jnp.zeros_like(laws.mean), laws.mean
  partial_means = jnp.concatenate([first[None], inner, last[None]]).T
  return MarginalCells(directions, centre, laws, partial_means)


def transport_cost_to_laws(x: SortedProjections, y: MarginalCells, p: int) -> Array:
  """W_p^p of n equally weighted points to exact laws, in each projection, [m], for p = 1 or 2.

  Each point x_i is matched with its cell [i/n, (i+1)/n]. With the quantile function Q and its
  integral P(u) = int_0^u Q, the sum over cells of int |x_i - Q(u)|^p du has the terms

      p = 2    x_i^2 / n - 2 x_i (P((i+1)/n) - P(i/n)) + int Q^2
      p = 1    x_i (2 c - i/n - (i+1)/n) + P(i/n) + P((i+1)/n) - 2 P(c)

  where c, F(x_i) clipped to the cell, is where x_i - Q(u) changes sign; all from the laws' means.
  JAX only.
  """
  values = x.values - y.centre[:, None]
  low, high = y.partial_means[:, :-1], y.partial_means[:, 1:]
  if p == 2:
    costs = (values**2).mean(-1) - 2 * (values * (high - low)).sum(-1) + y.laws.second_moment
    return jnp.maximum(costs, 0)  # rounding
  n = values.shape[-1]
  start, stop = jnp.arange(n) / n, jnp.arange(1, n + 1) / n
  mass, below = y.laws.cdf(values.T).T, y.laws.partial_mean(values.T).T
  below = jnp.where(mass <= start, low, jnp.where(mass >= stop, high, below))
  balance = values * (2 * jnp.clip(mass, start, stop) - start - stop)
  return (balance + low + high - 2 * below).sum(-1)


class Engine(NamedTuple):
  """Backend for transport costs, from host arrays, in chunks of directions.

  Attributes:
    prepare: (y, directions [d, m], y's weights or None, number of points in x) -> prepared y.
    cost: (x [n, d], prepared y, x's weights or None, p) -> W_p^p, [m].
    chunk_values: projected values to hold in memory at once.
  """

  prepare: Callable[..., Any]
  cost: Callable[..., Array]
  chunk_values: int


def _prepare(
  y: AnyArray, directions: AnyArray, weights: AnyArray | None, n: int
) -> SortedProjections:
  del n
  return project_and_sort(y, directions, weights)


def _cost(x: AnyArray, y: SortedProjections, weights: AnyArray | None, p: int) -> AnyArray:
  return transport_cost(project_and_sort(x, y.directions, weights), y, p)


_jit_cells = jax.jit(marginal_cells, static_argnums=(2, 3))
_jit_cost_to_laws = jax.jit(transport_cost_to_laws, static_argnums=2)


def _prepare_exact(y: Any, directions: np.ndarray, weights: None, n: int) -> MarginalCells:
  del weights
  with jax.enable_x64(True):  # differences of integrals: float32 would lose a good match
    columns = jnp.asarray(directions, jnp.float64)
    laws = y.marginal(columns.T)
    return _jit_cells(laws, columns, n, bool(laws.has_atoms))


def _cost_exact(x: np.ndarray, y: MarginalCells, weights: None, p: int) -> Array:
  del weights
  with jax.enable_x64(True):
    points = project_and_sort(x.astype(np.float64), np.asarray(y.directions))
    return _jit_cost_to_laws(points, y, p)


EXACT = Engine(_prepare_exact, _cost_exact, chunk_values=2**17)  # each meets every component
ENGINES = {
  "numpy": Engine(_prepare, _cost, chunk_values=2**18),  # what a core's cache holds
  "jax": Engine(
    jax.jit(_prepare, static_argnums=3), jax.jit(_cost, static_argnums=3), chunk_values=2**26
  ),
}
