"""A finite data set as a distribution: the law that a network's loss is minimised on.

With x_t = alpha x_0 + sigma eps and x_0 one of the points p_1, ..., p_n, each as likely,

    x_0 | x_t = x    p_k with probability r_k, the softmax over k of -|x - alpha p_k|^2 / 2 sigma^2
    score            sum_k r_k (alpha p_k - x) / sigma^2

so that whatever follows the exact score memorises: its samples are the points themselves. A network
that was trained on the points is told apart from that optimum by how far it is from memorising.

Reference: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
NeurIPS 2022 (arXiv 2206.00364), appendix B.3, eq. 57: the ideal denoiser of a finite data set. The
running softmax is that of Milakov and Gimelshein, "Online normalizer calculation for softmax"
(arXiv 1805.02867), algorithm 3.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from scorelab.predictions import Prediction
from scorelab.schedules import Level
from scorelab.typing import Array, Key

_EXACT = jax.lax.Precision.HIGHEST  # the truth is not computed in TF32
_NUMBERS = 2**20  # of differences, in memory at a time


class _Sums(NamedTuple):
  """Sums over some of the points, for one noisy point: weights are relative to exp(top)."""

  top: Array  # [], the largest exponent so far
  total: Array  # [], of the weights
  points: Array  # [d], of weight (p - middle)
  squares: Array  # [d], of weight (p - middle)^2
  gaps: Array  # [d], of weight (alpha p - x)


@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Empirical:
  """The uniform law on n points: a pytree, so that they can be traced.

  Attributes:
    points: [n, *event].
    chunk_size: how many points at a time a noisy point is compared with: beside the points
      themselves a prediction needs some 20 MB, whatever n and d, or a chunk's size. Static.
  """

  points: Array
  chunk_size: int

  def __init__(self, points: ArrayLike, *, chunk_size: int = 1024):
    """Takes the points as they are, in their own precision if that is a float's.

    Args:
      points: [n, *event], n >= 1.
      chunk_size: at least 1.

    Raises:
      ValueError: no points, or a chunk of none.
    """
    points = jnp.asarray(points, jnp.result_type(float, jnp.asarray(points)))
    if points.ndim < 2 or not points.size:
      raise ValueError(f"points have shape {points.shape}, must be [n, *event] with n >= 1")
    if chunk_size < 1:
      raise ValueError(f"chunk_size = {chunk_size}, must be at least 1")
    self._set(points, chunk_size)

  def _set(self, points: Array, chunk_size: int) -> Empirical:
    object.__setattr__(self, "points", points)
    object.__setattr__(self, "chunk_size", chunk_size)
    return self

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Of one point."""
    return self.points.shape[1:]

  @property
  def dim(self) -> int:
    """Numbers in one point."""
    return math.prod(self.event_shape)

  @property
  def splits(self) -> dict[str, Array]:
    """The points are what there is to train on."""
    return {"train": self.points}

  @property
  def scale(self) -> Array:
    """[], the std over all coordinates, each about its own mean."""
    return jnp.sqrt(jnp.mean(jnp.var(self.points, axis=0)))

  @property
  def bounds(self) -> tuple[Array, Array]:
    """(low, high), each of the shape of a point: of the points, for figures."""
    return jnp.min(self.points, axis=0), jnp.max(self.points, axis=0)

  def sample(self, key: Key, n: int) -> Array:
    """Independent draws with replacement, [n, *event]."""
    return self.points[jax.random.randint(key, (n,), 0, len(self.points))]

  def distance(self, x: ArrayLike) -> np.ndarray:
    """Euclidean distance from x [m, *event] to the nearest of the points, [m], on the host."""
    points = np.asarray(self.points).reshape(len(self.points), -1)
    return nearest_distance(np.asarray(x).reshape(len(np.asarray(x)), -1), points)

  def predict(self, x: Array, level: Level) -> Prediction:
    """The exact prediction at x [*batch, *event], with x0_variance and normalised log_density.

    The level has shape [] or [*batch] and sigma > 0; alpha = 0 gives the mean of the points. Exact
    up to rounding at every such level: differences x - alpha p are formed, never |x|^2 - 2 x.p.
    """
    batch = x.shape[: x.ndim - len(self.event_shape)]
    alpha, sigma = (jnp.broadcast_to(a, batch).reshape(-1) for a in (level.alpha, level.sigma))
    chunk = min(self.chunk_size, len(self.points)) * self.dim
    rows = max(1, _NUMBERS // chunk)  # noisy points at a time
    sums = jax.lax.map(
      lambda row: self._sums(*row), (x.reshape(-1, self.dim), alpha, sigma), batch_size=rows
    )
    mean = sums.points / sums.total[:, None]
    # About the middle of the points, so that little is lost to cancellation.
    variance = jnp.maximum(sums.squares / sums.total[:, None] - mean**2, 0)
    score = sums.gaps / (sums.total * sigma**2)[:, None]
    log_density = sums.top + jnp.log(sums.total / len(self.points))
    log_density -= self.dim / 2 * jnp.log(2 * jnp.pi * sigma**2)
    return Prediction.of(
      x,
      level,
      "score",
      score=score.reshape(x.shape),
      x0=(self._middle + mean).reshape(x.shape),
      x0_variance=variance.reshape(x.shape),
      log_density=log_density.reshape(batch),
    )

  @property
  def _middle(self) -> Array:
    """The mean of the points, flat: [d]."""
    return jnp.mean(self.points, axis=0).reshape(-1)

  def _sums(self, x: Array, alpha: Array, sigma: Array) -> _Sums:
    """Sums over all points for one noisy point x [d], a chunk of them at a time."""
    n, size = len(self.points), min(self.chunk_size, len(self.points))
    points, middle = self.points.reshape(n, -1), self._middle

    def add(sums: _Sums, p: Array) -> _Sums:
      gaps = alpha * p - x
      exponents = -jnp.sum(gaps**2, axis=1) / (2 * sigma**2)
      top = jnp.maximum(sums.top, jnp.max(exponents))
      weights, shrink = jnp.exp(exponents - top), jnp.exp(sums.top - top)

      def summed(a: Array) -> Array:
        return jnp.matmul(weights, a, precision=_EXACT)

      found = (jnp.sum(weights), summed(p - middle), summed((p - middle) ** 2), summed(gaps))
      return _Sums(top, *(shrink * a + b for a, b in zip(sums[1:], found, strict=True)))

    def add_chunk(i: int, sums: _Sums) -> _Sums:
      return add(sums, jax.lax.dynamic_slice_in_dim(points, i * size, size))

    nothing = jnp.zeros_like(x)
    start = _Sums(jnp.full_like(alpha, -jnp.inf), jnp.zeros_like(alpha), *[nothing] * 3)
    sums = jax.lax.fori_loop(0, n // size, add_chunk, start)
    return add(sums, points[n - n % size :]) if n % size else sums


def nearest_distance(x: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Euclidean distance from each of x [m, d] to the nearest of the points [n, d]: [m]."""
  from scipy.spatial import KDTree

  return np.asarray(KDTree(points).query(x)[0])


jax.tree_util.register_pytree_node(
  Empirical,
  lambda q: ((q.points,), q.chunk_size),
  lambda size, fields: object.__new__(Empirical)._set(*fields, size),
)
