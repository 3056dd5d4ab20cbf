"""Multilayer perceptrons for points `(x [b, d], c [b], label [b]) -> [b, outputs d]`.

Events with more axes are flattened; the last axis of the output is `outputs` times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.embeddings import LEVEL_FEATURES, ClassEmbedding, FourierFeatures
from scorelab.ranges import Above, AtLeast, Between, Count
from scorelab.typing import Array
from scorelab.validation import Registry

ACTIVATIONS: dict[str, Callable[[Array], Array]] = Registry("activation") | {
  "gelu": nn.gelu,
  "leaky_relu": nn.leaky_relu,
  "relu": nn.relu,
  "silu": nn.silu,
  "softplus": nn.softplus,
  "tanh": nn.tanh,
}


def flat(x: Array) -> Array:
  """[b, *event] -> [b, d]."""
  return x.reshape(x.shape[0], -1)


def like(h: Array, x: Array) -> Array:
  """[b, outputs d] in the shape of x [b, *event], its last axis outputs times as long."""
  return h.reshape(*x.shape[:-1], -1)


class MLP(nn.Module):
  """Dense layers, optionally normalised, on the point with its conditioning appended.

  Attributes:
    widths: width of each hidden layer.
    norms: whether each hidden layer is followed by layer normalisation; as long as `widths`.
    activation: a name of ACTIVATIONS, after each hidden layer.
    output_activation: a name of ACTIVATIONS after the last layer too, or None: the score of a
      published notebook went through a leaky ReLU.
    level_features: a name of LEVEL_FEATURES, of what is appended of the conditioning.
    num_classes: classes of the labels, whose vectors are added to the first layer; 0 for none.
    label_dropout: share of labels that are dropped in training, given a key 'dropout'.
    outputs: numbers given for each coordinate of the point.
  """

  widths: Annotated[tuple[int, ...], AtLeast(1)] = (256, 512, 256)
  norms: tuple[bool, ...] = (True, False, True)
  activation: str = "leaky_relu"
  output_activation: str | None = None
  level_features: str = "identity"
  num_classes: Annotated[int, AtLeast(0)] = 0
  label_dropout: Annotated[float, Between(0, 1)] = 0.1
  outputs: int = 1

  @nn.compact
  def __call__(self, x: Array, c: Array, label: Array | None = None) -> Array:
    """[b, *event], [b], int [b] or None -> [b, *event], the last axis outputs times as long."""
    activation = ACTIVATIONS[self.activation]
    h = jnp.concatenate([flat(x), LEVEL_FEATURES[self.level_features](c)], axis=-1)
    for i, (width, norm) in enumerate(zip(self.widths, self.norms, strict=True)):
      h = nn.Dense(width)(h)
      if i == 0:
        h = _add_label(h, label, self.num_classes, self.label_dropout)
      h = nn.LayerNorm()(h) if norm else h
      h = activation(h)
    h = like(nn.Dense(self.outputs * x[0].size)(h), x)
    return h if self.output_activation is None else ACTIVATIONS[self.output_activation](h)


class ResidualMLP(nn.Module):
  """Pre-normalised residual blocks on Fourier features of the point and of its conditioning.

  The last layer is linear and starts at zero. The point itself is appended to its features, so
  that the network can extrapolate linearly outside the data.

  Attributes:
    width: width of the residual stream, and of each block's hidden layer.
    depth: number of blocks.
    activation: a name of ACTIVATIONS.
    num_features: Fourier features of the point and, as many, of the conditioning.
    point_scale: std of their angular frequencies, per unit of the (scaled) point.
    level_scale: std of the frequencies for the conditioning, per unit of it.
    num_classes: classes of the labels, whose vectors are added to the residual stream; 0 for none.
    label_dropout: share of labels that are dropped in training, given a key 'dropout'.
    outputs: numbers given for each coordinate of the point.
  """

  width: Annotated[int, AtLeast(1)] = 192
  depth: Annotated[int, Count(1_000)] = 3
  activation: str = "silu"
  num_features: Annotated[int, AtLeast(1)] = 64
  point_scale: Annotated[float, Above(0)] = 4.0
  level_scale: Annotated[float, Above(0)] = 2.0
  num_classes: Annotated[int, AtLeast(0)] = 0
  label_dropout: Annotated[float, Between(0, 1)] = 0.1
  outputs: int = 1

  @nn.compact
  def __call__(self, x: Array, c: Array, label: Array | None = None) -> Array:
    """[b, *event], [b], int [b] or None -> [b, *event], the last axis outputs times as long."""
    activation = ACTIVATIONS[self.activation]
    given, x = x, flat(x)
    points = FourierFeatures(self.num_features, self.point_scale)(x)
    levels = FourierFeatures(self.num_features, self.level_scale)(c[:, None])
    h = nn.Dense(self.width)(jnp.concatenate([x, points, c[:, None], levels], axis=-1))
    h = _add_label(h, label, self.num_classes, self.label_dropout)
    for _ in range(self.depth):
      update = activation(nn.Dense(self.width)(nn.LayerNorm()(h)))
      h = h + nn.Dense(self.width)(update)
    h = activation(nn.LayerNorm()(h))
    h = nn.Dense(self.outputs * x.shape[-1], kernel_init=nn.initializers.zeros)(h)
    return like(h, given)


def _add_label(h: Array, label: Array | None, num_classes: int, label_dropout: float) -> Array:
  """Adds the class vectors to h [b, width]; returns h itself without classes."""
  if not num_classes and label is None:
    return h
  embed = ClassEmbedding(num_classes, h.shape[1], label_dropout, std=1.0, name="label")
  return h + embed(label, h.shape[0])
