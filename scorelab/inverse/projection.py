"""DDNM and DiffPIR's denoiser: x0 is moved onto, or towards, the points that y allows."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from scorelab.inverse.observation import Observation
from scorelab.predictions import Prediction
from scorelab.ranges import Above
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import checked


def pulled(x0: Array, observation: Observation, ratio: Array | float) -> Array:
  """Returns argmin_x |x - x0|^2 + |y - A x|^2 / ratio, or the projection if the ratio is 0.

  That is x0 + A' (A A' + ratio I)^-1 (y - A x0). Parts of y that A does not see are not fitted.

  Args:
    x0: [*batch, *event].
    observation: its noise_std is not used.
    ratio: variance of y's noise over that of x0's error, broadcasting with [*batch, m].
  """
  matrix = observation.matrix
  squares, axes = jnp.linalg.eigh(jnp.matmul(matrix, matrix.T, precision="highest"))
  rounding = jnp.finfo(squares.dtype).eps * squares.size * jnp.max(squares)
  spread = jnp.where(squares > rounding, squares, 0) + ratio
  along = jnp.matmul(observation.residual(x0), axes, precision="highest")
  weights = jnp.where(spread > 0, along / jnp.where(spread > 0, spread, 1), 0)
  return x0 + observation.operator.adjoint(jnp.matmul(weights, axes.T, precision="highest"))


@checked
def ddnm(predict: Predict, observation: Observation) -> Predict:
  """Denoising diffusion null-space model: replaces the part of x0 that A sees by that of y.

      x0' = x0 + A^+ (y - A x0)

  Wang, Yu and Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
  ICLR 2023 (arXiv 2212.00490), eqs. 12 to 14. It takes y to be free of noise. The noise stays the
  network's, as in the authors' code; the sampler `ancestral` makes their eq. 14.

  Args:
    predict: the network or the truth.
    observation: its noise_std is ignored.
  """

  def conditional(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    x0 = pulled(pred.x0, observation, 0.0)
    return Prediction.of(x, level, "x0", x0=x0, noise=pred.noise)

  return conditional


@checked
def proximal(
  predict: Predict,
  observation: Observation,
  *,
  trust: Annotated[Array | float, Above(0)] = 1.0,
) -> Predict:
  """DiffPIR's denoiser: x0 moves to the mean of x0 + (sigma / alpha) / sqrt(trust) z given y.

      x0' = argmin_x |y - A x|^2 / (2 noise_std^2) + trust alpha^2 / (2 sigma^2) |x - x0|^2

  Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPRW 2023
  (arXiv 2305.08995), eq. 13. The noise is what x0' leaves of x (eq. 14): the sampler `diffpir`
  renews a constant share of it; any other sampler can be used.

  Args:
    predict: the network or the truth.
    observation: noise_std = 0 gives `ddnm`'s x0.
    trust: their lambda, trust in the network.
  """

  def conditional(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    at = level.like(observation.operator(x))
    ratio = trust * (observation.noise_std * at.alpha / at.sigma) ** 2
    return Prediction.of(x, level, "x0", x0=pulled(pred.x0, observation, ratio))

  return conditional
