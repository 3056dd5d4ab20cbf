"""Laws of points in the plane that are easy to draw from and to plot; their score is unknown.

Sources:
  `swiss_roll` and `moons`: scikit-learn's `make_swiss_roll` and `make_moons`.
  `checkerboard`, `pinwheel` and the spirals: the toy densities of Grathwohl et al., "FFJORD", ICLR
    2019 (arXiv 1810.01367); the pinwheel is Johnson et al.'s, NeurIPS 2016 (arXiv 1603.06277).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.ranges import Above, AtLeast
from scorelab.typing import Array, Key
from scorelab.validation import checked


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
  """A law on R^d that can only be drawn from.

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
    """Dimension d of one point."""
    return len(self.bounds[0])

  @property
  def event_shape(self) -> tuple[int]:
    """Shape of one point: (d,)."""
    return (self.dim,)


def along(curve: Callable[[Array], Array], noise: float) -> Points:
  """Makes the law of curve(u) + noise eps, u uniform on [0, 1): curve takes [n] to [n, d].

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
  """Returns the index of each u among `number` equal pieces of [0, 1), and its place in [0, 1)."""
  piece = jnp.minimum(jnp.floor(u * number), number - 1)
  return piece, u * number - piece


@checked
def swiss_roll(*, noise: Annotated[float, AtLeast(0)] = 0.0) -> Points:
  """scikit-learn's swiss roll as Sohl-Dickstein et al. 2015 show it: seen from its side, over 10.

  Args:
    noise: standard deviation of Gaussian noise, scikit-learn's: before the division by 10.
  """
  return along(roll, noise / 10)


def roll(u: Float[Array, " n"]) -> Float[Array, "n 2"]:
  """Returns the swiss roll's columns 2 and 0 over 10, the second one's sign flipped: [n, 2].

  t sin t and t cos t, for t from 1.5 pi to 4.5 pi as u goes from 0 to 1.
  """
  t = 1.5 * math.pi * (1 + 2 * u)
  return jnp.stack([t * jnp.sin(t), -t * jnp.cos(t)], -1) / 10


@checked
def moons(*, noise: Annotated[float, AtLeast(0)] = 0.05) -> Points:
  """scikit-learn's two interleaving half-circles.

  Args:
    noise: standard deviation of Gaussian noise around the half-circles, whose radius is 1.
  """

  def curve(u: Array) -> Array:
    piece, place = _piece(u, 2)
    cos, sin = jnp.cos(math.pi * place), jnp.sin(math.pi * place)
    return jnp.stack(
      [jnp.where(piece == 0, cos, 1 - cos), jnp.where(piece == 0, sin, 0.5 - sin)], -1
    )

  return along(curve, noise)


@checked
def spirals(
  *, turns: Annotated[float, Above(0)] = 1.5, noise: Annotated[float, AtLeast(0)] = 0.1
) -> Points:
  """Two arms from the origin, each the other turned by half: the radius is a third of the angle.

  Uniform along the arms but for their middle, as the angle is the root of a uniform number.

  Args:
    turns: full turns of each arm around the origin.
    noise: standard deviation of Gaussian noise around the arms.
  """

  def curve(u: Array) -> Array:
    piece, place = _piece(u, 2)
    angle = 2 * math.pi * turns * jnp.sqrt(place)
    arm = jnp.stack([-jnp.cos(angle), jnp.sin(angle)], -1)
    return (1 - 2 * piece[:, None]) * angle[:, None] / 3 * arm

  return along(curve, noise)


@checked
def checkerboard(*, width: Annotated[float, Above(0)] = 4.0) -> Points:
  """Uniform on the 8 squares of one colour of a board of 4 by 4, on [-width, width]^2.

  Args:
    width: half the side of the board.
  """

  def sample(key: Key, n: int) -> Array:
    u = 4 * jax.random.uniform(key, (n, 2))
    column = jnp.floor(u[:, 0])
    half, place = jnp.floor(u[:, 1] / 2), u[:, 1] / 2 % 1
    y = 2 * half + (column + 1) % 2 + place
    return (jnp.stack([u[:, 0], y], -1) - 2) * (width / 2)

  ends = width * np.ones(2)
  return Points(sample, width / math.sqrt(3), (-ends, ends))


@checked
def pinwheel(
  *,
  num_arms: Annotated[int, AtLeast(1)] = 5,
  radial_std: Annotated[float, AtLeast(0)] = 0.3,
  tangential_std: Annotated[float, AtLeast(0)] = 0.1,
  rate: float = 0.25,
) -> Points:
  """Gaussians about (2, 0), turned into arms that bend by rate exp(radius / 2).

  Turning keeps the norm: E |x|^2 = 4 (1 + radial_std^2 + tangential_std^2), and the mean is 0.

  Args:
    num_arms: number of arms.
    radial_std: standard deviation along the radius, relative to the mean radius 2.
    tangential_std: standard deviation across the radius, relative to the mean radius 2.
    rate: strength of the bend: a point at this radius is turned by rate exp(radius / 2) radians.
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
