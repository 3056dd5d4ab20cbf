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
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.flows import Exact
from scorelab.exact.responses import in_float64
from scorelab.predictions import Prediction
from scorelab.samplers.ancestral import ancestral_step
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict

_REACH = 7.0  # stds of a kernel, and of the components in a lattice
_SPACING = {1: 0.4, 2: 1.0}  # of nodes in a kernel's std, by dimension
_COARSER = 1.2  # times the spacing, for the error estimate
_RIPPLE = {1: 1e-10, 2: 1e-7}  # error of the rule, weighted by mass
_LOST = 1e-10  # mass of the blocks that are dropped at a level
_HIDDEN = 1e-6  # of q_k's mass, where p_k is zero to rounding: with more, KL is infinite
_SMALLEST = float(np.log(np.finfo(float).tiny))
_BLOCK = {1: 256, 2: 16}  # nodes on a side
_SPARSE = 4  # every so many nodes on a side tell where q_k is
_CHUNK = 1024  # points of one call of predict
_MOST_NODES, _MOST_TABLE, _MOST_CALLS = 2**20, 2**25, 2**21  # of a level; of all levels
_MOST_REFINED = 2**18  # nodes of a lattice that was refined, or that holds mass where q_k has none


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
  errors = [abs(one - two) + lost + _LOST for (one, lost), (two, _) in pairs]
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
      low, high = _box(law)
      stds = np.broadcast_to(np.sqrt(law.variances), (law.num_classes, law.dim))
      # A rough count: blocks are kept by mass, and components overlap.
      balls = (0.8 * _REACH * stds / spacing).prod(axis=1).sum() * {1: 2, 2: np.pi}[law.dim]
      table = ((high - low) / spacing).prod()
      calls += (nodes := min(balls, table))
      if nodes > _MOST_NODES or calls > _MOST_CALLS or table > _MOST_TABLE:
        return index
  return last


def refusal(grid: Grid, index: int, reach: int) -> str:
  """Returns the line that refuses level `index`, where `reach` is the last one that is possible."""
  ratios = [float(grid[i].sigma / grid[i].alpha) for i in (index, reach)]
  return (
    f"the ancestral sampler's law at sigma / alpha = {ratios[0]:.3g} needs too many nodes on this"
    f" grid of {grid.num_steps} steps; it is known down to {ratios[1]:.3g}"
  )


class _Cloud(NamedTuple):
  """The mass of p_k on a lattice, in blocks of nodes.

  Attributes:
    nodes: [b, n, d].
    mass: density times the cell's size, [b, n].
    spacing: h.
    lost: mass of p_k that is on no node.
    table: number of nodes of the whole lattice.
  """

  nodes: np.ndarray
  mass: np.ndarray
  spacing: float
  lost: float
  table: int


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
  fill = functools.partial(_prior, float(grid.schedule.prior_std(grid[0])))
  for index in range(steps + 1):
    law = target.perturbed(grid[index].alpha, grid[index].sigma)
    spacing = spacings[index]
    cloud, means = _tabulate(law, spacing, fill), None
    if index < steps:
      levels, std = (grid[index], grid[index + 1]), _noise(grid, index)
      means = _means(predict, cloud, *levels)
      times, ripple = _times_finer(cloud, means, std) if refine else (1.0, 0.0)
      if times > 1:
        cloud = _tabulate(law, spacing / times, fill)
        means = _means(predict, cloud, *levels)
    spacings[index] = cloud.spacing
    if index in at:
      value, missing = _divergence(law, cloud)
      found.append((value, missing + lost))
    if means is not None:
      lost += max(ripple, _RIPPLE[law.dim])
      fill = functools.partial(_carry, means, cloud.mass, std)
  return found


