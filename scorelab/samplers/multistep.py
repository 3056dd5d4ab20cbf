"""DPM-Solver's multistep solvers in the log-SNR: one call of `predict` a step, and a history.

With y = x / alpha and r = sigma / alpha = e^-lambda, the probability flow is linear in either view
of the prediction:

    dy / dr = noise            d(y / r) / d(1 / r) = x0

so a step integrates the view alone. The polynomial in lambda through its last values is integrated
exactly, or with the approximation of a published method. The reverse SDE at noise eta keeps
e^(-eta h) of the noise over a step of width h in lambda and is solved in the same way.

References:
  Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"
    (arXiv 2211.01095), algorithm 2, section 4.3 and appendix A (SDE-DPM-Solver++). The view is x0.
  Lu et al., "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10
    Steps", NeurIPS 2022 (arXiv 2206.00927). The view is the noise.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from scorelab.ranges import Above, AtLeast, OneOf
from scorelab.samplers.history import (
  exponential_moments,
  lagrange_weights,
  past_nodes,
  run_multistep,
  step_orders,
)
from scorelab.samplers.noise import Noise
from scorelab.schedules import Grid, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

SOLVER_TYPES = ("midpoint", "heun")
VIEWS = ("x0", "noise")


def log_snr_knots(grid: Grid) -> tuple[Array, Array]:
  """Returns the levels' log-SNR, [N + 1], 0 if not finite, and whether it is finite."""
  alpha, sigma = grid.levels.alpha, grid.levels.sigma
  known = (alpha > 0) & (sigma > 0)
  log_snrs = jnp.log(jnp.where(known, alpha, 1)) - jnp.log(jnp.where(known, sigma, 1))
  return log_snrs, known


def view_moments(grid: Grid, width: Array, view: str, count: int, eta: Array | float = 0) -> Array:
  """Returns the change of y' over each step if the view is s^0, s^1, ..., [N, count]; s in [0, 1].

  Args:
    grid: the levels.
    width: [N] steps in log-SNR.
    view: 'x0' or 'noise'. Static.
    count: number of powers. Static.
    eta: of the reverse SDE; for x0 only.
  """
  if view == "x0":
    return exponential_moments((1 + eta) * width, count)
  _, nxt = grid.pairs
  return (nxt.sigma / nxt.alpha)[:, None] * exponential_moments(-width, count)


@checked(view=VIEWS, solver_type=SOLVER_TYPES)
def dpmpp_weights(
  grid: Grid,
  order: Annotated[int, OneOf(1, 2, 3, 4)],
  *,
  view: str = "x0",
  solver_type: str = "midpoint",
  curvature: Annotated[Array | float, AtLeast(0)] = 1.0,
  eta: Annotated[Array | float, AtLeast(0)] = 0.0,
  lower_order_final: bool = False,
) -> Array:
  """Returns the weights of past views for `run_multistep`, [N, order - 1].

  Args:
    grid: the levels.
    order: the largest, 1 to 3. Static.
    view: 'x0' (DPM-Solver++) or 'noise' (DPM-Solver). Static.
    solver_type: of steps of second order: 'heun' integrates the line through two values exactly,
      'midpoint' evaluates it at the middle of the step. Static.
    curvature: fraction of the parabola's second derivative in a third-order step; 1 is exact.
    eta: of the reverse SDE.
    lower_order_final: whether the orders fall to 1 at the end also on a grid that ends in noise.

  Raises:
    ValueError: an unknown view or solver_type.
  """
  orders = step_orders(
    grid.num_steps, order, lower_order_final=lower_order_final, last_is_first=grid.ends_at_data
  )
  nodes, used, width = past_nodes(*log_snr_knots(grid), orders)
  moments = view_moments(grid, width, view, order, eta)
  if order == 1:
    return lagrange_weights(nodes, used, moments)
  if solver_type == "midpoint":
    # As many values as steps used: the past of pure noise is none.
    second = used.sum(1) == 1
    moments = moments.at[:, 1].set(jnp.where(second, moments[:, 0] / 2, moments[:, 1]))
  if order == 3:
    moments = moments.at[:, 2].multiply(curvature)
  return lagrange_weights(nodes, used, moments)


