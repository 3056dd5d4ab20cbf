"""Embeddings of levels, points, classes and image positions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from scorelab.typing import Array
from scorelab.validation import Registry


class FourierFeatures(nn.Module):
  """Sines and cosines of random projections with fixed frequencies: nothing is trained.

  Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
  Domains", NeurIPS 2020 (arXiv 2006.10739), section 5. The frequencies are the same for every seed.

  Attributes:
    num_features: projections; the output has twice as many, in [-1, 1].
    scale: std of the angular frequencies, per unit of the input.
  """

  num_features: int
  scale: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., d] -> [..., 2 num_features]."""
    frequencies = self.scale * _gaussian_table(x.shape[-1], self.num_features)
    angles = x @ jnp.asarray(frequencies, x.dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ClassEmbedding(nn.Module):
  """A learned vector for each class, and one for no class.

  Attributes:
    num_classes: number of classes, >= 1.
    width: of the vectors.
    label_dropout: share of labels that are dropped, given a key 'dropout', so that one network is
      conditional and unconditional (Ho and Salimans 2022, arXiv 2207.12598).
    std: of the vectors at initialisation.
    dtype: of the result; None for that of the parameters.

  Raises:
    ValueError: there are no classes.
  """

  num_classes: int
  width: int
  label_dropout: float = 0.0
  std: float = 0.02
  dtype: str | None = None

  @nn.compact
  def __call__(self, label: Array | None, size: int) -> Array:
    """int [size] or None -> [size, width]. None and the label num_classes mean no class."""
    if not self.num_classes:
      raise ValueError("a label is given to a network of num_classes = 0")
    none = jnp.full((size,), self.num_classes)
    label = none if label is None else label
    if self.label_dropout and self.has_rng("dropout"):
      dropped = jax.random.bernoulli(self.make_rng("dropout"), self.label_dropout, label.shape)
      label = jnp.where(dropped, none, label)
    shape, init = (self.num_classes + 1, self.width), nn.initializers.normal(self.std)
    table = self.param("embedding", init, shape, jnp.float32)
    return jnp.asarray(table, self.dtype)[label]


class ConditionEmbedding(nn.Module):
  """Embedding of the level through two dense layers, plus that of the class.

  Attributes:
    num_features: sinusoids of the level.
    width: of the result.
    activation: between the two layers.
    level_scale: factor on the level. The sinusoids' frequencies reach from 1 down to 1e-4, which
      suits time indices up to 1000; t in [0, 1] needs a factor of 1000.
    num_classes: number of classes; 0 for a network without labels.
    label_dropout: see `ClassEmbedding`.
    dtype: of the computation; None for that of the level and parameters.

  Raises:
    ValueError: a label is given to a network without classes.
  """

  num_features: int
  width: int
  activation: Callable[[Array], Array]
  level_scale: float = 1.0
  num_classes: int = 0
  label_dropout: float = 0.0
  dtype: str | None = None

  @nn.compact
  def __call__(self, c: Array, label: Array | None = None) -> Array:
    """[b], int [b] or None -> [b, width]. None and the label num_classes mean no class."""
    h = sinusoids(self.level_scale * c, self.num_features)
    h = self.activation(nn.Dense(self.width, dtype=self.dtype, name="level_0")(h))
    h = nn.Dense(self.width, dtype=self.dtype, name="level_1")(h)
    if not self.num_classes and label is None:
      return h
    embed = ClassEmbedding(
      self.num_classes, self.width, self.label_dropout, dtype=self.dtype, name="label"
    )
    return h + embed(label, c.shape[0])


def sinusoids(x: Array, num_features: int, max_period: float = 1e4) -> Array:
  """Sines, then cosines, of x at frequencies from 1 down to 1 / max_period.

  Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (arXiv 1706.03762), section 3.5.

  Args:
    x: of any shape.
    num_features: even, at least 4.
    max_period: over 2 pi, in units of x.

  Returns:
    [*x.shape, num_features], in [-1, 1].

  Raises:
    ValueError: num_features is odd or below 4.
  """
  if num_features % 2 or num_features < 4:
    raise ValueError(f"num_features = {num_features} of sinusoids must be even and at least 4")
  frequencies = np.geomspace(1.0, 1.0 / max_period, num_features // 2)
  angles = x[..., None] * jnp.asarray(frequencies, x.dtype)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _gaussian_table(rows: int, columns: int) -> np.ndarray:
  """Standard normal draws [rows, columns], always the same: a constant of the compiled program."""
  return np.random.default_rng(0).standard_normal((rows, columns))


def harmonics(c: Array) -> Array:
  """(c - 1/2, cos 2 pi c, sin 2 pi c, -cos 4 pi c), for c in [0, 1]: [b] -> [b, 4]."""
  angle = 2 * jnp.pi * c
  return jnp.stack([c - 0.5, jnp.cos(angle), jnp.sin(angle), -jnp.cos(2 * angle)], axis=-1)


LEVEL_FEATURES: dict[str, Callable[[Array], Array]] = Registry("level_features") | {
  "harmonics": harmonics,
  "identity": lambda c: c[:, None],
  "none": lambda c: c[:, None][:, :0],  # for a network of one level
}
