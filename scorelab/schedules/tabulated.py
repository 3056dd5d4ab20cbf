"""A process that is known at a few points, such as another library's table."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float

from scorelab.schedules.level import pair_of, rescaled
from scorelab.schedules.schedule import Schedule
from scorelab.typing import Array, Floats


class Tabulated(Schedule, static=("process", "timed")):
  """A process known at a few points: log-SNR is linear in t between them, extrapolated beyond.

  Where the table ends in pure noise, alpha / sigma falls linearly to 0 after the last point.

  Attributes:
    times: [n], increasing.
    log_snrs: [n], decreasing, finite.
    process: one of PROCESSES; alpha and sigma follow from it and the log-SNR.
    timed: whether the times mean something to a network.
    noise_time: the t > times[-1] at which alpha = 0, if there is one.
  """

  times: Float[Array, " n"]
  log_snrs: Float[Array, " n"]
  process: str = dataclasses.field()  # pyrefly: ignore[bad-override]
  timed: bool = True  # pyrefly: ignore[bad-override]
  noise_time: Array | None = None

  @property
  def t_min(self) -> Array:  # pyrefly: ignore[bad-override]
    """The first point's t."""
    return self.times[0]

  @property
  def t_max(self) -> Array:  # pyrefly: ignore[bad-override]
    """The last point's t."""
    return self.times[-1]

  def _pair(self, t: Array) -> tuple[Array, Array]:
    """Returns alpha and sigma at t, up to a factor."""
    if self.noise_time is None:
      return pair_of(-_interpolate(t, self.times, -self.log_snrs))
    beyond = t > self.t_max
    inside = jnp.where(beyond, self.t_max, t)
    alpha, sigma = pair_of(-_interpolate(inside, self.times, -self.log_snrs))
    share = (self.noise_time - t) / (self.noise_time - self.t_max)
    return jnp.where(beyond, share, 1) * alpha, sigma

  def alpha(self, t: Floats) -> Floats:
    return rescaled(self.process, *self._pair(t))[0]

  def sigma(self, t: Floats) -> Floats:
    return rescaled(self.process, *self._pair(t))[1]

  def log_snr(self, t: Floats) -> Floats:
    alpha, sigma = self._pair(t)
    return jnp.log(alpha) - jnp.log(sigma)

  def time(self, log_snr: Floats) -> Floats:
    t = _interpolate(-log_snr, -self.log_snrs, self.times)
    if self.noise_time is None:
      return t
    share = jnp.exp(jnp.minimum(log_snr - self.log_snrs[-1], 0))
    return jnp.where(share < 1, self.noise_time - share * (self.noise_time - self.t_max), t)


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
  """Interpolates linearly through (xs increasing, ys), each [n]; extrapolates the end slopes.

  `jnp.interp` with left and right 'extrapolate' rounds differently, which would change runs, and
  gives a single point no slope.
  """
  if xs.shape[0] == 1:
    return ys[0] + (x - xs[0])  # one point has no slope; any rising line through it serves
  i = jnp.clip(jnp.searchsorted(xs, x, side="right") - 1, 0, xs.shape[0] - 2)
  return ys[i] + (x - xs[i]) * (ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])
