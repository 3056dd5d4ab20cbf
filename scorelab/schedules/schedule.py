"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1].

A process is its two functions; everything else is derived from them:

    drift      f(t) x,  f = d log alpha / dt
    diffusion  g(t)^2   = d sigma^2 / dt - 2 f sigma^2
    log-SNR    lambda   = log(alpha / sigma)
    time       the t of a log-SNR, by bisection
    prior      N(0, (alpha^2 + sigma^2) I) at the noisy end

`alpha` is the signal scale: DDPM's sqrt(alpha_bar), neither its alpha_bar nor its 1 - beta.
The log-SNR is DPM-Solver's half-log-SNR.

References:
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), section 3.4 and appendix B.
  Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022 (arXiv 2206.00364), eq. 5.
  Kingma et al., "Variational Diffusion Models", NeurIPS 2021 (arXiv 2107.00630), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.pytree import Pytree
from scorelab.ranges import AtLeast, Between
from scorelab.schedules.level import Level, pair_of, require_time, rescaled, safe_sqrt
from scorelab.typing import Array, Floats
from scorelab.validation import checked, require_grid

if TYPE_CHECKING:
  from scorelab.schedules.grid import Grid

_END = math.log(1e-3)
"""The log-SNR at which ranges begin and, negated, end by default, where a process goes further."""


def _default_end(end: float, log_snr: float) -> Any:
  """Returns a property: the end, or the time of a log-SNR on this side of it, if that is inside."""

  def reached(schedule: Schedule) -> Array:
    level, threshold = schedule.at(end), jnp.asarray(log_snr, float)
    alpha, sigma = pair_of(threshold)
    beyond = (level.alpha * sigma > level.sigma * alpha) == (log_snr > 0)
    return jnp.where(beyond, schedule.time(threshold), end)

  return property(reached)


class _Traits:
  """Attributes of the class of a process: not fields of its instances."""

  _make_grid: ClassVar[Callable[..., Any]]
  """The class Grid, which has a schedule: scorelab.schedules.grid sets it, as it imports this."""
  process: ClassVar[str | None] = None
  """A name of PROCESSES, which extrapolates alpha and sigma beyond the ends; None: its own."""
  timed: ClassVar[bool] = True
  """True if t is meaningful to a network; otherwise levels have no t."""
  t_min: ClassVar[Any] = _default_end(0.0, -_END)
  """Default t of the last noisy level of a grid: 0, or the t at which sigma / alpha is 0.001."""
  t_max: ClassVar[Any] = _default_end(1.0, _END)
  """Default start of ranges of log-SNR: t = 1, or the t at which alpha / sigma is 0.001."""


