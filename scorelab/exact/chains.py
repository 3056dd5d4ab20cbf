"""KL of the data from the ancestral sampler's law at every level, without samples.

A step from level k to level k + 1 draws y ~ N(m(x), s^2 I), with m and s those of `ancestral_step`:
the reverse SDE's discretisation, in which the predicted x_0 does not change during a step. So the
sampler's densities p_k follow from the prior's by the Chapman-Kolmogorov equation,

    p_{k+1}(y) = int p_k(x) N(y; m(x), s^2 I) dx

Both sides are tabulated on a lattice, and the integral is the trapezoidal rule's. For a kernel of
std s / |m'| in x, a spacing of h leaves an error of exp(-2 pi^2 s^2 / (h |m'|)^2). In the plane the
kernel is a product of two, one of each coordinate of y, so that a sum over x is

    A^T diag(p_k h^2) B        A_xi = N(y_i; m_1(x), s^2)        B_xj = N(y_j; m_2(x), s^2)

Only blocks of the lattice where p_k or q_k, the law of the noised data, has mass are summed over.

Then KL(q_k || p_k) is a sum over the same lattice. This is the direction of Girsanov's bound, which
is on the limit of infinitely many steps: with few steps the sampler's KL may be larger than the
bound, or smaller. In the limit and with the exact score both laws pass through one channel, so that
the KL is at most the prior's.

Trefethen and Weideman, "The Exponentially Convergent Trapezoidal Rule", SIAM Review 56 (2014).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.flows import Exact
from scorelab.exact.lattices import (
  BLOCK,
  LOST,
  MOST_TABLE,
  Cloud,
  Model,
  count_nodes,
  in_chunks,
  log_prob,
  tabulate,
)
from scorelab.exact.responses import in_float64
from scorelab.predictions import Prediction
from scorelab.samplers.ancestral import ancestral_step
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict

_SPACING = {1: 0.4, 2: 1.0}  # of nodes in a kernel's std, by dimension
_PASSES = 4  # lattices tried for a level, each finer as the means on the one before ask for
_COARSER = 1.2  # times the spacing, for the error estimate
_RIPPLE = {1: 1e-10, 2: 1e-7}  # error of the rule, weighted by mass
_HIDDEN = 1e-6  # of q_k's mass, where p_k is zero to rounding: with more, KL is infinite
_SMALLEST = float(np.log(np.finfo(float).tiny))
_MOST_NODES, _MOST_CALLS = 2**20, 2**21  # of a level; of all levels
_FEWEST = 2**13  # nodes of a level, unless they are twice as near as they need to be
_MOST_REFINED = 2**18  # nodes of a level whose lattice was made finer


def sde_certificate(
  predict: Predict, target: GaussianMixture, grid: Grid, at: Sequence[int]
) -> list[Exact]:
  """Returns KL(q_k || p_k) in nats at levels of a grid, for p_k the law of `ancestral` there.

  The sampler starts from the prior at grid[0] and has taken k of the grid's steps.

  Args:
    predict: a network, or the truth.
    target: of dimension 1 or 2.
    grid: its last level may be the data.
    at: increasing indices of noisy levels.

  Returns:
    The divergences. An error is the change from nodes 1.2 times as far apart, the error of the
    sums, the mass of q_k that is on no node, and how much smaller the divergence could be with the
    mass of p_k that is on no node, which is not counted. If p_k is zero to rounding where q_k has
    mass, value and error are inf.

  Raises:
    ValueError: the target is of another kind; an index is none of a noisy level, or the indices do
      not increase; or a level is beyond `cleanest_level`.
  """
  reach = cleanest_level(target, grid)
  at = [int(index) for index in at]
  noisy = grid.num_steps + (not grid.ends_at_data)
  if not at or at != sorted(set(at)) or not 0 <= at[0] <= at[-1] < noisy:
    raise ValueError(f"at = {at} must be increasing indices of noisy levels, from 0 to {noisy - 1}")
  if at[-1] > reach:
    first = next(index for index in at if index > reach)
    raise ValueError(refusal(grid, first, reach))
  with jax.enable_x64(True):
    target, grid = in_float64(target), in_float64(grid)
    spacings = [_spacing(target, grid, index, at[-1]) for index in range(at[-1] + 1)]
    fine = _follow(predict, target, grid, at, spacings, refine=True)
    wider = [_COARSER * spacing for spacing in spacings]
    coarse = _follow(predict, target, grid, at, wider, refine=False)
  pairs = zip(fine, coarse, strict=True)
  errors = [abs(one - two) + lost + LOST for (one, lost), (two, _) in pairs]
  return [
    Exact(value, error if np.isfinite(error) else np.inf)
    for (value, _), error in zip(fine, errors, strict=True)
  ]


def cleanest_level(target: GaussianMixture, grid: Grid) -> int:
  """Returns the index of the cleanest level for which `sde_certificate` has nodes enough.

  A level takes nodes in proportion to (width of the data / noise of a step)^d.

  Raises:
    ValueError: the target is no mixture of dimension 1 or 2.
  """
  if not isinstance(target, GaussianMixture) or target.dim > 2:
    raise ValueError("target must be a GaussianMixture of dimension 1 or 2")
  with jax.enable_x64(True):
    target, grid = in_float64(target), in_float64(grid)
    last, calls = grid.num_steps - grid.ends_at_data, 0.0
    for index in range(last):
      law = target.perturbed(grid[index].alpha, grid[index].sigma)
      spacing = _spacing(target, grid, index, last)
      nodes, table = count_nodes(law, spacing)
      calls += nodes
      if nodes > _MOST_NODES or calls > _MOST_CALLS or table > MOST_TABLE:
        return index
  return last


def refusal(grid: Grid, index: int, reach: int) -> str:
  """Returns the line that refuses level `index`, where `reach` is the last one that is possible."""
  ratios = [float(grid[i].sigma / grid[i].alpha) for i in (index, reach)]
  return (
    f"the ancestral sampler's law at sigma / alpha = {ratios[0]:.3g} needs too many nodes on this"
    f" grid of {grid.num_steps} steps; it is known down to {ratios[1]:.3g}"
  )


def _follow(
  predict: Predict,
  target: GaussianMixture,
  grid: Grid,
  at: Sequence[int],
  spacings: list[float],
  *,
  refine: bool,
) -> list[tuple[float, float]]:
  """The divergences at the levels `at`, each with the mass that is on no node.

  Args:
    spacings: by level.
    refine: whether to make spacings smaller, in place, as the steps' means ask for, and to add the
      errors of the sums that remain.
  """
  found, steps, lost = [], at[-1], 0.0
  prior_std = float(grid.schedule.prior_std(grid[0]))
  model = Model(np.zeros((1, 1, target.dim)), np.ones((1, 1)), prior_std)
  for index in range(steps + 1):
    law = target.perturbed(grid[index].alpha, grid[index].sigma)
    sums = 0.0
    if index == steps:
      cloud = tabulate(law, spacings[index], model)
    else:
      levels, std = (grid[index], grid[index + 1]), _noise(grid, index)
      passes = _PASSES if refine else 1
      cloud, means, ripple = _resolve(predict, law, model, levels, std, spacings[index], passes)
      spacings[index], model = cloud.spacing, Model(means, cloud.mass, std)
      sums = max(ripple, _RIPPLE[law.dim])
    if index in at:
      value, missing = _divergence(law, cloud)
      found.append((value, missing + lost))
    lost += sums
  return found


def _resolve(
  predict: Predict,
  law: GaussianMixture,
  model: Model,
  levels: tuple[Level, Level],
  std: float,
  spacing: float,
  passes: int,
) -> tuple[Cloud, np.ndarray, float]:
  """Finds a lattice for a step: the cloud, the step's means [b, n, d], the error of its sums."""
  while True:
    cloud = tabulate(law, spacing, model)
    means = _means(predict, cloud, *levels)
    times, ripple = _times_finer(cloud, means, std)
    passes -= 1
    if times == 1 or not passes:
      return cloud, means, ripple
    spacing /= times


