"""Spacings of the levels of a grid: `(schedule, num_steps, **options) -> Grid`.

Every builder gives num_steps noisy levels followed by the data, so num_steps calls of `predict` for
a one-call solver; with to_data=False it gives num_steps + 1 noisy levels.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.ranges import Above, AtLeast, Between, Count
from scorelab.schedules.grid import Grid
from scorelab.schedules.schedule import Schedule
from scorelab.schedules.tabulated import Tabulated
from scorelab.typing import Array
from scorelab.validation import checked, is_traced, require_order, require_range


@checked
def uniform(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  t_max: Annotated[float, Between(0, 1)] = 1.0,
  t_min: Annotated[float, Between(0, 1)] | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in t from t_max to t_min, then the data if `to_data`.

  Args:
    t_max: time of the first level, the noisiest.
    t_min: time of the last noisy level; None for the schedule's own.
    to_data: whether the last step ends at the data; if not, at one more noisy level.
  """
  last = schedule.t_min if t_min is None else t_min
  return schedule.grid(jnp.linspace(t_max, last, num_steps + (not to_data)), to_data=to_data)


@checked
def quadratic(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  t_max: Annotated[float, Between(0, 1)] = 1.0,
  t_min: Annotated[float, Between(0, 1)] | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in sqrt(t): more of them near the data (Song et al. 2020, D.2).

  Args:
    t_max, t_min, to_data: as for `uniform`.
  """
  last = schedule.t_min if t_min is None else t_min
  roots = jnp.linspace(t_max**0.5, last**0.5, num_steps + (not to_data))
  return schedule.grid(roots**2, to_data=to_data)


SPACINGS = ("leading", "trailing", "linspace")


@checked(spacing=SPACINGS)
def timesteps(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  spacing: str = "trailing",
  steps_offset: Annotated[int, AtLeast(0)] = 0,
  num_levels: Annotated[int, Count(1_000_000)] | None = None,
  to_data: bool = True,
) -> Grid:
  """Whole steps of a process of T steps, as other libraries choose them; step i is t = (i + 1) / T.

  With w = T // N, 'leading' takes the steps 0, w, ..., (N - 1) w, moved by steps_offset: never the
  noisiest. 'trailing' goes from T - 1 down by T / N, rounded: never the cleanest. 'linspace' goes
  from T - 1 to 0. `uniform` is the latter without rounding, `quadratic` DDIM's other choice.

  Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024
  (arXiv 2305.08891), table 2.

  Args:
    schedule: the process.
    num_steps: N, at most T.
    spacing: one of SPACINGS.
    steps_offset: steps by which 'leading' is moved, from 0 to T - 1 - (N - 1) w.
    num_levels: T; by default the schedule's own, or 1000 if it is continuous.
    to_data: whether the last step goes to the data (the other libraries' set_alpha_to_one) or to
      step 0, which 'leading' reaches without an offset, and 'linspace', have already taken.

  Raises:
    ValueError: an option is out of range, or the last step would have no width.
  """
  if num_levels is None:
    known = isinstance(schedule, Tabulated)
    num_levels = len(schedule.times) + (schedule.noise_time is not None) if known else 1000
  if not 1 <= num_steps <= num_levels:
    raise ValueError(f"num_steps = {num_steps} must be from 1 to {num_levels}, the process's steps")
  index, width = np.arange(num_steps)[::-1], num_levels // num_steps
  room = num_levels - (num_steps - 1) * width if spacing == "leading" else 1
  if not 0 <= steps_offset < room:
    raise ValueError(f"steps_offset = {steps_offset} must be from 0 to {room - 1} for {spacing}")
  if spacing == "leading":
    steps = index * width + steps_offset
  elif spacing == "trailing":
    steps = np.round(num_levels - index[::-1] * (num_levels / num_steps)) - 1
  else:
    steps = np.round(np.linspace(0, num_levels - 1, num_steps))[::-1]
  if not to_data:
    if steps[-1] == 0:
      raise ValueError(f"to_data = False: {spacing} spacing has reached step 0 before its last one")
    steps = np.append(steps, 0)
  return schedule.grid(jnp.asarray((steps + 1) / num_levels), to_data=to_data)


@checked
def karras(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  sigma_max: Annotated[float, Above(0)] | None = None,
  sigma_min: Annotated[float, Above(0)] | None = None,
  rho: Annotated[float, Above(0)] = 7.0,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5).

  Args:
    sigma_max: largest sigma / alpha; None for the schedule's own.
    sigma_min: smallest sigma / alpha; None for the schedule's own.
    rho: exponent; the larger, the more of the levels are next to the data.
    to_data: as for `uniform`.
  """
  high, low = _ratio_ends(schedule, sigma_max, sigma_min)
  roots = jnp.linspace(high ** (1 / rho), low ** (1 / rho), num_steps + (not to_data))
  return schedule.grid_at(schedule.along(-rho * jnp.log(roots)), to_data=to_data)


@checked
def uniform_log_snr(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  sigma_max: Annotated[float, Above(0)] | None = None,
  sigma_min: Annotated[float, Above(0)] | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels equally spaced in log-SNR: geometric in sigma / alpha.

  Args:
    sigma_max, sigma_min, to_data: as for `karras`.
  """
  high, low = _ratio_ends(schedule, sigma_max, sigma_min)
  log_snrs = jnp.linspace(-jnp.log(high), -jnp.log(low), num_steps + (not to_data))
  return schedule.grid_at(schedule.along(log_snrs), to_data=to_data)


_SPECTRAL_NODES = 2049


@checked
def spectral(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  variances: Annotated[tuple[float, ...], AtLeast(0)] | Array = (1.0,),
  sigma_max: Annotated[float, Above(0)] | None = None,
  sigma_min: Annotated[float, Above(0)] | None = None,
  to_data: bool = True,
) -> Grid:
  """Levels fitted to the data's variances, of least `exact.grid_kl_bound` for many steps.

  With s = SNR = (alpha / sigma)^2 a short step of width h adds h^2 w(s) to the bound, where
  w = |mmse'(s)| / 4. At widths h(s) the number of steps is int ds / h, and the bound int h w ds.
  For a given number it is least if h is proportional to w^(-1/2): levels are equally spaced in
  int sqrt(w) ds, and every step adds as much. On Gaussian data of variances v_i

      mmse'(s) = -sum_i v_i^2 / (1 + s v_i)^2
      sqrt(w) ds = sqrt(sum_i r_i^2) d(log s) / 2        r_i = s v_i / (1 + s v_i)

  One variance v gives levels equally spaced in log(1 + s v).

  Args:
    variances: v_i, eigenvalues of the data's covariance; one is enough if all are equal.
    sigma_max, sigma_min, to_data: as for `karras`.

  Raises:
    ValueError: a variance is negative, or none is above 0.
  """
  variances = jnp.atleast_1d(jnp.asarray(variances, float))
  _require_variances(variances)
  high, low = _ratio_ends(schedule, sigma_max, sigma_min)
  log_snrs = jnp.linspace(-jnp.log(high), -jnp.log(low), _SPECTRAL_NODES)
  shares = jax.nn.sigmoid(2 * log_snrs[:, None] + jnp.log(variances))
  density = jnp.sqrt(jnp.sum(shares**2, axis=1))  # of levels in log-SNR
  passed = jnp.concatenate([jnp.zeros(1), jnp.cumsum(density[:-1] + density[1:])])
  wanted = jnp.linspace(0, passed[-1], num_steps + (not to_data))
  return schedule.grid_at(schedule.along(jnp.interp(wanted, passed, log_snrs)), to_data=to_data)


@checked
def given_log_snrs(
  schedule: Schedule,
  num_steps: Annotated[int, Count(1_000_000)],
  *,
  log_snrs: tuple[float, ...] | Array = (),
  to_data: bool = True,
) -> Grid:
  """Levels of the given log-SNRs, increasing, such as scripts/optimise_grid.py finds.

  Args:
    log_snrs: log(alpha / sigma) of the noisy levels, increasing.
    to_data: as for `uniform`.

  Raises:
    ValueError: they are not num_steps, or with to_data=False num_steps + 1.
  """
  log_snrs, needed = jnp.asarray(log_snrs, float), num_steps + (not to_data)
  if log_snrs.shape != (needed,):
    raise ValueError(
      f"log_snrs = {log_snrs.size} numbers must be {needed} for a grid of {num_steps} steps"
    )
  return schedule.grid_at(schedule.at_log_snr(log_snrs), to_data=to_data)


def ratio_ends(schedule: Schedule) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the least and the largest sigma / alpha of a schedule's own range, each []."""
  low, high = (schedule.log_snr(jnp.asarray(t)) for t in (schedule.t_min, schedule.t_max))
  return jnp.exp(-low), jnp.exp(-high)


def _require_variances(variances: Array) -> None:
  """Raises ValueError unless all are at least 0, and one is above. Traced numbers pass."""
  require_range("variances", variances, AtLeast(0))
  if not is_traced(variances) and not np.any(np.asarray(variances) > 0):
    raise ValueError(f"variances = {np.asarray(variances)} must have one above 0")


def _ratio_ends(
  schedule: Schedule, sigma_max: float | None, sigma_min: float | None
) -> tuple[Array, Array]:
  """Returns the largest and smallest sigma / alpha of a grid: the given ones or the schedule's."""
  low, high = ratio_ends(schedule)
  high = high if sigma_max is None else jnp.asarray(sigma_max)
  low = low if sigma_min is None else jnp.asarray(sigma_min)
  require_order("sigma_min", low, "sigma_max", high)
  return high, low
