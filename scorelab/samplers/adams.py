"""Adams-Bashforth methods for the probability flow: polynomials through the last noises.

In y = x / alpha and r = sigma / alpha the flow is dy / dr = noise. The methods differ in the axis
along which the noise is taken to be a polynomial: r itself (LMS), the step's number (iPNDM, PLMS),
or the log-SNR (DEIS).

References:
  Katherine Crowson, k-diffusion (2022), `sample_lms`: r.
  Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", ICLR 2022
    (arXiv 2202.09778), eqs. 9, 12 and 13, algorithm 2: PLMS, and its Runge-Kutta start.
  Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", ICLR 2023
    (arXiv 2204.13902), eq. 15 (DEIS) and section 4.2 (iPNDM).
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.ranges import OneOf
from scorelab.samplers.ddim import ddim_step
from scorelab.samplers.history import (
  lagrange_weights,
  past_nodes,
  run_multistep,
  step_orders,
)
from scorelab.samplers.multistep import dpmpp_weights
from scorelab.samplers.noise import Noise
from scorelab.samplers.ode import ratio_change, rk4_step, slope_correction
from scorelab.schedules import Grid, require_time
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

ORDERS = (1, 2, 3, 4)
WARM_UPS = ("heun", "runge_kutta")


def _adams_weights(knots: Array, known: Array, grid: Grid, order: int, lower: bool) -> Array:
  """Returns weights [N, order - 1] for noises polynomial in the knots, themselves linear in r."""
  orders = step_orders(grid.num_steps, order, lower_order_final=lower)
  nodes, used, _ = past_nodes(knots, known, orders)
  change = jax.vmap(ratio_change)(*grid.pairs)[:, None]
  return lagrange_weights(nodes, used, change / np.arange(1, order + 1)[None])


@checked(order=ORDERS)
def lms(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  order: Annotated[int, OneOf(1, 2, 3, 4)] = 4,
  lower_order_final: bool = False,
) -> Samples:
  """Samples by linear multistep, the Adams-Bashforth method in r. Deterministic.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level; the step onto the data is of full order.
    order: number of noises that the polynomial passes through; the first steps have lower order.
      Static.
    lower_order_final: whether the order falls to 1 at the end. Static.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: another order.
  """
  known = grid.levels.alpha > 0
  ratios = grid.levels.sigma / jnp.where(known, grid.levels.alpha, 1)
  weights = _adams_weights(ratios, known, grid, order, lower_order_final)
  return run_multistep(key, predict, x, grid, weights, "noise")


@checked(order=ORDERS)
def ipndm(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  order: Annotated[int, OneOf(1, 2, 3, 4)] = 4,
  lower_order_final: bool = False,
) -> Samples:
  """Samples by improved PNDM: `lms` as if the levels were equally spaced in r. Deterministic.

  The weights are fractions, 3/2 and -1/2 for order 2. Where the spacing varies smoothly the method
  stays of second order.

  Returned values and errors: see `lms`.

  Args:
    order, lower_order_final: as for `lms`.
  """
  weights = _adams_weights(*_step_numbers(grid), grid, order, lower_order_final)
  return run_multistep(key, predict, x, grid, weights, "noise")


@checked(order=ORDERS)
def deis(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  order: Annotated[int, OneOf(1, 2, 3, 4)] = 3,
  lower_order_final: bool = False,
) -> Samples:
  """Samples by DEIS: integrates the polynomial in the log-SNR through the last noises exactly.

  Args:
    key, predict, x, grid: see `lms`; the step onto the data is of first order.
    order: number of noises that the polynomial passes through. Static.
    lower_order_final: whether the order falls to 1 also on a grid that ends in noise. Static.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: another order.
  """
  options = {"view": "noise", "solver_type": "heun", "lower_order_final": lower_order_final}
  return run_multistep(key, predict, x, grid, dpmpp_weights(grid, order, **options), "noise")


@checked(warm_up=WARM_UPS)
def plms(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  warm_up: str = "heun",
) -> Samples:
  """Samples by PNDM: `ipndm` of order 4 after a start of second order. Deterministic.

  Args:
    key, predict, x, grid: see `lms`.
    warm_up: 'heun' takes one Heun step first (the other libraries' skip_prk_steps);
      'runge_kutta' takes three pseudo Runge-Kutta steps first, with middle levels half way in
      time. Neither is used for the step onto the data. Static.

  Returns:
    Samples of x's shape; nfe = N + 1, or N + 9: one more for the Heun step, and three more for each
    Runge-Kutta step.

  Raises:
    ValueError: an unknown warm_up; or 'runge_kutta' on a grid without times.
  """
  count = min(1 if warm_up == "heun" else 3, grid.num_steps - grid.ends_at_data)
  weights = _adams_weights(*_step_numbers(grid), grid, 4, False)[count:]
  path, past = [], jnp.zeros((weights.shape[1], *x.shape), x.dtype)
  for i in range(count):
    now, nxt = grid[i], grid[i + 1]
    if warm_up == "heun":
      pred = predict(x, now)
      slope, euler = pred.noise, ddim_step(pred, now, nxt, jnp.zeros_like(x), 0.0)
      x = euler + slope_correction(pred, (slope + predict(euler, nxt).noise) / 2, now, nxt)
    else:
      middle = grid.schedule.at((require_time(now) + require_time(nxt)) / 2)
      x, slope = rk4_step(predict, x, now, middle, nxt)
    path.append(x)
    past = jnp.concatenate([slope[None], past])[: len(past)]
  rest = Grid(grid.schedule, jax.tree.map(lambda a: a[count:], grid.levels), grid.ends_at_data)
  samples = run_multistep(key, predict, x, rest, weights, "noise", past=past)
  calls = grid.num_steps + count * (1 if warm_up == "heun" else 3)
  return Samples(samples.x, jnp.concatenate([*(x[None] for x in path), samples.path]), calls)


def _step_numbers(grid: Grid) -> tuple[Array, Array]:
  """The levels' indices, [N + 1], and which can be remembered: not pure noise."""
  index = jnp.arange(grid.num_steps + 1, dtype=grid.levels.alpha.dtype)
  return index, grid.levels.alpha > 0
