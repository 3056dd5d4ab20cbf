"""Grids optimised for a target, a sampler and a number of steps, by gradient descent.

A sampler is a scan over its grid's levels, so its samples can be differentiated with respect to
them. The levels are chosen so that few steps end nearest to the ends of many steps from the same
starts. The noisiest level is fixed; the others, including the last one, are free.

Related: Watson et al., "Learning Fast Samplers for Diffusion Models by Differentiating Through
Sample Quality", ICLR 2022 (arXiv 2202.05830), which descends on a distance between kernels'
features; Sabour, Fidler and Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion
Models", ICML 2024 (arXiv 2404.14507), on a bound on the KL.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from scorelab.schedules import Grid, Schedule, given_log_snrs
from scorelab.typing import Array, Key, Predict, Sampler

_LEAST_WIDTH = 1e-2  # of a step in log-SNR


class Found(NamedTuple):
  """Result of a search.

  Attributes:
    log_snrs: [N], increasing, of the best grid seen: of `schedules.given_log_snrs`.
    losses: [iterations], of a batch before each update.
  """

  log_snrs: Array
  losses: Array


def to_widths(log_snrs: Array) -> Array:
  """Maps log_snrs [N] to free numbers [N - 1], whose softplus are the steps between them."""
  widths = jnp.maximum(jnp.diff(log_snrs) - _LEAST_WIDTH, 1e-3)
  return widths + jnp.log(-jnp.expm1(-widths))  # the inverse of softplus


def to_log_snrs(first: Array, free: Array) -> Array:
  """Maps free numbers [N - 1] to log_snrs [N], increasing from the `first`."""
  steps = jax.nn.softplus(free) + _LEAST_WIDTH
  return jnp.concatenate([first[None], first + jnp.cumsum(steps)])


def distance(x: Array, y: Array, scale: Array | float) -> Array:
  """Mean over points [n, *event] of sqrt(|x - y|^2 + scale^2) - scale.

  It is quadratic below the scale, and linear for the few starts whose path ends in another mode.
  """
  square = jnp.sum((x - y) ** 2, axis=tuple(range(1, x.ndim)))
  return jnp.mean(jnp.sqrt(square + scale**2) - scale)


def optimise_grid(
  key: Key,
  predict: Predict,
  sampler: Sampler,
  schedule: Schedule,
  begin: Array,
  starts: Array,
  ends: Array,
  *,
  scale: float,
  iterations: int = 400,
  batch_size: int = 512,
  learning_rate: float = 0.05,
) -> Found:
  """Optimises the levels of a grid, from the log-SNRs `begin`, by the `distance` from given ends.

  Adam with a cosine decay. Jittable.

  Args:
    key: for batches, and for what the sampler draws.
    predict: the truth, or a network.
    sampler: a deterministic one; its options bound.
    schedule: the process.
    begin: [N] log-SNRs, the noisy levels of a grid that ends at the data.
    starts: [n, *event] at the level begin[0].
    ends: [n, *event], where the probability flow leads from there.
    scale: of `distance`, in units of the data.
    iterations, batch_size, learning_rate: of the descent.

  Returns:
    The iterate whose loss on all starts is least among the first and every twentieth.
  """
  num_steps = begin.shape[0]

  def loss(free: Array, x: Array, end: Array) -> Array:
    grid = grid_of(free)
    return distance(sampler(key, predict, x, grid).x, end, scale)

  def grid_of(free: Array) -> Grid:
    return given_log_snrs(schedule, num_steps, log_snrs=to_log_snrs(begin[0], free))

  adam = optax.adam(optax.cosine_decay_schedule(learning_rate, iterations))

  def update(
    state: tuple[Array, optax.OptState], key: Key
  ) -> tuple[tuple[Array, optax.OptState], Array]:
    free, opt_state = state
    index = jax.random.randint(key, (batch_size,), 0, starts.shape[0])
    value, gradient = jax.value_and_grad(loss)(free, starts[index], ends[index])
    updates, opt_state = adam.update(gradient, opt_state, free)
    return (free + jnp.asarray(updates), opt_state), value

  def leg(
    carry: tuple[tuple[Array, optax.OptState], Array, Array], keys: Key
  ) -> tuple[tuple[tuple[Array, optax.OptState], Array, Array], Array]:
    state, best, least = carry
    state, values = jax.lax.scan(update, state, keys)
    now = loss(state[0], starts, ends)
    return (state, jnp.where(now < least, state[0], best), jnp.minimum(now, least)), values

  free = to_widths(begin)
  first = ((free, adam.init(free)), free, loss(free, starts, ends))
  keys = jax.random.split(key, (-(-iterations // 20), 20))
  (_, best, _), losses = jax.lax.scan(leg, first, keys)
  return Found(to_log_snrs(begin[0], best), losses.reshape(-1))
