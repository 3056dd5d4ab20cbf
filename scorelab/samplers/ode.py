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
from collections.abc import Callable

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.samplers.ddim import ddim_step
from scorelab.schedules import Grid, Level, Schedule
from scorelab.typing import Array, Key, Predict, Samples
from scorelab.validation import checked


@checked("sampler")
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


def ratio_change(now: Level, nxt: Level) -> Array:
  """r' - r; 0 from pure noise (alpha = 0), where r is infinite."""
  finite = now.alpha > 0
  ratio = now.sigma / jnp.where(finite, now.alpha, 1)
  return jnp.where(finite, nxt.sigma / nxt.alpha - ratio, 0)


def slope_correction(pred: Prediction, slope: Array, now: Level, nxt: Level) -> Array:
  """What a step with `slope` for dy / dr adds to Euler's: alpha' (r' - r) (slope - noise).

  Zero from pure noise (alpha = 0), where r is infinite: Euler's step from there leaves an error of
  order alpha'^2 in x, and a method of second order stays so but for a logarithm.
  """
  return nxt.alpha * ratio_change(now, nxt) * (slope - pred.noise)


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
  between: Callable[[Array, Array], Array] | None = None,
  share: float = 1.0,
) -> Samples:
  """Euler's method, or one of two stages up to the step onto the data.

  The second stage is Euler's point at r_m = between(r, r'), where the slope is taken to be
  share noise_m + (1 - share) noise.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key], one_call: bool) -> tuple[Array, Array]:
    now, nxt, key = inputs
    z = jax.random.normal(key, x.shape, x.dtype)
    gamma = _gamma(now, grid.num_steps, churn, s_tmin, s_tmax)
    x, now = churned(x, now, z, gamma, schedule=grid.schedule, noise_scale=s_noise)
    pred = predict(x, now)
    x = ddim_step(pred, now, nxt, z, 0.0)
    if between is not None and not one_call:
      if between is _end:
        middle, stage = nxt, x
      else:
        middle = level_between(grid.schedule, now, nxt, between)
        stage = ddim_step(pred, now, middle, z, 0.0)
      slope = share * predict(stage, middle).noise + (1 - share) * pred.noise
      x = x + slope_correction(pred, slope, now, nxt)
    return x, x

  x, path = scan_to_data(step, x, grid, jax.random.split(key, grid.num_steps))
  calls = 1 if between is None else 2
  return Samples(x, path, nfe=calls * grid.num_steps - grid.ends_at_data * (calls - 1))


def _end(now: Array, nxt: Array) -> Array:
  """r' itself."""
  del now
  return nxt


def arithmetic(now: Array, nxt: Array) -> Array:
  """The r half way from r to r'."""
  return (now + nxt) / 2


def geometric(now: Array, nxt: Array) -> Array:
  """The r half way in log-SNR."""
  return jnp.sqrt(now) * jnp.sqrt(nxt)


def level_between(
  schedule: Schedule, now: Level, nxt: Level, between: Callable[[Array, Array], Array]
) -> Level:
  """The level at the r that `between` gives of those of two; `nxt`'s where `now` is pure noise."""
  finite = now.alpha > 0
  ratio = nxt.sigma / nxt.alpha
  return schedule.at_ratio(
    between(jnp.where(finite, now.sigma / jnp.where(finite, now.alpha, 1), ratio), ratio)
  )


def scan_to_data(
  step: Callable[..., tuple[Array, Array]], x: Array, grid: Grid, keys: Key | None
) -> tuple[Array, Array]:
  """Scans step(x, (now, nxt, key), one_call): in one call onto the data. The end and the path."""
  pairs = grid.noisy_pairs
  count = grid.num_steps - grid.ends_at_data
  first = None if keys is None else keys[:count]
  x, path = jax.lax.scan(functools.partial(step, one_call=False), x, (*pairs, first))
  if grid.ends_at_data:
    x, _ = step(x, (grid[-2], grid[-1], None if keys is None else keys[-1]), one_call=True)
    path = jnp.concatenate([path, x[None]])
  return x, path


@checked("sampler")
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
  return _solve(key, predict, x, grid, churn, s_tmin, s_tmax, s_noise)


@checked("sampler")
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
  return _solve(key, predict, x, grid, *options, between=_end, share=0.5)


@checked("sampler")
def midpoint(
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
  """Samples by the midpoint method: the slope at (r + r') / 2. Arguments and returns as `heun`."""
  options = (churn, s_tmin, s_tmax, s_noise)
  return _solve(key, predict, x, grid, *options, between=arithmetic)


@checked("sampler")
def dpm_solver_2(
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
  """Samples by DPM-Solver-2: the slope half a step on in log-SNR, at sqrt(r r').

  Lu et al. 2022 (arXiv 2206.00927), algorithm 1; k-diffusion's DPM2, with churn, and diffusers'
  KDPM2. Arguments and returns as `heun`.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  return _solve(key, predict, x, grid, *options, between=geometric)


@checked("sampler")
def rk4(key: Key, predict: Predict, x: Array, grid: Grid) -> Samples:
  """Samples by Runge and Kutta's classic method in r: four calls of `predict` a step.

  The step onto the data is Euler's, one call.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.

  Returns:
    Samples of x's shape; nfe = 4 N - 3 on a grid that ends at the data, else 4 N.
  """
  del key

  def step(x: Array, inputs: tuple[Level, Level, None], one_call: bool) -> tuple[Array, Array]:
    now, nxt, _ = inputs
    if one_call:
      x = ddim_step(predict(x, now), now, nxt, jnp.zeros_like(x), 0.0)
    else:
      middle = level_between(grid.schedule, now, nxt, arithmetic)
      x, _ = rk4_step(predict, x, now, middle, nxt)
    return x, x

  x, path = scan_to_data(step, x, grid, None)
  return Samples(x, path, nfe=4 * grid.num_steps - 3 * grid.ends_at_data)


def rk4_step(
  predict: Predict, x: Array, now: Level, middle: Level, nxt: Level
) -> tuple[Array, Array]:
  """One step of Runge and Kutta's from `now` to `nxt`, both noisy, and the noise at its start.

  Of fourth order where `middle` is half way in r; of second otherwise, as in PNDM.
  """
  pred = predict(x, now)

  def stage(slope: Array, level: Level) -> Array:
    point = ddim_step(pred, now, level, jnp.zeros_like(x), 0.0)
    return point + slope_correction(pred, slope, now, level)

  first = pred.noise
  second = predict(stage(first, middle), middle).noise
  third = predict(stage(second, middle), middle).noise
  fourth = predict(stage(third, nxt), nxt).noise
  return stage((first + 2 * second + 2 * third + fourth) / 6, nxt), first
