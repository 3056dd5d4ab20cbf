"""Multistep solvers of the probability-flow ODE: one call of `predict` a step, and a memory.

Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"
(arXiv 2211.01095), algorithm 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.samplers.ddim import ddim_step
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict, Samples


def dpmpp_2m_step(
  pred: Prediction, x0_change: Array, now: Level, nxt: Level, last_width: Array
) -> tuple[Array, Array]:
  """One step of DPM-Solver++(2M) from level `now` to the cleaner level `nxt`.

  In the log-SNR lambda, with h = lambda' - lambda, the first-order step is DDIM's; the second order
  extrapolates x0 half a step on, by its change over the step before:

      y' = e^-h y + (1 - e^-h) (x0 + h / (2 h_last) (x0 - x0_last)),    y = x / alpha

  Args:
    pred: the prediction at `now`.
    x0_change: x0 - x0_last, of x's shape; without effect where last_width is infinite.
    now, nxt: scalar levels, both noisy.
    last_width: h_last, the last step's width in lambda; infinite for the first step.

  Returns:
    The point at `nxt`, of x's shape, and h.
  """
  width = nxt.log_snr - now.log_snr
  # From pure noise (alpha = 0) the width is infinite and the step is the first one.
  relative = jnp.where(jnp.isfinite(last_width), width / (2 * last_width), 0)
  correction = -jnp.expm1(-width) * relative * x0_change
  return ddim_step(pred, now, nxt, jnp.zeros_like(pred.x), 0.0) + nxt.alpha * correction, width


def dpmpp_2m(key: Key, predict: Predict, x: Array, grid: Grid) -> Samples:
  """Samples by DPM-Solver++(2M): one call of `predict` a step. Deterministic.

  The first step, and the step onto the data, are of first order.

  Args:
    key: ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.

  Returns:
    Samples of x's shape; nfe = N.
  """
  del key
  Carry = tuple[Array, Array, Array]

  def step(carry: Carry, levels: tuple[Level, Level]) -> tuple[Carry, Array]:
    x, last_x0, last_width = carry
    now, nxt = levels
    pred = predict(x, now)
    x, width = dpmpp_2m_step(pred, pred.x0 - last_x0, now, nxt, last_width)
    return (x, pred.x0, width), x

  first = (x, jnp.zeros_like(x), jnp.full((), jnp.inf, grid.levels.sigma.dtype))
  (x, *_), path = jax.lax.scan(step, first, grid.noisy_pairs)
  if grid.ends_at_data:
    x = grid[-1].alpha * predict(x, grid[-2]).x0
    path = jnp.concatenate([path, x[None]])
  return Samples(x, path, nfe=grid.num_steps)
