"""Energy distances in the plane without samples: of points from a mixture, of laws on nodes.

    D = 2 E|x - y| - E|x - x'| - E|y - y'|        x, x' of the one law, y, y' of the other

For y ~ N(m, s^2 I) in the plane |x - y| has Rice's law, with t = |x - m|^2 / (4 s^2) of mean

    E|x - y| = s sqrt(pi / 2) exp(-t) ((1 + 2 t) I_0(t) + 2 t I_1(t))

Only the points are summed over: those of a lattice of starts give the distance of a deterministic
sampler's law far below what samples resolve, and differentiable in the levels of its grid.

Two smooth laws on nodes of a quadrature are compared by their characteristic functions f and g,

    D = 1 / (2 pi) int int_0^inf |f(r u) - g(r u)|^2 / r^2 dr du        u: directions

which nodes give far more precisely than the distances between them, whose kink they meet.

Rice, "Mathematical Analysis of Random Noise", Bell System Technical Journal 24 (1945), 3.10.
Szekely and Rizzo, "Energy Statistics", Journal of Statistical Planning and Inference 143 (2013).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Float
from scipy.special import ndtri

from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array

_PLASTIC = 1.32471795724474602596  # root of p^3 = p + 1


def lattice_starts(count: int) -> Float[np.ndarray, "n 2"]:
  """Returns points of N(0, I) in the plane, evenly spread: Roberts' R2 sequence through quantiles.

  Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences" (2018).
  """
  steps = np.array([1 / _PLASTIC, 1 / _PLASTIC**2])
  return ndtri((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1)


def energy_from_mixture(
  x: Float[Array, "n 2"], target: GaussianMixture, weights: Float[Array, " n"] | None = None
) -> Float[Array, ""]:
  """Returns the energy distance of weighted points from a mixture of round components.

  Args:
    x: points.
    target: in the plane, with one variance for each component.
    weights: of the points, summing to 1; None for equal ones.

  Raises:
    ValueError: the target's dimension is not 2, or a component is not round.
  """
  within, variances = mixture_apart(target), _round_variances(target)
  weights = jnp.full(len(x), 1 / len(x)) if weights is None else weights
  apart = rice_mean(x[:, None] - target.means, variances)
  across = jnp.sum(weights[:, None] * jnp.exp(target.log_weights) * apart)
  return 2 * across - mean_apart(x, weights) - within


def mixture_apart(target: GaussianMixture) -> Float[Array, ""]:
  """Returns E|y - y'| of a mixture of round components in the plane.

  Times 1 / n + 1 / m it is the mean energy distance of n exact samples from m, the floor.

  Raises:
    ValueError: see `energy_from_mixture`.
  """
  shares, variances = jnp.exp(target.log_weights), _round_variances(target)
  apart = rice_mean(target.means[:, None] - target.means, variances[:, None] + variances)
  return jnp.sum(shares[:, None] * shares * apart)


def _round_variances(target: GaussianMixture) -> Float[Array, " k"]:
  if target.dim != 2 or target.basis is not None:
    raise ValueError("target must be a mixture in the plane with round components")
  return jnp.broadcast_to(target.variances, target.means.shape)[:, 0]


def rice_mean(shift: Float[Array, "*n 2"], variance: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Returns the mean length of N(shift, variance I) in the plane."""
  t = jnp.sum(shift**2, axis=-1) / (4 * variance)
  return jnp.sqrt(jnp.pi / 2 * variance) * ((1 + 2 * t) * i0e(t) + 2 * t * i1e(t))


def mean_apart(x: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, ""]:
  """Returns the weighted mean distance between two of the points."""

  def row(own: tuple[Array, Array]) -> Array:
    point, weight = own
    square = jnp.sum((point - x) ** 2, axis=-1)
    apart = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return weight * jnp.sum(weights * apart)

  return jnp.sum(jax.lax.map(row, (x, weights), batch_size=min(256, len(x))))


def energy_of_nodes(
  x: Float[Array, "n 2"],
  x_weights: Float[Array, " n"],
  y: Float[Array, "m 2"],
  y_weights: Float[Array, " m"],
  *,
  highest: tuple[float, float],
  num_directions: int = 64,
  num_radii: int = 256,
) -> Float[Array, ""]:
  """Returns the energy distance of two laws that are given by nodes of a quadrature.

  Args:
    x, y: nodes.
    x_weights, y_weights: of the nodes, each summing to 1.
    highest: frequencies above which the characteristic function of x, and of y, vanishes, e.g. 9
      over the least standard deviation. Nodes must lie closer than pi over it.
    num_directions: of frequencies, evenly spread over the half circle.
    num_radii: Gauss-Legendre nodes in the frequency's length.
  """
  radii, shares = np.polynomial.legendre.leggauss(num_radii)
  radii, shares = (radii + 1) * max(highest) / 2, shares * max(highest) / 2
  angles = np.pi * np.arange(num_directions) / num_directions
  lengths, shares = (jnp.asarray(values, x.dtype) for values in (radii, shares))

  def of_direction(unit: Array) -> Array:
    def characteristic(nodes: Array, weights: Array, end: float) -> Array:
      phases = lengths[:, None] * jnp.sum(nodes * unit, axis=-1)
      parts = jnp.stack([jnp.cos(phases) @ weights, jnp.sin(phases) @ weights])
      return jnp.where(lengths < end, parts, 0)

    apart = characteristic(x, x_weights, highest[0]) - characteristic(y, y_weights, highest[1])
    return jnp.sum(shares / lengths**2 * jnp.sum(apart**2, axis=0))

  units = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), x.dtype)
  return jnp.mean(jax.lax.map(of_direction, units))
