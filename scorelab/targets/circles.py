"""Uniform laws on circles in the plane, with optional noise: exact at every level.

A point at angle u on the circle about c, x_0 = c + r u + noise eps, seen through a process is

    x_t = alpha c + R u + s eps            R = alpha r        s^2 = alpha^2 noise^2 + sigma^2

Given y = x - alpha c the direction u is von Mises about y / |y|, of concentration k = R |y| / s^2:

    law of x_t     exp(-(|y| - R)^2 / 2 s^2) i0e(k) / (2 pi s^2)
    E[u | x]       A y / |y|               A = I1(k) / I0(k) = i1e(k) / i0e(k)
    Cov[u | x]     A' along y and A / k across it          A' = 1 - A / k - A^2

Reference: Mardia and Jupp, "Directional Statistics", 2000, section 3.5.4, and appendix 1 for A.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level
from scorelab.targets.empirical import Empirical
from scorelab.typing import Array, Key
from scorelab.validation import checked, require_event


@dataclasses.dataclass(frozen=True, eq=False)
class Circles:
  """The mixture, in equal parts, of the uniform laws on k circles of one radius.

  Attributes:
    centres: [k, 2].
    radius: > 0.
    noise: std of the Gaussian noise about the circles; 0 is the circles themselves.
    splits: data sets by name, each [n, 2]; empty if every batch is new draws.
  """

  centres: np.ndarray
  radius: float
  noise: float = 0.0
  splits: dict[str, Array] = dataclasses.field(default_factory=dict)

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Shape of one point: (2,)."""
    return (2,)

  @property
  def dim(self) -> int:
    """Dimension of one point: 2."""
    return 2

  @property
  def scale(self) -> float:
    """The std over all coordinates: |u|^2 / 2 is 1/2 for each of them."""
    return float(np.sqrt(self.centres.var(0).mean() + self.radius**2 / 2 + self.noise**2))

  @property
  def bounds(self) -> tuple[np.ndarray, np.ndarray]:
    """(low [2], high [2]) of a box for figures: of the circles and 4 std of noise."""
    reach = self.radius + 4 * self.noise
    return self.centres.min(0) - reach, self.centres.max(0) + reach

  @property
  def weights(self) -> np.ndarray:
    """Weights of the circles, [k], all equal."""
    return np.full(len(self.centres), 1 / len(self.centres))

  def sample(self, key: Key, n: int) -> Float[Array, "{n} 2"]:
    """Returns independent draws, [n, 2]."""
    of_circle, of_angle, spread = jax.random.split(key, 3)
    circle = jax.random.randint(of_circle, (n,), 0, len(self.centres))
    angle = 2 * jnp.pi * jax.random.uniform(of_angle, (n,))
    u = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return (
      jnp.asarray(self.centres)[circle]
      + self.radius * u
      + self.noise * jax.random.normal(spread, (n, 2))
    )

  def component(self, x: ArrayLike) -> np.ndarray:
    """Returns the index of the circle nearest to each of x [n, 2], [n], on the host."""
    return np.abs(self._heights(x)).argmin(1)

  def distance(self, x: ArrayLike) -> np.ndarray:
    """Returns the Euclidean distance from x [n, 2] to the nearest circle, [n], on the host."""
    return np.abs(self._heights(x)).min(1)

  def _heights(self, x: ArrayLike) -> np.ndarray:
    """Returns the signed distance outside each circle, [n, k]."""
    gaps = np.asarray(x)[:, None] - self.centres
    return np.linalg.norm(gaps, axis=-1) - self.radius

  @checked
  def predict(self, x: Float[Array, "*batch 2"], level: Level) -> Prediction:
    """Returns the exact prediction at x [*batch, 2], with x0_variance and normalised log_density.

    The level has shape [] or [*batch]; sigma > 0, or noise > 0. alpha = 0 gives the mean.
    """
    require_event("x", x, self.event_shape)
    at = functools.partial(_predict, jnp.asarray(self.centres, x.dtype), self.radius, self.noise)
    at = jnp.vectorize(at, signature="(d),(),()->(d),(d),(d),()")
    score, x0, variance, log_density = at(x, level.alpha, level.sigma)
    return Prediction.of(
      x, level, "score", score=score, x0=x0, x0_variance=variance, log_density=log_density
    )


