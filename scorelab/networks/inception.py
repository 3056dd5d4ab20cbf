"""Inception v3 as used by the Frechet inception distance: 2048 features of an image.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer
Vision", CVPR 2016 (arXiv 1512.00567), as trained for TensorFlow in 2015, with 1008 classes. Where
other ports differ: averages in the blocks leave the padding out, the last block takes a maximum
instead of an average, and there is no auxiliary classifier. Layers have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from scorelab.typing import Array


class ConvNorm(nn.Module):
  """Convolution without bias, normalisation by stored moments, and ReLU.

  Attributes:
    width: channels that come out.
    kernel: its height and width.
    stride: 1, which keeps height and width where `same` is set, or 2.
    same: whether zeros are added around.
  """

  width: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  same: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    padding, strides = "SAME" if self.same else "VALID", (self.stride, self.stride)
    x = nn.Conv(self.width, self.kernel, strides, padding, use_bias=False, name="conv")(x)
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class Block(nn.Module):
  """Parallel branches, concatenated along the channels.

  Attributes:
    branches: each a chain of (name, *arguments of ConvNorm), or of tuples of these, whose inputs
      are the same.
    pooled: a further branch with a pool of 3 x 3: 'average' and 'maximum' of stride 1 through a
      convolution, 'halved' the maximum of stride 2 as it is.
    pool_width: channels of that convolution.
  """

  branches: Sequence[Sequence[Any]]
  pooled: str
  pool_width: int = 192

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, h, w, c] -> [b, h', w', c'], where a pool that is 'halved' halves height and width."""

    def layer(spec: tuple[Any, ...], x: Array) -> Array:
      name, *options = spec
      return ConvNorm(*options, name=name)(x)

    outs = []
    for branch in self.branches:
      out = x
      for spec in branch:
        several = spec if isinstance(spec[0], tuple) else (spec,)
        out = jnp.concatenate([layer(one, out) for one in several], -1)
      outs.append(out)
    if self.pooled == "halved":
      pool = nn.max_pool(x, (3, 3), (2, 2))
    elif self.pooled == "maximum":
      pool = layer(("branch_pool", self.pool_width), nn.max_pool(x, (3, 3), padding="SAME"))
    else:
      mean = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
      pool = layer(("branch_pool", self.pool_width), mean)
    return jnp.concatenate([*outs, pool], -1)


_ACROSS, _DOWN, _SQUARE = (1, 7), (7, 1), (3, 3)


def _a(pool_width: int, name: str) -> Block:
  branches = (
    (("branch1x1", 64),),
    (("branch5x5_1", 48), ("branch5x5_2", 64, (5, 5))),
    (
      ("branch3x3dbl_1", 64),
      ("branch3x3dbl_2", 96, _SQUARE),
      ("branch3x3dbl_3", 96, _SQUARE),
    ),
  )
  return Block(branches, "average", pool_width, name=name)


def _b(name: str) -> Block:
  branches = (
    (("branch3x3", 384, _SQUARE, 2, False),),
    (
      ("branch3x3dbl_1", 64),
      ("branch3x3dbl_2", 96, _SQUARE),
      ("branch3x3dbl_3", 96, _SQUARE, 2, False),
    ),
  )
  return Block(branches, "halved", name=name)


def _c(width: int, name: str) -> Block:
  branches = (
    (("branch1x1", 192),),
    (
      ("branch7x7_1", width),
      ("branch7x7_2", width, _ACROSS),
      ("branch7x7_3", 192, _DOWN),
    ),
    (
      ("branch7x7dbl_1", width),
      ("branch7x7dbl_2", width, _DOWN),
      ("branch7x7dbl_3", width, _ACROSS),
      ("branch7x7dbl_4", width, _DOWN),
      ("branch7x7dbl_5", 192, _ACROSS),
    ),
  )
  return Block(branches, "average", name=name)


def _d(name: str) -> Block:
  branches = (
    (("branch3x3_1", 192), ("branch3x3_2", 320, _SQUARE, 2, False)),
    (
      ("branch7x7x3_1", 192),
      ("branch7x7x3_2", 192, _ACROSS),
      ("branch7x7x3_3", 192, _DOWN),
      ("branch7x7x3_4", 192, _SQUARE, 2, False),
    ),
  )
  return Block(branches, "halved", name=name)


def _e(pooled: str, name: str) -> Block:
  branches = (
    (("branch1x1", 320),),
    (
      ("branch3x3_1", 384),
      (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))),
    ),
    (
      ("branch3x3dbl_1", 448),
      ("branch3x3dbl_2", 384, _SQUARE),
      (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    ),
  )
  return Block(branches, pooled, name=name)


class Inception(nn.Module):
  """Inception v3 without auxiliary classifier.

  Attributes:
    num_classes: number of logits.
  """

  num_classes: int = 1008

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Images [b, h, w, 3] in [-1, 1] -> logits [b, num_classes] and features [b, 2048].

    It was trained at 299 x 299; the least height and width are 75.
    """
    x = ConvNorm(32, _SQUARE, 2, False, name="Conv2d_1a_3x3")(x)
    x = ConvNorm(32, _SQUARE, 1, False, name="Conv2d_2a_3x3")(x)
    x = ConvNorm(64, _SQUARE, name="Conv2d_2b_3x3")(x)
    x = nn.max_pool(x, (3, 3), (2, 2))
    x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
    x = ConvNorm(192, _SQUARE, 1, False, name="Conv2d_4a_3x3")(x)
    x = nn.max_pool(x, (3, 3), (2, 2))
    for letter, width in (("b", 32), ("c", 64), ("d", 64)):
      x = _a(width, f"Mixed_5{letter}")(x)
    x = _b("Mixed_6a")(x)
    for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
      x = _c(width, f"Mixed_6{letter}")(x)
    x = _d("Mixed_7a")(x)
    x = _e("average", "Mixed_7b")(x)
    x = _e("maximum", "Mixed_7c")(x)
    features = x.mean((1, 2))
    return nn.Dense(self.num_classes, name="fc")(features), features
