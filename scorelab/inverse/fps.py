"""Filtering posterior sampling: y is noised along the grid, and the particles follow it.

With z_t = x_t / alpha and r = sigma / alpha, y_t = y + A (z_t - z_0) is what x_t would be seen as.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from scorelab.inverse.observation import Observation
from scorelab.inverse.spectrum import Spectrum, log_normal
from scorelab.ranges import AtLeast, Between
from scorelab.samplers.noise import Noise, as_noise
from scorelab.samplers.particles import Filter, drawn, run, starts
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def fps_smc(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  particles: Annotated[int, AtLeast(1)] = 32,
  renewed: Annotated[Array | float, Between(0, 1)] = 1.0,
  threshold: Annotated[Array | float, Between(0, 1)] = 1.0,
) -> Samples:
  """Filtering posterior sampling: a particle filter per sample, given y noised to every level.

      y_s = y + sqrt(1 - renewed) (r_s / r_t) (y_t - y) + sqrt(renewed) r_s A n      n ~ N(0, I)
      x_s ~ p(x_s | x_t) N(alpha_s y_s; A x_s, alpha_s^2 noise_std^2 I), weighted by its integral

  Dou and Song, "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering
  Perspective", ICLR 2024. The noised y of a sample are drawn before,
  one path for all its particles.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise with alpha > 0 to data.
    observation: with noise_std > 0.
    particles: per sample; 1 is their FPS. Static.
    renewed: share of y's noise that a step renews.
    threshold: resamples below this share of the effective sample size.
  """
  observation.require_noise("fps_smc")
  shape = observation.operator.event_shape
  spectrum = Spectrum.of(observation)
  seen, squares = spectrum.seen, spectrum.noise_std**2
  starting, noising, running, choosing = as_noise(key).fork(4)
  x = starts(starting, x, grid, particles)
  n, dim = x.shape[0], spectrum.y.size

  def ratio(level: Level) -> Array:
    return level.sigma / level.alpha

  first, steps = noising.fork(2)
  y_start = spectrum.y + ratio(grid[0]) * first.normal((n, dim), x.dtype)

  def follow(y: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    kept = jnp.sqrt(1 - renewed) * ratio(nxt) / ratio(now) * (y - spectrum.y)
    y = spectrum.y + kept + jnp.sqrt(renewed) * ratio(nxt) * noise.normal(y.shape, y.dtype)
    return y, y

  _, ys = jax.lax.scan(follow, y_start, (*grid.pairs, steps.split(grid.num_steps)))

  def look(x: Array, now: Level, nxt: Level, y: Array) -> tuple[Array, Any]:
    x0 = spectrum.along(predict(x, now).x0, len(shape))
    z = spectrum.along(x, len(shape)) / now.alpha
    shrink = (ratio(nxt) / ratio(now)) ** 2
    mean, variance = x0 + shrink * (z - x0), ratio(nxt) ** 2 * (1 - shrink)
    return jnp.sum(log_normal(mean, y[:, None], variance + squares, seen), axis=-1), mean

  def move(noise: Noise, mean: Any, now: Level, nxt: Level, y: Array) -> tuple[Array, Array]:
    variance = ratio(nxt) ** 2 * (1 - (ratio(nxt) / ratio(now)) ** 2)
    gain = jnp.where(seen, variance / (variance + jnp.where(seen, squares, 1)), 0)
    z = mean + gain * (y[:, None] - mean)
    z += jnp.sqrt(variance * (1 - gain)) * noise.normal(z.shape, z.dtype)
    return nxt.alpha * spectrum.back(z, shape), jnp.zeros(z.shape[:2], z.dtype)

  log_weights = jnp.full((n, particles), -jnp.log(particles), x.dtype)
  cloud = run(running, x, log_weights, grid, Filter(look, move, ys), threshold)
  calls = particles * grid.num_steps
  return Samples(drawn(choosing, cloud), cloud.path, calls, particles=particles)
