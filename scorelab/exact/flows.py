"""Distances between a deterministic sampler's law and its target, by quadrature over the start.

A deterministic sampler maps its start x ~ p to f(x). With any prediction, exact or learned, its law
q has at y = f(x) the density p(x) / |det f'(x)|, summed over all starts of the image y, and

    KL(q || target) = E_p[log q(f(x)) - log target(f(x))]
    W_k^k           = E_p|f(x) - T^-1(Q(f(x)))|^k
    energy          = 2 int (Q(y) - T(y))^2 dy

the last two on the line, with Q and T the distribution functions of q and of the target.

Villani, "Topics in Optimal Transportation", 2003, theorem 2.18; Szekely and Rizzo, "Energy
Statistics", Journal of Statistical Planning and Inference 143 (2013), section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from scorelab.exact.interpolation import Interpolated
from scorelab.exact.laws import end_law, gaussian_law
from scorelab.exact.line import LineMap, LineMixture
from scorelab.exact.plane import plane_kl
from scorelab.exact.pushforward import Pushforward
from scorelab.exact.quadrature import integrate
from scorelab.exact.reduction import split_plane
from scorelab.exact.responses import STARTS, in_float64
from scorelab.ranges import Between
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Predict, Sampler
from scorelab.validation import require_known, require_range


class Exact(NamedTuple):
  """A number without sampling noise.

  Attributes:
    value: the number.
    error: how far off it may be: an estimate by the quadrature, and rounding; inf if it is only a
      bound.
    folds: on the line, how often the map turns back, which is accounted for; in the plane, the
      share of starts where it reverses orientation. If that is not 0, `value` is a lower bound.
  """

  value: float
  error: float
  folds: float = 0


def flow_kl(
  sampler: Sampler,
  predict: Predict,
  target: GaussianMixture,
  grid: Grid,
  *,
  start: str = "prior",
  rtol: float = 1e-6,
  **options: Any,
) -> Exact:
  """Returns KL(sampler's law || target) in nats, for a deterministic sampler in 1-D or 2-D.

  In float64; for all of its digits make target and grid in float64 too.

  Args:
    sampler: a deterministic one, whose options make it so.
    predict: the truth, `target.predict`, or a network, whose examples must not mix.
    target: a mixture of dimension 1 or 2. On a grid that ends in noise it is noised as much. With
      its own `predict`, also one of more dimensions whose components have one isotropic covariance
      and means in a plane.
    grid: from noise to data, or to a last noisy level.
    start: 'prior', the schedule's N(0, s^2 I), or 'true', the law of the noised data at grid[0].
    rtol: in the plane, relative error at which the quadrature stops, in (0, 1). On nine modes 16
      steps and 1e-6 take minutes, and 0.1 seconds, whose error is mostly a tenth of the stated one.
    **options: of the sampler.

  Returns:
    The divergence, its error and the folds of the map.

  Raises:
    ValueError: the target's dimension, the start or rtol; or the sampler draws noise, adapts its
      steps, or is a Langevin kernel.
  """
  require_range("rtol", rtol, Between(0, 1))
  if isinstance(target, GaussianMixture) and target.dim > 2:
    if getattr(predict, "__self__", None) is not target:
      raise ValueError(
        f"target of dimension {target.dim} must be of dimension 1 or 2, for other predictions than"
        " its own"
      )
    with jax.enable_x64(True):
      plane, rest = split_plane(target)
    options |= {"start": start}
    value, error, folds = flow_kl(sampler, plane.predict, plane, grid, rtol=rtol, **options)
    other = gaussian_law(sampler, rest, grid, **options).kl(end_law(rest, grid))
    return Exact(value + other, error, folds)
  if isinstance(target, GaussianMixture) and target.dim == 1:
    return flow_distances(sampler, predict, target, grid, start=start, **options)["kl"]
  with jax.enable_x64(True):
    first, last = problem(target, grid, start)
    push = Pushforward(sampler, predict, grid, target.dim, options)
    if push.dim != 2:
      raise ValueError(f"target of dimension {push.dim} must be of dimension 1 or 2")
    (value, mass, reversed_), _, error, _ = plane_kl(push, first, last, rtol)
    error = abs(error) + abs(mass - 1) * abs(value)
    bound = reversed_ > 0 or not np.isfinite(error)
    return Exact(float(value), np.inf if bound else float(error), float(reversed_))


def flow_distances(
  sampler: Sampler,
  predict: Predict,
  target: GaussianMixture,
  grid: Grid,
  *,
  start: str = "prior",
  **options: Any,
) -> dict[str, Exact]:
  """Returns distances of a deterministic sampler's law from its target on the line.

  Arguments and errors: see `flow_kl`; the target is of dimension 1.

  Returns:
    'kl' in nats, 'w1' and 'w2' in the data's units, and 'energy', the energy distance
    2 E|x - y| - E|x - x'| - E|y - y'| in the data's units.
  """
  with jax.enable_x64(True):
    first, last = problem(target, grid, start)
    push = Pushforward(sampler, predict, grid, target.dim, options)
    if push.dim != 1:
      raise ValueError(f"target of dimension {push.dim} must be of dimension 1")
    start_law = LineMixture.of(first)
    smooth = Interpolated.of(push.on_line, *start_law.ends)
    return line_distances(LineMap(smooth or push, start_law), LineMixture.of(last))


def problem(
  target: GaussianMixture, grid: Grid, start: str
) -> tuple[GaussianMixture, GaussianMixture]:
  """Returns the law of the start and the law that samples should have, in float64.

  Raises:
    ValueError: the start is unknown, or the target no mixture with a density.
  """
  require_known("start", start, STARTS)
  if not isinstance(target, GaussianMixture):
    raise ValueError(f"target = <{type(target).__name__}> must be a GaussianMixture")
  target, grid = in_float64(target), in_float64(grid)
  if start == "true":
    first = target.perturbed(grid[0].alpha, grid[0].sigma)
  else:
    variance = grid.schedule.prior_std(grid[0]) ** 2
    first = GaussianMixture(np.ones(1), np.zeros((1, target.dim)), np.asarray(variance)[None])
  last = target if grid.ends_at_data else target.perturbed(grid[-1].alpha, grid[-1].sigma)
  last._check_density()
  return first, last


def line_distances(line: LineMap, last: LineMixture) -> dict[str, Exact]:
  """All distances on the line, from one pass over the pieces."""

  def optimal(x: np.ndarray) -> np.ndarray:
    at = line.at(x, np.searchsorted(line.breaks[1:-1], x))
    return last.quantile(at["left"], at["right"])

  # Next to the map's own: where the optimal one is steep, and where they cross, kinks of W1.
  breaks = line.cut_for(optimal)
  owner = np.searchsorted(line.breaks[1:-1], (breaks[1:] + breaks[:-1]) / 2)

  def terms(x: np.ndarray, piece: np.ndarray) -> np.ndarray:
    at = line.at(x, owner[piece])
    density = np.exp(line.start.log_prob(x))
    left, right = last.mass(at["y"])
    lower = at["left"] + left < at["right"] + right
    gap = np.where(lower, at["left"] - left, right - at["right"])
    moved = np.abs(at["y"] - last.quantile(at["left"], at["right"]))
    kl = at["log_prob"] - last.log_prob(at["y"])
    return np.stack([density * kl, density * moved**2, density * moved, 2 * gap**2 * at["slope"]])

  found = integrate(terms, breaks)
  kl, square, absolute, energy = zip(found.value, found.error, strict=True)
  ends = sorted(float(y) for y in line._ends[[0, -1]])
  outside = 2 * last.tails_beyond(*ends)
  beyond = line.folds and not (ends[0] <= line._ends.min() and line._ends.max() <= ends[1])
  broken = line.hidden
  energy = abs(energy[0]) + outside, np.inf if beyond else energy[1]
  w2 = np.sqrt(square[0])
  pairs = {
    "kl": kl,
    "w1": absolute,
    "w2": (w2, square[1] / max(2 * w2, np.sqrt(square[1]), 1e-300)),
    "energy": energy,
  }
  return {
    name: Exact(float(v), np.inf if broken else float(e), line.folds)
    for name, (v, e) in pairs.items()
  }
