"""Laws of points in the plane that are easy to draw from and to look at; their score is not known.

Sources:
  `swiss_roll` and `moons`: scikit-learn's `make_swiss_roll` and `make_moons`.
  `checkerboard`, `pinwheel` and the spirals: the toy densities of Grathwohl et al., "FFJORD", ICLR
    2019 (arXiv 1810.01367); the pinwheel is Johnson et al.'s, NeurIPS 2016 (arXiv 1603.06277).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Key


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
  """A law on R^d that is known by its draws.

  Attributes:
    sample: (key, n) -> independent draws [n, d]; jittable, n static.
    scale: the std over all coordinates, of the law itself.
    bounds: (low [d], high [d]) of a box for figures: of what is drawn, but for 4 std of noise.
  """

  sample: Callable[[Key, int], Array]
  scale: float
  bounds: tuple[np.ndarray, np.ndarray]

  @property
  def dim(self) -> int:
    """Of one point: d."""
    return len(self.bounds[0])

  @property
  def event_shape(self) -> tuple[int]:
    """Of one point: (d,)."""
    return (self.dim,)


def along(curve: Callable[[Array], Array], noise: float) -> Points:
  """The law of curve(u) + noise eps, u uniform on [0, 1): curve takes [n] to [n, d].

  The scale is the midpoint rule's, on 2^16 points.
  """
  nodes = np.asarray(curve((jnp.arange(2**16) + 0.5) / 2**16), float)
  reach = 4 * noise

  def sample(key: Key, n: int) -> Array:
    place, spread = jax.random.split(key)
    x = curve(jax.random.uniform(place, (n,)))
    return x + noise * jax.random.normal(spread, x.shape) if noise else x

  scale = math.sqrt(nodes.var(0).mean() + noise**2)
  return Points(sample, scale, (nodes.min(0) - reach, nodes.max(0) + reach))


def _piece(u: Array, number: int) -> tuple[Array, Array]:
  """Which of `number` equal pieces of [0, 1) each u is in, and where in it, in [0, 1)."""
  piece = jnp.minimum(jnp.floor(u * number), number - 1)
  return piece, u * number - piece


def two_circles(*, radius: float = 0.5, offset: float = 0.7, noise: float = 0.0) -> Points:
  """Two circles, about (offset, offset) and about its mirror image in the origin."""

  def curve(u: Array) -> Array:
    piece, place = _piece(u, 2)
    centre = offset * (1 - 2 * piece)
    angle = 2 * math.pi * place
    return jnp.stack([centre + radius * jnp.cos(angle), centre + radius * jnp.sin(angle)], -1)

  return along(curve, noise)


def two_circles_points(
  *, num_points: int = 10, radius: float = 0.5, offset: float = 0.7
) -> GaussianMixture:
  """`num_points` equidistant points on each of the two circles: a data set, with its exact predict.

  Its optimal denoiser is the softmax-weighted mean of the points: whatever follows it memorises.
  The points have no width, so that the score exists at sigma > 0 only, and no metric that counts
  in modes' widths applies.
  """
  angles = 2 * np.pi * np.arange(num_points) / num_points
  circle = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
  points = np.concatenate([circle + offset, circle - offset])
  return GaussianMixture(np.ones(len(points)), points, np.zeros(len(points)))


def swiss_roll(*, noise: float = 0.0) -> Points:
  """scikit-learn's swiss roll as Sohl-Dickstein et al. 2015 show it: seen from its side, over 10.

  Its columns 2 and 0, t sin t and t cos t for t uniform on 1.5 pi to 4.5 pi, the second one's sign
  flipped. `noise` is scikit-learn's, before the division.
  """

  def curve(u: Array) -> Array:
    t = 1.5 * math.pi * (1 + 2 * u)
    return jnp.stack([t * jnp.sin(t), -t * jnp.cos(t)], -1) / 10

  return along(curve, noise / 10)


def moons(*, noise: float = 0.05) -> Points:
  """scikit-learn's two interleaving half-circles."""

  def curve(u: Array) -> Array:
    piece, place = _piece(u, 2)
    cos, sin = jnp.cos(math.pi * place), jnp.sin(math.pi * place)
    return jnp.stack(
      [jnp.where(piece == 0, cos, 1 - cos), jnp.where(piece == 0, sin, 0.5 - sin)], -1
    )

  return along(curve, noise)


def spirals(*, turns: float = 1.5, noise: float = 0.1) -> Points:
  """Two arms from the origin, each the other turned by half: the radius is a third of the angle.

  Uniform along the arms but for their middle, as the angle is the root of a uniform number.
  """

  def curve(u: Array) -> Array:
    piece, place = _piece(u, 2)
    angle = 2 * math.pi * turns * jnp.sqrt(place)
    arm = jnp.stack([-jnp.cos(angle), jnp.sin(angle)], -1)
    return (1 - 2 * piece[:, None]) * angle[:, None] / 3 * arm

  return along(curve, noise)


def checkerboard(*, width: float = 4.0) -> Points:
  """Uniform on the 8 squares of one colour of a board of 4 by 4, on [-width, width]^2."""

  def sample(key: Key, n: int) -> Array:
    u = 4 * jax.random.uniform(key, (n, 2))
    column = jnp.floor(u[:, 0])
    half, place = jnp.floor(u[:, 1] / 2), u[:, 1] / 2 % 1
    y = 2 * half + (column + 1) % 2 + place
    return (jnp.stack([u[:, 0], y], -1) - 2) * (width / 2)

  ends = width * np.ones(2)
  return Points(sample, width / math.sqrt(3), (-ends, ends))


def pinwheel(
  *, num_arms: int = 5, radial_std: float = 0.3, tangential_std: float = 0.1, rate: float = 0.25
) -> Points:
  """Gaussians about (2, 0), turned into arms that bend by rate exp(radius / 2).

  Turning keeps the norm: E |x|^2 = 4 (1 + radial_std^2 + tangential_std^2), and the mean is 0.
  """

  def sample(key: Key, n: int) -> Array:
    of_arm, spread = jax.random.split(key)
    stds = jnp.array([radial_std, tangential_std])
    x, y = (jax.random.normal(spread, (n, 2)) * stds + jnp.array([1.0, 0.0])).T
    arm = jax.random.randint(of_arm, (n,), 0, num_arms)
    angle = 2 * math.pi / num_arms * arm + rate * jnp.exp(x)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return 2 * jnp.stack([cos * x - sin * y, sin * x + cos * y], -1)

  scale = math.sqrt(2 * (1 + radial_std**2 + tangential_std**2))
  reach = 2 * math.hypot(1 + 4 * radial_std, 4 * tangential_std) * np.ones(2)
  return Points(sample, scale, (-reach, reach))
