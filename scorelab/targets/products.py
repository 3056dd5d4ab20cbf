"""Score and posterior mean of Gaussian mixtures by products of matrices, for many dimensions.

No differences x - alpha m_k of all components are formed at a time. With j the component of the
largest r_k = P(k | x_t = x), near which x is where there is little noise,

    score          sum_k r_k V_k^-1 (alpha m_j - x) + alpha sum_{k != j} r_k V_k^-1 (m_k - m_j)
    E[x_0 | x]     sum_k r_k sigma^2 V_k^-1 m_k + sum_k r_k alpha C_k V_k^-1 x

in coordinates in which every V_k = alpha^2 C_k + sigma^2 I is diagonal. If all components share
axes that are not the coordinates', x is turned to them and the result back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.schedules import Level
from scorelab.typing import Array

if TYPE_CHECKING:
  from scorelab.targets.gaussian_mixture import GaussianMixture

_EXACT = jax.lax.Precision.HIGHEST


def weighted_sum(weights: Float[Array, " k"], values: Float[Array, "k d"]) -> Float[Array, " d"]:
  """Returns sum_k w_k values_k: as a product, twice as fast on a CPU as by a sum."""
  return jnp.einsum("k,kd->d", weights, values, precision=_EXACT)


def turned(law: GaussianMixture) -> tuple[GaussianMixture, Array]:
  """Returns a law of shared axes in coordinates along them, and the axes as columns, [d, d]."""
  assert law.basis is not None
  axes = law.basis[0]
  means = jnp.matmul(law.means, axes, precision=_EXACT)
  return law._of(law.log_weights, means, law.variances, None), axes


def score(law: GaussianMixture, x: Float[Array, " d"]) -> Float[Array, " d"]:
  """Returns the score of a law with shared axes or none."""
  if law.basis is not None:
    along, axes = turned(law)
    return _product(axes, score(along, _product(axes.T, x)))
  r, precisions = law.responsibilities(x), 1 / law._widths
  j = jnp.argmax(r)
  nearest, others = law.means[j], jnp.where(jnp.arange(len(r)) == j, 0, r)
  apart = weighted_sum(others, precisions * law.means)
  apart -= weighted_sum(others, precisions) * nearest
  return weighted_sum(r, precisions) * (nearest - x) + apart


def posterior_mean(law: GaussianMixture, x: Float[Array, " d"], level: Level) -> Float[Array, " d"]:
  """Returns E[x_0 | x_t = x] of a law of x_0 with shared axes or none."""
  if law.basis is not None:
    along, axes = turned(law)
    return _product(axes, posterior_mean(along, _product(axes.T, x), level))
  noisy = law.perturbed(level.alpha, level.sigma)
  r = noisy.responsibilities(x)
  kept = weighted_sum(r, level.alpha * law.variances / noisy._widths)
  share = jnp.where(noisy.variances > 0, level.sigma**2 / noisy._widths, 1)
  return weighted_sum(r, share * law.means) + kept * x


def _product(matrix: Array, x: Array) -> Array:
  return jnp.matmul(matrix, x, precision=_EXACT)
