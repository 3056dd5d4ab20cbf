"""Ancestral sampling: draws the next level from its law given x and a predicted x_0.

For two levels t (now) and s (next, cleaner) of any Gaussian process,

    a = alpha_t / alpha_s      beta = sigma_t^2 - a^2 sigma_s^2      q(x_t | x_s) = N(a x_s, beta I)
    q(x_s | x_t, x_0) = N(c_x x_t + c_0 x_0, small I)
    (c_x, c_0, small) = (a sigma_s^2, alpha_s beta, beta sigma_s^2) / sigma_t^2

References:
  Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239),
    eqs. 6 and 7, algorithm 2. There alpha_s is 1 at the data and beta is 1 - a^2.
  Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021
    (arXiv 2102.09672), eq. 15.
  Bao et al., "Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion
    Probabilistic Models", ICLR 2022 (arXiv 2201.06503), theorem 1; and Bao et al., "Estimating the
    Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models", ICML 2022
    (arXiv 2206.07309), eq. 8, for a variance that depends on x.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from scorelab.losses import variational
from scorelab.predictions import Prediction
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

VARIANCES = (*variational.VARIANCES, "optimal")


@checked(variance=VARIANCES)
def ancestral_step(
  pred: Prediction, now: Level, nxt: Level, z: Floats, variance: str = "small"
) -> Floats:
  """One draw at the cleaner level `nxt`, given the prediction at `now`.

      x_s = c_x x_t + c_0 x0 + sqrt(v) z

      small    v = small, exact if x0 is known: DDIM at eta = 1
      large    v = beta, exact for data N(0, I) on a variance-preserving process
      optimal  v = small + c_0^2 Var[x_0 | x_t], which gives each coordinate of x_s its variance
      learned  log v = f log beta + (1 - f) log small, f the prediction's variance_fraction

  Args:
    pred: the prediction at `now`, with an x0_variance for 'optimal' and a variance_fraction for
      'learned'.
    now, nxt: scalar levels, nxt cleaner; nxt may be the data (sigma = 0), now pure noise
      (alpha = 0) if the prediction defines x0 there.
    z: standard normal of x's shape; without effect if nxt is the data.
    variance: one of VARIANCES. Static.

  Returns:
    The point at `nxt`, of x's shape.

  Raises:
    ValueError: the variance is unknown, or the prediction lacks a field that it needs.
  """
  a, shrink = now.alpha / nxt.alpha, nxt.sigma / now.sigma
  part = jnp.maximum(1 - (a * shrink) ** 2, 0)  # of sigma_t^2, the part that is beta
  beta, weight = part * now.sigma**2, part * nxt.alpha
  spread = part * nxt.sigma**2
  if variance == "large":
    spread = beta
  elif variance == "optimal":
    spread = spread + weight**2 * _required(pred.x0_variance, variance, "x0_variance")
  elif variance == "learned":
    fraction = _required(pred.variance_fraction, variance, "variance_fraction")
    spread = beta * shrink ** (2 * (1 - fraction))  # small = beta shrink^2
  drawn = (nxt.sigma > 0) & (spread > 0)  # the double where keeps the gradient finite
  std = jnp.where(drawn, jnp.sqrt(jnp.where(drawn, spread, 1)), 0)
  return a * shrink**2 * pred.x + weight * pred.x0 + std * z


@checked(variance=VARIANCES)
def ancestral(
  key: Key | Noise, predict: Predict, x: Floats, grid: Grid, *, variance: str = "small"
) -> Samples:
  """Samples by ancestral steps: one call of `predict` a step, no noise on the step onto the data.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    variance: variance of each step's noise: 'small', 'large', 'optimal' or 'learned', see
      `ancestral_step`. Static.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: see `ancestral_step`.
  """
  return _scan(functools.partial(ancestral_step, variance=variance), key, predict, x, grid.pairs)


@checked
def renoise_step(pred: Prediction, now: Level, nxt: Level, z: Floats) -> Floats:
  """Predicts x_0 and adds new noise to the level `nxt`: alpha' x0 + sigma' z.

  It keeps none of the noise in x, unlike an ancestral step: if x_0 is uncertain, the law at `nxt`
  is too narrow. It is `ddim_step` with eta so large that all noise is renewed.

  Arguments and returned values: see `ancestral_step`.
  """
  del now
  return nxt.alpha * pred.x0 + nxt.sigma * z


@checked
def renoise(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  denoise: bool = True,
  slips: bool = False,
) -> Samples:
  """Samples by `renoise_step`: one call of `predict` a step. The last one returns x0 itself.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    denoise: whether to take the step onto the data, if there is one; otherwise the samples stay
      at the last noisy level. Static.
    slips: takes the levels as a published loop over [-i], i = 0..N - 1, did: predicted at the
      cleanest level, then at the noisiest and on to the cleanest but one, and noised to the level
      where the step before predicted. Needs N >= 3 and a grid that ends at the data. Static.

  Returns:
    Samples of x's shape; nfe = N, or N - 1 if the step onto the data is not taken.

  Raises:
    ValueError: slips on a grid that is too short or does not end at the data.
  """
  if not slips:
    pairs = grid.pairs if denoise else grid.noisy_pairs
    return _scan(renoise_step, key, predict, x, pairs)
  if not grid.ends_at_data or grid.num_steps < 3:
    raise ValueError("slips = True needs a grid of at least 3 steps that ends at the data")
  noisy, _ = grid.pairs
  now, nxt = (jax.tree.map(lambda a, n=n: jnp.roll(a, n), noisy) for n in (1, 2))
  if denoise:
    nxt = jax.tree.map(lambda a, data: a.at[-1].set(data[-1]), nxt, grid.levels)
  return _scan(renoise_step, key, predict, x, (now, nxt))


def _scan(
  draw: Callable[[Prediction, Level, Level, Array], Array],
  key: Key | Noise,
  predict: Predict,
  x: Array,
  pairs: tuple[Level, Level],
) -> Samples:
  """Scans a step of one call of `predict` and one draw of noise over pairs of levels."""
  num_steps = pairs[0].alpha.shape[0]

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    x = draw(predict(x, now), now, nxt, noise.normal(x.shape, x.dtype))
    return x, x

  x, path = jax.lax.scan(step, x, (*pairs, as_noise(key).split(num_steps)))
  return Samples(x, path, nfe=num_steps)


def _required(value: Array | None, variance: str, field: str) -> Array:
  if value is None:
    raise ValueError(f"variance = {variance!r} needs a prediction with {field}")
  return value
