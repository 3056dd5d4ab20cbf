"""DPS and PiGDM: covariances of x_0 given x_t that do not depend on x_t."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from scorelab.inverse.conditional import Conditional, Product, Solved
from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import checked


@checked
def dps(
  predict: Predict,
  observation: Observation,
  *,
  strength: Annotated[Array | float, AtLeast(0)] = 1.0,
) -> Conditional:
  """Diffusion posterior sampling: x_0 is taken to be its mean, C = 0 and S = noise_std^2 I.

  Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023
  (arXiv 2209.14687), theorem 1. The paper's algorithm 1, whose steps are of a length
  that does not depend on the noise, is the sampler `dps_steps`.

  Args:
    predict: the network or the truth.
    observation: with noise_std > 0.
    strength: factor of the likelihood's gradient; 1 is the theorem's.

  Raises:
    ValueError: noise_std is 0.
  """
  observation.require_noise("dps")
  variance = observation.noise_std**2

  def solve(residual: Array, level: Level, product: Product) -> Solved:
    del level, product
    log_det = residual.shape[-1] * jnp.log(variance)
    return Solved(strength * residual / variance, jnp.broadcast_to(log_det, residual.shape[:-1]))

  return Conditional(predict, observation, solve, gradients=1)


@checked
def pigdm(
  predict: Predict,
  observation: Observation,
  *,
  prior_std: Annotated[Array | float, Above(0)] = 1.0,
) -> Conditional:
  """Pseudoinverse-guided diffusion: C = r^2 I, the covariance if the data were Gaussian.

      1 / r^2 = 1 / prior_std^2 + alpha^2 / sigma^2

  Song et al., "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023,
  section 3, where prior_std is 1. Their algorithm 1 then multiplies the gradient by r^2, which
  leaves the posterior; this does not.

  Args:
    predict: the network or the truth.
    observation: also with noise_std = 0.
    prior_std: std of the data.
  """
  law = Isotropic.of(observation)

  def solve(residual: Array, level: Level, product: Product) -> Solved:
    del product
    variance = (prior_std * level.sigma) ** 2 / ((prior_std * level.alpha) ** 2 + level.sigma**2)
    return Solved(*law.solve(residual, variance))

  return Conditional(predict, observation, solve, gradients=1)
