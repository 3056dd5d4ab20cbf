"""Adaptive solver of the probability flow: the tolerance is given, the cost follows.

Between angles a, with tan a = sigma / (s alpha) and s a std of the data, z = x / S follows

    S = sqrt(s^2 alpha^2 + sigma^2)      dz / da = cos a noise - sin a x0 / s

which is dy / dr = noise of y = x / alpha, with nothing singular at either end.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021
(arXiv 2011.13456), appendix D.4; Salimans and Ho, "Progressive Distillation", ICLR 2022
(arXiv 2202.00512), appendix D: the angle; Kidger, "On Neural Differential Equations", 2021:
diffrax.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from scorelab.ranges import Above, AtLeast
from scorelab.samplers.noise import Noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict
from scorelab.validation import checked

STATUSES = ("solved", "too many steps", "no step is short enough")


class AdaptiveSamples(NamedTuple):
  """Samples of `adaptive_ode`, with the cost and status of each.

  Attributes:
    x: the samples [batch, *event]; nan if the solver failed.
    nfe: calls of `predict`, [batch].
    status: index into STATUSES, [batch].
  """

  x: Array
  nfe: Array
  status: Array


@checked
def adaptive_ode(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  rtol: Annotated[Array | float, Above(0)] = 1e-4,
  atol: Annotated[Array | float, Above(0)] = 1e-4,
  max_steps: Annotated[int, AtLeast(1)] = 1000,
  data_std: Annotated[Array | float, Above(0)] = 1.0,
) -> AdaptiveSamples:
  """Samples by diffrax's Tsit5, of order 5, with step sizes adapted to each point.

  All points run until the last one has finished, so the hardest point sets the cost.

  Args:
    key: ignored.
    predict: the network, whose examples must not mix, or the truth.
    x: starts at grid[0], [batch, *event].
    grid: only its two ends matter. If it ends at the data, the flow is solved to its last noisy
      level, and x0 from there is returned.
    rtol, atol: a step's error is at most atol + rtol |z| by the solver's estimate, as the root
      of the mean square over coordinates. In float32 at least about 1e-5.
    max_steps: largest number of steps of a point, accepted or rejected. Static.
    data_std: s: sets the first step size and the unit of atol.

  Returns:
    AdaptiveSamples. A point fails if it needs more than max_steps, or if `predict` is discontinuous
    or not finite, so that no step is short enough; other points are not affected.
  """
  import diffrax  # slow to import, and only needed here

  del key
  noisy, clean = grid[0], grid[-2] if grid.ends_at_data else grid[-1]

  def angle(level: Level) -> Array:
    return jnp.arctan2(level.sigma, data_std * level.alpha)

  def scale(level: Level) -> Array:
    return jnp.sqrt((data_std * level.alpha) ** 2 + level.sigma**2)

  high, low = angle(noisy), angle(clean)

  def level_at(a: Array) -> Level:
    inside = (low < a) & (a < high)
    between = grid.schedule.at_ratio(data_std * jnp.tan(jnp.where(inside, a, low)))
    end = jax.tree.map(lambda p, q: jnp.where(a < high, p, q), clean, noisy)
    return jax.tree.map(lambda p, q: jnp.where(inside, p, q), between, end)

  def slope(time: Array, z: Array, _: None) -> Array:
    a = high - time  # the solver's time runs forwards
    level = level_at(a)
    pred = predict((scale(level) * z)[None], level)
    return jnp.sin(a) / data_std * pred.x0[0] - jnp.cos(a) * pred.noise[0]

  def solve(x: Array) -> AdaptiveSamples:
    solution = diffrax.diffeqsolve(
      diffrax.ODETerm(slope),  # pyrefly: ignore
      diffrax.Tsit5(),
      t0=jnp.zeros_like(high),
      t1=high - low,
      dt0=(high - low) / 100,
      y0=x / scale(noisy),
      stepsize_controller=diffrax.PIDController(
        rtol=rtol, atol=atol, dtmin=jnp.finfo(x.dtype).eps, force_dtmin=False
      ),
      max_steps=max_steps,
      throw=False,
    )
    end = scale(clean) * solution.ys[-1]  # pyrefly: ignore
    if grid.ends_at_data:
      end = grid[-1].alpha * predict(end[None], clean).x0[0]
    steps = solution.stats["num_steps"]
    solved = (solution.result == diffrax.RESULTS.successful) & jnp.isfinite(end).all()
    status = jnp.where(solved, 0, jnp.where(steps < max_steps, 2, 1))
    # A step begins with the last of the one before's seven stages.
    calls = 1 + 6 * steps + grid.ends_at_data
    return AdaptiveSamples(jnp.where(solved, end, jnp.nan), calls, status)

  return jax.vmap(solve)(x)
