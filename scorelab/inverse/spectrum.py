"""An observation in the coordinates in which A is diagonal.

With A = U diag(s) V', coordinate i of V' x is seen as y_i / s_i with noise of std noise_std / s_i,
independently of the others: as in a variance-exploding process at sigma = noise_std / s_i.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.inverse.observation import Observation
from scorelab.pytree import Pytree
from scorelab.typing import Array
from scorelab.validation import is_traced


class Spectrum(Pytree, eq=False):
  """The singular values of A, and y divided by them.

  Attributes:
    axes: V, [d, d].
    seen: which coordinates are seen, [d] of bools.
    y: y_i / s_i, [d]; 0 if unseen.
    noise_std: noise_std / s_i, [d]; infinite if unseen.
    log_scale: log of the product of the s_i that are not 0: densities of y are those of y_i / s_i
      divided by it. []
  """

  axes: Float[Array, "d d"]
  seen: Array
  y: Float[Array, " d"]
  noise_std: Float[Array, " d"]
  log_scale: Float[Array, ""]

  @staticmethod
  def of(observation: Observation) -> Spectrum:
    """Returns the spectrum of an observation; parts of y that A does not see are dropped."""
    matrix, y, noise_std = observation.matrix, observation.y, observation.noise_std
    xp = jnp if any(map(is_traced, (matrix, y, noise_std))) else np
    precision = y.dtype if xp is jnp else float
    matrix, y, noise_std = (xp.asarray(a, precision) for a in (matrix, y, noise_std))
    left, values, right = xp.linalg.svd(matrix, full_matrices=True)
    rounding = jnp.finfo(precision).eps * max(matrix.shape) * values.max()
    size, dim = values.size, matrix.shape[1]
    inverses = xp.where(values > rounding, 1 / xp.where(values > rounding, values, 1), 0)
    pad = xp.zeros(dim - size)
    seen = xp.concatenate([values > rounding, pad > 0])
    inverses = xp.concatenate([inverses, pad])
    along = xp.concatenate([(left.T @ y)[:size], pad])
    noise = xp.where(seen, noise_std * inverses, xp.inf)
    log_scale = -xp.log(xp.where(seen, inverses, 1)).sum()
    fields = (right.T, seen, along * inverses, noise, log_scale)
    dtypes = (observation.y.dtype, bool, *(observation.y.dtype,) * 3)
    return Spectrum(*(jnp.asarray(a, dtype) for a, dtype in zip(fields, dtypes, strict=True)))

  def along(self, x: Array, event_ndim: int) -> Float[Array, "*batch d"]:
    """Returns V' x of points [*batch, *event]."""
    flat = x.reshape(*x.shape[: x.ndim - event_ndim], -1)
    return jnp.matmul(flat, self.axes, precision="highest")

  def back(self, z: Float[Array, "*batch d"], event_shape: tuple[int, ...]) -> Array:
    """Returns the points V z, [*batch, *event]."""
    x = jnp.matmul(z, self.axes.T, precision="highest")
    return x.reshape(*z.shape[:-1], *event_shape)


def log_normal(x: Array | float, mean: Array, variance: Array, where: Array) -> Array:
  """Returns log N(x; mean, variance), and 0 elsewhere."""
  variance = jnp.where(where, variance, 1)
  logs = -((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance)) / 2
  return jnp.where(where, logs, 0)