def _spacing(target: GaussianMixture, grid: Grid, index: int, last: int) -> float:
  """The spacing of a lattice for the steps to and from a level, and for the data's law there.

  Down to half of it where nodes are few: a network may vary over less than a step's noise.
  """
  law = target.perturbed(grid[index].alpha, grid[index].sigma)
  stds = [_noise(grid, i) for i in (index - 1, index) if 0 <= i < last]
  spacing = _SPACING[law.dim] * min([*stds, float(np.sqrt(law.variances.min()))])
  few = _FEWEST / count_nodes(law, spacing)[0]
  return spacing / float(np.clip(few ** (1 / law.dim), 1, 2))


def _noise(grid: Grid, index: int) -> float:
  """The std of the step from level `index`."""
  zero, now = jnp.zeros(()), grid[index]
  nothing = Prediction.of(zero, now, "x0", x0=zero)
  return float(ancestral_step(nothing, now, grid[index + 1], jnp.ones(())))


def _means(predict: Predict, cloud: Cloud, now: Level, nxt: Level) -> np.ndarray:
  """The mean of a step from every node, [b, n, d]."""

  def run(x: Array) -> Array:
    return _mean(predict, x, now, nxt)

  return in_chunks(run, cloud.nodes)


@functools.partial(jax.jit, static_argnums=0)
def _mean(predict: Predict, x: Array, now: Level, nxt: Level) -> Array:
  return ancestral_step(predict(x, now), now, nxt, jnp.zeros_like(x))