@checked
def two_circles(
  *,
  radius: Annotated[float, Above(0)] = 0.5,
  offset: float = 0.7,
  noise: Annotated[float, AtLeast(0)] = 0.0,
  num_points: Annotated[int, AtLeast(1)] | None = None,
) -> Circles:
  """Two circles, about (offset, offset) and about its mirror image in the origin.

  With `num_points`, training sees that many equidistant points on each circle and nothing else,
  while samples are compared with the circles themselves.

  Args:
    radius: radius of both circles.
    offset: both coordinates of the first circle's centre; the other centre is its negative.
    noise: standard deviation of Gaussian noise around the circles; 0 is the circles themselves.
    num_points: number of training points on each circle; None for new draws in every batch.
  """
  splits = {}
  if num_points is not None:
    splits["train"] = jnp.asarray(equidistant(num_points, radius, offset), jnp.float32)
  return Circles(_centres(offset), radius, noise, splits)


@checked
def two_circles_points(
  *,
  num_points: Annotated[int, AtLeast(1)] = 10,
  radius: Annotated[float, Above(0)] = 0.5,
  offset: float = 0.7,
) -> Empirical:
  """`num_points` equidistant points on each of the two circles: a data set, with its exact predict.

  Its optimal denoiser is the softmax-weighted mean of the points: a sampler with it memorises.

  Args:
    num_points: number of points on each circle.
    radius, offset: as for `two_circles`.
  """
  return Empirical(equidistant(num_points, radius, offset).astype(np.float32))


def equidistant(num_points: int, radius: float, offset: float, turn: float = 0.0) -> np.ndarray:
  """Returns points on both circles, the first `turn` gaps from the right: [2 num_points, 2]."""
  angles = 2 * np.pi * (np.arange(num_points) + turn) / num_points
  circle = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
  return np.concatenate([centre + circle for centre in _centres(offset)])


def _centres(offset: float) -> np.ndarray:
  return np.array([[offset, offset], [-offset, -offset]])


def _predict(
  centres: Array, radius: float, noise: float, x: Array, alpha: Array, sigma: Array
) -> tuple[Array, Array, Array, Array]:
  """(score [2], x0 [2], x0_variance [2], log-density []) at one point x [2]; k circles first."""
  total = (alpha * noise) ** 2 + sigma**2  # s^2
  share = sigma**2 / total  # 1 without noise: what the process alone hides
  y = x - alpha * centres
  squares = jnp.sum(y**2, axis=1)
  away = squares > 0  # the double where keeps gradients finite in the centres
  length = jnp.where(away, jnp.sqrt(jnp.where(away, squares, 1)), 0)
  concentration = alpha * radius * length / total
  bessel = i0e(concentration)
  across, along = _direction_variances(concentration)
  # E[u] = A y / |y| = (A / k) (R / s^2) y is smooth in the centre, too.
  pull = (across * alpha * radius / total)[:, None] * y  # E[u]
  scores = (alpha * radius * pull - y) / total
  gain = alpha * noise**2 / total
  means = centres + share * radius * pull + gain * y
  unit = jnp.where(away, y.T / jnp.where(away, length, 1), 0).T
  spread = across[:, None] * (1 - unit**2) + along[:, None] * unit**2
  variances = noise**2 * share + (share * radius) ** 2 * spread

  logs = jnp.log(bessel) - (length - alpha * radius) ** 2 / (2 * total)
  weights = jax.nn.softmax(logs)[:, None]
  mean = jnp.sum(weights * means, axis=0)
  variance = jnp.sum(weights * (variances + (means - mean) ** 2), axis=0)
  log_density = jax.nn.logsumexp(logs) - jnp.log(len(centres) * 2 * jnp.pi * total)
  return jnp.sum(weights * scores, axis=0), mean, variance, log_density


def _direction_variances(k: Array) -> tuple[Array, Array]:
  """(A / k, A') of a von Mises law of concentration k >= 0, elementwise.

  Where the quotient or the difference would lose its digits a series stands in its place.
  """
  eps = jnp.finfo(k.dtype).eps
  few, many = k < eps**0.25, k > eps**-0.2
  inner, outer = jnp.where(few | many, 1, k), jnp.where(many, k, 1)
  a = i1e(inner) / i0e(inner)
  # A / k = 1/2 - k^2 / 16 + ...; A = 1 - 1/2k - 1/8k^2 - ...; A' = 1/2k^2 + 1/4k^3 + 3/8k^4 + ...
  q = 1 / outer
  far = 1 - q / 2 - q**2 / 8 - q**3 / 8 - q**4 * 25 / 128
  across = jnp.where(many, far * q, jnp.where(few, 0.5 - k**2 / 16, a / inner))
  along = jnp.where(
    many,
    q**2 * (1 / 2 + q / 4 + q**2 * 3 / 8 + q**3 * 25 / 32),
    jnp.where(few, 0.5 - 3 * k**2 / 16, 1 - a / inner - a**2),
  )
  return across, along
