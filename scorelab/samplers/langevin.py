"""Langevin dynamics.

Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution",
NeurIPS 2019 (arXiv 1907.05600), algorithm 1. Their step alpha_i is twice our h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict, Samples


def ula_step(x: Array, score: Array, step_size: Array | float, z: Array) -> Array:
  """One unadjusted Langevin step, x + h score + sqrt(2 h) z.

  Args:
    x: points of any shape.
    score: the score at x, of x's shape.
    step_size: h > 0, in squared units of x.
    z: standard normal of x's shape.

  Returns:
    The moved points, of x's shape.
  """
  return x + step_size * score + jnp.sqrt(2 * step_size) * z


def annealed_langevin(
  key: Key,
  predict: Predict,
  x: Array,
  grid: Grid,
  *,
  steps_per_level: int = 5,
  step_size: Array | float = 1e-4,
  denoise: bool = False,
) -> Samples:
  """Samples by Langevin dynamics at every noisy level of the grid in turn.

  In the variance-exploding form y = x / alpha, r = sigma / alpha, the step at a level is
  h = step_size (r / r_last)^2, with r_last the least noisy level's.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], where alpha > 0; of any shape.
    grid: the levels; the data itself, where the grid ends there, takes no Langevin step.
    steps_per_level: calls of `predict` at each level, >= 1. Static.
    step_size: h at the least noisy level, > 0, in squared units of the data.
    denoise: whether the last state is replaced by E[x_0 | x] at the least noisy level, one call
      more. Static.

  Returns:
    Samples of x's shape. `path` holds the state after each noisy level, and the denoised one last
    where `denoise`; nfe counts every call.
  """
  levels = jax.tree.map(lambda a: a[:-1], grid.levels) if grid.ends_at_data else grid.levels
  num_levels = levels.sigma.shape[0]
  last_ratio = levels.sigma[-1] / levels.alpha[-1]

  def at_level(y: Array, inputs: tuple[Level, Key]) -> tuple[Array, Array]:
    level, key = inputs
    h = step_size * (level.sigma / level.alpha / last_ratio) ** 2

    def step(y: Array, key: Key) -> tuple[Array, None]:
      z = jax.random.normal(key, y.shape, y.dtype)
      # The score with respect to y is alpha times the one with respect to x.
      score = level.alpha * predict(level.alpha * y, level).score
      return ula_step(y, score, h, z), None

    y, _ = jax.lax.scan(step, y, jax.random.split(key, steps_per_level))
    return y, level.alpha * y

  y = x / levels.alpha[0]
  _, path = jax.lax.scan(at_level, y, (levels, jax.random.split(key, num_levels)))
  if denoise:
    x0 = predict(path[-1], jax.tree.map(lambda a: a[-1], levels)).x0
    path = jnp.concatenate([path, x0[None]])
  return Samples(path[-1], path, nfe=num_levels * steps_per_level + denoise)
