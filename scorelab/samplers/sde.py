"""Solvers of the reverse SDE, and ancestral samplers: deterministic solvers that renew noise.

An ancestral step of share eta solves the probability flow down to a level cleaner than the next
one, r_down = kept r', and adds noise of std renewed r', as `ddim_step` does in one stage.

References:
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), appendices E to G, algorithms 2 to 5.
  Lu et al., "DPM-Solver++" (arXiv 2211.01095), algorithm 1 (2S).
  Katherine Crowson, k-diffusion (2022): the ancestral forms, and DPM-Solver++ (SDE).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.samplers.ancestral import VARIANCES, ancestral_step
from scorelab.samplers.ddim import ddim_step, noise_shares, renewing_step
from scorelab.samplers.ode import geometric, level_between, ratio_change, scan_to_data
from scorelab.schedules import Grid, Level, Schedule, require_time, reverse_drift, safe_sqrt
from scorelab.typing import Array, Key, Predict, Samples
from scorelab.validation import checked


@checked("sampler")
def euler_maruyama(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  eta: Array | float = 1.0,
) -> Samples:
  """Samples by Euler and Maruyama's method on the reverse SDE in t: one call a step.

      x' = x - dt drift + eta g sqrt(dt) z        drift = f x - (1 + eta^2) / 2 g^2 score

  The step onto the data, and one from pure noise, where f is undefined, are DDIM's.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level; with times.
    eta: the diffusion's scale: every one has the same marginals as steps become many. 1 is
      Anderson's reversal, 0 Euler's method on the probability flow in t.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: the grid has no times.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key], one_call: bool) -> tuple[Array, Array]:
    now, nxt, key = inputs
    pred = predict(x, now)
    z = jax.random.normal(key, x.shape, x.dtype)
    straight = ddim_step(pred, now, nxt, z, jnp.minimum(eta, 1.0))
    if not one_call:
      moving = now.alpha > 0
      # From pure noise the SDE's step is not taken; its numbers are to be finite all the same.
      level = jax.tree.map(lambda a, b: jnp.where(moving, a, b), now, nxt)
      width = require_time(now) - require_time(nxt)
      drift = reverse_drift(grid.schedule, level, x, pred.score, eta=eta)
      spread = safe_sqrt(width * grid.schedule.diffusion_squared(require_time(level)))
      x = jnp.where(moving, x - width * drift + eta * spread * z, straight)
    else:
      x = straight
    return x, x

  x, path = scan_to_data(step, x, grid, jax.random.split(key, grid.num_steps))
  return Samples(x, path, nfe=grid.num_steps)


def _down(schedule: Schedule, now: Level, nxt: Level, kept: Array) -> Level:
  """The level half way in log-SNR down to kept r'."""
  # kept is 0 only where eta > 1: then the middle is put where it is still noisy.
  down = jnp.maximum(kept, 1e-6)
  return level_between(schedule, now, nxt, lambda a, b: geometric(a, down * b))


def _at(pred: Prediction, x0: Array, now: Level) -> Prediction:
  """The prediction of another x0 at the same point."""
  noise = pred.noise + now.alpha / now.sigma * (pred.x0 - x0)
  return Prediction.of(pred.x, now, "x0", x0=x0, noise=noise)


@checked("sampler")
def dpm_solver_2_ancestral(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  eta: Array | float = 1.0,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by DPM-Solver-2 and renewed noise: two calls of `predict` a step.

  The step onto the data is Euler's, one call. k-diffusion's DPM2 ancestral, diffusers' KDPM2
  ancestral.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    eta: as `ddim`: 0 is `dpm_solver_2`.
    s_noise: the relative std of the noise added.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key], one_call: bool) -> tuple[Array, Array]:
    now, nxt, key = inputs
    pred = predict(x, now)
    z = s_noise * jax.random.normal(key, x.shape, x.dtype)
    renewed, kept = noise_shares(now, nxt, eta)
    x = renewing_step(pred, nxt, z, renewed, kept)
    if not one_call:
      middle = _down(grid.schedule, now, nxt, kept)
      noise = predict(ddim_step(pred, now, middle, z, 0.0), middle).noise
      down = Level(None, nxt.alpha, kept * nxt.sigma)
      x = x + nxt.alpha * ratio_change(now, down) * (noise - pred.noise)
    return x, x

  x, path = scan_to_data(step, x, grid, jax.random.split(key, grid.num_steps))
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked("sampler")
def dpmpp_2s_ancestral(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  eta: Array | float = 1.0,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by DPM-Solver++(2S) and renewed noise: two calls of `predict` a step.

  A step keeps x0 as it is half a step on in log-SNR. Arguments and returns as
  `dpm_solver_2_ancestral`; eta = 0 is `dpmpp_2s`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key], one_call: bool) -> tuple[Array, Array]:
    now, nxt, key = inputs
    pred = predict(x, now)
    z = s_noise * jax.random.normal(key, x.shape, x.dtype)
    renewed, kept = noise_shares(now, nxt, eta)
    if not one_call:
      middle = _down(grid.schedule, now, nxt, kept)
      pred = _at(pred, predict(ddim_step(pred, now, middle, z, 0.0), middle).x0, now)
    x = renewing_step(pred, nxt, z, renewed, kept)
    return x, x

  x, path = scan_to_data(step, x, grid, jax.random.split(key, grid.num_steps))
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked("sampler")
def dpmpp_2s(key: Key, predict: Predict, x: Array, grid: Grid) -> Samples:
  """Samples by DPM-Solver++(2S): two calls of `predict` a step. Deterministic, of second order.

  Args:
    key, predict, x, grid: as `dpm_solver_2_ancestral`; no noise has an effect.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """
  return dpmpp_2s_ancestral(key, predict, x, grid, eta=0.0)


