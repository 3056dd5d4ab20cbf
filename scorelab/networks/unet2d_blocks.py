"""The parts of `UNet2D`, by the names that diffusers gives them: blocks, attention, resampling.

Images are [b, h, w, channels], the embedded condition is [b, e]. `dtype` is that of the
computation, None for that of the input and parameters; statistics and softmax are float32.

References:
  Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239),
    appendix B.
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), appendix H: skips of images, FIR resampling, rescaling by sqrt 2.
  Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019 (arXiv 1904.11486).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.blocks import conv, gelu
from scorelab.typing import Array


def mish(x: Array) -> Array:
  """x tanh(softplus(x)), elementwise (Misra 2019, arXiv 1908.08681)."""
  return x * jnp.tanh(nn.softplus(x))


ACT_FNS: dict[str, Callable[[Array], Array]] = {
  "gelu": gelu,
  "mish": mish,
  "relu": nn.relu,
  "silu": nn.silu,
  "swish": nn.silu,
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """Structure of a stage of one block type.

  Attributes:
    attention: whether there are attentions.
    resample: how the image changes size at the end: 'conv', 'resnet', or 'either', as
      downsample_type and upsample_type say.
    plus: whether blocks are NCSN++'s: sums divided by sqrt 2, groups by the width, and upwards one
      attention after all of them.
    image: whether a small image accompanies the features; resampling is then by FIR.
  """

  attention: bool
  resample: str
  plus: bool = False
  image: bool = False

  def by_block(self, choice: str) -> bool:
    """Returns True if a ResNet block resamples, given the network's option."""
    return "resnet" in (self.resample, choice if self.resample == "either" else "")


# By their names in diffusers, which has none with Plus: DDPM++ is made of those.
DOWN: dict[str, Kind] = {
  "AttnDownBlock2D": Kind(True, "either"),
  "AttnSkipDownBlock2D": Kind(True, "resnet", plus=True, image=True),
  "AttnPlusDownBlock2D": Kind(True, "resnet", plus=True),
  "DownBlock2D": Kind(False, "conv"),
  "PlusDownBlock2D": Kind(False, "resnet", plus=True),
  "ResnetDownsampleBlock2D": Kind(False, "resnet"),
  "SkipDownBlock2D": Kind(False, "resnet", plus=True, image=True),
}
UP: dict[str, Kind] = {
  "AttnPlusUpBlock2D": Kind(True, "resnet", plus=True),
  "AttnSkipUpBlock2D": Kind(True, "resnet", plus=True, image=True),
  "AttnUpBlock2D": Kind(True, "either"),
  "PlusUpBlock2D": Kind(False, "resnet", plus=True),
  "ResnetUpsampleBlock2D": Kind(False, "resnet"),
  "SkipUpBlock2D": Kind(False, "resnet", plus=True, image=True),
  "UpBlock2D": Kind(False, "conv"),
}


def fir_down(x: Array) -> Array:
  """Halves height and width through the filter (1, 3, 3, 1) / 8 on each axis, zeros around."""
  for axis in (1, 2):
    n = x.shape[axis]
    pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
    padded = jnp.pad(x, pads)
    a, b, c, d = (jax.lax.slice_in_dim(padded, start, start + n - 1, 2, axis) for start in range(4))
    x = (a + d + 3 * (b + c)) / 8
  return x


def fir_up(x: Array) -> Array:
  """Doubles height and width through the filter (1, 3, 3, 1) / 4 on each axis, zeros around."""
  for axis in (1, 2):
    n = x.shape[axis]
    pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
    padded = jnp.pad(x, pads)
    before = jax.lax.slice_in_dim(padded, 0, n, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)
    pair = jnp.stack([(3 * x + before) / 4, (3 * x + after) / 4], axis=axis + 1)
    x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
  return x


def average_down(x: Array) -> Array:
  """Halves height and width by means of 2 x 2 pixels."""
  return nn.avg_pool(x, (2, 2), (2, 2))