def _spacing(target: GaussianMixture, grid: Grid, index: int, last: int) -> float:
  """The spacing of a lattice for the steps to and from a level, and for the data's law there."""
  law = target.perturbed(grid[index].alpha, grid[index].sigma)
  stds = [_noise(grid, i) for i in (index - 1, index) if 0 <= i < last]
  return _SPACING[law.dim] * min([*stds, float(np.sqrt(law.variances.min()))])


def _noise(grid: Grid, index: int) -> float:
  """The std of the step from level `index`."""
  zero, now = jnp.zeros(()), grid[index]
  nothing = Prediction.of(zero, now, "x0", x0=zero)
  return float(ancestral_step(nothing, now, grid[index + 1], jnp.ones(())))


def _means(predict: Predict, cloud: _Cloud, now: Level, nxt: Level) -> np.ndarray:
  """The mean of a step from every node, [b, n, d]."""

  def run(x: Array) -> Array:
    return _mean(predict, x, now, nxt)

  return _in_chunks(run, cloud.nodes)


@functools.partial(jax.jit, static_argnums=0)
def _mean(predict: Predict, x: Array, now: Level, nxt: Level) -> Array:
  return ancestral_step(predict(x, now), now, nxt, jnp.zeros_like(x))


@jax.jit
def _log_prob(law: GaussianMixture, x: Array) -> Array:
  return law._log_prob(x)