def shares_by_sde(grid: Grid, eta: Array | float) -> tuple[Array, Array]:
  """Returns the shares of r' that the reverse SDE renews and keeps over each step, each [N].

  They are sqrt(1 - e^(-2 eta h)) and e^(-eta h).
  """
  now, nxt = grid.pairs
  shrink = nxt.sigma / nxt.alpha * now.alpha / now.sigma  # e^-h
  alive = shrink > 0
  power = jnp.where(alive, jnp.where(alive, shrink, 1) ** (2 * eta), jnp.where(eta > 0, 0.0, 1.0))
  return safe_sqrt(1 - power), safe_sqrt(power)


@checked(view=VIEWS, solver_type=SOLVER_TYPES)
def dpmpp_2m(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  solver_type: str = "midpoint",
  view: str = "x0",
  lower_order_final: bool = False,
) -> Samples:
  """Samples by DPM-Solver++(2M): one call of `predict` a step. Deterministic, of second order.

  The first step, and the step onto the data, are of first order.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    solver_type: 'midpoint' or 'heun', see `dpmpp_weights`. Static.
    view: 'x0', or 'noise' for DPM-Solver(2M). Static.
    lower_order_final: whether the last step is of first order also on a grid that ends in noise.
      Static.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: an unknown solver_type or view.
  """
  options = {"solver_type": solver_type, "view": view, "lower_order_final": lower_order_final}
  return run_multistep(key, predict, x, grid, dpmpp_weights(grid, 2, **options), view)


@checked(view=VIEWS, solver_type=SOLVER_TYPES)
def dpmpp_3m(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  curvature: Annotated[Array | float, AtLeast(0)] = 1.0,
  solver_type: str = "midpoint",
  view: str = "x0",
  lower_order_final: bool = False,
) -> Samples:
  """Samples by DPM-Solver++(3M): one call of `predict` a step. Deterministic, of third order.

  That is the order of its steps once it has a history. The first step of an ordinary grid is of
  first order, and limits the method to second order. The other libraries' third-order step takes
  half of the parabola's second derivative, curvature = 0.5 here, and is itself of second order.

  Args:
    key, predict, x, grid, view: see `dpmpp_2m`.
    curvature: share of the parabola's second derivative that is used; 1 for third order.
    solver_type: form of the second-order steps at the start and the end. Static.
    lower_order_final: whether the orders fall to 2 and 1 at the end. Static.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: an unknown solver_type or view.
  """
  options = {"solver_type": solver_type, "view": view, "lower_order_final": lower_order_final}
  weights = dpmpp_weights(grid, 3, curvature=curvature, **options)
  return run_multistep(key, predict, x, grid, weights, view)


@checked(solver_type=SOLVER_TYPES)
def dpmpp_2m_sde(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
  solver_type: str = "midpoint",
) -> Samples:
  """Samples by SDE-DPM-Solver++(2M): one call of `predict` a step.

  Args:
    key: consumed.
    predict, x, grid, solver_type: see `dpmpp_2m`.
    eta: the reverse SDE's noise: 1 is Anderson's reversal, 0 the probability flow.
    s_noise: the std of the noise added, relative to the SDE's.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: an unknown solver_type.
  """
  weights = dpmpp_weights(grid, 2, eta=eta, solver_type=solver_type)
  shares = shares_by_sde(grid, eta)
  return run_multistep(key, predict, x, grid, weights, "x0", shares, s_noise)


@checked(solver_type=SOLVER_TYPES)
def dpmpp_3m_sde(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
  s_noise: Annotated[Array | float, Above(0)] = 1.0,
  curvature: Annotated[Array | float, AtLeast(0)] = 1.0,
  solver_type: str = "heun",
) -> Samples:
  """Samples by SDE-DPM-Solver++(3M): one call of `predict` a step.

  Args:
    key, predict, x, grid, eta, s_noise: see `dpmpp_2m_sde`.
    curvature, solver_type: see `dpmpp_3m`; k-diffusion has 0.5 and 'heun'.

  Returns:
    Samples of x's shape; nfe = N.

  Raises:
    ValueError: an unknown solver_type.
  """
  weights = dpmpp_weights(grid, 3, eta=eta, solver_type=solver_type, curvature=curvature)
  shares = shares_by_sde(grid, eta)
  return run_multistep(key, predict, x, grid, weights, "x0", shares, s_noise)
