"""TMPD and MMPS: the covariance of x_0 given x_t by Tweedie's second-order formula.

C = Cov[x_0 | x_t] = sigma^2 / alpha d x0 / d x_t
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.inverse.conditional import Conditional, Product, Solved
from scorelab.inverse.observation import Observation
from scorelab.ranges import AtLeast
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import checked


@checked
def tmpd(predict: Predict, observation: Observation, *, diagonal: bool = False) -> Conditional:
  """Tweedie moment projected diffusion: S = A C A' + noise_std^2 I, solved exactly.

  Boys et al., "Tweedie Moment Projected Diffusions for Inverse Problems", TMLR 2024
  (arXiv 2310.06721). m + 1 products with J' per call, or two if `diagonal`.

  Args:
    predict: the network or the truth.
    observation: with noise_std > 0 unless C has full rank along the rows of A.
    diagonal: replaces A C A' by the diagonal matrix of its row sums, as theirs does for images.
  """
  variance = observation.noise_std**2
  size = observation.operator.dim

  def solve(residual: Array, level: Level, product: Product) -> Solved:
    del level
    if diagonal:
      spread = jnp.maximum(product(jnp.ones_like(residual)), 0) + variance
      return Solved(residual / spread, jnp.sum(jnp.log(spread), axis=-1))
    units = jnp.broadcast_to(
      jnp.eye(size, dtype=residual.dtype)[(slice(None), *(None,) * (residual.ndim - 1))],
      (size, *residual.shape),
    )
    covariance = jnp.moveaxis(jax.vmap(product)(units), 0, -1)
    # A network's J is symmetric up to its errors only.
    covariance = (covariance + jnp.swapaxes(covariance, -1, -2)) / 2
    spread, axes = jnp.linalg.eigh(covariance)
    spread = jnp.maximum(spread, 0) + variance
    along = jnp.einsum("...ij,...i->...j", axes, residual, precision="highest")
    weights = jnp.einsum("...ij,...j->...i", axes, along / spread, precision="highest")
    return Solved(weights, jnp.sum(jnp.log(spread), axis=-1))

  return Conditional(predict, observation, solve, gradients=2 if diagonal else size + 1)


@checked
def mmps(
  predict: Predict, observation: Observation, *, iterations: Annotated[int, AtLeast(1)] = 3
) -> Conditional:
  """Moment-matching posterior sampling: S u = y - A x0 by conjugate gradients from 0.

  Rozet et al., "Learning Diffusion Priors from Observations by Expectation Maximization",
  NeurIPS 2024 (arXiv 2405.13712). iterations + 1 products with J' per call; exact from m iterations
  on, up to rounding. It does not know det S.

  Args:
    predict: the network or the truth.
    observation: with noise_std > 0 unless C has full rank along the rows of A.
    iterations: of conjugate gradients. Static.
  """
  variance = observation.noise_std**2

  def solve(residual: Array, level: Level, product: Product) -> Solved:
    del level

    def step(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
      u, left, direction, square = state
      image = product(direction) + variance * direction
      length = _ratio(square, jnp.sum(direction * image, axis=-1, keepdims=True))
      u, left = u + length * direction, left - length * image
      new = jnp.sum(left**2, axis=-1, keepdims=True)
      return u, left, left + _ratio(new, square) * direction, new

    start = jnp.zeros_like(residual), residual, residual
    square = jnp.sum(residual**2, axis=-1, keepdims=True)
    return Solved(jax.lax.fori_loop(0, iterations, step, (*start, square))[0], None)

  return Conditional(predict, observation, solve, gradients=iterations + 1)


def _ratio(a: Array, b: Array) -> Array:
  """a / b, and 0 where the residual is already 0, or where rounding has made b negative."""
  return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
