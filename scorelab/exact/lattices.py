"""Densities on lattices of the line and the plane, in blocks of nodes where they have mass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from scorelab.exact import pushforward
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array

LOST = 1e-10
"""Mass of the blocks that are dropped at a level."""
BLOCK = {1: 256, 2: 16}
"""Nodes on a side of a block, by dimension."""
MOST_TABLE = 2**25
"""Nodes of a lattice, at most."""

_REACH = 8.0  # stds of a kernel, and of the components in a lattice
_SPARSE = 4  # every so many nodes on a side tell where q_k is
_MOST_OUTSIDE = 2**17  # nodes where q_k has no mass, if those where it has are fewer


class Model(NamedTuple):
  """The law p_k of a chain as a mixture of Gaussians of one std.

  Attributes:
    means: in blocks, [b, n, d].
    mass: weights, [b, n].
    std: s.
  """

  means: Float[np.ndarray, "b n d"]
  mass: Float[np.ndarray, "b n"]
  std: float

  def box(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns ends [d] that hold all but a share `LOST` of the mass."""
    used = (self.mass > LOST / self.mass.size) & np.isfinite(self.means).all(axis=-1)
    means = self.means[used] if used.any() else np.zeros((1, self.means.shape[-1]))
    return means.min(axis=0) - _REACH * self.std, means.max(axis=0) + _REACH * self.std

  def density(self, axes: list[np.ndarray]) -> Float[np.ndarray, ...]:
    """Returns the density on the product of one or two axes, of the same spacing."""
    density = np.zeros([len(axis) for axis in axes])
    low = np.array([axis[0] for axis in axes])
    spacing, counts, std = axes[0][1] - axes[0][0], density.shape, self.std
    for block, weights in zip(self.means, self.mass, strict=True):
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


class Cloud(NamedTuple):
  """The mass of p_k on a lattice, in blocks of nodes.

  Attributes:
    nodes: [b, n, d].
    mass: density times the cell's size, [b, n].
    spacing: h.
    lost: mass of p_k that is on no node.
    own: number of nodes where q_k has mass.
    table: number of nodes of the whole lattice.
  """

  nodes: Float[np.ndarray, "b n d"]
  mass: Float[np.ndarray, "b n"]
  spacing: float
  lost: float
  own: int
  table: int


def in_chunks(function: Callable[[Array], Array], x: np.ndarray) -> np.ndarray:
  """Evaluates a function of points [m, d] at points [..., d], in chunks.

  Returns:
    Values of shape [..., *event], for a function of shape [m, *event].
  """
  found = pushforward.in_chunks(function, x.reshape(-1, x.shape[-1]))
  return found.reshape(*x.shape[:-1], *found.shape[1:])


def _box(law: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
  """The ends [d] of a lattice for a law."""
  reach = _REACH * np.sqrt(np.asarray(law._diagonals))
  means = np.asarray(law.means)
  return (means - reach).min(axis=0), (means + reach).max(axis=0)


def tabulate(law: GaussianMixture, spacing: float, model: Model) -> Cloud:
  """Tabulates p_k on the blocks of a lattice where p_k or q_k has mass.

  Args:
    law: q_k, of dimension 1 or 2.
    spacing: h, of the nodes.
    model: p_k.
  """
  ends = _box(law), model.box()
  low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
  if np.prod((high - low) / spacing) > MOST_TABLE:
    low, high = ends[0]
  dim, side = law.dim, BLOCK[law.dim]
  counts = [side * max(1, -(-int(np.ceil(w / spacing)) // side)) for w in high - low]
  axes = [a + spacing * np.arange(n) for a, n in zip(low, counts, strict=True)]
  density = _in_blocks(model.density(axes), side)
  cell = spacing**dim
  sparse = np.stack(np.meshgrid(*[axis[::_SPARSE] for axis in axes], indexing="ij"), -1)
  data = np.exp(in_chunks(functools.partial(log_prob, law), sparse)) * cell * _SPARSE**dim
  masses = density.sum(axis=1) * cell
  own, truth = _holds(masses), _holds(_in_blocks(data, side // _SPARSE).sum(axis=1))
  most = max(int(1.5 * truth.sum()), _MOST_OUTSIDE // side**dim)
  order = np.argsort(-np.where(truth, 2, own * masses))  # those of q_k first, then by mass
  kept = order[: min(most, (own | truth).sum())]
  corners = np.stack(np.unravel_index(kept, [n // side for n in counts]), -1) * side
  within = np.stack(np.meshgrid(*[np.arange(side)] * dim, indexing="ij"), -1).reshape(-1, dim)
  nodes, mass = low + spacing * (corners[:, None] + within), density[kept] * cell
  lost = abs(1 - float(mass.sum()))
  return Cloud(nodes, mass, spacing, lost, int(truth.sum()) * side**dim, density.size)


def _in_blocks(table: np.ndarray, side: int) -> np.ndarray:
  """A table on a lattice, [n_1, ..] -> [blocks, side^d]."""
  if table.ndim == 1:
    return table.reshape(-1, side)
  rows, columns = (n // side for n in table.shape)
  blocks = table.reshape(rows, side, columns, side).swapaxes(1, 2)
  return blocks.reshape(rows * columns, side * side)


def _holds(masses: np.ndarray) -> np.ndarray:
  """Marks the heaviest blocks, which hold all but `LOST` of the mass, [b]."""
  order = np.argsort(masses)
  holds = np.empty(len(masses), bool)
  holds[order] = np.cumsum(masses[order]) > LOST
  return holds


def count_nodes(law: GaussianMixture, spacing: float) -> tuple[float, float]:
  """Estimates the number of nodes where a law has mass, and on its whole lattice."""
  low, high = _box(law)
  stds = np.broadcast_to(np.sqrt(law.variances), (law.num_classes, law.dim))
  balls = (0.7 * _REACH * stds / spacing).prod(axis=1).sum() * {1: 2, 2: np.pi}[law.dim]
  table = ((high - low) / spacing).prod()
  return float(min(balls, table)), float(table)


@jax.jit
def log_prob(law: GaussianMixture, x: Float[Array, "n d"]) -> Float[Array, " n"]:
  """Returns the log-density of a law."""
  return law._log_prob(x)
