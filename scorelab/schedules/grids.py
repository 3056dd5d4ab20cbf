"""Where to put the levels of a grid: `(schedule, num_steps, **options) -> Grid`.

Every builder gives num_steps noisy levels followed by the data, so num_steps calls of `predict` for
a one-call solver; with to_data=False it gives num_steps + 1 noisy levels.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from scorelab.schedules.base import Grid, Schedule
from scorelab.schedules.discrete import Discrete
from scorelab.typing import Array


def uniform(
  schedule: Schedule,
  num_steps: int,
  *,
  t_max: float = 1.0,
  t_min: float | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in t from t_max to t_min, then the data where `to_data`."""
  t_min = schedule.t_min if t_min is None else t_min
  return schedule.grid(jnp.linspace(t_max, t_min, num_steps + (not to_data)), to_data=to_data)


def quadratic(
  schedule: Schedule,
  num_steps: int,
  *,
  t_max: float = 1.0,
  t_min: float | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in sqrt(t): more of them near the data (Song et al. 2020, D.2)."""
  t_min = schedule.t_min if t_min is None else t_min
  roots = jnp.linspace(t_max**0.5, t_min**0.5, num_steps + (not to_data))
  return schedule.grid(roots**2, to_data=to_data)


def karras(
  schedule: Schedule,
  num_steps: int,
  *,
  sigma_max: float | None = None,
  sigma_min: float | None = None,
  rho: float = 7.0,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5).

  sigma_max and sigma_min are ends of sigma / alpha; by default the schedule's own.
  """
  high, low = _ratio_ends(schedule, sigma_max, sigma_min)
  roots = jnp.linspace(high ** (1 / rho), low ** (1 / rho), num_steps + (not to_data))
  return schedule.grid(schedule.time(-rho * jnp.log(roots)), to_data=to_data)


def uniform_log_snr(
  schedule: Schedule,
  num_steps: int,
  *,
  sigma_max: float | None = None,
  sigma_min: float | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in log-SNR: geometric in sigma / alpha, whose ends are given."""
  high, low = _ratio_ends(schedule, sigma_max, sigma_min)
  log_snrs = jnp.linspace(-jnp.log(high), -jnp.log(low), num_steps + (not to_data))
  return schedule.grid(schedule.time(log_snrs), to_data=to_data)


def timesteps(
  schedule: Schedule,
  num_steps: int,
  *,
  spacing: str = "leading",
  steps_offset: int = 0,
  to_data: bool = True,
) -> Grid:
  """N of a discrete process's own T levels, as other libraries choose them, and the data.

  Steps are counted from 0, cleanest first; i = 0..N-1, taken from the last one down (Lin et al.
  2024, arXiv 2305.08891, table 2):

      leading    i (T // N) + steps_offset
      trailing   round((i + 1) T / N) - 1
      linspace   round(i (T - 1) / (N - 1))

  Args:
    schedule: a `Discrete`.
    num_steps: N, at most T.
    spacing: one of those.
    steps_offset: of leading ones, >= 0.
    to_data: whether the data follow; else it is the cleanest level again where it is not there yet.

  Raises:
    ValueError: the process is not discrete, the spacing is not known, or there are no such steps.
  """
  if not isinstance(schedule, Discrete):
    raise ValueError(
      f"timesteps are of a process of T steps, and {type(schedule).__name__} has none: use another"
    )
  total = schedule.times.shape[0] + (schedule.noise_time is not None)
  i = np.arange(num_steps)
  if spacing == "leading":
    steps = i * (total // num_steps) + steps_offset
  elif spacing == "trailing":
    steps = np.round((i + 1) * total / num_steps) - 1
  elif spacing == "linspace":
    steps = np.round(i * (total - 1) / max(num_steps - 1, 1))
  else:
    raise ValueError(f"spacing = {spacing!r} must be one of leading, trailing, linspace")
  if num_steps > total or steps[-1] >= total:
    raise ValueError(
      f"{num_steps} steps, {spacing} with an offset of {steps_offset}, do not fit in {total}"
    )
  if not to_data:
    steps = np.insert(steps, 0, 0) if steps[0] else steps
  return schedule.grid(jnp.asarray((steps[::-1] + 1) / total, float), to_data=to_data)


def _ratio_ends(
  schedule: Schedule, sigma_max: float | None, sigma_min: float | None
) -> tuple[Array, Array]:
  """The largest and smallest sigma / alpha of a grid: as given, or the schedule's own."""
  high = jnp.exp(-schedule.log_snr(jnp.asarray(schedule.t_max)))
  low = jnp.exp(-schedule.log_snr(jnp.asarray(schedule.t_min)))
  return (
    high if sigma_max is None else jnp.asarray(sigma_max),
    low if sigma_min is None else jnp.asarray(sigma_min),
  )
