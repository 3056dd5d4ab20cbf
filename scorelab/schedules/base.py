"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], and their discretisations.

A process is its two functions; everything else is derived from them:

    drift      f(t) x,  f = d log alpha / dt
    diffusion  g(t)^2   = d sigma^2 / dt - 2 f sigma^2
    log-SNR    lambda   = log(alpha / sigma)

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

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.typing import Array, Key
from scorelab.validation import Registry, checked, require_grid, require_known

_T = TypeVar("_T")


class Level(NamedTuple):
  """A point on a process, or a batch of them.

  All fields are of shape [], or of the leading batch shape of the x that they go with.

  Attributes:
    t: time in [0, 1], 0 at the data; None on grids that know no time.
    alpha: signal scale, >= 0.
    sigma: noise std, >= 0.
  """

  t: Array | None
  alpha: Array
  sigma: Array

  @property
  def log_snr(self) -> Array:
    """log(alpha / sigma)."""
    return jnp.log(self.alpha) - jnp.log(self.sigma)

  def like(self, x: Array) -> Level:
    """The same level with trailing axes added, so that its fields broadcast with x."""

    def expand(a: Array) -> Array:
      if a.ndim and a.shape != x.shape[: a.ndim]:
        raise ValueError(f"level has shape {a.shape}, must be [] or x's leading axes, {x.shape}")
      return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a

    return jax.tree.map(expand, self)


# What distinguishes the processes: a norm of (alpha, sigma) that is 1 at every level. All of them
# are one process, rescaled. Taking sigma^2 beside sigma, each is smooth where either is.
PROCESSES: dict[str, Callable[[Array, Array, Array], Array]] = Registry("process") | {
  "ve": lambda alpha, sigma, variance: alpha,
  "vp": lambda alpha, sigma, variance: jnp.sqrt(alpha**2 + variance),
  "flow": lambda alpha, sigma, variance: alpha + sigma,
  "channel": lambda alpha, sigma, variance: sigma,
  # alpha^2 + sigma = 1, solved for what both are to be divided by.
  "sub_vp": lambda alpha, sigma, variance: (sigma + jnp.sqrt(variance + 4 * alpha**2)) / 2,
}


def rescaled(process: str, alpha: Array, sigma: Array) -> tuple[Array, Array]:
  """The (alpha, sigma) of a process whose ratio is that of the pair given, elementwise."""
  norm = PROCESSES[process](alpha, sigma, sigma**2)
  return alpha / norm, sigma / norm


def _pair(log_snr: Array) -> tuple[Array, Array]:
  """Some alpha and sigma of this log-SNR, the larger one 1: neither overflows."""
  return jnp.exp(jnp.minimum(log_snr, 0)), jnp.exp(-jnp.maximum(log_snr, 0))


def safe_sqrt(a: Array) -> Array:
  """The square root, 0 where a <= 0, where the double where keeps the gradient finite: 0."""
  return jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1)), 0)


