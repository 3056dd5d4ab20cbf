"""Processes shifted in log-SNR: the same schedule for data of another resolution.

Hoogeboom, Heek and Salimans, "simple diffusion: End-to-end diffusion for high resolution images",
ICML 2023 (arXiv 2301.11093), section 3.1. Averaging over (d / 64)^2 pixels lowers the noise but not
the signal; to see images of side d as noisy as those of side 64, shift by log(64 / d).
"""

from __future__ import annotations

import jax.numpy as jnp

from scorelab.schedules.level import PROCESSES
from scorelab.schedules.schedule import Schedule
from scorelab.typing import Array, Floats


class Shifted(Schedule):
  """A schedule with `shift` added to its log-SNR at every t; its process does not change.

  Attributes:
    schedule: any.
    shift: of lambda = log(alpha / sigma): half of that of log(alpha^2 / sigma^2), the paper's
      logSNR; below 0 there is more noise.
  """

  schedule: Schedule
  shift: float = 0.0

  @property
  def process(self) -> str | None:  # pyrefly: ignore[bad-override]
    """The schedule's own, as are the ends."""
    return self.schedule.process

  @property
  def t_min(self) -> Array | float:  # pyrefly: ignore[bad-override]
    """The schedule's own."""
    return self.schedule.t_min

  @property
  def t_max(self) -> Array | float:  # pyrefly: ignore[bad-override]
    """The schedule's own."""
    return self.schedule.t_max

  @property
  def has_time(self) -> bool:
    """The schedule's own."""
    return self.schedule.has_time

  @property
  def timed(self) -> bool:  # pyrefly: ignore[bad-override]
    """The schedule's own."""
    return self.schedule.timed

  def _parts(self, t: Array) -> tuple[Array, Array, Array, Array]:
    """Returns alpha, sigma and sigma^2 of the schedule with sigma scaled, and their divisor."""
    scale = jnp.exp(-self.shift)
    alpha, sigma = self.schedule.alpha(t), scale * self.schedule.sigma(t)
    variance = scale**2 * self.schedule.variance(t)
    if self.process is None:  # nothing to keep: the signal stays and the noise is scaled
      return alpha, sigma, variance, jnp.ones(())
    return alpha, sigma, variance, PROCESSES[self.process](alpha, sigma, variance)

  def alpha(self, t: Floats) -> Floats:
    alpha, _, _, norm = self._parts(t)
    return alpha / norm

  def sigma(self, t: Floats) -> Floats:
    _, sigma, _, norm = self._parts(t)
    return sigma / norm

  def variance(self, t: Floats) -> Floats:
    _, _, variance, norm = self._parts(t)
    return variance / norm**2

  def time(self, log_snr: Floats) -> Floats:
    return self.schedule.time(log_snr - self.shift)
