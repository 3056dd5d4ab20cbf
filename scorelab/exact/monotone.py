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

from scorelab.exact.flows import Exact, flow_distances, problem
from scorelab.exact.line import LineMixture
from scorelab.exact.pushforward import noise_error, require_map
from scorelab.exact.responses import count_draws, in_float64, split_options, stacked
from scorelab.samplers import RecordedNoise, ZeroNoise
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict, Sampler

_NODES = (512, 4096)
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
    draws = count_draws(sampler, predict, jnp.zeros((1, 1)), grids[0], options)
    found: dict[int, dict[str, Exact]] = {}
    for count in _NODES:
      left = [i for i in range(len(grids)) if not _settled(found.get(i))]
      if left:
        some = [grids[i] for i in left]
        nodes = _nodes_on(some, target, start, count)
        rows = zip(nodes, *_images(some, sampler, predict, draws, nodes, options), strict=True)
        found |= dict(zip(left, [_distances(own, y, slope) for own, y, slope in rows], strict=True))
    for i, grid in enumerate(grids):
      if not all(_converged(exact) for exact in found[i].values()):
        exact = flow_distances(sampler, predict, target, grid, start=start, **options)
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


def _nodes_on(
  grids: Sequence[Grid], target: GaussianMixture, start: str, count: int
) -> list[_Nodes]:
  """The nodes of each grid; those of grids with the same ends are made once."""
  known: dict[tuple[float, ...], _Nodes] = {}
  rows = []
  for grid in grids:
    ends = tuple(float(a) for level in (grid[0], grid[-1]) for a in (level.alpha, level.sigma))
    if ends not in known:
      first, last = (LineMixture.of(law) for law in problem(target, grid, start))
      x, width = _spaced(first, last, count)
      optimal = last.quantile(*first.mass(x))
      known[ends] = _Nodes(x, width, first.log_prob(x), optimal, last)
    rows.append(known[ends])
  return rows


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
  grids: Sequence[Grid],
  sampler: Sampler,
  predict: Predict,
  draws: int,
  nodes: Sequence[_Nodes],
  options: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
  """The images of the nodes and the map's derivatives there, each [grids, n].

  Raises:
    ValueError: the images depend on the draws.
  """
  x = np.stack([own.x for own in nodes])
  middle = x.shape[1] // 2
  x = np.concatenate([x, x[:, middle : middle + _CHECKED]], axis=1)[..., None]
  noise = np.zeros((draws, *x.shape[1:]))
  noise[:, -_CHECKED:] = 1.0
  traced, static = split_options(options)
  mapped = _mapped(sampler, predict, static, draws > 0, stacked(grids), traced, x, noise)
  y, slope = (np.asarray(a)[..., 0] for a in mapped)
  if not np.array_equal(y[:, middle : middle + _CHECKED], y[:, -_CHECKED:], equal_nan=True):
    raise noise_error(sampler)
  return y[:, :-_CHECKED], slope[:, :-_CHECKED]


def _distances(nodes: _Nodes, y: np.ndarray, slope: np.ndarray) -> dict[str, Exact]:
  """The distances by the trapezoidal rule, and their change from half as many nodes.

  A map that does not increase at all nodes has none, nan.
  """
  if not (slope > 0).all() or not np.isfinite(y).all():
    return dict.fromkeys(("kl", "w2"), Exact(np.nan, np.inf))
  kl = nodes.log_start - np.log(slope) - nodes.last.log_prob(y)
  terms = np.exp(nodes.log_start) * nodes.width * np.stack([kl, (y - nodes.optimal) ** 2])
  value, coarse = terms.sum(1), 2 * terms[:, ::2].sum(1)
  error = np.abs(value - coarse) + 1e-15 * np.abs(terms).sum(1)
  w2 = np.sqrt(value[1])
  return {
    "kl": Exact(float(value[0]), float(error[0])),
    "w2": Exact(float(w2), float(error[1] / max(2 * w2, np.sqrt(error[1]), 1e-300))),
  }


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _mapped(
  sampler: Sampler,
  predict: Predict,
  static: tuple[tuple[str, Any], ...],
  noisy: bool,
  grids: Grid,
  traced: dict[str, Any],
  x: Float[Array, "g n 1"],
  noise: Float[Array, "draws n 1"],
) -> tuple[Float[Array, "g n 1"], Float[Array, "g n 1"]]:
  """Images of the starts x of each grid, and the derivatives of the map."""

  def on(grid: Grid, x: Array) -> tuple[Array, Array]:
    def run(x: Array) -> Array:
      source = RecordedNoise(noise) if noisy else ZeroNoise()
      return sampler(source, predict, x, grid, **traced, **dict(static)).x

    return jax.jvp(run, (x,), (jnp.ones_like(x),))

  return jax.vmap(on)(grids, x)
