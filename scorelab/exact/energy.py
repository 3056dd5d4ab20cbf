"""Energy distance of points from a mixture in the plane, without a sample of the mixture.

    D = 2 E|x - y| - E|x - x'| - E|y - y'|        x, x' of the points, y, y' of the mixture

For y ~ N(m, s^2 I) in the plane |x - y| has Rice's law, with t = |x - m|^2 / (4 s^2) of mean

    E|x - y| = s sqrt(pi / 2) exp(-t) ((1 + 2 t) I_0(t) + 2 t I_1(t))

Only the points are summed over: those of a lattice of starts give the distance of a deterministic
sampler's law far below what samples resolve, and differentiable in the levels of its grid.

Rice, "Mathematical Analysis of Random Noise", Bell System Technical Journal 24 (1945), 3.10.
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