class Schedule(_Traits, Pytree, abstract=True):
  """A forward process: a subclass needs `alpha` and `sigma`, decreasing in their ratio, no more.

      class Cubic(Schedule):
        \"\"\"sigma = t^3, alpha = (1 - t)^power.\"\"\"

        power: float = 1.0

        def alpha(self, t):
          return (1 - t) ** self.power

        def sigma(self, t):
          return t**3

  A subclass becomes a frozen dataclass and a pytree, see `Pytree`: its fields are numbers, which
  can be traced. It may give closed forms, which take less time and keep more digits than what is
  derived: `time`, the inverse of the log-SNR; `variance` in the place of `sigma`, where
  sigma(0) = 0, so that both are smooth there; `process`; `t_min` and `t_max`.
  """

  def __init_subclass__(cls, **options: Any):
    own = "__init__" in cls.__dict__
    super().__init_subclass__(**options)
    if not own:
      checked(cls)

  def alpha(self, t: Floats) -> Floats:
    """Returns the signal scale at t, elementwise."""
    raise TypeError(f"{type(self).__name__} defines no alpha")

  def sigma(self, t: Floats) -> Floats:
    """Returns the noise std at t, elementwise."""
    if type(self).variance is Schedule.variance:
      raise TypeError(f"{type(self).__name__} defines no sigma")
    return safe_sqrt(self.variance(t))

  def variance(self, t: Floats) -> Floats:
    """Returns sigma^2 at t, elementwise."""
    return self.sigma(t) ** 2

  def time(self, log_snr: Floats) -> Floats:
    """Returns the t at which log(alpha / sigma) has this value, elementwise.

    By bisection, to the precision of t's floats, unless a subclass knows the inverse: then 0 or 1
    for a value that the process does not reach. Derivatives are those of the inverse function.
    """
    return _time(self, jnp.asarray(log_snr, float))

  @property
  def has_time(self) -> bool:
    """True if `time` is a closed form, which extrapolates beyond the ends of [0, 1]."""
    return type(self).time is not Schedule.time

  def log_snr(self, t: Floats) -> Floats:
    """Returns log(alpha / sigma) at t, elementwise: decreasing."""
    return self.at(t).log_snr

  @checked
  def at(self, t: Annotated[Floats | float, Between(0, 1, slack=1e-6)]) -> Level:
    """Returns the level at time t in [0, 1], of t's shape."""
    return self.extended_at(jnp.asarray(t, float))

  def extended_at(self, t: Floats) -> Level:
    """Returns the level at any t: like `at`, the formulas extrapolated beyond [0, 1]."""
    alpha, sigma = self.alpha(t), self.sigma(t)
    if self.process is None:  # rounding leaves -4e-8 of a cosine at its zero
      alpha, sigma = jnp.maximum(alpha, 0), jnp.maximum(sigma, 0)
    return Level(t if self.timed else None, alpha, sigma)

  @checked
  def at_log_snr(self, log_snr: Floats | float) -> Level:
    """Returns the level of this log-SNR, of its shape.

    Beyond the ends of [0, 1] a named process is extrapolated. Another one keeps the larger of alpha
    and sigma, and `time` stays at the end.
    """
    log_snr = jnp.asarray(log_snr, float)
    if self.process is not None:
      t = self.time(log_snr) if self.timed else None
      return Level(t, *rescaled(self.process, *pair_of(log_snr)))
    level = self.extended_at(jnp.clip(self.time(log_snr), 0, 1))
    # The ratio is exact; near the noisy end t has too few digits for it.
    alpha, sigma = pair_of(log_snr)
    noisy = log_snr < 0
    return level._replace(
      alpha=jnp.where(noisy, level.sigma * alpha, level.alpha),
      sigma=jnp.where(noisy, level.sigma, level.alpha * sigma),
    )

  def along(self, log_snr: Floats) -> Level:
    """Returns the levels of these log-SNRs as a grid has them: `at` their times, if closed form."""
    return self.extended_at(self.time(log_snr)) if self.has_time else self.at_log_snr(log_snr)

  @checked
  def at_ratio(self, ratio: Annotated[Floats | float, AtLeast(0)]) -> Level:
    """Returns the level at which sigma / alpha is `ratio` >= 0, of its shape; 0 is the data."""
    ratio = jnp.asarray(ratio, float)
    noisy = ratio > 0
    level = self.at_log_snr(-jnp.log(jnp.where(noisy, ratio, 1)))
    t = None if level.t is None else jnp.where(noisy, level.t, 0)
    return Level(t, jnp.where(noisy, level.alpha, 1), jnp.where(noisy, level.sigma, 0))

  def rates(self, t: Floats) -> tuple[Floats, Floats]:
    """Returns d alpha / dt and d sigma / dt; the infinite slope of a root at 0 counts as 0."""
    one = jnp.ones_like(t)
    return jax.jvp(self.alpha, (t,), (one,))[1], jax.jvp(self.sigma, (t,), (one,))[1]

  def drift(self, t: Floats) -> Floats:
    """Returns f = d log alpha / dt: the SDE's drift is f x. Undefined where alpha = 0."""
    return jax.jvp(lambda t: jnp.log(self.alpha(t)), (t,), (jnp.ones_like(t),))[1]

  def diffusion_squared(self, t: Floats) -> Floats:
    """Returns g^2 = d sigma^2 / dt - 2 f sigma^2, elementwise (Kingma et al. 2021, eq. 16)."""
    variance, rate = jax.jvp(self.variance, (t,), (jnp.ones_like(t),))
    return rate - 2 * self.drift(t) * variance

  @checked
  def velocity(self, level: Level, x0: Floats, noise: Floats) -> Floats:
    """Returns dx/dt of the probability flow, alpha' x0 + sigma' noise, of x0's shape.

    Raises:
      ValueError: the level has no time.
    """
    rates = self.rates(require_time(level))
    alpha_rate, sigma_rate = (r.reshape(r.shape + (1,) * (x0.ndim - r.ndim)) for r in rates)
    return alpha_rate * x0 + sigma_rate * noise

  def prior_std(self, level: Level) -> Array:
    """Returns the std of the Gaussian from which sampling starts at `level`, of its shape.

    sqrt(alpha^2 + sigma^2), that of noised data of std 1. It is 1 for 'vp'; the other named
    processes have the literature's: sigma for 've', 1 for the rest.
    """
    if self.process is None:
      return jnp.sqrt(level.alpha**2 + level.sigma**2)
    return level.sigma if self.process == "ve" else jnp.ones_like(level.sigma)

  def grid(self, times: Float[Array, " n"], *, to_data: bool = True) -> Grid:
    """Returns the grid at decreasing `times` [n], followed by the data itself if `to_data`."""
    return self.grid_at(self.at(times), to_data=to_data)

  def grid_at(self, levels: Level, *, to_data: bool = True) -> Grid:
    """Returns the grid of these levels [n], then the data if `to_data`.

    Raises:
      ValueError: sigma / alpha does not fall along them.
    """
    require_grid(levels)
    if to_data:
      data = Level(None if levels.t is None else jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
      levels = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), levels, data)
    return self._make_grid(self, levels, ends_at_data=to_data)


@jax.jit  # outside a program each call would otherwise compile its loop again
def _time(schedule: Schedule, log_snr: Array) -> Array:
  """Solves log(alpha(t) / sigma(t)) = log_snr for t in [0, 1], elementwise, by bisection."""
  # Twice the digits: as many for t's exponent as for its significand.
  num_halvings = 2 * (jnp.finfo(log_snr.dtype).nmant + 1)

  def excess(t: Array) -> Array:
    level = schedule.extended_at(t)
    return jnp.log(level.alpha) - jnp.log(level.sigma) - log_snr

  def bisect(_: Any, start: Array) -> Array:
    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
      low, high = ends
      middle = (low + high) / 2
      clean = excess(middle) > 0
      return jnp.where(clean, middle, low), jnp.where(clean, high, middle)

    low, high = jax.lax.fori_loop(0, num_halvings, halve, (start, start + 1))
    return jnp.where(low > 0, high, low)  # exact at both ends

  def tangent(slope: Any, value: Array) -> Array:
    rate = slope(jnp.ones_like(value))
    return value * jnp.where(jnp.isfinite(rate) & (rate != 0), 1 / rate, 0)  # flat or infinite

  return jax.lax.custom_root(excess, jnp.zeros_like(log_snr), bisect, tangent)
