"""Consistency training: a network maps any level to the end of the probability flow.

    f(x, r_min) = x,    f(x_t, t) = f(x_s, s) along every path of the probability flow

The path is not known, but x_t and x_s made of one x_0 and one noise lie on it in the mean: as the
levels close in, asking f to agree on the two has the same gradient as asking it on the path.

References:
  Song et al., "Consistency Models", ICML 2023 (arXiv 2303.01469), section 5 and theorem 2.
  Song and Dhariwal, "Improved Techniques for Training Consistency Models", ICLR 2024
    (arXiv 2310.14189), table 1: no average as teacher, pseudo-Huber, log-normal levels, doubling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.losses.denoising import sum_event
from scorelab.losses.levels import UNIFORMS, stratified
from scorelab.predictions import Parameterization, mixed, ratio_ends
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Schedule
from scorelab.typing import Array, Batch, Context, Key, Loss, Metrics, Params, Scalar
from scorelab.validation import checked


@checked(uniforms=UNIFORMS)
def consistency(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  min_intervals: Annotated[int, AtLeast(1)] = 10,
  max_intervals: Annotated[int, AtLeast(1)] = 1280,
  double_every: Annotated[int, AtLeast(1)] = 1000,
  level_mean: float = -1.1,
  level_std: Annotated[float, Above(0)] = 2.0,
  rho: Annotated[float, Above(0)] = 7.0,
  huber_delta: Annotated[float, Above(0)] = 0.03,
  uniforms: Callable[[Key, int], Array] = stratified,
) -> Loss:
  """E w ( sqrt(|f(x_t, t) - f(x_s, s)|^2 + c^2) - c ): f at two levels, the cleaner one held fixed.

  x_t and x_s are made of one x_0 and one noise. The levels are those of a grid of n intervals
  between the schedule's ends, equally spaced in (sigma / alpha)^(1 / rho); n doubles as training
  proceeds. The two levels enclose a log-normal one. w is 1 over their distance in sigma / alpha.
  As n grows, minimised by the flow's end point.

  Args:
    parameterization: reads the network; of kind 'consistency'.
    schedule: the forward process.
    min_intervals: number of grid intervals n at the start of training.
    max_intervals: largest number of grid intervals.
    double_every: training steps between doublings.
    level_mean, level_std: mean and std of log(sigma / alpha) in the data's units, cut off at the
      schedule's ends; the defaults are for data of std 0.5.
    rho: exponent of the grid, Karras et al.'s: levels equally spaced in (sigma / alpha)^(1 / rho).
    huber_delta: c in the data's units; the published 0.00054 sqrt(d) is for std 0.5.
    uniforms: draws the levels, `(key, n) -> [n]`.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: intervals [].

  Raises:
    ValueError: the parameterization is of another kind, or the intervals are out of order.
  """
  if parameterization.kind != "consistency":
    raise ValueError(f"kind = {parameterization.kind!r} must be 'consistency' for this loss")

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    level_key, noise_key = jax.random.split(key)
    x0 = batch["x"]
    doublings = jnp.floor(context.step / double_every)
    intervals = jnp.minimum(min_intervals * jnp.exp2(doublings), max_intervals)
    low, high = (end ** (1 / rho) for end in ratio_ends(schedule))

    # The interval into which a log-normal level falls.
    ends = (rho * jnp.log(jnp.stack([low, high])) - level_mean) / level_std
    first, last = jax.scipy.stats.norm.cdf(ends)
    u = first + (last - first) * uniforms(level_key, x0.shape[0])
    root = jnp.exp((level_mean + level_std * jax.scipy.special.ndtri(u)) / rho)
    index = jnp.clip(jnp.floor(intervals * (root - low) / (high - low)), 0, intervals - 1)
    far, near = ((low + (index + i) / intervals * (high - low)) ** rho for i in (1, 0))

    predict = parameterization.bind(params, batch.get("label"))
    noise = jax.random.normal(noise_key, x0.shape, x0.dtype)
    leaps = []
    for ratio in (far, near):
      level = schedule.at_ratio(ratio)
      leaps.append(predict(mixed(x0, noise, level)[0], level).x0)
    square = sum_event((leaps[0] - jax.lax.stop_gradient(leaps[1])) ** 2)
    distance = square / (jnp.sqrt(square + huber_delta**2) + huber_delta)
    return jnp.mean(distance / (far - near)), {"intervals": intervals}

  return loss
