"""UniPC: a multistep predictor, corrected by the prediction that the next step needs anyway.

Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
NeurIPS 2023 (arXiv 2302.04867), algorithms 1 and 2, theorem 3.1.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.ranges import AtLeast, OneOf
from scorelab.samplers.ddim import renewing_step
from scorelab.samplers.history import combine, lagrange_weights, past_nodes, step_orders
from scorelab.samplers.multistep import VIEWS, log_snr_knots, view_moments
from scorelab.samplers.noise import Noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

SOLVER_TYPES = ("bh1", "bh2")


def unipc_weights(
  grid: Grid, order: int, view: str, solver_type: str, lower_order_final: bool
) -> tuple[Array, Array, Array]:
  """Returns the weights of the predictor and of the corrector.

  Both integrate the polynomial in log-SNR through their values exactly, so B(h) cancels, unless
  they have only one value next to the step's own. Then the paper takes B(h) / 2 for the line's
  integral: half the constant's integral for bh2, half the width for bh1.

  Returns:
    Weights of past values, [N, order - 1], of the predictor and of the corrector; and of the
    corrector's new value, [N].
  """
  orders = step_orders(
    grid.num_steps, order, lower_order_final=lower_order_final, last_is_first=grid.ends_at_data
  )
  knots, known = log_snr_knots(grid)
  nodes, used, width = past_nodes(knots, known, orders)
  moments = view_moments(grid, width, view, order + 1)
  _, nxt = grid.pairs
  unit = 1 if view == "x0" else -nxt.sigma / nxt.alpha
  line = moments[:, 0] / 2 if solver_type == "bh2" else unit * width / 2

  def weights(nodes: Array, used: Array) -> Array:
    alone = used.sum(1) == 1
    bent = moments.at[:, 1].set(jnp.where(alone, line, moments[:, 1]))
    return lagrange_weights(nodes, used, bent)

  new = jnp.ones_like(width)[:, None], (known[:-1] & known[1:])[:, None]
  corrector = weights(jnp.concatenate([new[0], nodes], 1), jnp.concatenate([new[1], used], 1))
  return weights(nodes, used), corrector[:, 1:], corrector[:, 0]


@checked(order=(1, 2, 3), solver_type=SOLVER_TYPES, view=VIEWS)
def unipc(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  order: Annotated[int, OneOf(1, 2, 3, 4)] = 2,
  solver_type: str = "bh2",
  view: str = "x0",
  uncorrected: Annotated[int, AtLeast(0)] = 0,
  lower_order_final: bool = True,
) -> Samples:
  """Samples by UniPC: one call of `predict` a step. Deterministic, in steps of order `order` + 1.

  With lower_order_final the last step is of first order, and the method of second. Without it the
  default method is of third order between noisy levels.
  The corrector needs no call of its own: it uses the one that the next step makes at the predicted
  point. The last step is not corrected.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    order: order of the predictor, 1 to 3. Static.
    solver_type: 'bh1' or 'bh2', see `unipc_weights`; matters for steps of order 1 and 2. Static.
    view: the view that is interpolated, 'x0' or 'noise'. Static.
    uncorrected: number of first steps without correction; N for the predictor alone. Static.
    lower_order_final: whether the order falls to 1 at the end. Static.

  Returns:
    Samples of x's shape, `path` holding predicted points; nfe = N.

  Raises:
    ValueError: another order, solver_type or view.
  """
  del key
  ahead, back, new = unipc_weights(grid, order, view, solver_type, lower_order_final)
  count = ahead.shape[1]  # of past values: a short grid may not reach the order
  # A step's correction is made when the next one has called: row i is of step i - 1, or nothing.
  corrected = (jnp.arange(grid.num_steps) > uncorrected)[:, None]
  changes = jnp.concatenate([new[:, None], back - ahead], 1)
  changes = jnp.where(corrected, jnp.roll(changes, 1, axis=0), 0)
  Carry = tuple[Array, Array]

  def step(carry: Carry, inputs: tuple[Level, Level, Array, Array]) -> tuple[Carry, Array]:
    x, past = carry
    now, nxt, change, row = inputs
    pred = predict(x, now)
    value = pred.view(view)
    moved = now.alpha * combine(change, jnp.concatenate([value[None], past[1:]]) - past[:1])
    pred = _moved(pred, moved, now, view)
    x = renewing_step(pred, nxt, jnp.zeros_like(x), 0.0, 1.0)
    x = x + nxt.alpha * combine(row, past[:count] - value[None])
    return (x, jnp.concatenate([value[None], past[:-1]])), x

  past = jnp.zeros((count + 1, *x.shape), x.dtype)
  (x, _), path = jax.lax.scan(step, (x, past), (*grid.pairs, changes, ahead))
  return Samples(x, path, nfe=grid.num_steps)


def _moved(pred: Prediction, by: Array, level: Level, view: str) -> Prediction:
  """Returns the prediction at x + by, with the same value of the view."""
  if view == "x0":
    return Prediction.of(pred.x + by, level, "x0", x0=pred.x0, noise=pred.noise + by / level.sigma)
  x0 = pred.x0 + by / jnp.where(level.alpha > 0, level.alpha, 1)  # no move from pure noise
  return Prediction.of(pred.x + by, level, "noise", noise=pred.noise, x0=x0)
