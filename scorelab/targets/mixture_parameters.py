"""Parameters of Gaussian mixtures: checked, normalised, and covariances diagonalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.typing import Array


def diagonalised(
  weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> tuple[
  Float[Array, " k"], Float[Array, "k d"], Float[Array, "k _"], Float[Array, "k d d"] | None
]:
  """Returns the log-weights, means, variances along the axes, and axes of the components.

  Concrete numbers are normalised and diagonalised in float64, and checked; traced ones are not
  checked.

  Args:
    weights: [k], >= 0, not all 0.
    means: [k, d]; their dtype is that of the results.
    covariances: [k], [k, d] or [k, d, d]; positive semi-definite.

  Returns:
    log_weights [k], means [k, d], variances [k, 1] or [k, d], and the axes [k, d, d] as columns,
    None if they are the coordinates: the fields of a `GaussianMixture`.

  Raises:
    ValueError: for shapes, weights or covariances other than these.
  """
  given = (weights, means, covariances)
  dtype = jnp.result_type(float, jnp.asarray(means))
  traced = any(isinstance(a, jax.core.Tracer) for a in given)
  xp = jnp if traced else np
  weights, means, covariances = (xp.asarray(a, dtype if traced else float) for a in given)
  k, d = means.shape if means.ndim == 2 else (-1, -1)
  if weights.shape != (k,) or covariances.shape not in ((k,), (k, d), (k, d, d)):
    raise ValueError(
      f"weights {weights.shape}, means {means.shape} and covariances {covariances.shape} must be"
      " [k], [k, d] and [k], [k, d] or [k, d, d]"
    )
  full = covariances.ndim == 3
  variances, basis = xp.linalg.eigh(covariances) if full else (covariances.reshape(k, -1), None)
  if not traced:
    if not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
      extent = f"from {weights.min():g} to {weights.max():g}"
      raise ValueError(f"weights must be finite, >= 0 and not all 0, not {extent}")
    if not variances.min() >= -1e-6 * variances.max():  # float32 may leave a -1e-7
      raise ValueError("covariances must be positive semi-definite")
    if full and not np.allclose(covariances, covariances.swapaxes(1, 2), rtol=1e-5):
      raise ValueError("covariances must be symmetric")
  weights = weights / weights.sum()
  # The double where keeps the gradient finite at weight 0.
  logs = xp.where(weights > 0, xp.log(xp.where(weights > 0, weights, 1)), -np.inf)
  fields = (logs, means, xp.maximum(variances, 0), basis)
  return tuple(None if a is None else jnp.asarray(a, dtype) for a in fields)  # pyrefly: ignore
