"""The U-Net of diffusers' `UNet2DModel`: `(x [b, h, w, c], level [b], label) -> [b, h, w, o]`.

The same layers by the same names and with the same options, so that its weights fit. It covers the
U-Nets of Ho et al. 2020 (arXiv 2006.11239, appendix B), Dhariwal and Nichol 2021 (arXiv 2105.05233,
section 3) and NCSN++ (Song et al. 2021, arXiv 2011.13456, appendix H).
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.attention import DTYPES
from scorelab.networks.blocks import conv
from scorelab.networks.unet2d_blocks import (
  ACT_FNS,
  DOWN,
  IMAGE_ATTENTION_GROUPS,
  PLUS_DIVISOR,
  UP,
  ConvDown,
  ConvUp,
  Kind,
  Middle,
  Parts,
  average_down,
  fir_down,
  fir_up,
  group_norm,
  nearest_up,
  plus_groups,
)
from scorelab.networks.unet2d_embeddings import (
  FourierFeatures,
  TimestepEmbedding,
  timestep_sinusoids,
)
from scorelab.ranges import Above, AtLeast, Between, Count
from scorelab.typing import Array

TIME_EMBEDDINGS = ("positional", "fourier", "learned")
CLASS_EMBEDDINGS = (None, "timestep", "identity")
SCALE_SHIFTS = ("default", "scale_shift")
RESAMPLINGS = ("conv", "resnet")
MIDDLES = ("UNetMidBlock2D", None)


class UNet2D(nn.Module):
  """U-Net with a skip from every layer on the way down.

  Its options are those of config.json in diffusers but for sample_size, and the last three.

  Attributes:
    block_out_channels: channels of each stage, finest first.
    down_block_types: kind of the blocks of each stage on the way down, a name of DOWN.
    up_block_types: kind of the blocks of each stage on the way up, a name of UP.
    layers_per_block: ResNet blocks of a stage on the way down; one more on the way up.
    mid_block_type: 'UNetMidBlock2D', or None for no blocks at the coarsest stage.
    mid_block_scale_factor: divisor of every residual sum of the middle blocks.
    add_attention: whether the middle blocks have an attention.
    attention_head_dim: channels of an attention head; None for one head of all channels.
    norm_num_groups: groups of the group normalisations; None only with Skip or Plus blocks.
    attn_norm_num_groups: groups of the middle attention's normalisation; None for those of the
      blocks, or for no normalisation with 'scale_shift'.
    norm_eps: epsilon of the normalisations.
    act_fn: activation of the ResNet blocks.
    resnet_time_scale_shift: 'default' adds the level's embedding, 'scale_shift' scales with it too.
    downsample_padding: padding of the convolutions that halve the image.
    downsample_type: 'conv' or 'resnet', for block types that allow both.
    upsample_type: 'conv' or 'resnet', for block types that allow both.
    time_embedding_type: features of the level: 'positional', 'fourier' or 'learned'.
    time_embedding_dim: width of the level's embedding; None for four times the first channels.
    freq_shift: offset in the spacing of the positional frequencies, as in `timestep_sinusoids`.
    flip_sin_to_cos: whether cosines come before sines in the positional features.
    num_train_timesteps: number of levels that 'learned' features know.
    class_embed_type: embedding of labels: 'timestep', 'identity', or None for a table or no labels.
    num_class_embeds: number of classes of a table of embeddings; None for no table.
    center_input_sample: whether x is mapped from [0, 1] to [-1, 1] first.
    out_channels: channels of the result; None for `outputs` times those of x.
    dropout: probability of a dropped unit in the ResNet blocks.
    outputs: where out_channels is None, the result has `outputs` times x's channels.
    dtype: type of the computation, such as 'bfloat16'; None for that of x. Parameters, statistics
      and the last layer are float32 in any case, and the output of x's dtype.
    remat: whether what is inside a block is computed again for the gradient, and not kept.

  Raises:
    ValueError: an option is unknown, or does not go with the others or the image.
  """

  block_out_channels: Annotated[tuple[int, ...], AtLeast(4)] = (224, 448, 672, 896)
  down_block_types: tuple[str, ...] = ("DownBlock2D", *("AttnDownBlock2D",) * 3)
  up_block_types: tuple[str, ...] = (*("AttnUpBlock2D",) * 3, "UpBlock2D")
  layers_per_block: Annotated[int, Count(1_000)] = 2
  mid_block_type: str | None = "UNetMidBlock2D"
  mid_block_scale_factor: Annotated[float, Above(0)] = 1.0
  add_attention: bool = True
  attention_head_dim: Annotated[int, AtLeast(1)] | None = 8
  norm_num_groups: Annotated[int, AtLeast(1)] | None = 32
  attn_norm_num_groups: Annotated[int, AtLeast(1)] | None = None
  norm_eps: Annotated[float, Above(0)] = 1e-5
  act_fn: str = "silu"
  resnet_time_scale_shift: str = "default"
  downsample_padding: Annotated[int, AtLeast(0)] = 1
  downsample_type: str = "conv"
  upsample_type: str = "conv"
  time_embedding_type: str = "positional"
  time_embedding_dim: Annotated[int, AtLeast(1)] | None = None
  freq_shift: Annotated[float, AtLeast(0)] = 0
  flip_sin_to_cos: bool = True
  num_train_timesteps: Annotated[int, AtLeast(1)] | None = None
  class_embed_type: str | None = None
  num_class_embeds: Annotated[int, AtLeast(1)] | None = None
  center_input_sample: bool = False
  out_channels: Annotated[int, AtLeast(1)] | None = None
  dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
  dtype: str | None = None
  remat: bool = False
  outputs: int = 1

  @property
  def labelled(self) -> bool:
    """True if the network is conditioned on a class or a class embedding."""
    return self.class_embed_type is not None or self.num_class_embeds is not None

  def check_event(self, event_shape: tuple[int, ...]) -> None:
    """Raises ValueError, in one line, if the network does not take events of this shape."""
    if len(event_shape) != 3:
      raise ValueError(f"a U-Net takes images [height, width, channels], not events {event_shape}")
    stages, divisor = len(self.block_out_channels), 2 ** (len(self.block_out_channels) - 1)
    for name, value, known in (
      *(("down_block_types", name, tuple(DOWN)) for name in self.down_block_types),
      *(("up_block_types", name, tuple(UP)) for name in self.up_block_types),
      ("mid_block_type", self.mid_block_type, MIDDLES),
      ("act_fn", self.act_fn, tuple(ACT_FNS)),
      ("resnet_time_scale_shift", self.resnet_time_scale_shift, SCALE_SHIFTS),
      ("downsample_type", self.downsample_type, RESAMPLINGS),
      ("upsample_type", self.upsample_type, RESAMPLINGS),
      ("time_embedding_type", self.time_embedding_type, TIME_EMBEDDINGS),
      ("class_embed_type", self.class_embed_type, CLASS_EMBEDDINGS),
      ("dtype", self.dtype, DTYPES),
    ):
      if value not in known:
        raise ValueError(f"{name} = {value!r} must be one of {', '.join(map(str, known))}")
    for name in ("down_block_types", "up_block_types"):
      if len(getattr(self, name)) != stages:
        raise ValueError(
          f"{name} = {getattr(self, name)} must be as long as block_out_channels = "
          f"{self.block_out_channels}"
        )
    if any(side % divisor for side in event_shape[:2]):
      raise ValueError(
        f"block_out_channels = {self.block_out_channels} takes heights and widths that are "
        f"multiples of {divisor}, and the images are {event_shape[0]} x {event_shape[1]}"
      )
    if self.time_embedding_type == "learned" and not self.num_train_timesteps:
      raise ValueError("time_embedding_type = 'learned' needs num_train_timesteps")
    self._check_skips(event_shape[-1])

  def _check_skips(self, channels: int) -> None:
    """Raises ValueError if stages with a small image are not the first down or the last up."""
    down = [DOWN[name].image for name in self.down_block_types]
    up = [UP[name].image for name in self.up_block_types]
    for name, skips in (("down_block_types", down[:-1]), ("up_block_types", up[::-1])):
      if skips != sorted(skips, reverse=True):
        first = "only follow" if name.startswith("down") else "only be followed by"
        raise ValueError(f"{name} = {getattr(self, name)}: blocks with Skip can {first} others")
    image = 3  # channels of the small image in diffusers
    if any(down[:-1]) and channels != image:
      raise ValueError(f"blocks with Skip take images of {image} channels, not {channels}")
    if any(up) and self._out_channels(channels) != image:
      raise ValueError(
        f"blocks with Skip give {image} channels, not {self._out_channels(channels)}"
      )

  def _out_channels(self, channels: int) -> int:
    return self.outputs * channels if self.out_channels is None else self.out_channels

  @nn.compact
  def __call__(self, x: Array, c: Array, label: Array | None = None) -> Array:
    """[b, h, w, channels], [b], [b] or None -> [b, h, w, out_channels].

    Labels are int [b] for num_class_embeds, numbers [b] for class_embed_type 'timestep' and
    [b, time_embedding_dim] for 'identity'. Without one, a network with classes adds none.
    """
    self.check_event(x.shape[1:])
    parts = Parts(
      self.norm_num_groups,
      self.attention_head_dim,
      self.norm_eps,
      ACT_FNS[self.act_fn],
      self.resnet_time_scale_shift == "scale_shift",
      self.dropout,
      self.dtype,
      self.remat,
    )
    conditioning = self._condition(c, label)
    widths = self.block_out_channels
    image = 2 * x - 1 if self.center_input_sample else x
    h = conv(widths[0], 3, padding=1, dtype=self.dtype, name="conv_in")(image)
    skips = [h]
    for i, (name, width) in enumerate(zip(self.down_block_types, widths, strict=True)):
      stage = DownStage(
        DOWN[name],
        width,
        self.layers_per_block,
        self.downsample_type,
        self.downsample_padding,
        i == len(widths) - 1,
        parts,
        name=f"down_blocks_{i}",
      )
      h, image, given = stage(h, image, conditioning)
      skips += given
    if self.mid_block_type is not None:
      middle = Middle(
        widths[-1],
        self.mid_block_scale_factor,
        self.add_attention,
        self.attn_norm_num_groups,
        parts,
        name="mid_block",
      )
      h = middle(h, conditioning)
    drawn: Array | None = None
    for i, (name, width) in enumerate(zip(self.up_block_types, widths[::-1], strict=True)):
      taken = [skips.pop() for _ in range(self.layers_per_block + 1)]
      stage = UpStage(
        UP[name], width, self.upsample_type, i == len(widths) - 1, parts, name=f"up_blocks_{i}"
      )
      h, drawn = stage(h, drawn, taken, conditioning)
    groups = self.norm_num_groups or plus_groups(widths[0])
    h = group_norm(h, groups, self.norm_eps, self.dtype, "conv_norm_out")(h)
    h = nn.silu(h).astype(x.dtype)
    h = conv(self._out_channels(x.shape[-1]), 3, padding=1, name="conv_out")(h)
    h = h if drawn is None else h + drawn.astype(x.dtype)
    return h / c[:, None, None, None] if self.time_embedding_type == "fourier" else h

  def _condition(self, c: Array, label: Array | None) -> Array:
    """Embeds the level [b] and the label into a condition, [b, e]."""
    first = self.block_out_channels[0]
    width = self.time_embedding_dim or 4 * first
    if self.time_embedding_type == "positional":

      def features(c: Array) -> Array:
        return timestep_sinusoids(c, first, self.flip_sin_to_cos, self.freq_shift)

    elif self.time_embedding_type == "fourier":
      features = FourierFeatures(first, name="time_proj")
    else:
      table = nn.Embed(self.num_train_timesteps or 0, first, name="time_proj")

      def features(c: Array) -> Array:
        return table(c.astype(int))

    conditioning = TimestepEmbedding(width, self.dtype, name="time_embedding")(features(c))
    if not self.labelled:
      if label is not None:
        raise ValueError("a label is given to a network without classes")
      return conditioning
    given = jnp.zeros(c.shape, int) if label is None else label  # parameters exist in any case
    if self.class_embed_type == "timestep":
      embedding = TimestepEmbedding(width, self.dtype, name="class_embedding")
      embedded = embedding(features(given.astype(c.dtype)))
    elif self.class_embed_type == "identity":
      embedded = given if label is not None else jnp.zeros_like(conditioning)
    else:
      rows, init = self.num_class_embeds or 0, nn.initializers.normal(1.0)
      embed = nn.Embed(rows, width, embedding_init=init, dtype=self.dtype, name="class_embedding")
      embedded = embed(given)
    return conditioning if label is None else conditioning + embedded


class DownStage(nn.Module):
  """Blocks with or without attention, then half the height and width except in the last stage.

  Attributes:
    kind: of the block type.
    width: channels of the result.
    num_layers: blocks.
    resample: 'conv' or 'resnet', where the kind leaves it open.
    padding: of the convolution that resamples.
    last: whether there is no resampling.
    parts: what blocks are made of.
  """

  kind: Kind
  width: int
  num_layers: int
  resample: str
  padding: int
  last: bool
  parts: Parts

  @nn.compact
  def __call__(
    self, h: Array, image: Array, conditioning: Array
  ) -> tuple[Array, Array, list[Array]]:
    """Features, the small image and the condition -> features, the image, and what is skipped."""
    parts, width, plus = self.parts, self.width, self.kind.plus
    divisor = PLUS_DIVISOR if plus else 1.0
    own = plus_groups(width)
    normed = (IMAGE_ATTENTION_GROUPS if self.kind.image else own) if plus else parts.groups
    given = []
    for i in range(self.num_layers):
      groups = (plus_groups(h.shape[-1]), own) if plus else None
      h = parts.resnet(width, f"resnets_{i}", groups=groups, divisor=divisor)(h, conditioning)
      if self.kind.attention:
        h = parts.attention(width, f"attentions_{i}", normed, divisor)(h)
      given.append(h)
    if self.last:
      return h, image, given
    if plus:
      block = parts.resnet(
        width,
        "resnet_down",
        groups=(own, own),
        divisor=divisor,
        resample=fir_down if self.kind.image else average_down,
        shortcut=True,
      )
      h = block(h, conditioning)
      if self.kind.image:
        image = fir_down(image)
        h = h + conv(width, 1, dtype=parts.dtype, name="skip_conv")(image)
    elif self.kind.by_block(self.resample):
      h = parts.resnet(width, "downsamplers_0", resample=average_down)(h, conditioning)
    else:
      h = ConvDown(width, self.padding, parts.dtype, name="downsamplers_0")(h)
    return h, image, [*given, h]


class UpStage(nn.Module):
  """Blocks on features and skips, then twice the height and width except in the last stage.

  Attributes:
    kind: of the block type.
    width: channels of the result.
    resample: 'conv' or 'resnet', where the kind leaves it open.
    last: whether there is no resampling.
    parts: what blocks are made of.
  """

  kind: Kind
  width: int
  resample: str
  last: bool
  parts: Parts

  @nn.compact
  def __call__(
    self, h: Array, drawn: Array | None, taken: list[Array], conditioning: Array
  ) -> tuple[Array, Array | None]:
    """Features, the image drawn so far, what was skipped, the condition -> features, image."""
    parts, width, plus = self.parts, self.width, self.kind.plus
    divisor = PLUS_DIVISOR if plus else 1.0
    own = plus_groups(width)
    normed = (IMAGE_ATTENTION_GROUPS if self.kind.image else own) if plus else parts.groups
    for i, other in enumerate(taken):
      groups = (plus_groups(h.shape[-1] + other.shape[-1]), own) if plus else None
      if self.kind.image and self.kind.attention:  # diffusers has a quarter of the second only
        groups = (min(h.shape[-1] + other.shape[-1] // 4, 32), own)
      block = parts.resnet(width, f"resnets_{i}", groups=groups, divisor=divisor)
      h = block(jnp.concatenate([h, other], axis=-1), conditioning)
      if self.kind.attention and not plus:
        h = parts.attention(width, f"attentions_{i}", normed)(h)
    if plus and self.kind.attention:
      h = parts.attention(width, "attentions_0", normed, divisor)(h)
    if self.kind.image and drawn is not None:
      drawn = fir_up(drawn)
    if self.last:
      return h, drawn
    if self.kind.image:
      small = nn.silu(group_norm(h, own, parts.eps, parts.dtype, "skip_norm")(h))
      small = conv(3, 3, padding=1, dtype=parts.dtype, name="skip_conv")(small)
      drawn = small if drawn is None else drawn + small
    if plus:
      block = parts.resnet(
        width,
        "resnet_up",
        groups=(own, own),
        divisor=divisor,
        resample=fir_up if self.kind.image else nearest_up,
        shortcut=True,
      )
      return block(h, conditioning), drawn
    if self.kind.by_block(self.resample):
      return parts.resnet(width, "upsamplers_0", resample=nearest_up)(h, conditioning), drawn
    return ConvUp(width, parts.dtype, name="upsamplers_0")(h), drawn
