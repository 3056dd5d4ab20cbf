"""Grids found by descent on the exact distance of a sampler's law from its target.

Nothing is random: a law on a Gaussian is its gains, a law on the line is a quadrature over the
start, one in the plane the ends of a lattice of starts, and the bound a quadrature over the data.
All are differentiable in the levels, which descend by L-BFGS in float64. On the line maps that fold
are not searched, as their distance is no sum over starts alone.

Related: Watson et al., "Learning Fast Samplers for Diffusion Models by Differentiating Through
Sample Quality", ICLR 2022 (arXiv 2202.05830), who descend on a distance between kernels' features;
Sabour, Fidler and Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models",
ICML 2024 (arXiv 2404.14507), on a bound on the KL by samples.
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

from scorelab.exact.energy import energy_from_mixture, lattice_starts, mixture_apart
from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.grid_bound import gaussian_steps, grid_kl_bound, mixture_steps
from scorelab.exact.laws import starting_laws
from scorelab.exact.monotone import line_nodes
from scorelab.exact.pushforward import draws_noise, noise_error, require_map, traced_predict
from scorelab.exact.responses import (
  STARTS,
  axis_predict,
  axis_slopes,
  count_draws,
  in_float64,
  require_followed,
  split_options,
)
from scorelab.samplers import ZeroNoise
from scorelab.schedules import Grid, Schedule, given_log_snrs
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Sampler
from scorelab.validation import require_known

DISTANCES = ("kl", "w2", "bound", "energy")
_NODES = 4096  # on the line
_STARTS = 2000  # in the plane
_SPACING = 0.25  # of the bound's nodes, in standard deviations
_LEAST_WIDTH = 1e-2  # of a step in log-SNR


class ExactGrid(NamedTuple):
  """Result of a search.

  Attributes:
    log_snrs: [N], increasing, of `schedules.given_log_snrs`.
    value: the distance there: KL or its bound in nats; W2 or the energy distance in the data's
      units.
    begin: the distance at the start of the search.
  """

  log_snrs: Float[np.ndarray, " N"]
  value: float
  begin: float


def to_widths(log_snrs: Float[Array, " N"]) -> Float[Array, " N-1"]:
  """Maps log-SNRs [N] to free numbers [N - 1], whose softplus are the steps between them."""
  widths = jnp.maximum(jnp.diff(log_snrs) - _LEAST_WIDTH, 1e-3)
  return widths + jnp.log(-jnp.expm1(-widths))  # the inverse of softplus


def to_log_snrs(first: Array, free: Float[Array, " N-1"]) -> Float[Array, " N"]:
  """Maps free numbers [N - 1] to log-SNRs [N], increasing from the `first`."""
  steps = jax.nn.softplus(free) + _LEAST_WIDTH
  return jnp.concatenate([first[None], first + jnp.cumsum(steps)])


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

  The noisiest level is fixed, and for 'bound' the cleanest too; the step from the last one leads to
  the data.

  Args:
    sampler: for 'kl' and 'w2' of a Gaussian see `gaussian_law`; else a deterministic one. Not used
      by 'bound', which is of ancestral sampling.
    target: for 'kl' and 'w2' a Gaussian of any dimension, or a mixture of dimension 1; for 'bound'
      see `grid_kl_bound`, but of dimension 1 or 2 if it is no Gaussian; for 'energy' a mixture of
      round components in the plane.
    schedule: the process.
    begin: log-SNRs from which to descend, such as those of a stock grid's noisy levels.
    distance: 'kl', KL(samples || target); 'w2'; 'bound', `grid_kl_bound` on KL(target || samples);
      or 'energy', the energy distance.
    start: 'prior' or 'true', the law of the samples' start. 'energy' has 'prior' only.
    iterations: of L-BFGS, at most.
    **options: of the sampler.

  Raises:
    ValueError: an unknown distance or start; the sampler's law is not known; the target has other
      dimensions or axes; or the map folds on the first grid.
  """
  with jax.enable_x64(True):
    first = jnp.asarray(begin, float)
    loss = _loss(sampler, target, schedule, first, distance, start, options)

    def levels(free: Array) -> Array:
      found = to_log_snrs(first[0], free)
      if distance != "bound":
        return found
      return first[0] + (found - first[0]) * (first[-1] - first[0]) / (found[-1] - first[0])

    gradient = jax.jit(jax.value_and_grad(lambda free: loss(levels(free))))
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
    log_snrs = np.asarray(levels(jnp.asarray(free)))
    return ExactGrid(log_snrs, float(root(value)), float(root(best[0][0])))


