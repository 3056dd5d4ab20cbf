"""Images in files, read and batched epoch by epoch in worker processes.

Sources are a folder, Parquet files, or a data set of the Hugging Face hub; each is a sequence of
encoded images. Needs only NumPy, Pillow and Grain, so that workers start without JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from scorelab.data.image_decoding import SUFFIXES, decode

_HUB = "hub:"
_TOOL_FOLDERS = {"__MACOSX", "__pycache__", "@eaDir", "lost+found"}


class Folder(Sequence):
  """All images under a folder, in the order of their paths.

  Links to files are followed, links to folders are not. Hidden files and folders, whose names begin
  with a dot, and folders of tools, such as __MACOSX, are skipped.

  Args:
    path: the folder.
    labelled: True if each of its folders is a class, in the order of their names.

  Attributes:
    labels: the class of each image, [n] integers; None without labels.
    class_names: names of the classes.
    skipped: numbers of skipped files and folders by kind: a suffix, 'hidden files' or the name of a
      hidden folder.

  Raises:
    ValueError: labelled, but an image is in none of the class folders.
  """

  def __init__(self, path: str, labelled: bool = False) -> None:
    self._path = path
    self.names: list[str] = []
    self.skipped: collections.Counter[str] = collections.Counter()
    for top, folders, names in os.walk(path):
      hidden = [name for name in folders if name.startswith(".") or name in _TOOL_FOLDERS]
      folders[:] = [name for name in folders if name not in hidden]
      self.skipped.update(f"folder {name}" for name in hidden)
      for name in names:
        suffix = pathlib.Path(name).suffix.lower()
        if name.startswith("."):
          self.skipped["hidden files"] += 1
        elif suffix not in SUFFIXES:
          self.skipped[suffix or "without a suffix"] += 1
        elif pathlib.Path(top, name).is_file():
          self.names.append(str(pathlib.Path(top, name)))
        else:
          self.skipped["that are no files"] += 1
    self.names.sort()
    self.labels: np.ndarray | None = None
    self.class_names: tuple[str, ...] = ()
    if labelled and self.names:
      places = [pathlib.Path(name).relative_to(path) for name in self.names]
      if loose := [place for place in places if len(place.parts) == 1]:
        raise ValueError(f"labelled = True, and {loose[0]} is in no folder of a class")
      self.class_names, self.labels = _numbered([place.parts[0] for place in places])

  def files(self) -> list[tuple[str, str]]:
    """Returns (path within the folder, path) of every image file."""
    return [(os.path.relpath(name, self._path).replace(os.sep, "/"), name) for name in self.names]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: Any) -> bytes:
    return pathlib.Path(self.names[index]).read_bytes()


class Table(Sequence):
  """A column of encoded images of a data set of the library `datasets`, memory-mapped.

  Args:
    path: a Parquet file, a folder of them, or 'hub:owner/name'.
    column: the column of the images: bytes, or a struct with a field `bytes`.
    part: the split to read, for a data set that has several.
    label_column: the column of the classes: whole numbers from 0 on, or names; None for no labels.

  Attributes:
    labels, class_names: as for `Folder`.
    skipped: empty.

  Raises:
    ValueError: there is no such column, or it holds no classes.
  """

  def __init__(self, path: str, column: str, part: str, label_column: str | None = None) -> None:
    import datasets

    self.skipped: collections.Counter[str] = collections.Counter()
    self._files: list[tuple[str, str]] = []
    if path.startswith(_HUB):
      table = datasets.load_dataset(path.removeprefix(_HUB), split=part)
    else:
      file = pathlib.Path(path)
      if file.is_dir():
        self._files = [(found.name, str(found)) for found in sorted(file.glob("*.parquet"))]
      else:
        self._files = [("", path)]
      table = datasets.Dataset.from_parquet([found for _, found in self._files])
    for field, name in (("column", column), ("label_column", label_column)):
      if name is not None and name not in table.column_names:
        known = ", ".join(table.column_names)
        raise ValueError(f"{field} = {name!r} is not in {path} (known: {known})")
    self.labels: np.ndarray | None = None
    self.class_names: tuple[str, ...] = ()
    if label_column is not None:
      self.class_names, self.labels = _classes(table, label_column)
    self._table = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
    self._column, self._path = column, path

  @property
  def names(self) -> Sequence[str]:
    """A name of every image, for messages."""
    return _Rows(self._path, len(self))

  def files(self) -> list[tuple[str, str]]:
    """Returns (name in the folder, path) of every Parquet file; empty for a data set of the hub."""
    return self._files

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: Any) -> bytes:
    found: Any = self._table[int(index)][self._column]
    if found is None or (found["bytes"] is None and not found["path"]):
      raise OSError(f"{self.names[index]} has no image")
    return found["bytes"] if found["bytes"] is not None else _read(found["path"])


def _classes(table: Any, column: str) -> tuple[tuple[str, ...], np.ndarray]:
  """Returns the names of a table's classes and the class of each row."""
  values = table.select_columns(column).with_format("arrow")[:].column(column).to_pylist()
  known = getattr(table.features[column], "names", None)  # of a ClassLabel
  if values and all(isinstance(value, str) for value in values):
    return _numbered(values)
  bad = [v for v in values if type(v) is not int or v < 0 or (known and v >= len(known))]
  if bad:
    raise ValueError(f"label_column = {column!r} has {bad[0]!r}, which is not a class")
  labels = np.array(values, int)
  return tuple(known or map(str, range(labels.max(initial=-1) + 1))), labels


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
  """Returns the sorted unique names, and the index of each given name among them."""
  known, places = np.unique(names, return_inverse=True)
  return tuple(map(str, known)), places


