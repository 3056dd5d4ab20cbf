"""Image files as a target: held in memory if they fit, else streamed every epoch."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.data.fingerprints import of_images
from scorelab.data.image_decoding import why_unreadable
from scorelab.data.image_files import Folder, ImageStream, Table, listed, open_images, read_image
from scorelab.data.memory import check_memory
from scorelab.errors import print_line
from scorelab.ranges import AtLeast, Between
from scorelab.targets.data_set import index_of_class
from scorelab.typing import Array, Key

SPACING = 2 / 255
"""Distance of neighbouring pixel values, 0 to 255, in [-1, 1]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
  """Images of one size in [-1, 1], in splits. Their law is not known.

  Attributes:
    splits: 'train' and, if present, 'validation' and 'test': [n, side, side, channels].
    scale: the std over all coordinates, of the training images in `splits`.
    flip: True if training mirrors each image with probability one half.
    stream: all training images in files, if `splits` holds only some of them; else None.
    num_workers: number of decoding processes.
    damaged: number of images left out of `splits`.
    labels: the classes of the images in `splits`, with the same keys, [n] integers; {} without.
    class_names: names of the classes.
    fingerprint: fingerprint of the files (scorelab.data.fingerprints), or None.
  """

  splits: Mapping[str, Array]
  scale: float
  flip: bool = False
  stream: ImageStream | None = None
  num_workers: int = 0
  damaged: int = 0
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  class_names: tuple[str, ...] = ()
  fingerprint: Mapping[str, Any] | None = None

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 for images without labels."""
    return len(self.class_names)

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Shape of one image: height, width and channels."""
    return self.splits["train"].shape[1:]

  @property
  def dim(self) -> int:
    """Number of coordinates of one image."""
    return math.prod(self.event_shape)

  def sample(self, key: Key, n: int) -> Array:
    """Draws training images of `splits` with replacement; jittable, n static."""
    return self.splits["train"][self._index(key, n)]

  def sample_with_labels(self, key: Key, n: int) -> tuple[Array, Array]:
    """Returns the draws of `sample` and their classes [n]."""
    index = self._index(key, n)
    return self.splits["train"][index], jnp.asarray(self.labels["train"])[index]

  def sample_of_class(self, key: Key, label: Array) -> Array:
    """Draws an image of each of the classes `label` [n]: see `index_of_class`."""
    return self.splits["train"][index_of_class(key, self.labels["train"], label)]

  def _index(self, key: Key, n: int) -> Array:
    return jax.random.randint(key, (n,), 0, len(self.splits["train"]))

  def augment(self, key: Key, x: Array) -> Array:
    """Mirrors each image of a training batch with probability one half, if `flip`."""
    if not self.flip:
      return x
    mirrored = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)

  def scaled(self, pixels: Array) -> Array:
    """Scales bytes to float32 in [-1, 1]."""
    return SPACING * pixels.astype(jnp.float32) - 1


class DequantisedImages(Images):
  """Images whose training and validation points are dequantised: uniform noise over one bin."""

  bin_width = SPACING

  def dequantise(self, key: Key, x: Array) -> Array:
    """Adds noise uniform over one bin about each value, x's shape."""
    return x + SPACING * (jax.random.uniform(key, x.shape, x.dtype) - 0.5)