@checked("sampler")
def dpmpp_sde(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  eta: Array | float = 1.0,
  s_noise: Array | float = 1.0,
) -> Samples:
  """Samples by DPM-Solver++ (SDE): two calls of `predict` a step, both of which renew noise.

  The first is a `ddim_step` half way in log-SNR; the second, from the start, has its x0. Arguments
  and returns as `dpm_solver_2_ancestral`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key], one_call: bool) -> tuple[Array, Array]:
    now, nxt, keys = inputs
    pred = predict(x, now)
    first, second = (s_noise * jax.random.normal(keys[i], x.shape, x.dtype) for i in (0, 1))
    if not one_call:
      middle = level_between(grid.schedule, now, nxt, geometric)
      pred = _at(pred, predict(ddim_step(pred, now, middle, first, eta), middle).x0, now)
    x = ddim_step(pred, now, nxt, second, eta)
    return x, x

  x, path = scan_to_data(step, x, grid, jax.random.split(key, (grid.num_steps, 2)))
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked("sampler")
def corrector_step(pred: Prediction, z: Array, snr: Array | float, event_ndim: int | None) -> Array:
  """Takes a Langevin step at one level, x + h score + sqrt(2 h) z, with h from a ratio of norms.

      h = 2 (snr |z| / |score|)^2        norms of events, averaged over the batch

  Then the step |h score| is `snr` times its noise |sqrt(2 h) z|, as far as the norms are their
  averages. This `snr` is a rule for step sizes, and not the process's alpha / sigma (Song et al.
  2021, algorithms 4 and 5, whose epsilon is this h). For a variance-preserving process their h has
  another factor, which depends on the discretisation.

  Args:
    pred: the prediction at x.
    z: standard normal of x's shape.
    snr: > 0.
    event_ndim: how many trailing axes are one event; None for all of them. Static.
  """
  axes = None if event_ndim is None else tuple(range(-event_ndim, 0))

  def norm(a: Array) -> Array:
    return jnp.mean(jnp.sqrt(jnp.sum(a**2, axis=axes)))

  h = 2 * (snr * norm(z) / norm(pred.score)) ** 2
  return pred.x + h * pred.score + jnp.sqrt(2 * h) * z


@checked("sampler", variance=VARIANCES)
def predictor_corrector(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  snr: Array | float = 0.16,
  corrector_steps: int = 1,
  variance: str = "large",
  event_ndim: int | None = None,
) -> Samples:
  """Samples by ancestral steps, with Langevin steps at each level before them.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    snr: of the corrector, see `corrector_step`.
    corrector_steps: calls of `predict` at each level before the predictor's own. Static.
    variance: of the predictor, see `ancestral_step`: 'large' is Song's reverse diffusion. Static.
    event_ndim: how many trailing axes are one event, over which norms are taken; None for all.

  Returns:
    Samples of x's shape; nfe = (corrector_steps + 1) N.

  Raises:
    ValueError: as `ancestral_step`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Key]) -> tuple[Array, Array]:
    now, nxt, keys = inputs

    def correct(x: Array, key: Key) -> tuple[Array, None]:
      z = jax.random.normal(key, x.shape, x.dtype)
      return corrector_step(predict(x, now), z, snr, event_ndim), None

    x, _ = jax.lax.scan(correct, x, keys[:-1])
    z = jax.random.normal(keys[-1], x.shape, x.dtype)
    x = ancestral_step(predict(x, now), now, nxt, z, variance)
    return x, x

  keys = jax.random.split(key, (grid.num_steps, corrector_steps + 1))
  x, path = jax.lax.scan(step, x, (*grid.pairs, keys))
  return Samples(x, path, nfe=(corrector_steps + 1) * grid.num_steps)
