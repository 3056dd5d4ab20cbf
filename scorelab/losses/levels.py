"""Level distributions and weightings of losses.

A level distribution is its quantile function: `(schedule, u) -> Level` with u uniform on [0, 1], so
that stratified and antithetic draws of u serve every distribution. A weighting `level -> w`
multiplies |x0 error|^2, a score weighting |score error|^2; at sigma = 0 only the latter has a
meaning. A weighting that needs the process takes it as a keyword, `schedule`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.predictions import x0_slope
from scorelab.ranges import Above, Between, Count
from scorelab.schedules import GRIDS, Level, Schedule, Tabulated, require_time
from scorelab.typing import Array, Floats, Key
from scorelab.validation import Registry, checked, is_traced


@checked
def uniform_time(
  schedule: Schedule,
  u: Floats,
  *,
  t_min: Annotated[float, Between(0, 1)] | None = None,
  t_max: Annotated[float, Between(0, 1)] = 1.0,
) -> Level:
  """t uniform on [t_min, t_max]; t_min is the schedule's own by default. u [n] -> Level [n].

  Args:
    t_min: smallest time; None for the schedule's own.
    t_max: largest time.
  """
  low = schedule.t_min if t_min is None else t_min
  return schedule.at(low + (t_max - low) * u)


@checked
def log_uniform(
  schedule: Schedule,
  u: Floats,
  *,
  sigma_min: Annotated[float, Above(0)] | None = None,
  sigma_max: Annotated[float, Above(0)] | None = None,
) -> Level:
  """log(sigma / alpha) uniform between the ends given, or the schedule's. u [n] -> Level [n].

  Args:
    sigma_min: smallest sigma / alpha; None for the schedule's own.
    sigma_max: largest sigma / alpha; None for the schedule's own.
  """
  low, high = _log_ratio_ends(schedule, sigma_min, sigma_max)
  return schedule.at_log_snr(-(low + (high - low) * u))


@checked
def log_normal(
  schedule: Schedule,
  u: Floats,
  *,
  level_mean: float = -1.2,
  level_std: Annotated[float, Above(0)] = 1.2,
  sigma_min: Annotated[float, Above(0)] | None = None,
  sigma_max: Annotated[float, Above(0)] | None = None,
) -> Level:
  """log(sigma / alpha) normal, clipped to the ends given, or the schedule's. u [n] -> Level [n].

  Karras et al. 2022 (arXiv 2206.00364), table 1: P_mean and P_std, for data of std 0.5.

  Args:
    level_mean: mean of log(sigma / alpha), before it is clipped.
    level_std: standard deviation of log(sigma / alpha), before it is clipped.
    sigma_min, sigma_max: as for `log_uniform`.
  """
  low, high = _log_ratio_ends(schedule, sigma_min, sigma_max)
  log_ratio = level_mean + level_std * jax.scipy.special.ndtri(u)
  return schedule.at_log_snr(-jnp.clip(log_ratio, low, high))


@checked(spacing=GRIDS)
def grid_levels(
  schedule: Schedule,
  u: Floats,
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 100,
  spacing: str = "uniform",
) -> Level:
  """One of the noisy levels of a sampling grid, each as often. u [n] -> Level [n].

  Args:
    num_levels: number of noisy levels of the grid.
    spacing: the grid, a name of GRIDS.
  """
  grid = GRIDS[spacing](schedule, num_levels)
  index = jnp.minimum(jnp.floor(u * num_levels).astype(int), num_levels - 1)
  return jax.tree.map(lambda a: a[index], grid.levels)


@checked
def data_level(schedule: Schedule, u: Floats) -> Level:
  """The data themselves, t = 0, alpha = 1, sigma = 0: no noise is added. u [n] -> Level [n]."""
  return schedule.at_ratio(jnp.zeros_like(u))


@checked
def fixed_level(schedule: Schedule, u: Floats, *, sigma: Annotated[float, Above(0)] = 1.0) -> Level:
  """The one level whose sigma / alpha, > 0, is `sigma`, in units of the data. u [n] -> Level [n].

  A little noise smooths the data; the schedule's own ends do not bind.

  Args:
    sigma: sigma / alpha of the level.
  """
  return schedule.at_ratio(jnp.full_like(u, sigma))


def with_signal(level: Level) -> Level:
  """Returns the level with a trace of signal, alpha = 1e-10 sigma, if it has none.

  At pure noise the product of a weighting with the slope of a view, 0 times infinity for a noise
  and the weighting SNR, then evaluates to its limit.
  """
  return level._replace(alpha=jnp.where(level.alpha > 0, level.alpha, 1e-10 * level.sigma))


def may_lack_signal(view: str, schedule: Schedule) -> bool:
  """Returns True if a view may not determine x0: noise and score of a process with alpha(1) = 0.

  The answer does not depend on the schedule's numbers, so that other programs keep the same bits.
  """
  inner = getattr(schedule, "schedule", schedule)  # of a shifted one
  if isinstance(inner, Tabulated):
    ends_in_noise = inner.noise_time is not None
  else:  # ends that are derived from alpha and sigma are arrays, and depend on numbers
    ends_in_noise = isinstance(inner.t_max, jax.Array) or inner.t_max < 1
  return view in ("noise", "score") and ends_in_noise


def require_finite_cost(
  parameterization: Any,
  cost: Callable[[str, Level], Array],
  levels: Callable[[Schedule, Array], Level],
  schedule: Schedule,
) -> None:
  """Raises ValueError if a level of pure noise is drawn, where an error has infinite cost.

  Args:
    parameterization: noise and score are checked: at pure noise they do not determine x0.
    cost: (view, level) -> cost of an error of 1 in the view, of the level's shape.
    levels: a level distribution; only one with an atom at pure noise, such as `grid`, is refused.
    schedule: the process. Traced numbers are not checked.
  """
  kind = getattr(parameterization, "kind", "")
  if not may_lack_signal(kind, schedule):
    return
  with jax.ensure_compile_time_eval():
    ends = levels(schedule, jnp.array([1e-6, 1 - 1e-6]))
    if is_traced(ends.alpha) or bool(jnp.all(ends.alpha > 0)):
      return
    traces = (ends._replace(alpha=jnp.maximum(ends.alpha, a * ends.sigma)) for a in (1e-9, 1e-10))
    less, more = (jnp.max(cost(kind, level)) for level in traces)
    if not more < 10 * less + 1:
      raise ValueError(
        "levels reach pure noise (alpha = 0), where an error of a noise or a score costs infinitely"
        " much with this loss: use the weighting snr, min_snr or p2, or a view such as v or x0"
      )


def require_signal(
  parameterization: Any, schedule: Schedule, num_levels: int, spacing: str
) -> None:
  """Raises ValueError if a grid starts at pure noise, where noise and score do not determine x0."""

  def cost(kind: str, level: Level) -> Array:
    return x0_slope(kind, level) ** 2

  levels = functools.partial(grid_levels, num_levels=num_levels, spacing=spacing)
  require_finite_cost(parameterization, cost, levels, schedule)


def _log_ratio_ends(
  schedule: Schedule, sigma_min: float | None, sigma_max: float | None
) -> tuple[Array, Array]:
  """log(sigma / alpha) at the two ends."""
  low = -schedule.log_snr(jnp.asarray(schedule.t_min))
  high = -schedule.log_snr(jnp.asarray(schedule.t_max))
  return (
    low if sigma_min is None else jnp.log(sigma_min),
    high if sigma_max is None else jnp.log(sigma_max),
  )


LEVELS: dict[str, Callable[..., Level]] = Registry("levels") | {
  "data": data_level,
  "fixed": fixed_level,
  "grid": grid_levels,
  "log_normal": log_normal,
  "log_uniform": log_uniform,
  "uniform_time": uniform_time,
}


def independent(key: Key, n: int) -> Float[Array, " {n}"]:
  """n independent uniforms."""
  return jax.random.uniform(key, (n,))


def stratified(key: Key, n: int) -> Float[Array, " {n}"]:
  """One uniform in each of n equal cells, in order: the points they go with must be shuffled."""
  return (jnp.arange(n) + jax.random.uniform(key, (n,))) / n


def shifted(key: Key, n: int) -> Float[Array, " {n}"]:
  """n equidistant points with one random shift (Kingma et al. 2021, appendix I.1)."""
  return (jnp.arange(n) + jax.random.uniform(key)) / n


def shared(key: Key, n: int) -> Float[Array, " {n}"]:
  """One uniform for all n: the whole batch at one level."""
  return jnp.full(n, jax.random.uniform(key))


def antithetic(key: Key, n: int) -> Float[Array, " {n}"]:
  """n / 2 independent uniforms u and their mirror images 1 - u; n even."""
  u = jax.random.uniform(key, (n // 2,))
  return jnp.concatenate([u, 1 - u])


UNIFORMS: dict[str, Callable[[Key, int], Array]] = Registry("uniforms") | {
  "antithetic": antithetic,
  "independent": independent,
  "shared": shared,
  "shifted": shifted,
  "stratified": stratified,
}


@checked
def uniform_weight(level: Level) -> Floats:
  """1: the mean squared error of x0, or of the score for a score weighting."""
  return jnp.ones_like(level.sigma)


@checked
def snr_weight(level: Level) -> Floats:
  """alpha^2 / sigma^2: the squared error of the noise, or sigma^2 times that of the score.

  Song and Ermon 2019 (arXiv 1907.05600), section 4.2; Ho et al. 2020, eq. 14.
  """
  return (level.alpha / level.sigma) ** 2


@checked
def score_weight(level: Level) -> Floats:
  """alpha^2 / sigma^4: the squared error of the score, unweighted (Vincent 2011, section 4.2)."""
  return (level.alpha / level.sigma**2) ** 2


@checked
def min_snr_weight(level: Level, *, gamma: Annotated[float, Above(0)] = 5.0) -> Floats:
  """min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556, section 3.4).

  Args:
    gamma: largest weight, an SNR (alpha / sigma)^2.
  """
  return jnp.minimum(snr_weight(level), gamma)


@checked
def edm_weight(level: Level, *, data_std: Annotated[float, Above(0)] = 1.0) -> Floats:
  """1 / c_out^2 = (sigma^2 + alpha^2 s^2) / (sigma s)^2 (Karras et al. 2022, table 1).

  Args:
    data_std: standard deviation s of the data.
  """
  return snr_weight(level) + 1 / data_std**2


@checked
def truncated_snr_weight(level: Level) -> Floats:
  """max(SNR, 1): the larger of the squared errors of x0 and of the noise.

  Salimans and Ho 2022 (arXiv 2202.00512), section 4.
  """
  return jnp.maximum(snr_weight(level), 1)


@checked
def p2_weight(
  level: Level,
  *,
  gamma: Annotated[float, Above(0)] = 1.0,
  snr_offset: Annotated[float, Above(0)] = 1.0,
) -> Floats:
  """SNR / (snr_offset + SNR)^gamma: less for details than `snr`, which is gamma = 0.

  Choi et al., "Perception Prioritized Training of Diffusion Models", CVPR 2022 (arXiv 2204.00227),
  eq. 8, where the offset is k.

  Args:
    gamma: exponent; 0 is the weighting `snr`.
    snr_offset: added to the SNR, > 0, so that the weight is bounded if gamma is 1 or more.
  """
  snr = snr_weight(level)
  return snr / (snr_offset + snr) ** gamma


@checked
def likelihood_weight(level: Level, *, schedule: Schedule) -> Floats:
  """g(t)^2 on the score's squared error: t uniform, half its mean bounds KL(data || model).

  But for a constant and the prior's own KL. Song et al., "Maximum Likelihood Training of
  Score-Based Diffusion Models", NeurIPS 2021 (arXiv 2101.09258), theorem 1. The level has a time.
  At pure noise, where g is infinite, the weight is 0.
  As g^2 dt = 2 sigma^2 |d log-SNR|, `log_uniform` levels ask for `snr` instead, and the loss
  `continuous_bound` weighs levels of any density.
  """
  g2 = schedule.diffusion_squared(require_time(level))
  return jnp.where(jnp.isfinite(g2), g2 * score_weight(level), 0)


WEIGHTINGS: dict[str, Callable[..., Array]] = Registry("weighting") | {
  "edm": edm_weight,
  "likelihood": likelihood_weight,
  "min_snr": min_snr_weight,
  "p2": p2_weight,
  "score": score_weight,
  "sigma_squared": snr_weight,  # NCSN's name: sigma^2 on the error of the score
  "snr": snr_weight,
  "truncated_snr": truncated_snr_weight,
  "uniform": uniform_weight,
}


@checked
def sigma_squared_weight(level: Level) -> Floats:
  """sigma^2: the squared error of the noise (Song and Ermon 2019, section 4.2)."""
  return level.sigma**2


SCORE_WEIGHTINGS: dict[str, Callable[..., Array]] = Registry("score_weighting") | {
  "sigma_squared": sigma_squared_weight,
  "uniform": uniform_weight,
}
