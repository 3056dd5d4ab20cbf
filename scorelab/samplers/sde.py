"""Solvers of the reverse SDE, and ancestral samplers: deterministic solvers that renew noise.

An ancestral step solves the probability flow to r_down = kept r', a level cleaner than the next
one, and adds noise of std renewed r'; kept^2 + renewed^2 = 1. `ddim_step` does so in one stage.

References:
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), appendices E to G, algorithms 2 to 5.
  Lu et al., "DPM-Solver++" (arXiv 2211.01095), algorithm 1 (2S).
  Katherine Crowson, k-diffusion (2022): the ancestral forms, and DPM-Solver++ (SDE).
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast
from scorelab.samplers.ancestral import VARIANCES, ancestral_step
from scorelab.samplers.ddim import ddim_step, noise_shares, renewing_step
from scorelab.samplers.noise import Noise, as_noise
from scorelab.samplers.ode import geometric, level_between, ratio_change, scan_to_data
from scorelab.schedules import Grid, Level, Schedule, require_time, reverse_drift, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def euler_maruyama(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
) -> Samples:
  """Samples by the Euler-Maruyama method on the reverse SDE in t: one call of `predict` a step.

      x' = x - dt drift + eta g sqrt(dt) z        drift = f x - (1 + eta^2) / 2 g^2 score

  The step onto the data, and one from pure noise, where f is undefined, are DDIM's.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level; with times.
    eta: scale of the diffusion; all have the same marginals in the limit of many steps. 1 is
      Anderson's reversal, 0 Euler's method on the probability flow in t.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: the grid has no times.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    z = noise.normal(x.shape, x.dtype)
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

  noise = as_noise(key).split(grid.num_steps)
  x, path = scan_to_data(step, x, grid, noise)
  return Samples(x, path, nfe=grid.num_steps)


def _down(schedule: Schedule, now: Level, nxt: Level, kept: Array) -> Level:
  """Returns the level half way in log-SNR to kept r'."""
  # kept is 0 only where eta > 1: then the middle is put where it is still noisy.
  down = jnp.maximum(kept, 1e-6)
  return level_between(schedule, now, nxt, lambda a, b: geometric(a, down * b))


def _at(pred: Prediction, x0: Array, now: Level) -> Prediction:
  """Returns a prediction of another x0 at the same point."""
  noise = pred.noise + now.alpha / now.sigma * (pred.x0 - x0)
  return Prediction.of(pred.x, now, "x0", x0=x0, noise=noise)