def _in_chunks(function: Callable[[Array], Array], x: np.ndarray) -> np.ndarray:
  """Evaluates a function of points [m, d] at points [..., d], as many at a time."""
  points = x.reshape(-1, x.shape[-1])
  padded = np.resize(points, (-(-len(points) // _CHUNK) * _CHUNK, x.shape[-1]))
  parts = [np.asarray(function(jnp.asarray(p))) for p in padded.reshape(-1, _CHUNK, x.shape[-1])]
  found = np.concatenate(parts)[: len(points)]
  return found.reshape(*x.shape[:-1], *found.shape[1:])


def _box(law: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
  """The ends [d] of a lattice for a law."""
  reach = (_REACH + 1) * np.sqrt(np.asarray(law._diagonals))
  means = np.asarray(law.means)
  return (means - reach).min(axis=0), (means + reach).max(axis=0)


def _tabulate(
  law: GaussianMixture,
  spacing: float,
  fill: Callable[[list[np.ndarray]], np.ndarray],
) -> _Cloud:
  """The blocks of a lattice where p_k or q_k has mass.

  Args:
    law: q_k.
    spacing: h.
    fill: p_k's density on the product of axes.
  """
  low, high = _box(law)
  dim, side = law.dim, _BLOCK[law.dim]
  counts = [side * max(1, -(-int(np.ceil(w / spacing)) // side)) for w in high - low]
  axes = [a + spacing * np.arange(n) for a, n in zip(low, counts, strict=True)]
  density = _in_blocks(fill(axes), side)
  cell = spacing**dim
  sparse = np.stack(np.meshgrid(*[axis[::_SPARSE] for axis in axes], indexing="ij"), -1)
  data = np.exp(_in_chunks(functools.partial(_log_prob, law), sparse)) * cell * _SPARSE**dim
  masses = density.sum(axis=1) * cell
  model, truth = _holds(masses), _holds(_in_blocks(data, side // _SPARSE).sum(axis=1))
  most = max(int(1.5 * truth.sum()), _MOST_REFINED // side**dim)
  order = np.argsort(-np.where(truth, 2, model * masses))  # those of q_k first, then by mass
  kept = order[: min(most, (model | truth).sum())]
  corners = np.stack(np.unravel_index(kept, [n // side for n in counts]), -1) * side
  within = np.stack(np.meshgrid(*[np.arange(side)] * dim, indexing="ij"), -1).reshape(-1, dim)
  nodes, mass = low + spacing * (corners[:, None] + within), density[kept] * cell
  return _Cloud(nodes, mass, spacing, abs(1 - float(mass.sum())), density.size)


def _in_blocks(table: np.ndarray, side: int) -> np.ndarray:
  """A table on a lattice, [n_1, ..] -> [blocks, side^d]."""
  if table.ndim == 1:
    return table.reshape(-1, side)
  rows, columns = (n // side for n in table.shape)
  blocks = table.reshape(rows, side, columns, side).swapaxes(1, 2)
  return blocks.reshape(rows * columns, side * side)


def _holds(masses: np.ndarray) -> np.ndarray:
  """Marks the heaviest blocks, which hold all but `_LOST` of the mass, [b]."""
  order = np.argsort(masses)
  holds = np.empty(len(masses), bool)
  holds[order] = np.cumsum(masses[order]) > _LOST
  return holds


def _prior(std: float, axes: list[np.ndarray]) -> np.ndarray:
  """The density of N(0, std^2 I) on a lattice."""
  factors = [np.exp(-((a / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi)) for a in axes]
  return functools.reduce(np.multiply.outer, factors)


def _carry(means: np.ndarray, mass: np.ndarray, std: float, axes: list[np.ndarray]) -> np.ndarray:
  """The density of the next level on a lattice, from the mass [b, n] and means [b, n, d]."""
  density = np.zeros([len(axis) for axis in axes])
  low = np.array([axis[0] for axis in axes])
  spacing, counts = axes[0][1] - axes[0][0], density.shape
  for block, weights in zip(means, mass, strict=True):
    used = (weights > 0) & np.isfinite(block).all(axis=1)
    if not used.any():
      continue
    m, w = block[used], weights[used]
    first = np.ceil((m.min(axis=0) - _REACH * std - low) / spacing)
    after = np.floor((m.max(axis=0) + _REACH * std - low) / spacing) + 1
    first, after = (np.clip(a, 0, counts).astype(int) for a in (first, after))
    if (after <= first).any():
      continue
    parts = tuple(slice(a, b) for a, b in zip(first, after, strict=True))
    kernels = [
      np.exp(-(((axis[part] - m[:, i, None]) / std) ** 2) / 2)
      for i, (axis, part) in enumerate(zip(axes, parts, strict=True))
    ]
    if len(kernels) == 1:
      density[parts] += w @ kernels[0]
    else:
      density[parts] += (w[:, None] * kernels[0]).T @ kernels[1]
  return density / (std * np.sqrt(2 * np.pi)) ** len(axes)


def _times_finer(cloud: _Cloud, means: np.ndarray, std: float) -> tuple[float, float]:
  """The factor by which the lattice should be finer, and the error that its sums then leave.

  The means of neighbours are h |m'| apart; errors are weighted by mass.
  """
  blocks, _, dim = means.shape
  side = _BLOCK[dim]
  table, mass = (a.reshape(blocks, *[side] * dim, -1) for a in (means, cloud.mass))
  pairs = []
  for axis in range(1, dim + 1):
    moved = np.linalg.norm(np.diff(table, axis=axis), axis=-1) / std
    pairs.append((np.nan_to_num(moved).ravel(), np.take(mass, range(side - 1), axis).ravel()))
  apart, weights = (np.concatenate(a) for a in zip(*pairs, strict=True))
  room = min(_MOST_REFINED / mass.size, _MOST_TABLE / cloud.table)
  room = max(1.0, room ** (1 / dim))
  for times in (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0):
    finer = min(times, room)
    ripple = 2 * weights @ np.exp(-2 * (np.pi * finer / np.maximum(apart, 1e-9)) ** 2)
    if ripple <= _RIPPLE[dim] or finer < times:
      break
  return finer, float(ripple)


def _divergence(law: GaussianMixture, cloud: _Cloud) -> tuple[float, float]:
  """KL(q_k || p_k), and how much larger it is than for any p_k with the lost mass back on nodes.

  That is least for p' = max(p, u q), the solution of min KL(q || p') under p' >= p and a mass that
  is larger by what is lost.
  """
  logs = _in_chunks(functools.partial(_log_prob, law), cloud.nodes).ravel()
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