def _loss(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Array,
  distance: str,
  start: str,
  options: dict[str, Any],
) -> Callable[[Array], Array]:
  """The function of log-SNRs [N] that `find_grid` descends on, for grids that share begin[0]."""
  require_known("distance", distance, DISTANCES)
  require_known("start", start, STARTS)
  target, schedule = in_float64(target), in_float64(schedule)
  if distance == "bound":
    return _bound_loss(target, schedule, begin, start)
  if distance == "energy":
    return _plane_loss(sampler, target, schedule, begin, start, options)
  loss_of = _gaussian_loss if target.num_classes == 1 else _line_loss
  return loss_of(sampler, target, schedule, begin, distance, start, options)


def _bound_loss(
  target: GaussianMixture, schedule: Schedule, begin: Array, start: str
) -> Callable[[Array], Array]:
  """The sum of the bound's steps, and from the prior's start its KL, which does not change."""
  num_steps, gaussian = len(begin), target.num_classes == 1
  if not gaussian and target.dim > 2:
    raise ValueError(f"target of dimension {target.dim} must be a Gaussian, or of dimension 1 or 2")
  first = grid_kl_bound(target, given_log_snrs(schedule, num_steps, log_snrs=begin))
  prior = first.prior if start == "prior" else 0.0
  variances = jnp.broadcast_to(target.variances[0], target.means[0].shape)

  def loss(log_snrs: Array) -> Array:
    levels = given_log_snrs(schedule, num_steps - 1, log_snrs=log_snrs, to_data=False).levels
    levels = levels._replace(t=None)
    if gaussian:
      return prior + jnp.sum(gaussian_steps(variances, levels))
    return prior + jnp.sum(mixture_steps(target, levels, _SPACING)[0])

  return loss


def _plane_loss(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Array,
  start: str,
  options: dict[str, Any],
) -> Callable[[Array], Array]:
  """The energy distance of the ends of a lattice of starts."""
  mixture_apart(target)  # refuses targets of other dimensions or components
  require_map(sampler)
  if start != "prior":
    raise ValueError(f"start = {start!r} must be 'prior' for the distance 'energy'")
  run, grid = _map(sampler, target, schedule, begin, options)
  x = schedule.prior_std(grid[0]) * jnp.asarray(lattice_starts(_STARTS))

  def loss(log_snrs: Array) -> Array:
    return energy_from_mixture(run(x, log_snrs), target)

  return loss


def _map(
  sampler: Sampler,
  target: GaussianMixture,
  schedule: Schedule,
  begin: Array,
  options: dict[str, Any],
) -> tuple[Callable[[Array, Array], Array], Grid]:
  """A sampler as a function of its start and of log-SNRs, and its grid at `begin`."""
  num_steps, predict = len(begin), traced_predict(target.predict)
  grid = given_log_snrs(schedule, num_steps, log_snrs=begin)
  if draws_noise(sampler, predict, grid, target.dim, options):
    raise noise_error(sampler)

  def run(x: Array, log_snrs: Array) -> Array:
    grid = given_log_snrs(schedule, num_steps, log_snrs=log_snrs)
    return sampler(ZeroNoise(), predict, x, grid, **options).x

  return run, grid


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
  run, grid = _map(sampler, target, schedule, begin, options)
  nodes = line_nodes(target, grid, start, _NODES)
  weights = jnp.asarray(np.exp(nodes.log_start) * nodes.width)
  x = jnp.asarray(nodes.x)[:, None]

  def loss(log_snrs: Array) -> Array:
    moved = jax.jvp(lambda x: run(x, log_snrs), (x,), (jnp.ones_like(x),))
    y, slope = (a[:, 0] for a in moved)
    if distance == "w2":
      terms = (y - nodes.optimal) ** 2
    else:
      terms = nodes.log_start - jnp.log(slope) - target._log_prob(y[:, None])
    return jnp.where(jnp.all(slope > 0), jnp.sum(weights * terms), jnp.nan)

  return loss
