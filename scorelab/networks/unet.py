"""U-Nets for images `(x [b, h, w, c], level [b], label [b]) -> [b, h, w, outputs c]`.

The defaults are those of a published notebook; `modern_unet` is the same module with later
improvements.

References:
  Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015 (arXiv 1505.04597).
  Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239),
    appendix B.
  Rogge and Rasul, "The Annotated Diffusion Model", Hugging Face blog, 2022: the defaults.
  Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021
    (arXiv 2105.05233), section 3: the modern one.
"""

from __future__ import annotations

import functools
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.attention import DTYPES, KEY_SOFTMAXES, last_init
from scorelab.networks.blocks import (
  BLOCKS,
  GROUPS,
  AttentionBlock,
  conv,
  downsample,
  gelu,
  upsample,
)
from scorelab.networks.embeddings import ConditionEmbedding
from scorelab.ranges import Above, AtLeast, Between
from scorelab.typing import Array

ATTENTIONS = ("full", "linear", "none")


class UNet(nn.Module):
  """U-Net: stages of two blocks and an attention, down to a coarse image and up, with skips.

  Stage i has dim * dim_mults[i] channels at 2^-i of the height and width, which must be multiples
  of 2^(stages - 1). Each stage has a skip to its mirror; the first one only with `first_skip`.

  Attributes:
    dim: channels of the first stage, and sinusoids of the level; a multiple of 8.
    dim_mults: channels of each stage, as multiples of `dim`.
    block: a name of BLOCKS.
    attention: attention of each stage, one of ATTENTIONS; or one name for all. The middle has a
      full one.
    key_softmax: softmax of the keys in linear attention, one of KEY_SOFTMAXES.
    first_skip: whether the first stage, too, has a mirror.
    num_heads: heads of every attention.
    head_dim: channels of each head.
    flash: whether full attention is cuDNN's: on a GPU and in bfloat16 only.
    scale_shift: whether the condition scales and shifts within a block; else it is added.
    dropout: in every block, given a key 'dropout'.
    zero_init: whether the network's last layer, and every residual branch's, starts at zero.
    level_scale: multiplies the level before its sinusoids; 1 for time indices up to 1000.
    num_classes: classes of the labels; 0 for none.
    label_dropout: share of labels that are dropped in training, given a key 'dropout'.
    remat: whether what is inside a block is computed again for the gradient, and not kept.
    dtype: of the computation, as 'bfloat16'; None for that of x. Parameters, statistics of the
      normalisations and the last layer are float32 in any case, and the output of x's dtype.
    outputs: numbers given for each channel of a pixel.

  Raises:
    ValueError: an option is none of those, or does not go with the others or the image.
  """

  dim: Annotated[int, AtLeast(8)] = 32
  dim_mults: Annotated[tuple[int, ...], AtLeast(1)] = (1, 2, 4, 8)
  block: str = "resnet"
  attention: tuple[str, ...] = ("linear",)
  key_softmax: str = "channels"
  first_skip: bool = False
  num_heads: Annotated[int, AtLeast(1)] = 4
  head_dim: Annotated[int, AtLeast(1)] = 32
  flash: bool = False
  scale_shift: bool = False
  dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
  zero_init: bool = False
  level_scale: Annotated[float, Above(0)] = 1.0
  num_classes: Annotated[int, AtLeast(0)] = 0
  label_dropout: Annotated[float, Between(0, 1)] = 0.1
  remat: bool = False
  dtype: str | None = None
  outputs: int = 1

  def check_event(self, event_shape: tuple[int, ...]) -> None:
    """Raises ValueError, in one line, if the network does not take events of this shape."""
    divisor = 2 ** (len(self.dim_mults) - 1)
    if len(event_shape) != 3:
      raise ValueError(f"a U-Net takes images [height, width, channels], not events {event_shape}")
    if any(side % divisor for side in event_shape[:2]):
      raise ValueError(
        f"dim_mults = {self.dim_mults} takes heights and widths that are multiples of {divisor}, "
        f"and the images are {event_shape[0]} x {event_shape[1]}"
      )
    for name, value, known in (
      ("block", self.block, tuple(BLOCKS)),
      ("key_softmax", self.key_softmax, KEY_SOFTMAXES),
      ("dtype", self.dtype, DTYPES),
      *(("attention", name, ATTENTIONS) for name in self.attention),
    ):
      if value not in known:
        raise ValueError(f"{name} = {value!r} must be one of {', '.join(map(str, known))}")
    if len(self.attention) not in (1, len(self.dim_mults)):
      raise ValueError(
        f"attention = {self.attention} must be one name, or as long as dim_mults = {self.dim_mults}"
      )
    if self.dim % GROUPS:
      raise ValueError(f"dim = {self.dim} must be a multiple of {GROUPS}")
    if self.scale_shift and self.block == "convnext_as_printed":
      raise ValueError("scale_shift and block = 'convnext_as_printed' exclude each other")

  @nn.compact
  def __call__(self, x: Array, c: Array, label: Array | None = None) -> Array:
    """[b, h, w, channels], [b], int [b] or None -> [b, h, w, outputs channels]."""
    self.check_event(x.shape[1:])
    widths = [self.dim * mult for mult in self.dim_mults]
    kinds = self.attention * (len(widths) if len(self.attention) == 1 else 1)
    rematted = nn.remat if self.remat else lambda module: module
    block = functools.partial(
      rematted(BLOCKS[self.block]),
      scale_shift=self.scale_shift,
      dropout=self.dropout,
      zero_init=self.zero_init,
      dtype=self.dtype,
    )
    attend = functools.partial(
      rematted(AttentionBlock),
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      key_softmax=self.key_softmax,
      flash=self.flash,
      zero_init=self.zero_init,
      dtype=self.dtype,
    )
    conditioning = ConditionEmbedding(
      self.dim,
      4 * self.dim,
      gelu,
      self.level_scale,
      self.num_classes,
      self.label_dropout,
      self.dtype,
      name="condition",
    )(c, label)

    def stage(h: Array, width: int, kind: str, name: str) -> Array:
      h = block(width, name=f"{name}_block_0")(h, conditioning)
      h = block(width, name=f"{name}_block_1")(h, conditioning)
      return h if kind == "none" else attend(kind, name=f"{name}_attention")(h)

    h = conv(self.dim // 3 * 2, 7, dtype=self.dtype, name="stem")(x)
    skips: list[Array] = []
    for i, width in enumerate(widths):
      h = stage(h, width, kinds[i], f"down_{i}")
      skips.append(h)
      if i < len(widths) - 1:
        h = downsample(width, dtype=self.dtype, name=f"down_{i}_resample")(h)
    h = block(widths[-1], name="middle_block_0")(h, conditioning)
    h = attend("full", name="middle_attention")(h)
    h = block(widths[-1], name="middle_block_1")(h, conditioning)
    for i in reversed(range(0 if self.first_skip else 1, len(widths))):
      width = widths[max(i - 1, 0)]
      h = stage(jnp.concatenate([h, skips[i]], axis=-1), width, kinds[i], f"up_{i}")
      h = upsample(width, dtype=self.dtype, name=f"up_{i}_resample")(h) if i else h
    h = block(self.dim, name="last_block")(h, None).astype(x.dtype)
    init = last_init(self.zero_init)
    return conv(self.outputs * x.shape[-1], 1, kernel_init=init, name="last")(h)


modern_unet = functools.partial(
  UNet,
  dim=64,
  dim_mults=(1, 2, 2),
  attention=("none", "full", "full"),
  first_skip=True,
  scale_shift=True,
  dropout=0.1,
  zero_init=True,
)
"""Attention at the coarser stages only, and what Dhariwal and Nichol found better."""
