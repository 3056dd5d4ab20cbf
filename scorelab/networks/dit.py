"""The diffusion transformer `(x [b, h, w, c], level [b], label [b]) -> [b, h, w, outputs c]`.

Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023 (arXiv 2212.09748),
section 3.2: patches, adaLN-zero blocks; sinusoids of the places after Vaswani et al. 2017
(arXiv 1706.03762), half of them for each axis.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.attention import DTYPES, Attention
from scorelab.networks.embeddings import ConditionEmbedding, sinusoids
from scorelab.ranges import Above, AtLeast, Between, Count
from scorelab.typing import Array

LEVEL_FEATURES = 256
"""Sinusoids of the level."""


class DiTBlock(nn.Module):
  """Attention, then a perceptron on each token, both behind a gate that starts at zero.

      x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
      x <- x + gate_2 perceptron(norm(x) (1 + scale_2) + shift_2)

  The six are linear in the activated condition (adaLN-zero).

  Attributes:
    num_heads: of the attention; they share the width.
    mlp_ratio: the perceptron's hidden width, per token's width.
    dropout: share of both branches' outputs that is dropped, given a key 'dropout'.
    flash: whether the attention is cuDNN's: on a GPU and in bfloat16 only.
    dtype: of the computation; None for that of the tokens and parameters.
  """

  num_heads: int
  mlp_ratio: float = 4.0
  dropout: float = 0.0
  flash: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array, condition: Array) -> Array:
    """[b, n, width], [b, e] -> [b, n, width]."""
    width = x.shape[-1]
    conditioning = modulations(condition, 6, width, self.dtype)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = conditioning
    drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
    attention = Attention(
      self.num_heads,
      width // self.num_heads,
      use_bias=True,
      flash=self.flash,
      dtype=self.dtype,
      name="attention",
    )
    h = attention(layer_norm(x, self.dtype) * (1 + scale_1) + shift_1)
    x = x + gate_1 * drop(h)
    h = layer_norm(x, self.dtype) * (1 + scale_2) + shift_2
    h = nn.gelu(nn.Dense(round(self.mlp_ratio * width), dtype=self.dtype, name="hidden")(h))
    return x + gate_2 * drop(nn.Dense(width, dtype=self.dtype, name="out")(h))


class DiT(nn.Module):
  """A transformer on the patches of an image. Starts as the zero function.

  Attributes:
    patch_size: side of a patch, in pixels; must divide height and width.
    width: channels of a token; a multiple of 8 and of num_heads.
    depth: number of blocks.
    num_heads: heads of every attention; they share the width.
    mlp_ratio: the hidden width of a block's perceptron, per token's width.
    dropout: probability of a dropped unit in every block, given a key 'dropout'.
    flash: whether attention is cuDNN's: on a GPU and in bfloat16 only.
    level_scale: multiplies the level before its sinusoids; 1 for time indices up to 1000.
    num_classes: classes of the labels; 0 for none.
    label_dropout: share of labels that are dropped in training, given a key 'dropout'.
    remat: whether what is inside a block is computed again for the gradient, and not kept.
    dtype: type of the computation, such as 'bfloat16'; None for that of x. Parameters, statistics
      of the normalisations and the last layer are float32 in any case, and the output of x's dtype.
    outputs: numbers given for each channel of a pixel.

  Raises:
    ValueError: the sizes do not go with each other or with the image.
  """

  patch_size: Annotated[int, AtLeast(1)] = 2
  width: Annotated[int, AtLeast(1)] = 192
  depth: Annotated[int, Count(1_000)] = 6
  num_heads: Annotated[int, AtLeast(1)] = 3
  mlp_ratio: Annotated[float, Above(0)] = 4.0
  dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
  flash: bool = False
  level_scale: Annotated[float, Above(0)] = 1.0
  num_classes: Annotated[int, AtLeast(0)] = 0
  label_dropout: Annotated[float, Between(0, 1)] = 0.1
  remat: bool = False
  dtype: str | None = None
  outputs: int = 1

  def check_event(self, event_shape: tuple[int, ...]) -> None:
    """Raises ValueError, in one line, if the network does not take events of this shape."""
    if len(event_shape) != 3:
      raise ValueError(f"a DiT takes images [height, width, channels], not events {event_shape}")
    if any(side % self.patch_size for side in event_shape[:2]):
      raise ValueError(
        f"patch_size = {self.patch_size} must divide height and width, and the images are "
        f"{event_shape[0]} x {event_shape[1]}"
      )
    if self.dtype not in DTYPES:
      raise ValueError(f"dtype = {self.dtype!r} must be one of {', '.join(map(str, DTYPES))}")
    if self.width % 8 or self.width % self.num_heads:
      raise ValueError(
        f"width = {self.width} must be a multiple of 8 and of num_heads = {self.num_heads}"
      )

  @nn.compact
  def __call__(self, x: Array, c: Array, label: Array | None = None) -> Array:
    """[b, h, w, channels], [b], int [b] or None -> [b, h, w, outputs channels]."""
    self.check_event(x.shape[1:])
    b, height, width, channels = x.shape
    p, rows, columns = self.patch_size, height // self.patch_size, width // self.patch_size
    conditioning = ConditionEmbedding(
      LEVEL_FEATURES,
      self.width,
      nn.silu,
      self.level_scale,
      self.num_classes,
      self.label_dropout,
      self.dtype,
      name="condition",
    )(c, label)
    h = x.reshape(b, rows, p, columns, p, channels).swapaxes(2, 3).reshape(b, rows * columns, -1)
    h = nn.Dense(self.width, dtype=self.dtype, name="patches")(h)
    h = h + places(rows, columns, self.width).astype(h.dtype)
    block = nn.remat(DiTBlock) if self.remat else DiTBlock
    for i in range(self.depth):
      h = block(
        self.num_heads, self.mlp_ratio, self.dropout, self.flash, self.dtype, name=f"block_{i}"
      )(h, conditioning)
    shift, scale = modulations(conditioning, 2, self.width, self.dtype)
    h = (layer_norm(h, self.dtype) * (1 + scale) + shift).astype(x.dtype)
    zeros = nn.initializers.zeros
    h = nn.Dense(p * p * self.outputs * channels, kernel_init=zeros, name="last")(h)
    return h.reshape(b, rows, columns, p, p, -1).swapaxes(2, 3).reshape(b, height, width, -1)


def modulations(condition: Array, number: int, width: int, dtype: str | None) -> list[Array]:
  """Returns `number` functions [b, 1, width] of a condition [b, e], zero at initialisation.

  Call it in a module's compact method, where it creates the layer 'modulations'.
  """
  layer = nn.Dense(
    number * width, kernel_init=nn.initializers.zeros, dtype=dtype, name="modulations"
  )
  return jnp.split(layer(nn.silu(condition))[:, None], number, axis=-1)


def layer_norm(x: Array, dtype: str | None) -> Array:
  """Normalises each token to mean 0 and variance 1, without parameters."""
  return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype)(x)


def places(rows: int, columns: int, width: int) -> Array:
  """Sinusoids of a patch's row, then of its column: a constant [rows columns, width].

  Args:
    rows, columns: of the grid of patches.
    width: a multiple of 4, and at least 8.
  """
  row, column = jnp.meshgrid(jnp.arange(float(rows)), jnp.arange(float(columns)), indexing="ij")
  table = [sinusoids(place.ravel(), width // 2) for place in (row, column)]
  return jnp.concatenate(table, axis=-1)