def _times_finer(cloud: Cloud, means: np.ndarray, std: float) -> tuple[float, float]:
  """The factor by which the lattice should be finer, and the error that its sums leave.

  The means of neighbours are h |m'| apart; errors are weighted by mass.
  """
  blocks, _, dim = means.shape
  side = BLOCK[dim]
  table, mass = (a.reshape(blocks, *[side] * dim, -1) for a in (means, cloud.mass))
  pairs = []
  for axis in range(1, dim + 1):
    moved = np.linalg.norm(np.diff(table, axis=axis), axis=-1) / std
    pairs.append((np.nan_to_num(moved).ravel(), np.take(mass, range(side - 1), axis).ravel()))
  apart, weights = (np.concatenate(a) for a in zip(*pairs, strict=True))
  room = min(_MOST_REFINED / cloud.own, MOST_TABLE / cloud.table)
  room = max(1.0, room ** (1 / dim))
  factors = np.minimum([1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0], room)
  apart = np.maximum(apart, 1e-9)
  errors = [2 * weights @ np.exp(-2 * (np.pi * times / apart) ** 2) for times in factors]
  enough = np.flatnonzero(np.array(errors) <= _RIPPLE[dim])
  return float(factors[enough[0] if len(enough) else -1]), float(errors[0])


def _divergence(law: GaussianMixture, cloud: Cloud) -> tuple[float, float]:
  """KL(q_k || p_k), and how much larger it is than for any p_k with the lost mass back on nodes.

  That is least for p' = max(p, u q), the solution of min KL(q || p') under p' >= p and a mass that
  is larger by what is lost.
  """
  logs = in_chunks(functools.partial(log_prob, law), cloud.nodes).ravel()
  cell, known = cloud.spacing**law.dim, cloud.mass.ravel() > 0
  data, ratio = np.exp(logs) * cell, np.full(len(logs), -np.inf)
  ratio[known] = np.log(cloud.mass.ravel()[known] / cell) - logs[known]
  hidden, missing = float(data[~known].sum()), abs(1 - float(data.sum()))
  if hidden > _HIDDEN:
    return np.inf, np.inf
  order = np.argsort(ratio)
  order = order[(data > 0)[order] & known[order]]
  below, mass = np.cumsum(data[order]), np.cumsum(cloud.mass.ravel()[order])
  fits = np.exp(ratio[order]) * below - mass <= cloud.lost
  last = max(int(fits.sum()) - 1, 0)
  level = np.log((cloud.lost + mass[last]) / below[last])
  raised = float(data[order] @ np.maximum(level - ratio[order], 0))
  return -float(data[order] @ ratio[order]), raised + missing - hidden * _SMALLEST
