"""A finite data set as a distribution: the law that a network's loss is minimised on.

With x_t = alpha x_0 + sigma eps and x_0 one of the points p_1, ..., p_n, each as likely,

    x_0 | x_t = x    p_k with probability r_k, the softmax over k of -|x - alpha p_k|^2 / 2 sigma^2
    score            sum_k r_k (alpha p_k - x) / sigma^2

so a sampler with the exact score memorises: its samples are the points themselves. A network that
was trained on the points differs from that optimum by how far it is from memorising.

Reference: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
NeurIPS 2022 (arXiv 2206.00364), appendix B.3, eq. 57: the ideal denoiser of a finite data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.predictions import Prediction
from scorelab.pytree import Pytree
from scorelab.schedules import Level
from scorelab.typing import Array, Key
from scorelab.validation import checked, require_event

_EXACT = jax.lax.Precision.HIGHEST  # the truth is not computed in TF32
_WEIGHTS = 2**20  # in memory at a time: of some noisy points, for every point


class Empirical(Pytree, static=("chunk_size",), eq=False):
  """The uniform law on n points: a pytree, so that they can be traced.

  Attributes:
    points: [n, *event].
    chunk_size: number of points summed at a time: in addition to them a prediction needs about
      20 MB, whatever n and d, or twice a chunk's size. Static.
  """

  points: Float[Array, " n *event"]
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

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Shape of one point."""
    return self.points.shape[1:]

  @property
  def dim(self) -> int:
    """Number of coordinates of one point."""
    return math.prod(self.event_shape)

  @property
  def splits(self) -> dict[str, Array]:
    """The points themselves, as the training split."""
    return {"train": self.points}

  @property
  def scale(self) -> Float[Array, ""]:
    """[], the std over all coordinates, each about its own mean."""
    return jnp.sqrt(jnp.mean(jnp.var(self.points, axis=0)))

  @property
  def bounds(self) -> tuple[Float[Array, "*event"], Float[Array, "*event"]]:
    """(low, high), each of the shape of a point: the box of the points, for figures."""
    return jnp.min(self.points, axis=0), jnp.max(self.points, axis=0)

  def sample(self, key: Key, n: int) -> Float[Array, " {n} *event"]:
    """Returns independent draws with replacement, [n, *event]."""
    return self.points[jax.random.randint(key, (n,), 0, len(self.points))]

  def distance(self, x: ArrayLike) -> np.ndarray:
    """Returns the Euclidean distance from x [m, *event] to the nearest point, [m], on the host."""
    points = np.asarray(self.points).reshape(len(self.points), -1)
    return nearest_distance(np.asarray(x).reshape(len(np.asarray(x)), -1), points)

  @checked
  def predict(self, x: Float[Array, "*batch_and_event"], level: Level) -> Prediction:
    """Returns the exact prediction at x [*batch, *event], x0_variance and log_density included.

    The level has shape [] or [*batch] and sigma > 0; alpha = 0 gives the mean of the points. Exact
    up to rounding at every such level: differences x - alpha p are formed, never |x|^2 - 2 x.p.
    """
    require_event("x", x, self.event_shape)
    batch = x.shape[: x.ndim - len(self.event_shape)]
    alpha, sigma = (jnp.broadcast_to(a, batch).reshape(-1) for a in (level.alpha, level.sigma))
    score, x0, variance, log_density = jax.lax.map(
      lambda row: self._at(*row),
      (x.reshape(-1, self.dim), alpha, sigma),
      batch_size=max(1, _WEIGHTS // len(self.points)),
    )
    return Prediction.of(
      x,
      level,
      "score",
      score=score.reshape(x.shape),
      x0=x0.reshape(x.shape),
      x0_variance=variance.reshape(x.shape),
      log_density=log_density.reshape(batch),
    )

  def _at(self, x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
    """Score [d], E[x_0 | x] [d], its variances [d] and the log-density [] at one point x [d].

    Sums over k are about the nearest point p_j: E[x_0 | x] - p_j = sum_{k != j} r_k (p_k - p_j), so
    that a product's rounding errors have the others' weight, which is little at little noise.
    """
    points = self._flat
    squares = jax.lax.map(
      lambda p: jnp.sum((alpha * p - x) ** 2), points, batch_size=self.chunk_size
    )
    exponents = -squares / (2 * sigma**2)
    j = jnp.argmax(exponents)
    r = jnp.where(jnp.arange(len(points)) == j, 0, jax.nn.softmax(exponents))
    apart = self._sum(r) - jnp.sum(r) * (points[j] - self._middle)
    variance = self._spread(r, points[j]) - apart**2
    score = (alpha * points[j] - x + alpha * apart) / sigma**2
    log_density = jax.nn.logsumexp(exponents) - jnp.log(len(points))
    log_density -= self.dim / 2 * jnp.log(2 * jnp.pi * sigma**2)
    return score, points[j] + apart, jnp.maximum(variance, 0), log_density

  @property
  def _flat(self) -> Array:
    """The points, [n, d]."""
    return self.points.reshape(len(self.points), -1)

  @property
  def _middle(self) -> Array:
    """Their mean, [d]: little is lost to cancellation of what is measured from there."""
    return jnp.mean(self._flat, axis=0)

  def _sum(self, weights: Array) -> Array:
    """Returns sum_k w_k (p_k - middle), [d]: products, shared by many x; a chunk at a time."""
    middle = self._middle

    def of_chunk(w: Array, p: Array) -> Array:
      return jnp.matmul(w, p - middle, precision=_EXACT)

    return self._by_chunks(of_chunk, weights)

  def _spread(self, weights: Array, about: Array) -> Array:
    """Returns sum_k w_k (p_k - about)^2, [d]: of differences, as squares of positions cancel."""
    return self._by_chunks(lambda w, p: jnp.sum(w[:, None] * (p - about) ** 2, axis=0), weights)

  def _by_chunks(self, of_chunk: Callable[[Array, Array], Array], weights: Array) -> Array:
    """Returns the sum over chunks of of_chunk(weights [c], points [c, d]), [d]."""
    n, size = len(self.points), min(self.chunk_size, len(self.points))

    def add(start: Array | int, size: int, total: Array) -> Array:
      w, p = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in (weights, self._flat))
      return total + of_chunk(w, p)

    total = jnp.zeros_like(self._middle)
    total = jax.lax.fori_loop(0, n // size, lambda i, total: add(i * size, size, total), total)
    return add(n - n % size, n % size, total) if n % size else total


def nearest_distance(x: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Euclidean distance from each of x [m, d] to the nearest of the points [n, d]: [m]."""
  from scipy.spatial import KDTree

  return np.asarray(KDTree(points).query(x)[0])
