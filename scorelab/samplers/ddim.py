"""Denoising diffusion implicit models, for any Gaussian process.

Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021 (arXiv 2010.02502).
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def ddim_step(
  pred: Prediction,
  now: Level,
  nxt: Level,
  z: Floats,
  eta: Annotated[Array | float, AtLeast(0)] = 0.0,
) -> Floats:
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
      (alpha = 0) if the prediction defines x0 there.
    z: standard normal of x's shape; without effect if eta = 0.
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
  pred: Prediction, nxt: Level, z: Floats, renewed: Array | float, kept: Array | float
) -> Floats:
  """Takes a `ddim_step` with explicit shares of r' to renew and to keep, each in [0, 1]."""
  return nxt.alpha * (pred.x0 + nxt.sigma / nxt.alpha * (kept * pred.noise + renewed * z))


@checked
def ddim(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
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

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    z = s_noise * noise.normal(x.shape, x.dtype)
    x = ddim_step(predict(x, now), now, nxt, z, eta)
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=grid.num_steps)


@checked
def ddim_inference(
  key: Key | Noise,
  x0: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 0.0,
) -> Float[Array, " levels *shape"]:
  """Draws a path of DDIM's inference process, which is conditioned on x0 (eqs. 6 and 7).

  Draws x_N from q(x_N | x0), then steps from it by `ddim_step` with the true x0. For every eta
  each state's law is q(x_i | x0) = N(alpha_i x0, sigma_i^2 I) (lemma 1); eta sets how much of the
  noise successive states share.

  Args:
    key: consumed.
    x0: clean points of any shape.
    grid: from noise to data, or to a last noisy level.
    eta: see `ddim`.

  Returns:
    The states at all N + 1 levels, [N + 1, *x0.shape]; the last is x0 if the grid ends at the data.
  """
  start, steps = as_noise(key).fork(2)
  x = grid[0].alpha * x0 + grid[0].sigma * start.normal(x0.shape, x0.dtype)

  def predict(x: Array, level: Level) -> Prediction:
    return Prediction.of(x, level, "x0", x0=x0)

  return jnp.concatenate([x[None], ddim(steps, predict, x, grid, eta=eta).path])
