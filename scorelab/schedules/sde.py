"""A process as a stochastic differential equation, forwards and backwards in time.

    forwards     dx = f x dt + g dw
    backwards    dx = (f x - (1 + eta^2) / 2 g^2 score) dt + eta g dw

Every eta keeps the forward marginals: 1 is Anderson's reversal, 0 the probability flow.

References:
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), eqs. 5, 6 and 13.
  Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", ICLR 2023
    (arXiv 2204.13902), eq. 6: the family between.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.ranges import AtLeast
from scorelab.schedules.level import Level, require_time
from scorelab.schedules.schedule import Schedule
from scorelab.typing import Array, Floats, Key
from scorelab.validation import checked


@checked
def reverse_drift(
  schedule: Schedule,
  level: Level,
  x: Floats,
  score: Floats,
  *,
  eta: Annotated[Array | float, AtLeast(0)] = 1.0,
) -> Floats:
  """Returns dx/dt backwards in time, without its noise of std eta g dt^(1/2), of x's shape.

  Args:
    schedule: the process.
    level: of shape [] or x's leading batch shape, with a time and alpha > 0.
    x: points at the level.
    score: the score of q_t at them, of x's shape.
    eta: 0 is the probability flow's drift, `schedule.velocity` from the score; 1 the reverse SDE's.

  Raises:
    ValueError: the level has no time.
  """
  t = require_time(level.like(x))
  pull = (1 + eta**2) / 2 * schedule.diffusion_squared(t)
  return schedule.drift(t) * x - pull * score


@checked
def forward_path(
  key: Key, schedule: Schedule, x: Floats, times: Float[Array, " num_times"]
) -> tuple[Floats, Float[Array, " num_steps *shape"]]:
  """Simulates the forward SDE by the Euler-Maruyama method: of first order in law.

  Args:
    key: consumed.
    schedule: the process.
    x: points at times[0], of any shape.
    times: [n + 1], increasing; alpha > 0 at all but the last, where nothing is evaluated.

  Returns:
    The points at the last time, of x's shape, and at times 1..n, [n, *x.shape].
  """

  def step(x: Array, inputs: tuple[Array, Array, Key]) -> tuple[Array, Array]:
    t, width, key = inputs
    z = jax.random.normal(key, x.shape, x.dtype)
    spread = jnp.sqrt(width * schedule.diffusion_squared(t))
    x = x + width * schedule.drift(t) * x + spread * z
    return x, x

  keys = jax.random.split(key, len(times) - 1)
  return jax.lax.scan(step, x, (times[:-1], jnp.diff(times), keys))
