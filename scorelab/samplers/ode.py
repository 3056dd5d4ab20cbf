"""One-step solvers of the probability-flow ODE, with EDM's churn.

In the variance-exploding form, y = x / alpha and r = sigma / alpha, every process has the same ODE,

    dy / dr = noise(y, r)

and a step is first-order DDIM plus what a solver knows of the slope's change.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
NeurIPS 2022 (arXiv 2206.00364), algorithms 1 and 2.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.samplers.ddim import ddim_step
from scorelab.schedules import Grid, Level, Schedule
from scorelab.typing import Array, Key, Predict, Samples


def churned(
  x: Array,
  now: Level,
  z: Array,
  gamma: Array | float,
  *,
  schedule: Schedule,
  noise_scale: Array | float = 1.0,
) -> tuple[Array, Level]:
  """Adds fresh noise: from `now` to the level with (1 + gamma) times its r (algorithm 2, line 5).

  Args:
    x: points at `now`.
    now: a scalar level. Pure noise (alpha = 0) is left alone: it cannot be noisier.
    z: standard normal of x's shape.
    gamma: >= 0; at 0 nothing changes, to the bit.
    schedule: tells the level at the new r.
    noise_scale: EDM's S_noise, the std of the noise added, relative to what the level asks.

  Returns:
    The noisier points and their level.
  """
  churns = (gamma > 0) & (now.alpha > 0)
  alpha = jnp.where(churns, now.alpha, 1)
  ratio = now.sigma / alpha
  noisier = schedule.at_log_snr(-jnp.log(ratio * (1 + gamma)))
  added = noise_scale * ratio * jnp.sqrt(jnp.where(churns, gamma * (2 + gamma), 1))
  y = noisier.alpha * (x / alpha + added * z)
  level = jax.tree.map(lambda a, b: jnp.where(churns, a, b), noisier, now)
  return jnp.where(churns, y, x), level


def heun_correction(pred: Prediction, pred_next: Prediction, now: Level, nxt: Level) -> Array:
  """What Heun's step adds to Euler's: alpha' (r' - r) (noise' - noise) / 2, of x's shape.

  Zero from pure noise (alpha = 0), where r is infinite: Euler's step from there leaves an error of
  order alpha'^2 in x, and Heun's method stays of second order but for a logarithm.
  """
  finite = now.alpha > 0
  ratio = now.sigma / jnp.where(finite, now.alpha, 1)
  half_step = jnp.where(finite, (nxt.sigma / nxt.alpha - ratio) / 2, 0)
  return nxt.alpha * half_step * (pred_next.noise - pred.noise)


def _gamma(
  now: Level, num_steps: int, churn: Array | float, s_tmin: Array | float, s_tmax: Array | float
) -> Array:
  """EDM's gamma = min(churn / N, sqrt(2) - 1) within s_tmin <= r <= s_tmax, else 0."""
  inside = (s_tmin * now.alpha <= now.sigma) & (now.sigma <= s_tmax * now.alpha)
  return jnp.where(inside, jnp.minimum(churn / num_steps, math.sqrt(2) - 1), 0.0)


def _solve(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  churn: Array | float,
  s_tmin: Array | float,
  s_tmax: Array | float,
  s_noise: Array | float,
  *,
  second_order: bool,
) -> tuple[Array, Array]:
  """Euler's method, or Heun's up to the step onto the data: the end and the path."""

  def step(x: Array, inputs: tuple[Level, Level, Key], correct: bool) -> tuple[Array, Array]:
    now, nxt, key = inputs
    z = jax.random.normal(key, x.shape, x.dtype)
    gamma = _gamma(now, grid.num_steps, churn, s_tmin, s_tmax)
    x, now = churned(x, now, z, gamma, schedule=grid.schedule, noise_scale=s_noise)
    pred = predict(x, now)
    x = ddim_step(pred, now, nxt, z, 0.0)
    if correct:
      x = x + heun_correction(pred, predict(x, nxt), now, nxt)
    return x, x

  pairs, keys = grid.noisy_pairs, jax.random.split(key, grid.num_steps)
  scan_step = functools.partial(step, correct=second_order)
  x, path = jax.lax.scan(scan_step, x, (*pairs, keys[: pairs[0].sigma.shape[0]]))
  if grid.ends_at_data:
    x, _ = step(x, (grid[-2], grid[-1], keys[-1]), correct=False)
    path = jnp.concatenate([path, x[None]])
  return x, path


def euler(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  churn: Array | float = 0.0,
  s_tmin: Array | float = 0.0,
  s_tmax: Array | float = math.inf,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by Euler's method in r, with EDM's churn: one call of `predict` a step.

  Without churn it is DDIM at eta = 0 and ignores the key.

  Args:
    key: consumed.
    predict: the network or the truth; called after the noise is added.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    churn: S_churn >= 0, spread over the N steps.
    s_tmin, s_tmax: the range of r = sigma / alpha in which noise is added.
    s_noise: S_noise, the relative std of the noise added.

  Returns:
    Samples of x's shape; nfe = N.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  x, path = _solve(key, predict, x, grid, *options, second_order=False)
  return Samples(x, path, nfe=grid.num_steps)


def heun(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  churn: Array | float = 0.0,
  s_tmin: Array | float = 0.0,
  s_tmax: Array | float = math.inf,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by Heun's method in r, with EDM's churn (algorithm 2): two calls of `predict` a step.

  The step onto the data is Euler's, one call. Arguments as `euler`.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  x, path = _solve(key, predict, x, grid, *options, second_order=True)
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)
