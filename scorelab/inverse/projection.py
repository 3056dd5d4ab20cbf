"""DDNM and DiffPIR's denoiser: x0 is moved onto, or towards, the points that y allows."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation
from scorelab.predictions import Prediction
from scorelab.ranges import Above
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import checked


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
  exact = Isotropic.of(Observation(observation.operator, observation.y, 0.0))

  def conditional(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    x0 = exact.mean(pred.x0, jnp.ones(()))
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
  (arXiv 2305.08995), algorithm 1. The noise is what x0' leaves of x: the sampler `diffpir`
  renews a constant share of it; any other sampler can be used.

  Args:
    predict: the network or the truth.
    observation: noise_std = 0 gives `ddnm`'s x0.
    trust: their lambda, trust in the network.
  """
  law = Isotropic.of(observation)

  def conditional(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    at = level.like(observation.residual(pred.x0))
    return Prediction.of(x, level, "x0", x0=law.mean(pred.x0, (at.sigma / at.alpha) ** 2 / trust))

  return conditional
