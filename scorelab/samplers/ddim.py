"""Denoising diffusion implicit models, for any Gaussian process.

Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021 (arXiv 2010.02502).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.schedules import Grid, Level, safe_sqrt
from scorelab.typing import Array, Key, Predict, Samples
from scorelab.validation import checked


@checked("sampler")
def ddim_step(
  pred: Prediction, now: Level, nxt: Level, z: Array, eta: Array | float = 0.0
) -> Array:
  """One step from level `now` to the cleaner level `nxt`.

  Keeps x0 and part of the noise, renews the rest. With r = sigma / alpha (eq. 16, process-free):

      renewed = eta r' sqrt(1 - (r' / r)^2)        kept = sqrt(r'^2 - renewed^2)
      x'      = alpha' (x0 + kept * noise + renewed * z)

  At eta = 0 it is Euler's step in r on the probability-flow ODE dy/dr = noise of y = x / alpha;
  at eta = 1 it draws from the Bayes posterior; on variance-exploding grids any eta is the
  ancestral Euler step.

  Args:
    pred: the prediction at `now`.
    now, nxt: scalar levels, nxt cleaner; nxt may be the data (sigma = 0), now pure noise
      (alpha = 0) where the prediction can say x0 there.
    z: standard normal of x's shape; without effect where eta = 0.
    eta: >= 0; clipped so that kept^2 >= 0.

  Returns:
    The point at `nxt`, of x's shape.
  """
  return renewing_step(pred, nxt, z, *noise_shares(now, nxt, eta))


def noise_shares(now: Level, nxt: Level, eta: Array | float) -> tuple[Array, Array]:
  """Returns the parts of r' that `ddim_step` renews and keeps, of eta's shape.

      renewed = min(eta sqrt(1 - shrink^2), 1)      kept^2 = 1 - renewed^2      shrink = r' / r

  On a long step at eta = 1, kept = shrink is small, and 1 - renewed^2 would lose its digits:
  instead, kept^2 = (1 - eta) (1 + eta) + (eta shrink)^2.
  """
  shrink = nxt.sigma / nxt.alpha * now.alpha / now.sigma  # finite also where alpha = 0
  renewed = jnp.minimum(eta * safe_sqrt(1 - shrink**2), 1)
  return renewed, safe_sqrt((1 - eta) * (1 + eta) + (eta * shrink) ** 2)


def renewing_step(
  pred: Prediction, nxt: Level, z: Array, renewed: Array | float, kept: Array | float
) -> Array:
  """`ddim_step` with the shares of r' given that it renews and keeps, each in [0, 1]."""
  return nxt.alpha * (pred.x0 + nxt.sigma / nxt.alpha * (kept * pred.noise + renewed * z))


@checked("sampler")
def ddim(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  eta: Array | float = 0.0,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by DDIM: one call of `predict` a step. Deterministic at eta = 0.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    eta: share of the Bayes posterior's noise that a step renews, >= 0.
    s_noise: the relative std of the noise drawn; 1 keeps the marginals.

  Returns:
    Samples of x's shape; nfe = N.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key]) -> tuple[Array, Array]:
    now, nxt, key = inputs
    z = s_noise * jax.random.normal(key, x.shape, x.dtype)
    x = ddim_step(predict(x, now), now, nxt, z, eta)
    return x, x

  x, path = jax.lax.scan(step, x, (*grid.pairs, jax.random.split(key, grid.num_steps)))
  return Samples(x, path, nfe=grid.num_steps)


@checked("sampler")
def ddim_inference(key: Key, x0: Array, grid: Grid, *, eta: Array | float = 0.0) -> Array:
  """A path of DDIM's inference process, which knows where it ends (eqs. 6 and 7).

  Draws x_N from q(x_N | x0), then steps from it by `ddim_step` with the true x0. For every eta
  each state's law is q(x_i | x0) = N(alpha_i x0, sigma_i^2 I) (lemma 1); eta says how much of the
  noise two states in succession share.

  Args:
    key: consumed.
    x0: clean points of any shape.
    grid: from noise to data, or to a last noisy level.
    eta: as `ddim`.

  Returns:
    The states at all N + 1 levels, [N + 1, *x0.shape]; the last is x0 where the grid ends at the
    data.
  """
  of_start, of_steps = jax.random.split(key)
  z = jax.random.normal(of_start, x0.shape, x0.dtype)
  x = grid[0].alpha * x0 + grid[0].sigma * z

  def predict(x: Array, level: Level) -> Prediction:
    return Prediction.of(x, level, "x0", x0=x0)

  return jnp.concatenate([x[None], ddim(of_steps, predict, x, grid, eta=eta).path])
