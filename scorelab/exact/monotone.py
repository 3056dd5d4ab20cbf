"""Distances of monotone maps on the line from their target, on many grids by one program.

The exact flow takes the start's law P to the target T by the monotone map y(x), T(y(x)) = P(x). It
is steep between modes; both x and y(x) are smooth functions of s = x / a + y(x) / b, so that the
trapezoidal rule in s converges exponentially for this map, and for others near it:

    dx / ds = 1 / (1 / a + p(x) / (b t(y)))

A map that folds, or whose integrals do not converge, is left to `flow_distances`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.exact.flows import Exact, flow_distances, line_distances, problem
from scorelab.exact.interpolation import Interpolated
from scorelab.exact.line import LineMap, LineMixture
from scorelab.exact.pushforward import noise_error, require_map, traced_predict
from scorelab.exact.responses import in_float64, require_alike, split_options
from scorelab.samplers import ZeroNoise
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict, Sampler

_NODES = (512, 4096)
_AT_ONCE = _NODES[0] + 1
_RTOL, _ATOL = 1e-8, 1e-13
_HALVINGS = 60
_CHECKED = 3  # starts that are followed twice, with other draws


def flow_distances_on(
  grids: Sequence[Grid],
  sampler: Sampler,
  predict: Predict,
  target: GaussianMixture,
  *,
  start: str = "prior",
  **options: Any,
) -> list[dict[str, Exact]]:
  """Returns 'kl' and 'w2' of `flow_distances` on each of several grids.

  Args:
    grids: of as many steps, of one kind of schedule, and all to the data or all to noise.
    sampler, predict, target, start, options: see `flow_distances`.

  Raises:
    ValueError: see `flow_distances`; or the grids differ in more than numbers.
  """
  require_map(sampler)
  with jax.enable_x64(True):
    grids, target = [in_float64(grid) for grid in grids], in_float64(target)
    if target.dim != 1:
      raise ValueError(f"target of dimension {target.dim} must be of dimension 1")
    require_alike(grids)
    problem(target, grids[0], start)  # refuses what has no density
    quick = traced_predict(predict)
    found: dict[int, dict[str, Exact]] = {}
    for count in _NODES:
      left = [i for i in range(len(grids)) if not _settled(found.get(i))]
      for i in left:
        nodes = line_nodes(target, grids[i], start, count)
        mapped = _images(grids[i], sampler, quick, options, nodes.x)
        found[i] = _distances(nodes, *mapped)
    for i, grid in enumerate(grids):
      if not all(_converged(exact) for exact in found[i].values()):
        follow = functools.partial(_images, grid, sampler, quick, options)
        first, last = (LineMixture.of(law) for law in problem(target, grid, start))
        smooth = Interpolated.of(follow, *first.ends)
        if smooth is None:
          exact = flow_distances(sampler, predict, target, grid, start=start, **options)
        else:
          exact = line_distances(LineMap(smooth, first), last)
        found[i] = {name: exact[name] for name in found[i]}
    return [found[i] for i in range(len(grids))]


def _converged(exact: Exact) -> bool:
  return exact.error <= _ATOL + _RTOL * abs(exact.value)


def _settled(found: dict[str, Exact] | None) -> bool:
  """Returns whether more nodes change nothing: the distances are known, or the map folds."""
  return found is not None and all(_converged(e) or np.isnan(e.value) for e in found.values())


class _Nodes(NamedTuple):
  """Nodes equally spaced in s, and what does not depend on the sampler there, each [n].

  Attributes:
    x: starts.
    width: ds dx / ds.
    log_start: log-density of the start.
    optimal: images of the exact flow from the start.
    last: law that samples should have.
  """

  x: np.ndarray
  width: np.ndarray
  log_start: np.ndarray
  optimal: np.ndarray
  last: LineMixture


def line_nodes(target: GaussianMixture, grid: Grid, start: str, count: int) -> _Nodes:
  """Returns the nodes of one grid, in float64; see `flow_distances_on`.

  Args:
    target, grid, start: see `flow_distances`; a GaussianMixture of dimension 1.
    count: number of nodes, less one.
  """
  leaves = target.weights, target.means, target.variances
  alpha, sigma = np.asarray(grid.levels.alpha), np.asarray(grid.levels.sigma)
  std = grid.schedule.prior_std(Level(None, alpha[0], sigma[0]))
  ends = tuple(map(float, (alpha[0], sigma[0], std, alpha[-1], sigma[-1])))
  return _nodes(np.concatenate([np.ravel(a) for a in leaves]).tobytes(), start, ends, count)


@functools.lru_cache(maxsize=256)
def _nodes(mixture: bytes, start: str, ends: tuple[float, ...], count: int) -> _Nodes:
  """The nodes for grids with these ends; samplers and grids share them.

  Args:
    mixture: weights, means and variances of the target, [3, k] in float64.
    start: 'prior' or 'true'.
    ends: alpha, sigma and the prior's std of the first level, alpha and sigma of the last.
    count: number of nodes, less one.
  """
  weights, means, variances = np.frombuffer(mixture).reshape(3, -1)
  first, last = (
    LineMixture(weights, alpha * means, np.sqrt(alpha**2 * variances + sigma**2))
    for alpha, sigma in (ends[:2], ends[3:])
  )
  if start == "prior":
    first = LineMixture(np.ones(1), np.zeros(1), np.full(1, ends[2]))
  x, width = _spaced(first, last, count)
  return _Nodes(x, width, first.log_prob(x), last.quantile(*first.mass(x)), last)


def _spaced(first: LineMixture, last: LineMixture, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns nodes x equally spaced in s, and their shares ds dx / ds of an integral over x."""
  a, b = first.stds.min(), last.stds.min()
  lowest, highest = (x / a + y / b for x, y in zip(first.ends, last.ends, strict=True))
  s, step = np.linspace(lowest, highest, count + 1, retstep=True)
  low, high = (np.full_like(s, end) for end in first.ends)
  x = s
  for _ in range(_HALVINGS):  # P(x) - T(b (s - x / a)) increases in x
    x = (low + high) / 2
    (left, right), (t_left, t_right) = first.mass(x), last.mass(b * (s - x / a))
    above = np.where(left + t_left < right + t_right, left > t_left, right < t_right)
    low, high = np.where(above, low, x), np.where(above, x, high)
  ratio = np.exp(first.log_prob(x) - last.log_prob(b * (s - x / a)))
  return x, step / (1 / a + ratio / b)