def nearest_up(x: Array) -> Array:
  """Doubles height and width by repeating each pixel four times."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def group_norm(
  x: Array, groups: int, eps: float, dtype: str | None, name: str
) -> Callable[[Array], Array]:
  """The layer `name` that normalises groups of the channels of x, made in a compact method.

  Raises:
    ValueError: there are no such groups.
  """
  if groups < 1 or x.shape[-1] % groups:
    raise ValueError(f"{name}: {x.shape[-1]} channels are no {groups} groups of the same size")
  return nn.GroupNorm(groups, epsilon=eps, use_fast_variance=False, dtype=dtype, name=name)


class ResnetBlock2D(nn.Module):
  """Normalisation, activation and convolution, twice, with a residual path.

  Attributes:
    width: channels of the result.
    groups: of the two normalisations.
    eps: of both.
    act: the activation.
    scale_shift: whether the condition scales and shifts what the second normalisation gives; else
      it is added before.
    divisor: of the sum with the residual path.
    resample: what is done to the image, and to the residual path, before the first convolution.
    shortcut: whether the residual path has a convolution even where the width stays.
    dropout: share of what the second convolution sees that is dropped, given a key 'dropout'.
  """

  width: int
  groups: tuple[int, int]
  eps: float
  act: Callable[[Array], Array]
  scale_shift: bool = False
  divisor: float = 1.0
  resample: Callable[[Array], Array] | None = None
  shortcut: bool = False
  dropout: float = 0.0
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array, condition: Array) -> Array:
    """[b, h, w, any], [b, e] -> [b, h', w', width]."""
    projected = nn.Dense(
      (1 + self.scale_shift) * self.width, dtype=self.dtype, name="time_emb_proj"
    )
    projected = projected(self.act(condition))[:, None, None]
    h = self.act(group_norm(x, self.groups[0], self.eps, self.dtype, "norm1")(x))
    if self.resample is not None:
      x, h = self.resample(x), self.resample(h)
    h = conv(self.width, 3, padding=1, dtype=self.dtype, name="conv1")(h)
    norm2 = group_norm(h, self.groups[1], self.eps, self.dtype, "norm2")
    if self.scale_shift:
      scale, shift = jnp.split(projected, 2, axis=-1)
      h = norm2(h) * (1 + scale) + shift
    else:
      h = norm2(h + projected)
    h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(self.act(h))
    h = conv(self.width, 3, padding=1, dtype=self.dtype, name="conv2")(h)
    if self.shortcut or x.shape[-1] != self.width:
      x = conv(self.width, 1, dtype=self.dtype, name="conv_shortcut")(x)
    return (x + h) / self.divisor


class AttentionBlock2D(nn.Module):
  """(x + attention(normalised x)) / divisor, with pixels as tokens.

  Attributes:
    head_dim: channels of a head; there are width // head_dim heads.
    groups: of the normalisation; None for none.
    eps: of it.
    divisor: of the sum with the residual path.
  """

  head_dim: int
  groups: int | None
  eps: float
  divisor: float = 1.0
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, h, w, d] -> [b, h, w, d]."""
    heads = x.shape[-1] // self.head_dim
    if not heads:
      raise ValueError(f"attention_head_dim = {self.head_dim} is above {x.shape[-1]} channels")
    h = x
    if self.groups is not None:
      h = group_norm(x, self.groups, self.eps, self.dtype, "group_norm")(h)
    h = h.reshape(x.shape[0], -1, x.shape[-1])
    q, k, v = (
      nn.Dense(heads * self.head_dim, dtype=self.dtype, name=name)(h).reshape(
        *h.shape[:2], heads, self.head_dim
      )
      for name in ("to_q", "to_k", "to_v")
    )
    h = jax.nn.dot_product_attention(q, k, v).reshape(*h.shape[:2], -1)
    h = nn.Dense(x.shape[-1], dtype=self.dtype, name="to_out_0")(h)
    return (x + h.reshape(x.shape)) / self.divisor