@dataclasses.dataclass(frozen=True)
class _Rows(Sequence):
  """Names of a table's rows, computed on access."""

  path: str
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: Any) -> str:
    return f"{self.path}, row {index}"


def _read(path: str) -> bytes:
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(path)
  return pathlib.Path(path).read_bytes()


def open_images(
  path: str, column: str = "image", part: str = "train", label_column: str | None = None
) -> Folder | Table:
  """Opens the images at a path: see `Folder` and `Table`.

  Args:
    path, column, part: as there.
    label_column: None for images without classes; for a folder any name.

  Raises:
    ValueError: there are no images, or a library that reads them is not installed; one line.
  """
  file = pathlib.Path(path)
  if not path:
    raise ValueError("path = '' must be a folder of images, Parquet, or 'hub:owner/name'")
  if not path.startswith(_HUB) and not file.exists():
    raise ValueError(f"path = {path!r}: there is no such file or folder")
  if path.startswith(_HUB) or file.is_file() or any(file.glob("*.parquet")):
    try:
      images = Table(path, column, part, label_column)
    except ImportError as error:
      raise ValueError(f"path = {path!r} needs datasets: pip install 'scorelab[images]'") from error
    except Exception as error:  # of any type: Arrow's, the hub's, the network's
      said = (str(error).splitlines() or [type(error).__name__])[0]
      raise ValueError(f"path = {path!r}: {said}") from error
  else:
    images = Folder(path, label_column is not None)
  if not len(images):
    found = f"; found: {listed(images.skipped)}" if images.skipped else ""
    raise ValueError(f"path = {path!r}: holds no images ({', '.join(sorted(SUFFIXES))}){found}")
  return images


def listed(counts: Mapping[str, int], most: int = 12) -> str:
  """Formats counts as '3 .txt, 2 hidden files', in the order of their names."""
  parts = [f"{number} {name}" for name, number in sorted(counts.items())]
  left = len(parts) - most
  return ", ".join(parts if left <= 0 else [*parts[:most], f"and {left} more"])


def read_image(images: Sequence[bytes], index: int, side: int, channels: int) -> np.ndarray | None:
  """Decodes one of the images; None also if it no longer exists or cannot be read."""
  try:
    data = images[index]
  except OSError:
    return None
  return decode(data, side, channels)


