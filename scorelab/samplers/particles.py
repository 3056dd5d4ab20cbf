"""Particle filters: every sample has its own cloud of weighted particles, and is one of them.

Along the grid particles are looked at, weighted, resampled if their weights have become uneven, and
moved. The effective sample size of weights w is (sum w)^2 / sum w^2.

Reference: Doucet and Johansen, "A Tutorial on Particle Filtering and Smoothing", 2011, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key


class Cloud(NamedTuple):
  """Weighted particles.

  Attributes:
    x: [n, particles, *event].
    log_weights: [n, particles], normalised.
    log_evidence: log of the mean weight over all steps, [n]: the filter's estimate of log p(y), or
      of a law's normaliser. Its exponential is unbiased up to prior and discretisation; nan if the
      method has none.
    path: the first particle of each cloud at levels 1..N, [N, n, *event].
  """

  x: Float[Array, " n particles *event"]
  log_weights: Float[Array, "n particles"]
  log_evidence: Float[Array, " n"]
  path: Array


class Filter(NamedTuple):
  """A particle filter's parts, for arrays of particles [n, particles, ...].

  Attributes:
    look: (x, now, next, step's inputs) -> (log-weights to add [n, particles], what `move` needs of
      every particle: a pytree of arrays [n, particles, ...]).
    move: (noise, that, now, next, step's inputs) -> (x at `next`, log-weights to add).
    inputs: further inputs of a step, a pytree of arrays [N, ...] or None.
  """

  look: Callable[[Array, Level, Level, Any], tuple[Array, Any]]
  move: Callable[[Noise, Any, Level, Level, Any], tuple[Array, Array]]
  inputs: Any = None


def run(
  key: Key | Noise,
  x: Float[Array, " n particles *event"],
  log_weights: Float[Array, "n particles"],
  grid: Grid,
  parts: Filter,
  threshold: Array | float,
  resample: Callable[..., tuple[Array, Array]] | None = None,
) -> Cloud:
  """Runs a filter along the grid.

  Args:
    key: consumed.
    x: starts at grid[0].
    log_weights: of the starts, whose mean weight is the first factor of the evidence.
    grid: from noise to data, or to a last noisy level.
    parts: the filter.
    threshold: share of the particles; resamples clouds with a smaller effective sample size.
    resample: (noise, log_weights, threshold) -> indices of ancestors and new log-weights, all
      [n, particles]; None for `resampled`.
  """
  resample = resampled if resample is None else resample

  def step(state: tuple[Array, Array, Array], inputs: Any) -> tuple[Any, Array]:
    (x, log_weights, log_evidence), (now, nxt, noise, own) = state, inputs
    resampling, moving = noise.fork(2)
    more, seen = parts.look(x, now, nxt, own)
    log_weights, log_evidence = normalised(log_weights + more, log_evidence)
    index, log_weights = resample(resampling, log_weights, threshold)
    seen = jax.tree.map(lambda a: jax.vmap(lambda a, i: a[i])(a, index), seen)
    x, more = parts.move(moving, seen, now, nxt, own)
    return (x, log_weights + more, log_evidence), x[:, 0]

  noise = as_noise(key).split(grid.num_steps)
  start = (x, *normalised(log_weights, jnp.zeros_like(log_weights[:, 0])))
  inputs = (*grid.pairs, noise, parts.inputs)
  (x, log_weights, log_evidence), path = jax.lax.scan(step, start, inputs)
  log_weights, log_evidence = normalised(log_weights, log_evidence)
  return Cloud(x, log_weights, log_evidence, path)


def normalised(log_weights: Array, log_evidence: Array) -> tuple[Array, Array]:
  """Normalises weights, and adds the logarithm of their sum to the evidence.

  Weights after resampling are 1 / particles, so that the sum is a mean.
  """
  total = jax.nn.logsumexp(log_weights, axis=-1)
  return log_weights - total[:, None], log_evidence + total


def resampled(
  noise: Noise, log_weights: Float[Array, "n particles"], threshold: Array | float
) -> tuple[Array, Float[Array, "n particles"]]:
  """Systematic resampling of the clouds whose weights are uneven.

  Returns:
    Indices of ancestors and new log-weights, both [n, particles].
  """
  n, number = log_weights.shape
  weights = jnp.exp(log_weights)
  uneven = jnp.sum(weights**2, axis=-1) * threshold * number > 1
  u = noise.uniform((n, 1), log_weights.dtype)
  places = (u + jnp.arange(number)[None]) / number
  ends = jnp.cumsum(weights, axis=-1)
  ends = ends / ends[:, -1:]
  index = jax.vmap(jnp.searchsorted)(ends, places)
  index = jnp.minimum(index, number - 1)  # a place may round to 1
  index = jnp.where(uneven[:, None], index, jnp.arange(number)[None])
  even = jnp.full_like(log_weights, -jnp.log(number))
  return index, jnp.where(uneven[:, None], even, log_weights)


def starts(noise: Noise, x: Array, grid: Grid, particles: int) -> Array:
  """Returns starts [n, particles, *event], the first of which are x [n, *event].

  The others are independent draws from the grid's prior.
  """
  more = noise.normal((x.shape[0], particles - 1, *x.shape[1:]), x.dtype)
  more = grid.schedule.prior_std(grid[0]) * more
  return jnp.concatenate([x[:, None], more.astype(x.dtype)], axis=1)


def drawn(noise: Noise, cloud: Cloud) -> Array:
  """Draws one particle of each cloud by its weight: [n, *event]."""
  n, number = cloud.log_weights.shape
  u = noise.uniform((n, 1), cloud.log_weights.dtype)
  ends = jnp.cumsum(jnp.exp(cloud.log_weights), axis=-1)
  index = jax.vmap(jnp.searchsorted)(ends / ends[:, -1:], u)[:, 0]
  return jax.vmap(lambda x, i: x[i])(cloud.x, jnp.minimum(index, number - 1))
