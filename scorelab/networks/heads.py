"""MLP with a shared trunk and one head per step of a chain.

Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics", ICML 2015
(arXiv 1503.03585), appendix D.2, where a step's readout is its own mixture of a few.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.mlp import ACTIVATIONS
from scorelab.ranges import AtLeast
from scorelab.typing import Array

HEADS = "heads"
"""The name under which parameters have a leading axis of heads."""


class HeadsMLP(nn.Module):
  """Dense layers on the point, then those of the head selected by the conditioning.

  Attributes:
    widths: widths of the hidden layers that all heads share.
    head_widths: widths of each head's own hidden layers.
    num_heads: T; conditioning i, rounded, is head i in 0..T - 1.
    activation: a name of ACTIVATIONS, after each hidden layer.
    outputs: numbers given for each coordinate of the point.
  """

  widths: Annotated[tuple[int, ...], AtLeast(1)] = (64, 64)
  head_widths: Annotated[tuple[int, ...], AtLeast(1)] = (64,)
  num_heads: Annotated[int, AtLeast(1)] = 40
  activation: str = "relu"
  outputs: int = 1

  @nn.compact
  def __call__(self, x: Array, c: Array) -> Array:
    """[b, d], [b] -> [b, outputs d]."""
    h = x
    for width in self.widths:
      h = ACTIVATIONS[self.activation](nn.Dense(width)(h))
    head = jnp.clip(jnp.round(c).astype(int), 0, self.num_heads - 1)
    widths = (*self.head_widths, self.outputs * x.shape[-1])
    return Heads(self.num_heads, widths, self.activation, name=HEADS)(h, head)


class Heads(nn.Module):
  """A small MLP per head; each row is evaluated by one head.

  Parameters are stacked, [T, ...]. Rows are sorted by head into blocks of one head each, and a
  block's weights are gathered once, so every row costs one head, and only the weights of heads that
  occur are read. A head without rows has a gradient of exactly zero.

  Attributes:
    num_heads: T.
    widths: of a head's layers, the last one linear.
    activation: a name of ACTIVATIONS, between layers.
    block: rows of a block.
  """

  num_heads: int
  widths: tuple[int, ...]
  activation: str = "relu"
  block: int = 32

  @nn.compact
  def __call__(self, h: Array, head: Array) -> Array:
    """[b, k], [b] integers in 0..T - 1 -> [b, widths[-1]]."""
    place, heads = _blocks(head, self.num_heads, self.block)
    h = jnp.zeros((heads.size * self.block, h.shape[1]), h.dtype).at[place].set(h)
    h = h.reshape(heads.size, self.block, -1)
    kernel_init = nn.initializers.lecun_normal(batch_axis=0)
    for i, width in enumerate(self.widths):
      h = h if i == 0 else ACTIVATIONS[self.activation](h)
      kernel = self.param(f"kernel_{i}", kernel_init, (self.num_heads, h.shape[-1], width))
      bias = self.param(f"bias_{i}", nn.initializers.zeros, (self.num_heads, width))
      h = jnp.einsum("nbi,nio->nbo", h, kernel[heads]) + bias[heads][:, None]
    return h.reshape(-1, self.widths[-1])[place]


def _blocks(head: Array, num_heads: int, block: int) -> tuple[Array, Array]:
  """Assigns rows to blocks so that each block of rows has a single head.

  Args:
    head: [b], each row's head.

  Returns:
    place [b], distinct positions; and the head [n] of each of the n blocks. n is enough for any b
    heads, so some blocks stay empty.
  """
  size = head.size
  num_blocks = (size + min(num_heads, size) * (block - 1)) // block  # each head may fill one partly
  order = jnp.argsort(head)
  count = jnp.bincount(head, length=num_heads)
  last = jnp.cumsum(-(-count // block))  # blocks up to each head, its own included
  first_row = jnp.cumsum(count) - count
  rank = jnp.arange(size) - first_row[head[order]]
  first_place = (last + (count // -block)) * block
  place = jnp.zeros(size, int).at[order].set(first_place[head[order]] + rank)
  heads = jnp.searchsorted(last, jnp.arange(num_blocks), side="right")
  return place, jnp.minimum(heads, num_heads - 1)
