"""Singlestep DPM-Solver++: steps in blocks, each of them from the start of its block.

Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"
(arXiv 2211.01095), algorithm 1; Lu et al., "DPM-Solver" (arXiv 2206.00927), appendix B.4 and
algorithm 5, for third order.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.predictions import Prediction
from scorelab.ranges import OneOf
from scorelab.samplers.ddim import renewing_step
from scorelab.samplers.history import combine, exponential_moments, lagrange_weights
from scorelab.samplers.multistep import SOLVER_TYPES, log_snr_knots
from scorelab.samplers.noise import Noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


def singlestep_weights(grid: Grid, orders: np.ndarray, solver_type: str) -> Array:
  """Returns the weights of x0 at the later levels of each step's block, [N, max(orders) - 1].

  A step of order 2 or 3 integrates the line through x0 at the block's start and at its own, or
  takes it to be constant ('midpoint', order 2); 'heun' at order 3 integrates the parabola.
  """
  knots, known = log_snr_knots(grid)
  index = np.arange(len(orders))
  start = index - (orders - 1)
  width = jnp.where(known[1:] & known[start], knots[1:] - knots[start], 1)
  nodes, used = [], []
  for j in range(1, max(orders)):
    level = np.minimum(start + j, index)
    parabola = solver_type == "heun" or j == 2
    nodes.append((knots[level] - knots[start]) / width)
    used.append(jnp.asarray((j < orders) & (parabola | (orders == 2))) & known[start])
  moments = exponential_moments(width, max(orders))
  if solver_type == "midpoint" and max(orders) > 1:
    line = jnp.where(jnp.asarray(orders == 2), moments[:, 0] / 2, moments[:, 1])
    moments = moments.at[:, 1].set(line)
  if not nodes:
    return jnp.zeros((len(orders), 0))
  return lagrange_weights(jnp.stack(nodes, 1), jnp.stack(used, 1), moments)


@checked(order=(1, 2, 3), solver_type=SOLVER_TYPES)
def dpmpp_singlestep(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  order: Annotated[int, OneOf(1, 2, 3, 4)] = 3,
  solver_type: str = "midpoint",
) -> Samples:
  """Samples by singlestep DPM-Solver++ on the grid's own levels. Deterministic.

  In blocks of `order` steps, the j-th goes from the block's start to the j-th next level and is of
  order j; the step onto the data is of first order from the level before. So `order` calls make one
  step of that order. `dpmpp_2m` is better at the same number of calls, unless strong guidance makes
  a long history harmful.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    order: 1, 2 or 3. Static.
    solver_type: 'midpoint' or 'heun', see `singlestep_weights`. Static.

  Returns:
    Samples of x's shape, `path` holding lower-order points within blocks; nfe = N.

  Raises:
    ValueError: another order or solver_type.
  """
  del key
  orders = np.arange(grid.num_steps) % order + 1
  if grid.ends_at_data:
    orders[-1] = 1
  starts = jax.tree.map(lambda a: a[np.arange(grid.num_steps) - (orders - 1)], grid.levels)
  Carry = tuple[Array, Array, Array]

  def step(carry: Carry, inputs: tuple[Level, Level, Level, Array, Array]) -> tuple[Carry, Array]:
    x, first_x, x0s = carry
    start, now, nxt, place, row = inputs
    first_x = jnp.where(place == 0, x, first_x)
    x0s = x0s.at[place].set(predict(x, now).x0)
    pred = Prediction.of(first_x, start, "x0", x0=x0s[0])
    x = renewing_step(pred, nxt, jnp.zeros_like(x), 0.0, 1.0)
    x = x + nxt.alpha * combine(row, x0s[1:] - x0s[:1])
    return (x, first_x, x0s), x

  rows = singlestep_weights(grid, orders, solver_type)
  x0s = jnp.zeros((max(orders), *x.shape), x.dtype)
  inputs = (starts, *grid.pairs, jnp.asarray(orders - 1), rows)
  (x, *_), path = jax.lax.scan(step, (x, x, x0s), inputs)
  return Samples(x, path, nfe=grid.num_steps)
