"""Linear observations with Gaussian noise, y = A x + noise_std n with n ~ N(0, I)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.inverse.operators import Matrix, Operator
from scorelab.pytree import Pytree
from scorelab.ranges import AtLeast
from scorelab.typing import AnyArray, Array, Floats, Key
from scorelab.validation import is_traced, require_event, require_range


class Observation(Pytree, eq=False):
  """An observation of one point: a pytree, so that problems can be batched by `vmap`.

  Attributes:
    operator: A.
    y: [m].
    noise_std: [], >= 0.
  """

  operator: Operator
  y: Float[Array, " m"]
  noise_std: Float[Array, ""]

  def __init__(self, operator: Operator | ArrayLike, y: ArrayLike, noise_std: Array | float):
    """Makes an observation.

    Args:
      operator: A, a matrix [m, d] or an `Operator`, such as `Mask`.
      y: [m].
      noise_std: standard deviation of the noise of each coordinate of y, >= 0.

    Raises:
      ValueError: for other shapes, or a noise_std < 0.
    """
    operator = operator if isinstance(operator, Operator) else Matrix(operator)
    y = jnp.asarray(y, jnp.result_type(float, jnp.asarray(y)))
    if y.shape != (operator.dim,):
      raise ValueError(f"y has shape {y.shape}, must be [{operator.dim}] as A observes")
    require_range("noise_std", noise_std, AtLeast(0))
    self._set(operator, y, jnp.asarray(noise_std, y.dtype))

  @property
  def matrix(self) -> Float[Array, "m d"]:
    """A as a matrix, of points whose coordinates are flattened."""
    return self.operator.matrix

  def residual(self, x: Float[AnyArray, "*batch_and_event"]) -> Float[Array, "*batch m"]:
    """Returns y - A x."""
    return self.y - self.operator(x)

  def log_likelihood(self, x: Float[AnyArray, "*batch_and_event"]) -> Float[Array, "*batch"]:
    """Returns log p(y | x).

    Raises:
      ValueError: noise_std is 0.
    """
    self.require_noise("log_likelihood")
    squares = jnp.sum((self.residual(x) / self.noise_std) ** 2, axis=-1)
    constant = self.y.size * (jnp.log(self.noise_std) + jnp.log(2 * jnp.pi) / 2)
    return -squares / 2 - constant

  def require_noise(self, user: str) -> None:
    """Raises ValueError if noise_std is 0, for a `user` that needs noise; traced numbers pass."""
    if not is_traced(self.noise_std) and not (np.asarray(self.noise_std) > 0).all():
      raise ValueError(f"noise_std = {float(self.noise_std):g} must be > 0 for {user}")


def observed(
  key: Key, operator: Operator | ArrayLike, x: Floats, noise_std: Array | float
) -> Observation:
  """Observes a point x [*event]: draws y = A x + noise_std n.

  Args:
    key: consumed.
    operator: A, a matrix [m, d] or an `Operator`.
    x: [*event].
    noise_std: standard deviation of the noise, >= 0.
  """
  operator = operator if isinstance(operator, Operator) else Matrix(operator)
  require_event("x", x, operator.event_shape)
  clean = operator(x)
  y = clean + noise_std * jax.random.normal(key, clean.shape, clean.dtype)
  return Observation(operator, y, noise_std)