class Schedule:
  """A forward process. A subclass gives `process`, `alpha`, `sigma` and `time`.

  Subclasses are frozen dataclasses registered as pytrees, so that their numbers can be traced.
  """

  process: ClassVar[str]
  t_min: ClassVar[float] = 0.0
  """Where grids put their last noisy level by default; above 0 where sigma(0) = 0."""
  t_max: ClassVar[float] = 1.0
  """Where ranges of log-SNR begin by default; below 1 where alpha(1) = 0."""
  timed: ClassVar[bool] = True
  """Whether its t means something to a network; otherwise levels have none."""

  def alpha(self, t: Array) -> Array:
    """Signal scale at t, elementwise."""
    raise TypeError(f"{type(self).__name__} defines no alpha")

  def sigma(self, t: Array) -> Array:
    """Noise std at t, elementwise."""
    return safe_sqrt(self.variance(t))

  def variance(self, t: Array) -> Array:
    """sigma^2 at t, elementwise. A process with sigma(0) = 0 defines this one: it stays smooth."""
    return self.sigma(t) ** 2

  def time(self, log_snr: Array) -> Array:
    """The t at which log(alpha / sigma) has this value, elementwise: the inverse of `log_snr`."""
    raise TypeError(f"{type(self).__name__} defines no time")

  def log_snr(self, t: Array) -> Array:
    """log(alpha / sigma) at t, elementwise: decreasing."""
    return self.at(t).log_snr

  @checked("level")
  def at(self, t: Array | float) -> Level:
    """Returns the level at time t in [0, 1], of t's shape."""
    return self.extended_at(jnp.asarray(t, float))

  def extended_at(self, t: Array) -> Level:
    """`at` for any t: beyond the ends of [0, 1] the formulas go on."""
    return Level(t if self.timed else None, self.alpha(t), self.sigma(t))

  @checked("level")
  def at_log_snr(self, log_snr: Array | float) -> Level:
    """The level of this log-SNR, of its shape; beyond the ends of [0, 1] the formulas go on."""
    log_snr = jnp.asarray(log_snr, float)
    t = self.time(log_snr) if self.timed else None
    return Level(t, *rescaled(self.process, *_pair(log_snr)))

  @checked("level")
  def at_ratio(self, ratio: Array | float) -> Level:
    """The level at which sigma / alpha is `ratio` >= 0, of its shape; 0 is the data."""
    ratio = jnp.asarray(ratio, float)
    noisy = ratio > 0
    level = self.at_log_snr(-jnp.log(jnp.where(noisy, ratio, 1)))
    t = None if level.t is None else jnp.where(noisy, level.t, 0)
    return Level(t, jnp.where(noisy, level.alpha, 1), jnp.where(noisy, level.sigma, 0))

  def rates(self, t: Array) -> tuple[Array, Array]:
    """d alpha / dt and d sigma / dt, elementwise; the infinite slope of a root at 0 counts as 0."""
    one = jnp.ones_like(t)
    return jax.jvp(self.alpha, (t,), (one,))[1], jax.jvp(self.sigma, (t,), (one,))[1]

  def drift(self, t: Array) -> Array:
    """f = d log alpha / dt, elementwise: the SDE's drift is f x. Undefined where alpha = 0."""
    return jax.jvp(lambda t: jnp.log(self.alpha(t)), (t,), (jnp.ones_like(t),))[1]

  def diffusion_squared(self, t: Array) -> Array:
    """g^2 = d sigma^2 / dt - 2 f sigma^2, elementwise (Kingma et al. 2021, eq. 16)."""
    variance, rate = jax.jvp(self.variance, (t,), (jnp.ones_like(t),))
    return rate - 2 * self.drift(t) * variance

  @checked("level")
  def velocity(self, level: Level, x0: Array, noise: Array) -> Array:
    """dx/dt of the probability flow, alpha' x0 + sigma' noise, of x0's shape.

    Raises:
      ValueError: the level has no time.
    """
    rates = self.rates(require_time(level))
    alpha_rate, sigma_rate = (r.reshape(r.shape + (1,) * (x0.ndim - r.ndim)) for r in rates)
    return alpha_rate * x0 + sigma_rate * noise

  def prior_std(self, level: Level) -> Array:
    """Std of the Gaussian from which sampling starts at `level`: sigma for VE, else 1."""
    return level.sigma if self.process == "ve" else jnp.ones_like(level.sigma)

  def grid(self, times: Array, *, to_data: bool = True) -> Grid:
    """A grid at decreasing `times` [n], followed by the data itself where `to_data`."""
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
    return Grid(self, levels, ends_at_data=to_data)