class ConvDown(nn.Module):
  """3 x 3 convolution to half the height and width; padding 0 pads only below and on the right."""

  width: int
  padding: int
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, h, w, any] -> [b, h / 2, w / 2, width]."""
    pads = (0, 1) if self.padding == 0 else (self.padding, self.padding)
    return conv(self.width, 3, strides=(2, 2), padding=(pads,) * 2, dtype=self.dtype, name="conv")(
      x
    )


class ConvUp(nn.Module):
  """Repeats each pixel four times, then applies a 3 x 3 convolution."""

  width: int
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, h, w, any] -> [b, 2 h, 2 w, width]."""
    return conv(self.width, 3, padding=1, dtype=self.dtype, name="conv")(nearest_up(x))


@dataclasses.dataclass(frozen=True)
class Parts:
  """Options that the blocks of one network share: see `UNet2D`.

  Attributes:
    groups: of the normalisations of blocks without a small image.
    head_dim: None for one head of all channels.
  """

  groups: int | None
  head_dim: int | None
  eps: float
  act: Callable[[Array], Array]
  scale_shift: bool
  dropout: float
  dtype: str | None
  remat: bool

  def resnet(
    self,
    width: int,
    name: str,
    *,
    groups: tuple[int, int] | None = None,
    divisor: float = 1.0,
    resample: Callable[[Array], Array] | None = None,
    shortcut: bool = False,
  ) -> Callable[[Array, Array], Array]:
    """Builds a ResNet block of this width; `groups` None for the network's own."""
    if groups is None:
      if self.groups is None:
        raise ValueError("norm_num_groups must be set where there are blocks without Skip or Plus")
      groups = (self.groups, self.groups)
    module = nn.remat(ResnetBlock2D) if self.remat else ResnetBlock2D
    return module(
      width,
      groups,
      self.eps,
      self.act,
      self.scale_shift,
      divisor,
      resample,
      shortcut,
      self.dropout,
      self.dtype,
      name=name,
    )

  def attention(
    self, width: int, name: str, groups: int | None, divisor: float = 1.0
  ) -> Callable[[Array], Array]:
    """Builds an attention on images of this width; `groups` None for no normalisation."""
    module = nn.remat(AttentionBlock2D) if self.remat else AttentionBlock2D
    return module(self.head_dim or width, groups, self.eps, divisor, self.dtype, name=name)


class Middle(nn.Module):
  """A block, an attention and a block at the coarsest stage; without attention, two blocks.

  Attributes:
    width: channels.
    divisor: of every sum with a residual path.
    attention: whether there is one.
    attention_groups: of its normalisation; None for the blocks' own, or for no normalisation where
      the condition scales and shifts.
    parts: what blocks are made of.
  """

  width: int
  divisor: float
  attention: bool
  attention_groups: int | None
  parts: Parts

  @nn.compact
  def __call__(self, h: Array, conditioning: Array) -> Array:
    """[b, h, w, width], [b, e] -> [b, h, w, width]."""
    parts, width = self.parts, self.width
    own = parts.groups or plus_groups(width)
    normed = self.attention_groups or (None if parts.scale_shift else own)
    h = parts.resnet(width, "resnets_0", groups=(own, own), divisor=self.divisor)(h, conditioning)
    if self.attention:
      h = parts.attention(width, "attentions_0", normed, self.divisor)(h)
    return parts.resnet(width, "resnets_1", groups=(own, own), divisor=self.divisor)(
      h, conditioning
    )


def plus_groups(channels: int) -> int:
  """Number of groups of NCSN++'s normalisations of this width."""
  return min(channels // 4, 32)


IMAGE_ATTENTION_GROUPS = 32
"""Groups of the attentions' normalisations in diffusers' blocks with an image, at any width."""
PLUS_DIVISOR = 2**0.5
