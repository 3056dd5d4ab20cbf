"""Grids: the discretised process that a sampler sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.pytree import Pytree
from scorelab.schedules.level import PROCESSES, Level
from scorelab.schedules.schedule import Schedule
from scorelab.schedules.tabulated import Tabulated
from scorelab.typing import Array, Key
from scorelab.validation import require_known


class Grid(Pytree, static=("ends_at_data",)):
  """N + 1 levels from noise (index 0) to data (index N): all that a sampler sees of a process.

  `grid[i]` is a Level, and a grid can be looped over.

  Attributes:
    schedule: the process, for levels between or just outside the grid's own.
    levels: a Level with fields of shape [N + 1].
    ends_at_data: whether the last level is the data itself, sigma = 0. Static.
  """

  schedule: Schedule
  levels: Level
  ends_at_data: bool

  @property
  def num_steps(self) -> int:
    """N."""
    return self.levels.alpha.shape[0] - 1

  def __getitem__(self, i: int) -> Level:
    if isinstance(i, int) and not -self.num_steps - 1 <= i <= self.num_steps:
      raise IndexError(f"level {i} of a grid of {self.num_steps} steps")  # JAX would clamp
    return jax.tree.map(lambda a: a[i], self.levels)

  @property
  def pairs(self) -> tuple[Level, Level]:
    """(now, next), each with fields [N]: the inputs of a scan over steps."""
    return jax.tree.map(lambda a: a[:-1], self.levels), jax.tree.map(lambda a: a[1:], self.levels)

  @property
  def noisy_pairs(self) -> tuple[Level, Level]:
    """`pairs` without the step onto the data, where there is one."""
    if not self.ends_at_data:
      return self.pairs
    return jax.tree.map(lambda a: a[:-1], self.pairs)

  def prior(self, key: Key, shape: tuple[int, ...]) -> Array:
    """Draws the start, of this shape: N(0, s^2 I) with s the schedule's `prior_std` at grid[0]."""
    start = self[0]
    noise = jax.random.normal(key, shape, start.sigma.dtype)
    return self.schedule.prior_std(start) * noise

  def refined(self, times: int) -> Grid:
    """Returns the grid with `times` as many levels: between any two of its own, even in log-SNR.

    Its own levels stay. Between pure noise and the next level they are within a factor of e^2 of
    the latter's sigma / alpha; between the last noisy level and the data there are none.
    """
    noisy = self.levels
    if self.ends_at_data:
      noisy = jax.tree.map(lambda a: a[:-1], self.levels)
    count = noisy.alpha.shape[0]
    if count == 1:
      return self
    log_snrs = noisy.log_snr
    log_snrs = log_snrs.at[0].set(jnp.where(noisy.alpha[0] > 0, log_snrs[0], log_snrs[1] - 2))
    places = jnp.arange(times * (count - 1) + 1) / times
    levels = self.schedule.at_log_snr(jnp.interp(places, jnp.arange(count), log_snrs))
    levels = jax.tree.map(lambda a, own: a.at[::times].set(own), levels, noisy)
    return self.schedule.grid_at(levels, to_data=self.ends_at_data)

  @staticmethod
  def from_arrays(
    alpha: Array | np.ndarray,
    sigma: Array | np.ndarray,
    *,
    process: str,
    t: Array | np.ndarray | None = None,
  ) -> Grid:
    """Makes a grid of another library's levels: exact at them, log-SNR interpolated between them.

    Args:
      alpha: [N + 1] signal scales, concrete; the first may be 0.
      sigma: [N + 1] noise stds, concrete; the last may be 0, the data.
      process: one of PROCESSES.
      t: [N + 1] decreasing times; without them a time-conditioned network is refused.

    Raises:
      ValueError: for an unknown process, or shapes or an order that make no grid.
    """
    require_known("process", process, PROCESSES)
    alpha, sigma = np.asarray(alpha, float), np.asarray(sigma, float)
    if alpha.ndim != 1 or alpha.shape != sigma.shape or alpha.size < 2:
      raise ValueError(
        f"alpha {alpha.shape} and sigma {sigma.shape} must have one shape [N + 1], N >= 1"
      )
    inner = (alpha > 0) & (sigma > 0)
    pure_noise, data = int(alpha[0] == 0 < sigma[0]), int(sigma[-1] == 0 < alpha[-1])
    if not (inner[pure_noise : alpha.size - data].all() and inner.any()):
      raise ValueError(
        "alpha and sigma must be > 0, but for alpha[0] and sigma[-1]; one pair at least"
      )
    log_snrs = np.log(alpha[inner]) - np.log(sigma[inner])
    if not (np.diff(log_snrs) > 0).all():
      raise ValueError("alpha / sigma must increase: a grid runs from noise to data")
    times = np.linspace(1.0, 0.0, alpha.size) if t is None else np.asarray(t, float)
    if times.shape != alpha.shape or not (np.diff(times) < 0).all():
      raise ValueError(f"t must be decreasing, of shape {alpha.shape}")
    schedule = Tabulated(
      jnp.asarray(times[inner][::-1]),
      jnp.asarray(log_snrs[::-1]),
      process,
      timed=t is not None,
      noise_time=jnp.asarray(times[0]) if pure_noise else None,
    )
    level = Level(None if t is None else jnp.asarray(times), jnp.asarray(alpha), jnp.asarray(sigma))
    return Grid(schedule, level, ends_at_data=bool(sigma[-1] == 0))


Schedule._make_grid = Grid