def _images(
  grid: Grid,
  sampler: Sampler,
  predict: Predict,
  options: dict[str, Any],
  x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """The images of starts x [n] and the map's derivatives there, each [n].

  Raises:
    ValueError: the images depend on the draws.
  """
  traced, static = split_options(options)
  y, slope = [], []
  for i in range(0, len(x), _AT_ONCE):
    own = x[i : i + _AT_ONCE]
    # Of one size, so that it is compiled once; the last are followed twice, with other draws.
    rows = np.pad(own, (0, _AT_ONCE + _CHECKED - len(own)), mode="wrap")
    rows[-_CHECKED:] = own[:_CHECKED]
    mapped = _mapped(sampler, static, predict, grid, traced, rows[:, None])
    images, slopes = (np.asarray(a)[:, 0] for a in mapped)
    if not np.array_equal(images[:_CHECKED], images[-_CHECKED:], equal_nan=True):
      raise noise_error(sampler)
    y.append(images[: len(own)])
    slope.append(slopes[: len(own)])
  return np.concatenate(y), np.concatenate(slope)


def _distances(nodes: _Nodes, y: np.ndarray, slope: np.ndarray) -> dict[str, Exact]:
  """The distances by the trapezoidal rule, and their change from half as many nodes.

  KL(q || T) is E_q[-u], and with the target's mass m beyond the images, E_q[e^u - 1 - u] + m, for
  u = log T - log q: a sum of terms >= 0, which keeps the digits if q is nearly T. The one with the
  smaller error is taken. A map that does not increase at all nodes has no distances, nan.
  """
  if not (slope > 0).all() or not np.isfinite(y).all():
    return dict.fromkeys(("kl", "w2"), Exact(np.nan, np.inf))
  own, goal = nodes.log_start - np.log(slope), nodes.last.log_prob(y)
  u = goal - own
  square = (y - nodes.optimal) ** 2
  terms = np.stack([-u, np.expm1(np.minimum(u, 100)) - u, square])
  # What rounding of the logarithms does to each.
  size = 1 + np.abs(own) + np.abs(goal)
  rounding = 1e-15 * np.stack([size, size * np.minimum(np.abs(u), 1) + terms[1], square])
  weights = np.exp(nodes.log_start) * nodes.width
  value, coarse = terms @ weights, 2 * terms[:, ::2] @ weights[::2]
  error = np.abs(value - coarse) + rounding @ weights
  (left, _), (_, right) = ([float(a[0]) for a in nodes.last.mass(y[[i]])] for i in (0, -1))
  value[1] += left + right
  kl, w2 = int(np.argmin(error[:2])), np.sqrt(value[2])
  return {
    "kl": Exact(float(value[kl]), float(error[kl])),
    "w2": Exact(float(w2), float(error[2] / max(2 * w2, np.sqrt(error[2]), 1e-300))),
  }


class _OtherDraws(ZeroNoise):
  """Zeros, and ones for the last rows: a sampler whose rows differ then draws noise."""

  def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.zeros(shape, dtype).at[-_CHECKED:].set(1)

  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return self.normal(shape, dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mapped(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  predict: Predict,
  grid: Grid,
  traced: dict[str, Any],
  x: Float[Array, "n 1"],
) -> tuple[Float[Array, "n 1"], Float[Array, "n 1"]]:
  """Images of the starts x, and the derivatives of the map; the last have other draws."""

  def run(x: Array) -> Array:
    return sampler(_OtherDraws(), predict, x, grid, **traced, **dict(static)).x

  return jax.jvp(run, (x,), (jnp.ones_like(x),))
