"""Gaussian mixtures given a linear observation y = A x + s n of a draw x, n ~ N(0, I).

With x ~ sum_k w_k N(m_k, C_k), roots C_k = L_k L_k' and singular values A L_k = U_k diag(g) W_k',
the law of x given y is a mixture whose components have

    means         m_k + L_k W_k diag(g / (g^2 + s^2)) U_k' (y - A m_k)
    covariances   L_k W_k diag(s^2 / (g^2 + s^2)) W_k' L_k'
    weights       proportional to w_k N(y; A m_k, U_k diag(g^2 + s^2) U_k')

No covariance is subtracted from another, which would lose all digits of a small s: the axes are the
left singular vectors of L_k W_k diag(s / sqrt(g^2 + s^2)). Isotropic components share theirs, the
right singular vectors of A; so do components of one covariance.

Reference: Bishop, "Pattern Recognition and Machine Learning", 2006, eqs. 2.113 to 2.117.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.typing import Array
from scorelab.validation import is_traced


class Conditioned(NamedTuple):
  """A mixture given an observation.

  Attributes:
    log_evidence: log p(y), [].
    log_weights: [k], normalised.
    means: [k, d].
    variances: along the axes, [k, d].
    basis: the axes as columns, [k, d, d], or [1, d, d] if the components share them.
  """

  log_evidence: Float[Array, ""]
  log_weights: Float[Array, " k"]
  means: Float[Array, "k d"]
  variances: Float[Array, "k d"]
  basis: Float[Array, "_ d d"]


def conditioned(
  log_weights: Array,
  means: Array,
  variances: Array,
  basis: Array | None,
  matrix: Array,
  y: Array,
  noise_std: Array | float,
) -> Conditioned:
  """Returns the law of x given y, of the means' dtype; in float64 unless numbers are traced.

  Args:
    log_weights, means, variances, basis: fields of a `GaussianMixture` of k components.
    matrix: A, [m, d].
    y: [m].
    noise_std: s, []; 0 needs an A of which no combination of rows is the same at all x.

  Raises:
    ValueError: noise_std is 0 and y has parts without any spread, so that it has no density.
  """
  dtype = jnp.result_type(means)
  given = (log_weights, means, variances, basis, matrix, y, noise_std)
  xp: Any = jnp if any(map(is_traced, given)) else np
  precision = dtype if xp is jnp else np.dtype(float)
  arrays: Any = (None if a is None else xp.asarray(a, precision) for a in given)
  log_weights, means, variances, basis, matrix, y, noise_std = arrays
  noise, dim = noise_std**2, means.shape[1]
  scales, roots = _roots(xp, variances, basis, dim)
  left, seen, right = xp.linalg.svd(matrix @ roots, full_matrices=True)
  rounding = jnp.finfo(precision).eps * max(matrix.shape) * seen.max(axis=1, keepdims=True)
  seen = xp.where(seen > rounding, seen, 0)
  gains = scales * seen**2  # g^2
  spreads = _padded(xp, gains, len(y)) + noise
  if xp is np and not (spreads > 0).all():
    raise ValueError("noise_std = 0 needs an A that sees every component vary along all of y")

  apart = (xp.swapaxes(left, 1, 2) @ (y - means @ matrix.T)[..., None])[..., 0]
  log_joint = log_weights - (apart**2 / spreads + xp.log(2 * np.pi * spreads)).sum(axis=1) / 2
  top = log_joint.max()
  log_evidence = top + xp.log(xp.exp(log_joint - top).sum())

  axes = xp.swapaxes(right, 1, 2)
  turned = roots @ axes
  pull = scales * seen / (gains + noise) * apart[:, : gains.shape[1]]
  means = means + (turned @ _padded(xp, pull, dim)[..., None])[..., 0]
  shares = _padded(xp, noise / (gains + noise), dim, 1.0)
  if variances.shape[1] == 1:
    variances = scales * shares
  else:
    axes, stds, _ = xp.linalg.svd(turned * xp.sqrt(shares)[:, None, :])
    variances = xp.broadcast_to(stds**2, means.shape)
  fields = (log_evidence, log_joint - log_evidence, means, variances, axes)
  return Conditioned(*(jnp.asarray(a, dtype) for a in fields))


def _roots(xp: Any, variances: Array, basis: Array | None, dim: int) -> tuple[Array, Array]:
  """Returns scales [j, 1] and roots L [j', d, d] of C = scales L L'; j and j' are k, or 1 for all.

  Args:
    xp: NumPy, or JAX's for traced numbers.
    variances: [k, 1] or [k, d].
    basis: [k, d, d], [1, d, d] or None.
    dim: d.
  """
  axes = xp.eye(dim)[None] if basis is None else basis
  if variances.shape[1] == 1:
    return variances, axes
  same = xp is np and len(axes) == 1 and (variances == variances[0]).all()
  stds = xp.sqrt(variances[:1] if same else variances)
  return xp.ones((1, 1)), axes * stds[:, None, :]


def _padded(xp: Any, a: Array, size: int, value: float = 0.0) -> Array:
  """Pads the last axis of a [k, n] to this size."""
  return xp.concatenate([a, xp.full((*a.shape[:-1], size - a.shape[-1]), value)], axis=-1)
