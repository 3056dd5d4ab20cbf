"""Euler's method backwards in the process's own time, to reproduce published samplers.

    x' = x - (t - t') dx/dt,    dx/dt = f x - g^2 score / 2

`euler` takes the same ODE in sigma / alpha, where its solutions are nearly straight: it needs fewer
steps, and no time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scorelab.samplers.noise import Noise
from scorelab.schedules import Grid, Level, require_time
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def euler_time(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  unsquared: bool = False,
  at_arrival: bool = False,
  squash: bool = False,
) -> Samples:
  """Samples by Euler's method in t on the probability flow: one call of `predict` a step.

  Three deviations of a published tutorial are options, off by default; all are static.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level; its levels have times.
    unsquared: whether to use g in place of g^2, nearly the same if g is near 1.
    at_arrival: whether to evaluate the slope at the next time, but at the current point.
    squash: whether to apply tanh to the samples, which cannot reach data at 1 then.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: the grid has no times; or `at_arrival` on a grid that ends at the data.
  """
  del key
  if at_arrival and grid.ends_at_data:
    raise ValueError("at_arrival = True needs a grid with to_data = False")

  def step(x: Array, levels: tuple[Level, Level]) -> tuple[Array, Array]:
    now, nxt = levels
    level = nxt if at_arrival else now
    pred = predict(x, level)
    slope = grid.schedule.velocity(level, pred.x0, pred.noise)
    if unsquared:
      g2 = grid.schedule.diffusion_squared(require_time(level))
      slope = slope + (g2 - jnp.sqrt(g2)) / 2 * pred.score
    x = x - (require_time(now) - require_time(nxt)) * slope
    return x, x

  x, path = jax.lax.scan(step, x, grid.pairs)
  if squash:
    x, path = jnp.tanh(x), path.at[-1].set(jnp.tanh(x))
  return Samples(x, path, nfe=grid.num_steps)