@checked
def dpm_solver_2_ancestral(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by DPM-Solver-2 and renewed noise: two calls of `predict` a step.

  The step onto the data is Euler's, one call. k-diffusion's DPM2 ancestral, diffusers' KDPM2
  ancestral.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    eta: share of the Bayes posterior's noise that a step renews; 0 is deterministic.
    s_noise: the relative std of the noise added.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    z = s_noise * noise.normal(x.shape, x.dtype)
    renewed, kept = noise_shares(now, nxt, eta)
    x = renewing_step(pred, nxt, z, renewed, kept)
    if not one_call:
      middle = _down(grid.schedule, now, nxt, kept)
      noise = predict(ddim_step(pred, now, middle, z, 0.0), middle).noise
      down = Level(None, nxt.alpha, kept * nxt.sigma)
      x = x + nxt.alpha * ratio_change(now, down) * (noise - pred.noise)
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = scan_to_data(step, x, grid, noise)
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked
def dpmpp_2s_ancestral(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by DPM-Solver++(2S) and renewed noise: two calls of `predict` a step.

  A step holds x0 constant at its value half way in log-SNR. Returned values: see
  `dpm_solver_2_ancestral`; eta = 0 is `dpmpp_2s`.

  Args:
    eta, s_noise: as for `dpm_solver_2_ancestral`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    z = s_noise * noise.normal(x.shape, x.dtype)
    renewed, kept = noise_shares(now, nxt, eta)
    if not one_call:
      middle = _down(grid.schedule, now, nxt, kept)
      pred = _at(pred, predict(ddim_step(pred, now, middle, z, 0.0), middle).x0, now)
    x = renewing_step(pred, nxt, z, renewed, kept)
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = scan_to_data(step, x, grid, noise)
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked
def dpmpp_2s(key: Key | Noise, predict: Predict, x: Floats, grid: Grid) -> Samples:
  """Samples by DPM-Solver++(2S): two calls of `predict` a step. Deterministic, of second order.

  Args:
    key: consumed without effect.
    predict, x, grid: see `dpm_solver_2_ancestral`.

  Returns:
    Samples of x's shape; nfe = 2 N - 1 on a grid that ends at the data, else 2 N.
  """
  return dpmpp_2s_ancestral(key, predict, x, grid, eta=0.0)


@checked
def dpmpp_sde(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
) -> Samples:
  """Samples by DPM-Solver++ (SDE): two calls of `predict` a step, both of which renew noise.

  The first is a `ddim_step` half way in log-SNR; the second starts from x again with that x0. It
  draws twice a step. Returned values: see `dpm_solver_2_ancestral`.

  Args:
    eta, s_noise: as for `dpm_solver_2_ancestral`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise], one_call: bool) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    first, second = (s_noise * noise[i].normal(x.shape, x.dtype) for i in (0, 1))
    if not one_call:
      middle = level_between(grid.schedule, now, nxt, geometric)
      pred = _at(pred, predict(ddim_step(pred, now, middle, first, eta), middle).x0, now)
    x = ddim_step(pred, now, nxt, second, eta)
    return x, x

  noise = as_noise(key).split((grid.num_steps, 2))
  x, path = scan_to_data(step, x, grid, noise)
  return Samples(x, path, nfe=2 * grid.num_steps - grid.ends_at_data)


@checked
def corrector_step(
  pred: Prediction, z: Floats, snr: Annotated[Array | float, Above(0)], event_ndim: int | None
) -> Floats:
  """Takes a Langevin step at one level, x + h score + sqrt(2 h) z, with h from a ratio of norms.

      h = 2 (snr |z| / |score|)^2        norms of events, averaged over the batch

  Then the step |h score| is `snr` times its noise |sqrt(2 h) z|, if norms equal their averages.
  This `snr` is a rule for step sizes, and not the process's alpha / sigma (Song et al. 2021,
  algorithms 4 and 5, whose epsilon is this h). For a variance-preserving process their h has
  another factor, which depends on the discretisation.

  Args:
    pred: the prediction at x.
    z: standard normal of x's shape.
    snr: > 0.
    event_ndim: number of trailing axes of one event; None for all of them. Static.
  """
  axes = None if event_ndim is None else tuple(range(-event_ndim, 0))

  def norm(a: Array) -> Array:
    return jnp.mean(jnp.sqrt(jnp.sum(a**2, axis=axes)))

  h = 2 * (snr * norm(z) / norm(pred.score)) ** 2
  return pred.x + h * pred.score + jnp.sqrt(2 * h) * z


@checked(variance=VARIANCES)
def predictor_corrector(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  snr: Annotated[Array | float, Above(0)] = 0.16,
  corrector_steps: Annotated[int, AtLeast(0)] = 1,
  variance: str = "large",
  event_ndim: int | None = None,
) -> Samples:
  """Samples by ancestral steps, with Langevin steps at each level before them.

  Args:
    key: consumed; corrector_steps + 1 draws a step, the predictor's last.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    snr: the corrector's ratio of the step to its noise, see `corrector_step`.
    corrector_steps: calls of `predict` at each level before the predictor's own. Static.
    variance: variance of the predictor's noise, see `ancestral_step`: 'large' is Song's reverse
      diffusion. Static.
    event_ndim: number of trailing axes of one event, over which norms are taken; None for all.

  Returns:
    Samples of x's shape; nfe = (corrector_steps + 1) N.

  Raises:
    ValueError: see `ancestral_step`.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs

    def correct(x: Array, noise: Noise) -> tuple[Array, None]:
      z = noise.normal(x.shape, x.dtype)
      return corrector_step(predict(x, now), z, snr, event_ndim), None

    x, _ = jax.lax.scan(correct, x, noise[:-1], length=corrector_steps)
    z = noise[-1].normal(x.shape, x.dtype)
    x = ancestral_step(predict(x, now), now, nxt, z, variance)
    return x, x

  noise = as_noise(key).split((grid.num_steps, corrector_steps + 1))
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=(corrector_steps + 1) * grid.num_steps)
