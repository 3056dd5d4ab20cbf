"""DPS's published loop, DiffPIR, RePaint and DDRM: one prediction per step, no particles."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation
from scorelab.inverse.projection import proximal
from scorelab.inverse.spectrum import Spectrum
from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast, Between
from scorelab.samplers.ancestral import ancestral_step
from scorelab.samplers.ddim import renewing_step
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def dps_steps(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  step_size: Annotated[Array | float, AtLeast(0)] = 1.0,
) -> Samples:
  """Diffusion posterior sampling as published: ancestral steps, each followed by a gradient step.

      x_s = ancestral step - step_size grad_x |y - A x0(x_t)|

  Chung et al., ICLR 2023 (arXiv 2209.14687), algorithm 1, with the step size of their code:
  its length depends neither on noise_std nor on the grid, which had 1,000 steps.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise to data, or to a last noisy level.
    observation: its noise_std is ignored.
    step_size: their zeta.
  """

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs

    def distance(x: Array) -> tuple[Array, Prediction]:
      pred = predict(x, now)
      norms = safe_sqrt(jnp.sum(observation.residual(pred.x0) ** 2, axis=-1))
      return jnp.sum(norms), pred

    gradient, pred = jax.grad(distance, has_aux=True)(x)
    z = noise.normal(x.shape, x.dtype)
    x = ancestral_step(pred, now, nxt, z) - step_size * gradient
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=grid.num_steps, gradients=grid.num_steps)


@checked
def diffpir(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  trust: Annotated[Array | float, Above(0)] = 7.0,
  renewed: Annotated[Array | float, Between(0, 1)] = 0.3,
) -> Samples:
  """Plug-and-play restoration: x0 moves towards y, and a constant share of the noise is renewed.

      x_s = alpha_s x0' + sigma_s (sqrt(1 - renewed) noise' + sqrt(renewed) z)

  with x0' and noise' of `proximal`. Zhu et al., CVPRW 2023 (arXiv 2305.08995), algorithm 1.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise with alpha > 0 to data, or to a last noisy level.
    observation: also without noise.
    trust: their lambda.
    renewed: their zeta.
  """
  conditional = proximal(predict, observation, trust=trust)

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    z = noise.normal(x.shape, x.dtype)
    x = renewing_step(conditional(x, now), nxt, z, jnp.sqrt(renewed), jnp.sqrt(1 - renewed))
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=grid.num_steps)


@checked
def repaint(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  repeats: Annotated[int, AtLeast(1)] = 10,
) -> Samples:
  """RePaint: the part of x that A sees is that of a noised y; every step is repeated.

      x_s = (I - A^+ A) ancestral step + A^+ (alpha_s y + sigma_s A n)

  after which x_s is noised to the level before, `repeats` - 1 times, so that both parts agree.
  Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", CVPR 2022
  (arXiv 2201.09865), algorithm 1, with jumps of one step; for a mask the projection is theirs.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise to data, or to a last noisy level.
    observation: taken to be free of noise.
    repeats: predictions per step. Static.
  """
  exact = Isotropic.of(Observation(observation.operator, observation.y, 0.0))
  one = jnp.ones(())

  def once(x: Array, inputs: tuple[Level, Level, Noise, Array]) -> tuple[Array, Array]:
    now, nxt, noise, last = inputs
    stepping, seeing, back = noise.fork(3)
    x = ancestral_step(predict(x, now), now, nxt, stepping.normal(x.shape, x.dtype))
    n = seeing.normal(x.shape, x.dtype)
    # The point of the range of A' that y sees, noised: exact.mean(v, 1) is v moved onto y = A x.
    shift = (x - nxt.sigma * n) / nxt.alpha
    clean = nxt.alpha * exact.mean(shift, one) + nxt.sigma * n
    a = now.alpha / nxt.alpha
    z = back.normal(x.shape, x.dtype)
    again = a * clean + safe_sqrt(now.sigma**2 - (a * nxt.sigma) ** 2) * z
    return jnp.where(last, clean, again), clean

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    tile = jax.tree.map(lambda a: jnp.broadcast_to(a, (repeats, *a.shape)), (now, nxt))
    last = jnp.arange(repeats) == repeats - 1
    x, _ = jax.lax.scan(once, x, (*tile, noise.split(repeats), last))
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=repeats * grid.num_steps)


@checked
def ddrm(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  eta: Annotated[Array | float, Between(0, 1)] = 0.85,
  eta_seen: Annotated[Array | float, Between(0, 1)] = 1.0,
) -> Samples:
  """Denoising diffusion restoration: in the coordinates in which A is diagonal, each by its noise.

  With z = V' x / alpha, r = sigma / alpha and y_i / s_i seen with noise of std r_i, at the next r',

      unseen    z' = z0 + r' (sqrt(1 - eta^2) noise + eta n)
      r' < r_i  z' = z0 + r' (sqrt(1 - eta^2) (y_i / s_i - z0) / r_i + eta n)
      r' >= r_i z' = (1 - eta_seen) z0 + eta_seen y_i / s_i + sqrt(r'^2 - (eta_seen r_i)^2) n

  Kawar et al., "Denoising Diffusion Restoration Models", NeurIPS 2022 (arXiv 2201.11793).

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise with alpha > 0 to data, or to a last noisy level.
    observation: also without noise.
    eta: share of the noise that is renewed.
    eta_seen: their eta_b, weight of y where it is less noisy than x.
  """
  shape = observation.operator.event_shape
  spectrum = Spectrum.of(observation)
  y, seen, spread = spectrum.y, spectrum.seen, spectrum.noise_std
  own = jnp.where(seen & (spread > 0), spread, 1)
  kept = jnp.sqrt(1 - eta**2)

  def ratio(level: Level) -> Array:
    return level.sigma / level.alpha

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    z0, eps = (spectrum.along(view, len(shape)) for view in (pred.x0, pred.noise))
    n = noise.normal(z0.shape, z0.dtype)
    r = ratio(nxt)
    eps = jnp.where(seen, (y - z0) / own, eps)
    z = z0 + r * (kept * eps + eta * n)
    noisier = eta_seen * y + (1 - eta_seen) * z0
    noisier += safe_sqrt(r**2 - (eta_seen * jnp.where(seen, spread, 0)) ** 2) * n
    z = jnp.where(seen & (r >= spread), noisier, z)
    x = nxt.alpha * spectrum.back(z, shape)
    return x, x

  first = grid[0]
  r = ratio(first)
  unit = spectrum.along(x, len(shape)) / grid.schedule.prior_std(first)
  start = y + safe_sqrt(r**2 - jnp.where(seen, spread, 0) ** 2) * unit
  start = jnp.where(seen & (r >= spread), start, r * unit)
  x = first.alpha * spectrum.back(start, shape)
  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=grid.num_steps)
