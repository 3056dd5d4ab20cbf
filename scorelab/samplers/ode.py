"""One-step solvers of the probability-flow ODE, with EDM's churn.

In the variance-exploding form, y = x / alpha and r = sigma / alpha, every process has the same ODE,

    dy / dr = noise(y, r)

and a step is first-order DDIM plus a correction of the slope, alpha' (r' - r) (slope - noise).

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
NeurIPS 2022 (arXiv 2206.00364), algorithms 1 and 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast
from scorelab.samplers.ddim import ddim_step
from scorelab.samplers.noise import Noise, ZeroNoise, as_noise
from scorelab.schedules import Grid, Level, Schedule
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def churned(
  x: Floats,
  now: Level,
  z: Floats,
  gamma: Annotated[Array | float, AtLeast(0)],
  *,
  schedule: Schedule,
  noise_scale: Annotated[Array | float, AtLeast(0)] = 1.0,
) -> tuple[Floats, Level]:
  """Adds new noise: from `now` to the level with (1 + gamma) times its r (algorithm 2, line 5).

  Args:
    x: points at `now`.
    now: a scalar level. Pure noise (alpha = 0) is returned unchanged.
    z: standard normal of x's shape.
    gamma: >= 0; at 0 nothing changes, to the bit.
    schedule: gives the level at the new r.
    noise_scale: EDM's S_noise, the std of the noise added, relative to the level's.

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
  """Returns r' - r; 0 from pure noise (alpha = 0), where r is infinite."""
  finite = now.alpha > 0
  ratio = now.sigma / jnp.where(finite, now.alpha, 1)
  return jnp.where(finite, nxt.sigma / nxt.alpha - ratio, 0)


def slope_correction(pred: Prediction, slope: Floats, now: Level, nxt: Level) -> Floats:
  """Returns the change of Euler's step for another slope dy / dr: alpha' (r' - r) (slope - noise).

  Zero from pure noise (alpha = 0), where r is infinite: Euler's step from there has an error of
  order alpha'^2 in x, and a second-order method keeps its order up to a logarithm.
  """
  return nxt.alpha * ratio_change(now, nxt) * (slope - pred.noise)


def _gamma(
  now: Level, num_steps: int, churn: Array | float, s_tmin: Array | float, s_tmax: Array | float
) -> Array:
  """EDM's gamma = min(churn / N, sqrt(2) - 1) within s_tmin <= r <= s_tmax, else 0."""
  inside = (s_tmin * now.alpha <= now.sigma) & (now.sigma <= s_tmax * now.alpha)
  return jnp.where(inside, jnp.minimum(churn / num_steps, math.sqrt(2) - 1), 0.0)


def _solve(
  key: Key | Noise,
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
  """Samples by Euler's method, or a two-stage method with an Euler step onto the data.

  The second stage is Euler's point at r_m = between(r, r'), where the slope is taken to be
  share noise_m + (1 - share) noise.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    z = noise.normal(x.shape, x.dtype)
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

  noise = as_noise(key).split(grid.num_steps)
  x, path = scan_to_data(step, x, grid, noise)
  calls = 1 if between is None else 2
  return Samples(x, path, nfe=calls * grid.num_steps - grid.ends_at_data * (calls - 1))


def _end(now: Array, nxt: Array) -> Array:
  """Returns r'."""
  del now
  return nxt


def arithmetic(now: Array, nxt: Array) -> Array:
  """Returns the mean of r and r'."""
  return (now + nxt) / 2


def geometric(now: Array, nxt: Array) -> Array:
  """Returns the r half way in log-SNR."""
  return jnp.sqrt(now) * jnp.sqrt(nxt)


def level_between(
  schedule: Schedule, now: Level, nxt: Level, between: Callable[[Array, Array], Array]
) -> Level:
  """Returns the level at r = between(r, r'); that of `nxt` if `now` is pure noise."""
  finite = now.alpha > 0
  ratio = nxt.sigma / nxt.alpha
  return schedule.at_ratio(
    between(jnp.where(finite, now.sigma / jnp.where(finite, now.alpha, 1), ratio), ratio)
  )


def scan_to_data(
  step: Callable[..., tuple[Array, Array]], x: Array, grid: Grid, noise: Noise
) -> tuple[Array, Array]:
  """Scans step(x, (now, nxt, noise), one_call), and returns the last state and the path.

  `one_call` is True for the step onto the data.
  """
  pairs = grid.noisy_pairs
  count = grid.num_steps - grid.ends_at_data
  x, path = jax.lax.scan(functools.partial(step, one_call=False), x, (*pairs, noise[:count]))
  if grid.ends_at_data:
    x, _ = step(x, (grid[-2], grid[-1], noise[-1]), one_call=True)
    path = jnp.concatenate([path, x[None]])
  return x, path


@checked
def euler(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  churn: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmin: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmax: Annotated[Array | float, Above(0)] = math.inf,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
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


@checked
def heun(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  churn: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmin: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmax: Annotated[Array | float, Above(0)] = math.inf,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by Heun's method in r, with EDM's churn (algorithm 2): two calls of `predict` a step.

  The step onto the data is Euler's, one call.

  Args:
    churn, s_tmin, s_tmax, s_noise: as for `euler`.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  return _solve(key, predict, x, grid, *options, between=_end, share=0.5)


@checked
def midpoint(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  churn: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmin: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmax: Annotated[Array | float, Above(0)] = math.inf,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by the midpoint method: the slope at (r + r') / 2. See `heun`.

  Args:
    churn, s_tmin, s_tmax, s_noise: as for `euler`.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  return _solve(key, predict, x, grid, *options, between=arithmetic)


@checked
def dpm_solver_2(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  churn: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmin: Annotated[Array | float, AtLeast(0)] = 0.0,
  s_tmax: Annotated[Array | float, Above(0)] = math.inf,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by DPM-Solver-2: the slope half a step on in log-SNR, at sqrt(r r').

  Lu et al. 2022 (arXiv 2206.00927), algorithm 1; k-diffusion's DPM2, with churn, and diffusers'
  KDPM2. See `heun`.

  Args:
    churn, s_tmin, s_tmax, s_noise: as for `euler`.
  """
  options = (churn, s_tmin, s_tmax, s_noise)
  return _solve(key, predict, x, grid, *options, between=geometric)


@checked
def rk4(key: Key | Noise, predict: Predict, x: Floats, grid: Grid) -> Samples:
  """Samples by the classic Runge-Kutta method in r: four calls of `predict` a step.

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

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, _ = inputs
    if one_call:
      x = ddim_step(predict(x, now), now, nxt, jnp.zeros_like(x), 0.0)
    else:
      middle = level_between(grid.schedule, now, nxt, arithmetic)
      x, _ = rk4_step(predict, x, now, middle, nxt)
    return x, x

  x, path = scan_to_data(step, x, grid, ZeroNoise())
  return Samples(x, path, nfe=4 * grid.num_steps - 3 * grid.ends_at_data)


def rk4_step(
  predict: Predict, x: Floats, now: Level, middle: Level, nxt: Level
) -> tuple[Floats, Floats]:
  """Takes a Runge-Kutta step from `now` to `nxt`, both noisy; returns x and the noise at its start.

  Fourth order if `middle` is half way in r; second order otherwise, as in PNDM.
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