@dataclass_transform(frozen_default=True)
def by_formula(cls: type[_T]) -> type[_T]:
  """Class decorator: a frozen dataclass, checked, whose fields are the leaves of a pytree.

  Not by `register_dataclass`: up to JAX 0.10 at least, the tree structures that it makes of two
  classes with as many fields are equal, and `jit` may run the one's program for the other.
  """
  cls = checked("schedule")(dataclasses.dataclass(frozen=True)(cls))
  names = [field.name for field in dataclasses.fields(cls)]  # pyrefly: ignore

  def flatten(schedule: Any) -> tuple[tuple[Any, ...], None]:
    return tuple(getattr(schedule, name) for name in names), None

  def unflatten(_: None, values: Iterable[Any]) -> Any:
    schedule = object.__new__(cls)  # the numbers may be anything here, and were checked before
    for name, value in zip(names, values, strict=True):
      object.__setattr__(schedule, name, value)
    return schedule

  jax.tree_util.register_pytree_node(cls, flatten, unflatten)
  return cls


def require_time(level: Level) -> Array:
  """The level's t.

  Raises:
    ValueError: the level comes from a grid that was given without times.
  """
  if level.t is None:
    raise ValueError("this level has no time: give Grid.from_arrays its t")
  return level.t


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["times", "log_snrs", "noise_time"],
  meta_fields=["process", "timed"],
)
@dataclasses.dataclass(frozen=True)
class Tabulated(Schedule):
  """A process known at a few points: log-SNR is interpolated linearly in t, and goes on beyond.

  Where the table ends in pure noise, alpha / sigma falls linearly to 0 after the last point.

  Attributes:
    times: [n], increasing.
    log_snrs: [n], decreasing, finite.
    process: one of PROCESSES; alpha and sigma follow from it and the log-SNR.
    timed: whether the times mean something to a network.
    noise_time: the t > times[-1] at which alpha = 0, if there is one.
  """

  times: Array
  log_snrs: Array
  process: str  # pyrefly: ignore[bad-override]
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
    """Alpha and sigma at t, up to a factor."""
    if self.noise_time is None:
      return _pair(-_interpolate(t, self.times, -self.log_snrs))
    beyond = t > self.t_max
    inside = jnp.where(beyond, self.t_max, t)
    alpha, sigma = _pair(-_interpolate(inside, self.times, -self.log_snrs))
    share = (self.noise_time - t) / (self.noise_time - self.t_max)
    return jnp.where(beyond, share, 1) * alpha, sigma

  def alpha(self, t: Array) -> Array:
    return rescaled(self.process, *self._pair(t))[0]

  def sigma(self, t: Array) -> Array:
    return rescaled(self.process, *self._pair(t))[1]

  def log_snr(self, t: Array) -> Array:
    alpha, sigma = self._pair(t)
    return jnp.log(alpha) - jnp.log(sigma)

  def time(self, log_snr: Array) -> Array:
    t = _interpolate(-log_snr, -self.log_snrs, self.times)
    if self.noise_time is None:
      return t
    share = jnp.exp(jnp.minimum(log_snr - self.log_snrs[-1], 0))
    return jnp.where(share < 1, self.noise_time - share * (self.noise_time - self.t_max), t)


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
  """Piecewise linear through (xs increasing, ys), each [n]; the end slopes go on outside."""
  if xs.shape[0] == 1:
    return ys[0] + (x - xs[0])  # one point has no slope; any rising line through it serves
  i = jnp.clip(jnp.searchsorted(xs, x, side="right") - 1, 0, xs.shape[0] - 2)
  return ys[i] + (x - xs[i]) * (ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["schedule", "levels"], meta_fields=["ends_at_data"]
)
@dataclasses.dataclass(frozen=True)
class Grid:
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
    """Draws the start: N(0, sigma_0^2 I) for VE, N(0, I) for the others, of this shape."""
    start = self[0]
    noise = jax.random.normal(key, shape, start.sigma.dtype)
    return self.schedule.prior_std(start) * noise

  @staticmethod
  def from_arrays(
    alpha: Array | np.ndarray,
    sigma: Array | np.ndarray,
    *,
    process: str,
    t: Array | np.ndarray | None = None,
  ) -> Grid:
    """A grid from another library's levels: exact at them, log-SNR interpolated between them.

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
