"""Log-likelihood on the probability-flow ODE, exact up to its discretisation, for any process.

`log_likelihood` takes a fixed number of steps, `adaptive_log_likelihood` as many as a tolerance
needs at each point.

The flow carries a point from little noise to the noisiest level, whose law is taken to be the
prior, and log-density changes on the way by minus the divergence. A noise-to-signal ratio
r = sigma / alpha from 0 to infinity becomes an angle a from 0 to pi / 2, and x is scaled to unit
variance; s is the std of the data, or any other positive number:

    z = x / S            S = sqrt(alpha^2 s^2 + sigma^2)    cos a = alpha s / S    sin a = sigma / S
    dz / da            = cos a noise - sin a x0 / s
    d log q_a(z) / da  = -div (dz / da)
    log q(x)           = log q_a(z) - d log S

This is dy / dr = noise of y = x / alpha, with nothing singular at either end: at little noise
neither the drift nor the divergence is large, pure noise (alpha = 0) is a = pi / 2, and of data
N(0, s^2 I) nothing moves at all.

References:
  Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018 (arXiv 1806.07366), eq. 8.
  Grathwohl et al., "FFJORD: Free-Form Continuous Dynamics for Scalable Reversible Generative
    Models", ICLR 2019 (arXiv 1810.01367), section 3.1.
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), appendix D.2.
  Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022
    (arXiv 2202.00512), appendix D: the angle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.losses.probes import PROBES, averaging, inner, trace
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict
from scorelab.validation import Registry, checked


class LogLikelihood(NamedTuple):
  """Result of `log_likelihood`.

  Attributes:
    log_prob: log-density at x in nats, [batch], at the grid's cleanest noisy level.
    z: end points of the flow: points at grid[0], of x's shape, N(0, prior_std^2 I) for a good
      model.
    nfe: exact number of calls of `predict` for one point. Each is also differentiated along the
      probes, or along every axis of a point.
  """

  log_prob: Float[Array, " batch"]
  z: Float[Array, " batch *event"]
  nfe: int


# Explicit Runge-Kutta methods whose stages each start from the one before: (nodes, weights).
DIVERGENCES = ("exact", "hutchinson")
METHODS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = Registry("method") | {
  "heun": ((0.0, 1.0), (1 / 2, 1 / 2)),
  "rk4": ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


@checked(method=METHODS, divergence=DIVERGENCES, probes=PROBES)
def log_likelihood(
  key: Key,
  predict: Predict,
  x: Float[Array, " batch *event"],
  grid: Grid,
  *,
  divergence: str = "exact",
  probes: str = "rademacher",
  num_probes: Annotated[int, AtLeast(1)] = 1,
  method: str = "rk4",
  data_std: Annotated[Array | float, Above(0)] = 1.0,
) -> LogLikelihood:
  """Log-density of a model under its probability flow, by a fixed number of steps.

  Args:
    key: consumed by the probes; ignored where the divergence is exact.
    predict: the network, whose examples must not mix, or the truth.
    x: points [batch, *event] at the grid's cleanest noisy level.
    grid: from noise to data; gone through backwards, from its last noisy level to grid[0].
    divergence: 'exact', by a derivative along each axis, or 'hutchinson', by num_probes of them:
      unbiased, whatever the step, with fresh probes at every call of `predict`. Static.
    probes: the law of the probes, a name of PROBES. Static.
    num_probes: independent probes of each point and call, >= 1. Static.
    method: 'heun', of order 2, or 'rk4', of order 4, in the angle. Static.
    data_std: s > 0, in units of x; in the limit of small steps without effect.

  Returns:
    The LogLikelihood; nfe is 2 calls a step by 'heun' and 4 by 'rk4', and the grid has one step
    fewer where it ends at the data.

  Raises:
    ValueError: the divergence, the probes or the method is not known, or num_probes < 1.
  """
  nodes, weights = METHODS[method]
  divergence_of = _divergence(divergence, probes, num_probes)

  def step(
    carry: tuple[Array, Array], inputs: tuple[Level, Level, Key]
  ) -> tuple[tuple[Array, Array], None]:
    (z, log_ratio), (noisier, cleaner, key) = carry, inputs
    low, high = _angle(cleaner, data_std), _angle(noisier, data_std)
    middle = grid.schedule.at_ratio(data_std * jnp.tan((low + high) / 2))
    levels = {0.0: cleaner, 1 / 2: middle, 1.0: noisier}
    width, dz, start = high - low, jnp.zeros_like(z), z
    keys = jax.random.split(key, len(nodes))
    for node, weight, stage_key in zip(nodes, weights, keys, strict=True):
      level = levels[node]
      dz, jacobian = _slope(predict, start + node * width * dz, level, data_std)
      div = divergence_of(stage_key, jacobian, z)
      z, log_ratio = z + weight * width * dz, log_ratio + weight * width * div
    return (z, log_ratio), None

  noisier, cleaner = grid.noisy_pairs
  num_steps = noisier.sigma.shape[0]
  carry = (x / _scale(grid[num_steps], data_std), jnp.zeros(x.shape[0], x.dtype))
  keys = jax.random.split(key, num_steps)
  (z, log_ratio), _ = jax.lax.scan(step, carry, (noisier, cleaner, keys), reverse=True)
  return LogLikelihood(*_at_the_end(grid, data_std, z, log_ratio), nfe=len(nodes) * num_steps)


class AdaptiveLogLikelihood(NamedTuple):
  """Result of `adaptive_log_likelihood`, one entry per point.

  Attributes:
    log_prob, z: as in `LogLikelihood`; nan if the solver gave up.
    nfe: calls of `predict`, [batch].
    status: index into STATUSES, [batch].
  """

  log_prob: Array
  z: Array
  nfe: Array
  status: Array


STATUSES = ("solved", "too many steps", "no step is short enough")


@checked(divergence=DIVERGENCES, probes=PROBES)
def adaptive_log_likelihood(
  key: Key,
  predict: Predict,
  x: Float[Array, " batch *event"],
  grid: Grid,
  *,
  divergence: str = "exact",
  probes: str = "rademacher",
  num_probes: Annotated[int, AtLeast(1)] = 1,
  rtol: Annotated[Array | float, Above(0)] = 1e-4,
  atol: Annotated[Array | float, Above(0)] = 1e-4,
  max_steps: Annotated[int, AtLeast(1)] = 1000,
  data_std: Annotated[Array | float, Above(0)] = 1.0,
) -> AdaptiveLogLikelihood:
  """Like `log_likelihood`, by an adaptive method of order 5 in the angle, diffrax's Tsit5.

  Every point has its own steps, whose estimated error is at most atol + rtol |value|: for z as the
  root mean square over its coordinates, for the log-density in nats. All points run together until
  the slowest has finished, so the cost is that of the hardest point.

  Args:
    key: consumed by the probes; ignored if the divergence is exact.
    predict, x, data_std: as for `log_likelihood`.
    grid: only its ends count: the last noisy level and grid[0].
    divergence: 'exact', or 'hutchinson' with probes that a point keeps during the whole solve, so
      that it solves one ODE (Grathwohl et al. 2019; Song et al. 2021, D.2). Static.
    probes, num_probes: as for `log_likelihood`. Static.
    rtol, atol: > 0. In float32 tolerances below about 1e-5 cannot be reached.
    max_steps: steps, accepted or not, after which a point is given up. Static.

  Returns:
    The AdaptiveLogLikelihood. A point is not solved if it needs more than max_steps, or if
      `predict`
    jumps or is not finite, so that no step is short enough. Other points are not affected.

  Raises:
    ValueError: the divergence or the probes are not known, or num_probes < 1.
  """
  import diffrax  # slow to import, and only needed here

  divergence_of = _divergence(divergence, probes, num_probes)
  clean, noisy = grid[grid.noisy_pairs[0].sigma.shape[0]], grid[0]
  low, high = _angle(clean, data_std), _angle(noisy, data_std)

  def level_at(angle: Array) -> Level:
    inside = (low < angle) & (angle < high)
    between = grid.schedule.at_ratio(data_std * jnp.tan(jnp.where(inside, angle, low)))
    end = jax.tree.map(lambda a, b: jnp.where(angle < high, a, b), clean, noisy)
    return jax.tree.map(lambda a, b: jnp.where(inside, a, b), between, end)

  def slope(angle: Array, state: tuple[Array, Array], key: Key) -> tuple[Array, Array]:
    value, jacobian = _slope(predict, state[0], level_at(angle), data_std)
    # The same key at every call, so the same probes.
    return value, divergence_of(jax.random.clone(key), jacobian, state[0])

  def error(state: tuple[Array, Array]) -> Array:
    z, log_ratio = state
    return jnp.maximum(jnp.sqrt(jnp.mean(z**2)), jnp.abs(log_ratio[0]))

  controller = diffrax.PIDController(
    rtol=rtol, atol=atol, norm=error, dtmin=float(jnp.finfo(x.dtype).eps), force_dtmin=False
  )

  def solve(key: Key, x: Array) -> AdaptiveLogLikelihood:
    """Solves for one point [*event], as a batch of one."""
    z = x[None] / _scale(clean, data_std)
    solution = diffrax.diffeqsolve(
      diffrax.ODETerm(slope),  # pyrefly: ignore
      diffrax.Tsit5(),
      t0=low,
      t1=high,
      dt0=(high - low) / 100,
      y0=(z, jnp.zeros(1, z.dtype)),
      args=key,
      stepsize_controller=controller,
      adjoint=diffrax.ForwardMode(),
      max_steps=max_steps,
      throw=False,
    )
    z, log_ratio = jax.tree.map(lambda a: a[-1], solution.ys)
    log_prob, z = (a[0] for a in _at_the_end(grid, data_std, z, log_ratio))
    steps = solution.stats["num_steps"]
    solved = (solution.result == diffrax.RESULTS.successful) & jnp.isfinite(log_prob)
    status = jnp.where(solved, 0, jnp.where(steps < max_steps, 2, 1))
    log_prob, z = (jnp.where(status == 0, a, jnp.nan) for a in (log_prob, z))
    # A step begins with the last of the one before's seven stages.
    return AdaptiveLogLikelihood(log_prob, z, 1 + 6 * steps, status)

  return jax.vmap(solve)(jax.random.split(key, x.shape[0]), x)


def _slope(
  predict: Predict, z: Array, level: Level, data_std: Array | float
) -> tuple[Array, Callable[[Array], Array]]:
  """dz / da [batch, *event], and v -> its Jacobian times v."""
  scale = _scale(level, data_std)
  cos, sin = level.alpha * data_std / scale, level.sigma / scale

  def velocity(z: Array) -> Array:
    pred = predict(scale * z, level)
    return cos * pred.noise - sin / data_std * pred.x0

  return jax.linearize(velocity, z)


def _at_the_end(
  grid: Grid, data_std: Array | float, z: Array, log_ratio: Array
) -> tuple[Array, Array]:
  """(log q(x) [batch], the flow's end [batch, *event]) from z and the integrated divergence."""
  start, end = grid[grid.noisy_pairs[0].sigma.shape[0]], grid[0]
  scales = _scale(start, data_std), _scale(end, data_std)
  z = scales[1] * z
  # log q(x) = log q(z) + log |dz / dx|, the flow's part of which is the integrated divergence.
  log_det = log_ratio + z[0].size * jnp.log(scales[1] / scales[0])
  return _log_normal(z, grid.schedule.prior_std(end)) + log_det, z


def _divergence(
  name: str, probes: str, num_probes: int
) -> Callable[[Key, Callable[[Array], Array], Array], Array]:
  """(key, v -> J v, x [batch, *event]) -> tr J, [batch], or an unbiased estimate of it."""
  if name == "exact":
    return lambda key, jacobian, x: trace(jacobian, x)
  mean_over_probes = averaging(probes, num_probes)
  return lambda key, jacobian, x: mean_over_probes(lambda v: inner(v, jacobian(v)), key, x)


def _scale(level: Level, data_std: Array | float) -> Array:
  """S, the std of x_t of data N(0, data_std^2 I), of the level's shape."""
  return jnp.sqrt((level.alpha * data_std) ** 2 + level.sigma**2)


def _angle(level: Level, data_std: Array | float) -> Array:
  """a, from 0 at the data to pi / 2 at pure noise, of the level's shape."""
  return jnp.arctan2(level.sigma, level.alpha * data_std)


def _log_normal(x: Array, std: Array) -> Array:
  """log N(x; 0, std^2 I) of points [batch, *event], [batch]."""
  return -(inner(x, x) / std**2 + x[0].size * jnp.log(2 * jnp.pi * std**2)) / 2