@dataclasses.dataclass
class ImageStream(Sequence):
  """One process's share of the images in training order, endless, from a given position.

  Every epoch is a new shuffle of all images of the process. An item is (index, image or None), with
  the index among all images.

  Attributes:
    images: encoded images.
    chosen: the indices of the training images.
    side, channels: as for `decode`.
    seed: seed of the shuffles.
    labelled: True if batches have the images' labels.
    process, num_processes: the share: every num_processes-th image, starting at `process`.
    start: position of the first item.
  """

  images: Folder | Table
  chosen: np.ndarray
  side: int
  channels: int
  seed: int
  labelled: bool = False
  process: int = 0
  num_processes: int = 1
  start: int = 0
  _epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

  @property
  def per_epoch(self) -> int:
    """Number of images of this process."""
    return len(self.chosen[self.process :: self.num_processes])

  def __len__(self) -> int:
    return sys.maxsize // 2

  def place(self, position: int) -> int:
    """Returns the index of the image at a position."""
    epoch, offset = divmod(position, self.per_epoch)
    made, order = self._epoch
    if made != epoch:
      own = self.chosen[self.process :: self.num_processes]
      order = np.random.default_rng((self.seed, self.process, epoch)).permutation(own)
      self._epoch = (epoch, order)  # built now, because threads share it
    return int(order[offset])

  def __getitem__(self, item: Any) -> tuple[int, np.ndarray | None]:
    index = self.place(self.start + int(item))
    return index, read_image(self.images, index, self.side, self.channels)


class Batches:
  """Batches from a stream, without damaged images.

  Args:
    stream: the stream; reading begins at its start.
    batch_size: batch size of this process.
    num_workers: number of decoding processes; 0 decodes on threads of this process.
    damaged: number of images skipped before.

  Attributes:
    position: of the next item of the stream. Together with `damaged` it suffices to resume.
    damaged: number of images skipped so far, over all epochs.

  Raises:
    ValueError: Grain is not installed.
  """

  def __init__(
    self, stream: ImageStream, batch_size: int, num_workers: int = 0, damaged: int = 0
  ) -> None:
    try:
      import grain
    except ImportError as error:
      raise ValueError("reading images needs grain: pip install 'scorelab[images]'") from error
    self._stream, self._batch_size = stream, batch_size
    self.position, self.damaged = stream.start, damaged
    items = grain.MapDataset.source(stream).to_iter_dataset(
      grain.ReadOptions(num_threads=4, prefetch_buffer_size=2 * batch_size)
    )
    if num_workers:
      if not flags.FLAGS.is_parsed():  # Grain looks at its own
        flags.FLAGS.mark_as_parsed()
      items = items.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    self._items: Iterator[tuple[int, np.ndarray | None]] = iter(items)

  def take(self, count: int) -> dict[str, np.ndarray]:
    """Returns the next batches: bytes `x` [count, batch_size, side, side, channels], and `label`.

    A labelled stream has `label`: int32 [count, batch_size].

    Raises:
      ValueError: a whole epoch has no readable image.
    """
    stream, shape = self._stream, (count, self._batch_size)
    # Copied at once: arrays sent by workers keep files open while they exist.
    x = np.zeros((math.prod(shape), stream.side, stream.side, stream.channels), np.uint8)
    indices = np.zeros(len(x), int)
    filled = missed = 0
    while filled < len(x):
      index, image = next(self._items)
      self.position += 1
      if image is not None:
        x[filled], indices[filled] = image, index
        filled, missed = filled + 1, 0
        continue
      self.damaged, missed = self.damaged + 1, missed + 1
      if self.position <= stream.per_epoch:  # once: later epochs meet the same ones
        name = stream.images.names[index]
        print(f"{name!r}: damaged, left out ({self.damaged} so far)", file=sys.stderr)
      if missed >= stream.per_epoch:
        raise ValueError(f"none of {stream.per_epoch} images can be read")
    batches: dict[str, np.ndarray] = {"x": x.reshape(*shape, *x.shape[1:])}
    if stream.labelled:
      labels = np.asarray(stream.images.labels)[indices]
      batches["label"] = labels.reshape(shape).astype(np.int32)
    return batches
