"""Grids found by descent on the exact distance of a sampler's law from its target.

Unlike `scorelab.schedules.grid_search`, which draws starts, nothing is random: a law on a Gaussian
is its gains, and a law on the line is a quadrature over the start. Both are differentiable in the
levels, which descend by L-BFGS in float64. Maps that fold are not searched, as their distance is
no sum over starts alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.laws import starting_laws
from scorelab.exact.monotone import line_nodes
from scorelab.exact.pushforward import draws_noise, noise_error, require_map, traced_predict
from scorelab.exact.responses import (
  axis_predict,
  axis_slopes,
  count_draws,
  in_float64,
  require_followed,
  split_options,
)
from scorelab.samplers import ZeroNoise
from scorelab.schedules import Schedule, given_log_snrs
from scorelab.schedules.grid_search import to_log_snrs, to_widths
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Sampler
from scorelab.validation import require_known

DISTANCES = ("kl", "w2")
_NODES = 512


class ExactGrid(NamedTuple):
  """Result of a search.

  Attributes:
    log_snrs: [N], increasing, of `schedules.given_log_snrs`.
    value: the distance there: KL in nats, or W2 in the data's units.
    begin: the distance at the start of the search.
  """

  log_snrs: Float[np.ndarray, " N"]
  value: float
  begin: float


def find_grid(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Float[Array, " N"],
  *,
  distance: str = "kl",
  start: str = "prior",
  iterations: int = 200,
  **options: Any,
) -> ExactGrid:
  """Returns log-SNRs of least exact distance of a sampler's law from its target.

  The noisiest level is fixed; the step from the last one leads to the data.

  Args:
    sampler: of `gaussian_law` for a Gaussian; a deterministic one on the line.
    target: a Gaussian of any dimension, or a mixture of dimension 1.
    schedule: the process.
    begin: log-SNRs from which to descend, such as those of a stock grid's noisy levels.
    distance: 'kl', KL(samples || target), or 'w2'.
    start: 'prior' or 'true', the law of the samples' start.
    iterations: of L-BFGS, at most.
    **options: of the sampler.

  Raises:
    ValueError: an unknown distance; the sampler's law is not known; the target has other dimensions
      or axes; or the map folds on the first grid.
  """
  require_known("distance", distance, DISTANCES)
  with jax.enable_x64(True):
    target, schedule = in_float64(target), in_float64(schedule)
    first = jnp.asarray(begin, float)
    loss_of = _gaussian_loss if target.num_classes == 1 else _line_loss
    loss = loss_of(sampler, target, schedule, first, distance, start, options)
    gradient = jax.jit(jax.value_and_grad(lambda free: loss(to_log_snrs(first[0], free))))

    best: list[tuple[float, np.ndarray]] = []

    def scaled(free: np.ndarray) -> tuple[float, np.ndarray]:
      """The logarithm of the loss, which spans decades; large where the map folds."""
      value, slope = (np.asarray(a) for a in gradient(free))
      if not (np.isfinite(value) and np.isfinite(slope).all() and value > 0):
        return 1e3, np.zeros_like(free)
      best.append((float(value), free.copy()))
      return float(np.log(value)), slope / value

    free = np.asarray(to_widths(first))
    minimize(scaled, free, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    if not best or not np.array_equal(best[0][1], free):
      raise ValueError("begin: the map folds there, so that no descent is possible")
    value, free = min(best, key=lambda pair: pair[0])
    root = np.sqrt if distance == "w2" else float
    log_snrs = np.asarray(to_log_snrs(first[0], jnp.asarray(free)))
    return ExactGrid(log_snrs, float(root(value)), float(root(best[0][0])))


def _gaussian_loss(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Array,
  distance: str,
  start: str,
  options: dict[str, Any],
) -> Callable[[Array], Array]:
  """KL, or squared W2, of a law on a Gaussian along its axes, as a function of the log-SNRs."""
  require_followed(sampler)
  law, num_steps = GaussianLaw.of(target), len(begin)
  if law.basis is not None:
    raise ValueError("target: its axes must be the coordinates")
  grid = given_log_snrs(schedule, num_steps, log_snrs=begin)
  own, (traced, static) = starting_laws(law, grid)[start], split_options(options)
  predict = axis_predict(jnp.zeros(()), jnp.ones(()), spread=True)
  draws = count_draws(sampler, predict, jnp.zeros(1), grid, options)
  none = jnp.zeros((draws, len(law.mean)))

  def loss(log_snrs: Array) -> Array:
    grid = given_log_snrs(schedule, num_steps, log_snrs=log_snrs)
    follow = functools.partial(axis_slopes, sampler, static, draws, True, grid, traced)
    mean, gain, gains = follow(law.mean, law.variances, own.mean, none)
    variances = gain**2 * own.variances + jnp.sum(gains**2, axis=0)
    shift = mean - law.mean
    if distance == "w2":
      return jnp.sum(shift**2 + (jnp.sqrt(variances) - jnp.sqrt(law.variances)) ** 2)
    excess = variances / law.variances - 1
    return jnp.sum(excess - jnp.log1p(excess) + shift**2 / law.variances) / 2

  return loss


def _line_loss(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Array,
  distance: str,
  start: str,
  options: dict[str, Any],
) -> Callable[[Array], Array]:
  """The same on the line, at the nodes of `flow_distances_on`; nan if the map folds there."""
  require_map(sampler)
  if target.dim != 1:
    raise ValueError(f"target of dimension {target.dim} must be a Gaussian, or of dimension 1")
  num_steps, predict = len(begin), traced_predict(target.predict)
  grid = given_log_snrs(schedule, num_steps, log_snrs=begin)
  if draws_noise(sampler, predict, grid, 1, options):
    raise noise_error(sampler)
  nodes = line_nodes(target, grid, start, _NODES)
  weights = jnp.asarray(np.exp(nodes.log_start) * nodes.width)
  x = jnp.asarray(nodes.x)[:, None]

  def loss(log_snrs: Array) -> Array:
    grid = given_log_snrs(schedule, num_steps, log_snrs=log_snrs)

    def run(x: Array) -> Array:
      return sampler(ZeroNoise(), predict, x, grid, **options).x

    y, slope = (a[:, 0] for a in jax.jvp(run, (x,), (jnp.ones_like(x),)))
    if distance == "w2":
      terms = (y - nodes.optimal) ** 2
    else:
      terms = nodes.log_start - jnp.log(slope) - target._log_prob(y[:, None])
    return jnp.where(jnp.all(slope > 0), jnp.sum(weights * terms), jnp.nan)

  return loss
