"""Monte Carlo guided diffusion: a particle filter in the coordinates in which A is diagonal.

Coordinate i of z = V' x_t / alpha, which is z_0 plus noise of std r = sigma / alpha, is seen as
y_i / s_i with noise of std r_i = noise_std / s_i. That noise may be the process's own: given
z at r_i = y_i / s_i, the coordinates of z_0 have the posterior, exactly. So from large r down each
coordinate is

    filtered   r > r_i: proposed and weighted with the potential N(z; y_i / s_i, r^2 - r_i^2)
    observed   on the step that crosses r_i: there it passes through y_i / s_i, weighted by p
    free       below: ancestral steps, as unseen coordinates always take
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp

from scorelab.inverse.observation import Observation
from scorelab.inverse.spectrum import Spectrum, log_normal
from scorelab.ranges import Above, AtLeast, Between
from scorelab.samplers.noise import Noise, as_noise
from scorelab.samplers.particles import Cloud, Filter, drawn, run, starts
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


def mcgdiff_cloud(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  particles: int,
  threshold: Array | float,
  least_noise: Array | float,
) -> Cloud:
  """Returns the weighted particles of `mcgdiff`; see there."""
  shape = observation.operator.event_shape
  spectrum = Spectrum.of(observation)
  y, seen = spectrum.y, spectrum.seen
  squares = jnp.where(seen, jnp.maximum(spectrum.noise_std, least_noise) ** 2, jnp.inf)  # r_i^2
  starting, running = as_noise(key).fork(2)
  x = starts(starting, x, grid, particles)

  def squared_ratio(level: Level) -> Array:
    return (level.sigma / level.alpha) ** 2

  # The starts N(0, S^2), given their potentials; a coordinate with r_i > r is seen at once.
  first = grid[0]
  prior, r2 = (grid.schedule.prior_std(first) / first.alpha) ** 2, squared_ratio(first)
  z = spectrum.along(x, len(shape)) / first.alpha
  ahead = jnp.maximum(r2 - squares, 0)
  gain = prior / (prior + ahead)
  filtered = jnp.where(squares < r2, gain * y + jnp.sqrt(gain * ahead / prior) * z, z)
  late = seen & (squares >= r2)
  log_weights = jnp.sum(log_normal(z, y, jnp.where(late, squares - r2, 1), late), axis=-1)
  early = jnp.sum(log_normal(0.0, y, prior + ahead, seen & ~late))
  log_weights += early - spectrum.log_scale - jnp.log(particles)
  x = first.alpha * spectrum.back(filtered, shape)

  def kernel(r2: Array, r2_next: Array) -> tuple[Array, Array, Array]:
    """Returns which coordinates cross r_i, a step's variance, and the potential's or infinity."""
    active, last = squares < r2, r2_next == 0
    crossing = active & (squares > r2_next) & ~last
    # Ancestral steps have no noise on the step onto the data: y is compared with N(x0, r^2) there.
    variance = jnp.where(last, jnp.where(active, r2, 0), r2_next * (1 - r2_next / r2))
    ahead = jnp.where(last, squares, r2_next - squares)
    return crossing, variance, jnp.where(active & ~crossing, ahead, jnp.inf)

  def look(x: Array, now: Level, nxt: Level, _: None) -> tuple[Array, Any]:
    r2, r2_next = squared_ratio(now), squared_ratio(nxt)
    active = squares < r2
    crossing, variance, ahead = kernel(r2, r2_next)
    x0 = spectrum.along(predict(x, now).x0, len(shape))
    z = spectrum.along(x, len(shape)) / now.alpha
    mean = x0 + r2_next / r2 * (z - x0)
    share = jnp.where(crossing, squares / r2, 0)
    seen_as = jnp.where(crossing, x0 + share * (z - x0), mean)
    spread = jnp.where(crossing, share * r2 * (1 - share), variance + ahead)
    weights = log_normal(seen_as, y, spread, active) - log_normal(z, y, r2 - squares, active)
    return jnp.sum(weights, axis=-1), (mean, x0)

  def move(noise: Noise, seen: Any, now: Level, nxt: Level, _: None) -> tuple[Array, Array]:
    mean, x0 = seen
    r2_next = squared_ratio(nxt)
    crossing, variance, ahead = kernel(squared_ratio(now), r2_next)
    n = noise.normal(mean.shape, mean.dtype)
    gain = variance / (variance + ahead)
    z = mean + gain * (y - mean) + jnp.sqrt(variance * (1 - gain)) * n
    share = jnp.where(crossing, r2_next / squares, 0)
    fallen = x0 + share * (y - x0) + jnp.sqrt(r2_next * (1 - share)) * n
    z = jnp.where(crossing, fallen, z)
    return nxt.alpha * spectrum.back(z, shape), jnp.zeros(x.shape[:2], x.dtype)

  return run(running, x, log_weights, grid, Filter(look, move), threshold)


@checked
def mcgdiff(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  particles: Annotated[int, AtLeast(1)] = 32,
  threshold: Annotated[Array | float, Between(0, 1)] = 1.0,
  least_noise: Annotated[Array | float, Above(0)] = 1e-4,
) -> Samples:
  """Monte Carlo guided diffusion: a particle filter per sample, of one predict per particle a step.

  Cardoso et al., "Monte Carlo Guided Diffusion for Bayesian Linear Inverse Problems", ICLR 2024
  (arXiv 2308.07983), algorithm 1. A coordinate is observed at its own noise, which need not be one
  of the grid's: the step that crosses it is split there, with one x0.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise with alpha > 0 to data.
    observation: also without noise.
    particles: per sample. Static.
    threshold: resamples below this share of the effective sample size; 1 is the paper's.
    least_noise: a smaller noise_std / s_i counts as this, their kappa; in units of the data.
  """
  running, choosing = as_noise(key).fork(2)
  cloud = mcgdiff_cloud(
    *(running, predict, x, grid, observation),
    particles=particles, threshold=threshold, least_noise=least_noise,
  )  # fmt: skip
  calls = particles * grid.num_steps
  return Samples(drawn(choosing, cloud), cloud.path, calls, particles=particles)