def images(
  path: str = "",
  side: Annotated[int, AtLeast(1)] = 64,
  channels: int = 3,
  column: str = "image",
  part: str = "train",
  labelled: bool = False,
  label_column: str = "label",
  validation_fraction: Annotated[float, Between(0, 1, "[)")] = 0.05,
  test_fraction: Annotated[float, Between(0, 1, "[)")] = 0.05,
  split_seed: Annotated[int, AtLeast(0)] = 0,
  held_out: Annotated[int, AtLeast(1)] = 2048,
  cache_gib: Annotated[float, AtLeast(0)] = 1.0,
  num_workers: Annotated[int, AtLeast(0)] = 4,
  flip: bool = False,
  dequantise: bool = False,
) -> Images:
  """Reads the images of a folder, of Parquet files or of a data set on the hub, and splits them.

  Prints one line to stderr about the images: see `_summary`.

  Args:
    path: a folder, with or without subfolders; a Parquet file or a folder of them; or
      'hub:owner/name', such as 'hub:uoft-cs/cifar10', which is downloaded once.
    side: edge of the centre square, in pixels, after resizing.
    channels: 3, or 1 for grey.
    column, part: for a table, the column of the images; for the hub, the split.
    labelled: True if the images have classes: for a folder, its subfolders by name.
    label_column: for a table, the column of the classes: numbers from 0 on, or names.
    validation_fraction, test_fraction: fractions of all images, in [0, 1), together below 1;
      rounded up.
    split_seed: seed of the split; the same images are split in the same way.
    held_out: the most images in each of validation and test; the others are not used.
    cache_gib: limit for training images in memory, in GiB of float32. Below it batches are drawn
      with replacement. Above it `held_out` images are kept in memory, and epochs are read from the
      files.
    num_workers: number of decoding processes; 0 decodes on threads.
    flip: True if training mirrors images at random.
    dequantise: True if the target has `dequantise`, which a density needs.

  Raises:
    ValueError: there are no images, or too few, or an option is not allowed.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels = {channels} must be 1 or 3")
  if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
    raise ValueError(
      f"validation_fraction = {validation_fraction} and test_fraction = {test_fraction} must be at "
      "least 0, and below 1 together"
    )
  files = open_images(path, column, part, label_column if labelled else None)
  order = np.random.default_rng(split_seed).permutation(len(files))
  sizes = [math.ceil(f * len(files)) for f in (validation_fraction, test_fraction)]
  validation, test, train = np.split(order, np.cumsum(sizes))
  gib = len(train) * side * side * channels * 4 / 2**30
  streams = gib > cache_gib
  splits, labels = {}, {}
  left_out: collections.Counter[str] = collections.Counter()
  for name, index, most in (
    ("train", train, held_out if streams else len(train)),
    ("validation", validation, held_out),
    ("test", test, held_out),
  ):
    if len(index) and most:
      number = min(len(index), most)
      check_memory(8 * number * side * side * channels, f"side = {side} of {number} images")
      pixels, good = _read_all(files, index[:most], side, channels)
      left_out.update(_reason(files, int(i)) for i in index[:most][~good])
      if not len(pixels):
        raise ValueError(
          f"path = {path!r}: no image of the {name} split can be read ({listed(left_out)})"
        )
      splits[name] = jnp.asarray(SPACING * pixels.astype(np.float32) - 1)
      if files.labels is not None:
        labels[name] = files.labels[index[:most]][good]
  if "train" not in splits:
    raise ValueError(f"path = {path!r}: {len(files)} images leave none to train on")
  print_line(_summary(path, files, left_out))
  variance = float(np.asarray(splits["train"]).var(0).mean())
  return (DequantisedImages if dequantise else Images)(
    splits,
    math.sqrt(variance + (SPACING**2 / 12 if dequantise else 0)),
    flip,
    ImageStream(files, np.sort(train), side, channels, seed=0) if streams else None,
    num_workers,
    left_out.total(),
    labels,
    files.class_names,
    of_images(files),
  )


def _reason(files: Folder | Table, index: int) -> str:
  """Returns why an image cannot be read."""
  try:
    return why_unreadable(files[index])
  except OSError:
    return "cannot be opened"


def _summary(path: str, files: Folder | Table, left_out: Mapping[str, int]) -> str:
  """Returns a line on the images: their number, classes, and which were skipped and why."""
  said = [f"{path}: {len(files)} images"]
  if files.labels is not None:
    counts = np.bincount(files.labels, minlength=len(files.class_names))
    named = dict(zip(files.class_names, counts.tolist(), strict=True))
    classes = ", ".join(f"{name} {number}" for name, number in list(named.items())[:12])
    more = f", and {len(named) - 12} more" if len(named) > 12 else ""
    said[0] += f" in {len(named)} classes ({classes}{more})"
  if files.skipped:
    said.append(f"passed over: {listed(files.skipped)}")
  if left_out:
    reasons = ", ".join(f"{number} ({reason})" for reason, number in left_out.items())
    said.append(f"left out: {reasons}")
  return "; ".join(said)


def _read_all(
  files: Sequence[bytes], index: np.ndarray, side: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images by index: uint8 [n, side, side, channels], and a mask of the readable ones."""
  with ThreadPoolExecutor() as pool:  # decoding lets other threads run
    found = list(pool.map(lambda i: read_image(files, int(i), side, channels), index))
  good = np.array([image is not None for image in found], bool)
  empty = np.zeros((0, side, side, channels), np.uint8)
  return np.concatenate([empty, *(image[None] for image in found if image is not None)]), good
