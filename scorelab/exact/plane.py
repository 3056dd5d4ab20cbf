"""Quadrature in the plane for laws that a sampler carries from noise to a mixture.

Between modes far apart a sampler's map is steep, and equally spaced starts miss where. So nodes are
placed where samples go, at y, and their starts are x = g(y), with g the probability flow of the
exact score from the data's end to the noise's. For any function F,

    int p(x) F(x) dx = int p(g(y)) |det g'(y)| F(g(y)) dy

whatever g: the flow need not be solved exactly, and the sampler may have another score. The density
on the right is nearly that of the data, sum_k q_k: its component k, a share q_k / sum_j q_j of it,
is integrated over that component's own axes by the trapezoidal rule, which converges exponentially
for a function that is smooth and decays.

Trefethen and Weideman, "The Exponentially Convergent Trapezoidal Rule", SIAM Review 56 (2014).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array

NODES = (32, 64, 128)
"""Nodes of an axis of a component, by rule: each rule has those of the one before."""

_REACH = 8.5  # standard deviations
_STEPS = 64  # of g
_CHUNK = 4096
_MOST = 4  # cached sets of nodes


class Nodes(NamedTuple):
  """Starts g(y) and what their weights are made of.

  Attributes:
    x: [n, 2].
    volume: |det g'(y)| times the owner's share and the area of a node, [n].
  """

  x: Float[np.ndarray, "n 2"]
  volume: Float[np.ndarray, " n"]


def plane_rules(target: GaussianMixture, grid: Grid, nodes: int) -> Iterator[Nodes]:
  """Yields rules up to so many nodes, each without the nodes of the rules before.

  Volumes are those of a rule's own spacing: with every further rule they are a fourth.

  Args:
    target: of dimension 2, in float64.
    grid: of the sampler, in float64; g is the flow between its last noisy level and its first.
    nodes: one of `NODES`.
  """
  noisy, clean = grid[0], grid[-2 if grid.ends_at_data else -1]
  leaves = jax.tree.leaves((target, noisy.alpha, noisy.sigma, clean.alpha, clean.sigma))
  for count in NODES[: NODES.index(nodes) + 1]:
    key = (count, *(np.asarray(leaf).tobytes() for leaf in leaves))
    if key not in _cache:
      while len(_cache) >= _MOST:
        _cache.pop(next(iter(_cache)))
      _cache[key] = _make_nodes(target, noisy, clean, count)
    yield _cache[key]


_cache: dict[tuple[int | bytes, ...], Nodes] = {}  # rows of an evaluation share them


def _make_nodes(target: GaussianMixture, noisy: Level, clean: Level, count: int) -> Nodes:
  law = target.perturbed(clean.alpha, clean.sigma)
  shares, means = np.asarray(law.weights), np.asarray(law.means)
  axes = np.eye(2)[None] if law.basis is None else np.asarray(law.basis)
  roots = np.broadcast_to(axes * np.sqrt(np.asarray(law.variances))[:, None], (*means.shape, 2))
  index = np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2)
  if count > NODES[0]:
    index = index[(index % 2).any(1)]
  spacing = 2 * _REACH / count
  z = index * spacing - _REACH
  z = z[np.sum(z**2, axis=1) <= _REACH**2]
  kept = np.flatnonzero(shares > 0)
  owner = np.repeat(kept, len(z))
  y = means[owner] + np.einsum("nij,nj->ni", roots[owner], np.tile(z, (len(kept), 1)))
  area = spacing**2 * np.abs(np.linalg.det(roots))[owner]
  parts = []
  for i in range(0, len(y), _CHUNK):
    rows = np.arange(i, i + _CHUNK) % len(y)  # one size, so that it is compiled once
    size = min(_CHUNK, len(y) - i)
    found = _carried(target, law, noisy, clean, y[rows], owner[rows])
    parts.append([np.asarray(a)[:size] for a in found])
  x, volume = (np.concatenate(a) for a in zip(*parts, strict=True))
  return Nodes(x, area * volume)


@jax.jit
def _carried(
  target: GaussianMixture,
  law: GaussianMixture,
  noisy: Level,
  clean: Level,
  y: Array,
  owner: Array,
) -> tuple[Array, Array]:
  """Returns g(y) [n, 2], and |det g'(y)| times the share of the component `owner` at y, [n].

  The flow is d(x / alpha) = noise d(sigma / alpha), here in steps of log(sigma / alpha), by the
  method of Runge and Kutta. If grid[0] has next to no data in it, the last step is a factor.
  """
  variance = target.scale**2
  ratio = jnp.minimum(noisy.sigma / noisy.alpha, 1e3 * target.scale)
  low, high = jnp.log(clean.sigma / clean.alpha), jnp.log(ratio)
  h = (high - low) / _STEPS
  factor = jnp.sqrt((noisy.alpha**2 * variance + noisy.sigma**2) / (variance + ratio**2))

  def slope(x: Array, log_ratio: Array) -> Array:
    level = Level(None, jnp.ones(()), jnp.exp(log_ratio))
    return level.sigma * target.predict(x, level).noise

  def step(x: Array, log_ratio: Array) -> tuple[Array, None]:
    one = slope(x, log_ratio)
    two = slope(x + h / 2 * one, log_ratio + h / 2)
    three = slope(x + h / 2 * two, log_ratio + h / 2)
    four = slope(x + h * three, log_ratio + h)
    return x + h / 6 * (one + 2 * two + 2 * three + four), None

  def carry(y: Array) -> Array:
    return factor * jax.lax.scan(step, y / clean.alpha, low + h * jnp.arange(_STEPS))[0]

  axes = jnp.broadcast_to(jnp.eye(2)[:, None], (2, *y.shape))
  x, jacobian = jax.vmap(lambda axis: jax.jvp(carry, (y,), (axis,)), out_axes=(None, -1))(axes)
  share = jnp.take_along_axis(law.responsibilities(y), owner[:, None], axis=1)[:, 0]
  return x, jnp.abs(jnp.linalg.det(jacobian)) * share
