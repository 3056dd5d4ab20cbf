"""Twisted sequential Monte Carlo, with the approximate likelihood of any posterior method.

The target is the law of an ancestral path whose end is x_0, weighted by p(y | x_0). A twist
p~(y | x_t) is a guess of the weight that is to come: particles are proposed from the ancestral step
q of the twisted prediction and weighted by

    p(x_s | x_t) p~(y | x_s) / (q(x_s | x_t) p~(y | x_t))

so that any twist gives the target as their number grows; a better one needs fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp

from scorelab.inverse.conditional import Conditional
from scorelab.inverse.fixed_covariance import pigdm
from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation
from scorelab.ranges import Above, AtLeast, Between
from scorelab.samplers.noise import Noise, as_noise
from scorelab.samplers.particles import Cloud, Filter, drawn, run, starts
from scorelab.schedules import Grid, Level, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


def twisted_cloud(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  particles: int,
  twist: Callable[..., Conditional],
  threshold: Array | float,
  data_std: Array | float | None,
) -> tuple[Cloud, int]:
  """Returns the weighted particles of `tds`, and products with J' per call; see there."""
  event_ndim = len(observation.operator.event_shape)
  axes = tuple(range(-event_ndim, 0))
  conditional = twist(predict, observation)
  law = Isotropic.of(observation)
  starting, running = as_noise(key).fork(2)
  x = starts(starting, x, grid, particles)

  def variance_of(level: Level) -> tuple[Array, Array]:
    """Variances of x_0 given x_t: what a step adds to DDPM's small one, and on the last step."""
    r2 = (level.sigma / level.alpha) ** 2
    if data_std is None:
      return jnp.zeros_like(r2), r2
    variance = data_std**2 * r2 / (data_std**2 + r2)
    return variance, variance

  def look(x: Array, now: Level, nxt: Level, _: None) -> tuple[Array, Any]:
    twisted = conditional.twist(x, now)
    if twisted.log_likelihood is None:
      raise ValueError(f"twist = {twist.__name__} must know its likelihood: use tmpd or pigdm")
    # The last step draws from N(x0, v I) given y, whose weight is known before.
    last = law.log_evidence(twisted.prior.x0, variance_of(now)[1])
    likelihood = jnp.where(nxt.sigma > 0, twisted.log_likelihood, last)
    return likelihood, (x, twisted.prior.x0, twisted.posterior.x0, twisted.log_likelihood)

  def move(noise: Noise, seen: Any, now: Level, nxt: Level, _: None) -> tuple[Array, Array]:
    x, prior, posterior, log_likelihood = seen
    ratio = now.alpha / nxt.alpha * nxt.sigma / now.sigma
    part = 1 - ratio**2
    added, last = variance_of(now)
    std = safe_sqrt(part * (nxt.sigma**2 + part * nxt.alpha**2 * added))
    proposing, ending = noise.fork(2)
    z = proposing.normal(x.shape, x.dtype)
    shift = nxt.alpha * part * (posterior - prior)
    kept = now.alpha / nxt.alpha * (nxt.sigma / now.sigma) ** 2
    proposed = kept * x + nxt.alpha * part * posterior + std * z
    end = law.draw(ending, prior, last)
    # log p / q: p is centred a shift away.
    scaled = shift / jnp.where(std > 0, std, 1)
    ratio = -jnp.sum(scaled * (2 * z + scaled), axis=axes) / 2
    noisy = nxt.sigma > 0
    return jnp.where(noisy, proposed, end), jnp.where(noisy, ratio - log_likelihood, 0)

  zeros = jnp.zeros(x.shape[:2], x.dtype)
  log_weights = zeros - jnp.log(particles)
  cloud = run(running, x, log_weights, grid, Filter(look, move), threshold)
  return cloud, conditional.gradients


@checked
def tds(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  particles: Annotated[int, AtLeast(1)] = 32,
  twist: Callable[..., Conditional] = pigdm,
  threshold: Annotated[Array | float, Between(0, 1)] = 0.5,
  data_std: Annotated[Array | float, Above(0)] | None = None,
) -> Samples:
  """Twisted diffusion sampler: a particle filter per sample, with a posterior method as its twist.

  Wu et al., "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
  NeurIPS 2023 (arXiv 2306.17775), algorithm 1. On the step
  onto the data, where an ancestral step has no noise, x_0 is drawn from N(x0, v I) given y.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise to data.
    observation: with noise_std > 0.
    particles: per sample. Static.
    twist: a posterior method that knows its likelihood. Static.
    threshold: resamples below this share of the effective sample size.
    data_std: takes x_0 given x_t to have the variance v of data N(0, data_std^2 I), 1 / v =
      1 / data_std^2 + alpha^2 / sigma^2: steps are then exact within a mode of this std. None is
      the paper's: no variance, and v = (sigma / alpha)^2 on the last step.
  """
  observation.require_noise("tds")
  running, choosing = as_noise(key).fork(2)
  cloud, gradients = twisted_cloud(
    *(running, predict, x, grid, observation),
    particles=particles, twist=twist, threshold=threshold, data_std=data_std,
  )  # fmt: skip
  calls = particles * grid.num_steps
  x = drawn(choosing, cloud)
  return Samples(x, cloud.path, calls, gradients=gradients * calls, particles=particles)
