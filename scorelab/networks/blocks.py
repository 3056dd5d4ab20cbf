"""Building blocks of U-Nets: convolutional blocks, attention on images, changes of resolution.

Images are [b, h, w, channels], an embedded condition is [b, e]. `dtype` is that of the computation,
None for that of the input and parameters; parameters are float32 in any case.

References:
  He et al., "Deep Residual Learning", CVPR 2016 (arXiv 1512.03385), section 3.2.
  Liu et al., "A ConvNet for the 2020s", CVPR 2022 (arXiv 2201.03545), section 2.
  Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021
    (arXiv 2105.05233), section 3: scale and shift after a normalisation, blocks that start at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.attention import Attention, LinearAttention, group_norm, last_init
from scorelab.typing import Array

GROUPS = 8
"""Groups of a ResNet block's normalisations: its width must be a multiple."""


class ResNetBlock(nn.Module):
  """Convolution, normalisation and SiLU, twice, with a residual path.

  Attributes:
    width: channels of the result.
    scale_shift: whether the condition scales and shifts what the first normalisation gives; else
      it is added between the convolutions.
    dropout: share of what the second convolution sees that is dropped, given a key 'dropout'.
    zero_init: whether the block starts as its residual path.
  """

  width: int
  scale_shift: bool = False
  dropout: float = 0.0
  zero_init: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array, condition: Array | None = None) -> Array:
    """[b, h, w, any], [b, e] or None -> [b, h, w, width]."""
    added, scale, shift = modulation(condition, self.width, nn.silu, self.scale_shift, self.dtype)
    h = conv(self.width, 3, dtype=self.dtype, name="conv_0")(x)
    h = group_norm(GROUPS, dtype=self.dtype, name="norm_0")(h)
    h = nn.silu(h * (1 + scale) + shift) + added
    h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
    h = conv(self.width, 3, dtype=self.dtype, name="conv_1")(h)
    h = group_norm(GROUPS, zero_init=self.zero_init, dtype=self.dtype, name="norm_1")(h)
    return nn.silu(h) + residual(x, self.width, self.dtype)


class ConvNeXtBlock(nn.Module):
  """A 7 x 7 depthwise convolution, then two of 3 x 3 through twice the width.

  Attributes:
    width: channels of the result.
    scale_shift: whether the condition scales and shifts what the first normalisation gives; else
      it is added to the depthwise convolution's output.
    keep_depthwise: False puts the condition in the place of that output, as a published notebook
      does: the block then sees its input through the residual path only.
    dropout: share of what the last convolution sees that is dropped, given a key 'dropout'.
    zero_init: whether the block starts as its residual path.
  """

  width: int
  scale_shift: bool = False
  keep_depthwise: bool = True
  dropout: float = 0.0
  zero_init: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array, condition: Array | None = None) -> Array:
    """[b, h, w, any], [b, e] or None -> [b, h, w, width]."""
    channels = x.shape[-1]
    added, scale, shift = modulation(condition, channels, gelu, self.scale_shift, self.dtype)
    h = conv(channels, 7, feature_group_count=channels, dtype=self.dtype, name="depthwise")(x)
    h = h + added if condition is None or self.keep_depthwise else added
    h = group_norm(1, dtype=self.dtype, name="norm_0")(h) * (1 + scale) + shift
    h = gelu(conv(2 * self.width, 3, dtype=self.dtype, name="conv_0")(h))
    h = group_norm(1, dtype=self.dtype, name="norm_1")(h)
    h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
    init = last_init(self.zero_init)
    h = conv(self.width, 3, kernel_init=init, dtype=self.dtype, name="conv_1")(h)
    return h + residual(x, self.width, self.dtype)


class PrintedConvNeXtBlock(ConvNeXtBlock):
  """ConvNeXt block exactly as in the text of the annotated diffusion model of 2022."""

  keep_depthwise: bool = False


BLOCKS: dict[str, type[nn.Module]] = {
  "convnext": ConvNeXtBlock,
  "convnext_as_printed": PrintedConvNeXtBlock,
  "resnet": ResNetBlock,
}


class AttentionBlock(nn.Module):
  """x + attention(normalised x), with pixels as tokens.

  Attributes:
    kind: 'full', or else 'linear'.
    num_heads, head_dim, flash, key_softmax: see scorelab/networks/attention.py.
    zero_init: whether the block starts as the identity.
  """

  kind: str
  num_heads: int = 4
  head_dim: int = 32
  key_softmax: str = "positions"
  flash: bool = False
  zero_init: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, h, w, d] -> [b, h, w, d]."""
    heads = (self.num_heads, self.head_dim)
    zero_init, dtype, name = self.zero_init, self.dtype, "attention"
    if self.kind == "full":
      attention = Attention(*heads, flash=self.flash, zero_init=zero_init, dtype=dtype, name=name)
    else:
      attention = LinearAttention(*heads, self.key_softmax, zero_init, dtype, name=name)
    h = group_norm(1, dtype=self.dtype, name="norm")(x)
    return x + attention(h.reshape(x.shape[0], -1, x.shape[-1])).reshape(x.shape)


def modulation(
  condition: Array | None,
  width: int,
  activation: Callable[[Array], Array],
  scale_shift: bool,
  dtype: str | None,
) -> tuple[Array | float, Array | float, Array | float]:
  """Shift, and scale and shift, from a condition [b, e]: each [b, 1, 1, width] or 0.

  Call it in a module's compact method, where it creates the layer 'condition'.
  """
  if condition is None:
    return 0.0, 0.0, 0.0
  told = nn.Dense((1 + scale_shift) * width, dtype=dtype, name="condition")(activation(condition))
  told = told[:, None, None]
  if not scale_shift:
    return told, 0.0, 0.0
  scale, shift = jnp.split(told, 2, axis=-1)
  return 0.0, scale, shift


def gelu(x: Array) -> Array:
  """Exact GELU, as PyTorch's; Flax defaults to the tanh approximation."""
  return nn.gelu(x, approximate=False)


def conv(width: int, size: int, **options: Any) -> nn.Conv:
  """A convolution of size x size that keeps height and width."""
  return nn.Conv(width, (size, size), **options)


def residual(x: Array, width: int, dtype: str | None) -> Array:
  """Returns x itself, or its projection to another width."""
  return x if x.shape[-1] == width else conv(width, 1, dtype=dtype, name="residual")(x)


def downsample(width: int, **options: Any) -> nn.Conv:
  """4 x 4 convolution to half the height and width."""
  return nn.Conv(width, (4, 4), strides=(2, 2), padding=((1, 1), (1, 1)), **options)


def upsample(width: int, **options: Any) -> nn.ConvTranspose:
  """4 x 4 transposed convolution to twice the height and width."""
  return nn.ConvTranspose(width, (4, 4), strides=(2, 2), **options)
