"""Handwritten digits, 8 by 8: a data set that comes with scikit-learn.

1,797 images of the Optical Recognition of Handwritten Digits data set (Alpaydin and Kaynak, UCI
Machine Learning Repository, 1998), each pixel one of 17 values: how many dots of a block of 16 were
inked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scorelab.ranges import Between
from scorelab.targets.data_set import index_of_class
from scorelab.typing import Array, Floats, Key
from scorelab.validation import checked

# Slope and offset of a pixel's value, 0 to 16. 'ends' takes those two to -1 and 1; 'bins' fits the
# 17 bins that begin at the values into [-1, 1], so that 16 becomes 0.88.
SCALINGS = {"bins": (2 / 17, -1.0), "ends": (1 / 8, -1.0), "none": (1.0, 0.0)}
NUM_TEST = 450
"""A quarter of the digits; the other 1,347 are for training and validation."""


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
  """Images of digits in three splits; without a density or a score.

  Attributes:
    splits: 'train', 'validation' and 'test', each [n, 8, 8, 1], float32.
    labels: the digits that they show, of the same names, [n] integers.
    spacing: of neighbouring pixel values, in units of the data.
    scale: the std over all coordinates, of the training images.
  """

  splits: Mapping[str, Array]
  labels: Mapping[str, np.ndarray]
  spacing: float
  scale: float

  @property
  def event_shape(self) -> tuple[int, int, int]:
    """Shape of one image: height, width and channels."""
    return (8, 8, 1)

  @property
  def dim(self) -> int:
    """Number of pixels of one image: 64."""
    return 64

  @property
  def num_classes(self) -> int:
    """Number of classes: 10."""
    return 10

  def sample(self, key: Key, n: int) -> Float[Array, "{n} 8 8 1"]:
    """Returns training images drawn with replacement, [n, 8, 8, 1]; jittable, n static."""
    return self.sample_with_labels(key, n)[0]

  def sample_with_labels(
    self, key: Key, n: int
  ) -> tuple[Float[Array, "{n} 8 8 1"], Int[Array, " {n}"]]:
    """Returns the draws of `sample` and the digits [n] that they show."""
    index = jax.random.randint(key, (n,), 0, len(self.splits["train"]))
    return self.splits["train"][index], jnp.asarray(self.labels["train"])[index]

  def sample_of_class(self, key: Key, label: Int[Array, " n"]) -> Float[Array, "n 8 8 1"]:
    """Returns a training image of each of the digits `label` [n], with replacement."""
    return self.splits["train"][index_of_class(key, self.labels["train"], label)]


class DequantisedDigits(Digits):
  """The same images; training and validation see each pixel spread over its bin."""

  @property
  def bin_width(self) -> float:
    """Width of the added noise: the spacing of the values."""
    return self.spacing

  def dequantise(self, key: Key, x: Floats) -> Floats:
    """Adds noise uniform over one bin about each pixel's value, x's shape."""
    return x + self.bin_width * (jax.random.uniform(key, x.shape, x.dtype) - 0.5)


@checked
def digits(
  *,
  validation_share: Annotated[float, Between(0, 1, "()")] = 0.1,
  scaling: str = "ends",
  dequantise: bool = False,
) -> Digits:
  """The digits: a fixed quarter is for tests, a share of the rest for validation.

  Every class has its share in every split; the splits are the same in every run.

  Args:
    validation_share: share of the 1,347 digits that are not for tests, in (0, 1).
    scaling: a name of SCALINGS: 'ends' takes pixels of 0 to 16 to [-1, 1], so that bins are 1/8
      wide, 'bins' to [-1, 15/17], and 'none' leaves them.
    dequantise: whether the target has `dequantise`, which a density needs: uniform noise over each
      pixel's bin, in mean zero, so that 'ends' fill [-17/16, 17/16].

  Raises:
    ValueError: the scaling is not known, or the share leaves a split without some class.
  """
  from sklearn.datasets import load_digits  # here: most runs need no scikit-learn
  from sklearn.model_selection import train_test_split

  bunch: Any = load_digits()
  images, labels = bunch.data, bunch.target
  if scaling not in SCALINGS:
    raise ValueError(f"scaling = {scaling!r} must be one of {', '.join(SCALINGS)}")
  spacing, offset = SCALINGS[scaling]
  images = (spacing * images + offset).reshape(-1, 8, 8, 1).astype(np.float32)

  def split(x: np.ndarray, y: np.ndarray, size: int) -> list[np.ndarray]:
    return train_test_split(x, y, test_size=size, stratify=y, random_state=0)

  rest, test, rest_labels, test_labels = split(images, labels, NUM_TEST)
  num_validation = round(validation_share * len(rest))
  if not 10 <= num_validation <= len(rest) - 10:
    raise ValueError(
      f"validation_share = {validation_share} of {len(rest)} digits is {num_validation}, "
      "must leave at least 10 in each split"
    )
  train, validation, train_labels, validation_labels = split(rest, rest_labels, num_validation)
  variance = train.var(0).mean() + (spacing**2 / 12 if dequantise else 0)
  return (DequantisedDigits if dequantise else Digits)(
    {
      "train": jnp.asarray(train),
      "validation": jnp.asarray(validation),
      "test": jnp.asarray(test),
    },
    {"train": train_labels, "validation": validation_labels, "test": test_labels},
    spacing,
    float(np.sqrt(variance)),
  )
