"""Patches of natural images: two photographs that come with scikit-learn.

`china.jpg` and `flower.jpg`, 427 by 640 pixels each, of scikit-learn's sample images.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.ranges import AtLeast
from scorelab.targets.data_set import DataSet
from scorelab.typing import Floats, Key
from scorelab.validation import checked

# Shares of a photograph's width: training patches lie left of the first, test patches right of
# the second, validation patches between them, so that no pixel is in two splits.
_ENDS = (0.7, 0.8)


@dataclasses.dataclass(frozen=True, eq=False)
class Patches(DataSet):
  """Square patches [side, side, 3] in [-1, 1], of 256 values a channel."""

  spacing: ClassVar[float] = 2 / 255


class DequantisedPatches(Patches):
  """The same patches; training and validation see each value spread over its bin."""

  @property
  def bin_width(self) -> float:
    """Width of the added noise: the spacing of the values."""
    return self.spacing

  def dequantise(self, key: Key, x: Floats) -> Floats:
    """Adds noise uniform over one bin about each value, x's shape."""
    return x + self.bin_width * (jax.random.uniform(key, x.shape, x.dtype) - 0.5)


@checked
def patches(
  *,
  side: Annotated[int, AtLeast(1)] = 32,
  stride: Annotated[int, AtLeast(1)] = 8,
  dequantise: bool = False,
) -> Patches:
  """Patches of both photographs; those of different splits share no pixel.

  Args:
    side: side of a patch in pixels, from 1 to 64.
    stride: pixels from one training patch to the next, down and to the right; those of validation
      are four times as far apart and those of tests twice.
    dequantise: whether the target has `dequantise`, which a density needs: uniform noise over each
      value's bin.

  Raises:
    ValueError: side or stride is out of range.
  """
  if not 1 <= side <= 64:
    raise ValueError(f"side = {side}, must be from 1 to 64: validation has strips of 64 pixels")
  from sklearn.datasets import load_sample_images  # here: most runs need no scikit-learn

  bunch: Any = load_sample_images()
  width = bunch.images[0].shape[1]
  first, second = (round(end * width) for end in _ENDS)
  strips = {
    "train": (0, first, stride),
    "validation": (first, second, 4 * stride),
    "test": (second, width, 2 * stride),
  }
  cut = {
    name: jnp.asarray(
      np.concatenate([windows(image[:, low:high], side, step) for image in bunch.images])
    )
    for name, (low, high, step) in strips.items()
  }
  return (DequantisedPatches if dequantise else Patches)(**cut)  # pyrefly: ignore


def windows(image: np.ndarray, side: int, stride: int) -> np.ndarray:
  """Windows of an image [height, width, 3] of bytes: [n, side, side, 3], -1 to 1, by rows."""
  views = np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(0, 1))
  chosen = views[::stride, ::stride].reshape(-1, image.shape[-1], side, side)
  return (np.moveaxis(chosen, 1, -1) / 127.5 - 1).astype(np.float32)
