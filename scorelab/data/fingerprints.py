"""Fingerprints of data in files, by content and not by path or format.

A fingerprint is a dict of JSON values. Its `sha256` identifies the data; the other entries describe
them for people. It covers

    points    the shape and the values in float64, in their order: the same from a CSV and an NPY
    images    of a folder, or of Parquet files: name and size of every file, and the contents of
              every k-th one in the order of their names, k the least that reads at most 20,000
              files and 1 GiB
              of a hub's data set: the number of images, every k-th one alike, and all labels
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from scorelab.data.image_files import Folder, Table
from scorelab.targets import is_streamed, num_classes_of, splits_of
from scorelab.typing import FileTarget, Target

_MOST_BYTES = 2**30
_MOST_IMAGES = 20_000
_MOST_COLUMNS = 16
_BATCH = 64


def of_points(values: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Any]:
  """Returns the fingerprint of points [n, *event_shape] and the names of their coordinates."""
  values = np.ascontiguousarray(values, "<f8")
  digest = hashlib.sha256(f"points {values.shape}".encode())
  digest.update(values.data)
  flat = values.reshape(len(values), -1)
  found: dict[str, Any] = {"points": len(values), "shape": list(values.shape[1:])}
  if flat.shape[1] <= _MOST_COLUMNS:
    found |= {
      "columns": names and list(names),
      "mean": [_short(number) for number in flat.mean(0)],
      "std": [_short(number) for number in flat.std(0)],
    }
  return found | {"sha256": digest.hexdigest()}


def _short(number: float) -> float:
  return float(f"{number:.6g}")


def of_images(images: Folder | Table) -> dict[str, Any]:
  """Returns the fingerprint of encoded images and of their labels, if they have any."""
  digest = hashlib.sha256(b"images")
  found: dict[str, Any] = {"images": len(images)}
  if files := images.files():
    sizes = [os.path.getsize(path) for _, path in files]
    step = max(1, math.ceil(sum(sizes) / _MOST_BYTES), math.ceil(len(sizes) / _MOST_IMAGES))
    for (name, _), size in zip(files, sizes, strict=True):
      digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    contents = [path for _, path in files[::step]]
    read: Any = _read
    found["bytes"] = sum(sizes)
  else:
    step = max(1, math.ceil(len(images) / _MOST_IMAGES))
    digest.update(f"{len(images)}\0".encode())
    contents, read = range(0, len(images), step), images.__getitem__

  def hashed(items: Iterable[Any]) -> bytes:
    return b"".join(_digest(read, item) for item in items)

  batches = [contents[i : i + _BATCH] for i in range(0, len(contents), _BATCH)]
  with ThreadPoolExecutor() as pool:  # reading and hashing let other threads run
    for part in pool.map(hashed, batches):
      digest.update(part)
  if images.labels is not None:
    digest.update(np.asarray(images.labels, "<i8").tobytes())
    digest.update("\0".join(images.class_names).encode(errors="surrogateescape"))
    found["classes"] = list(images.class_names[:_MOST_COLUMNS])
  return found | {"sha256": digest.hexdigest()}


def record(target: Target) -> dict[str, Any]:
  """Returns the record of data in files for config.json; {} for a target that reads none.

  It holds the target's fingerprint, of which only `sha256` belongs to the run id, and the values
  that building a network and its loss needs.
  """
  fingerprint = target.fingerprint if isinstance(target, FileTarget) else None
  if fingerprint is None:
    return {}
  built_from = {
    "event_shape": list(target.event_shape),
    "scale": float(target.scale),
    "num_classes": num_classes_of(target),
    "num_train": len(splits_of(target)["train"]),
    "streamed": is_streamed(target),
  }
  return {**fingerprint, "built_from": built_from}


def _read(path: str) -> bytes:
  with open(path, "rb") as file:
    return file.read()


def _digest(read: Callable[[Any], bytes], item: Any) -> bytes:
  try:
    return hashlib.sha256(read(item)).digest()
  except OSError:
    return b"unreadable"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  """Returns a description of how the fingerprints of two data sets differ."""
  said = [
    f"{name} {old.get(name)} -> {new.get(name)}"
    for name in dict.fromkeys((*old, *new))
    if name not in ("sha256", "built_from") and old.get(name) != new.get(name)
  ]
  number = next((f"{old[name]} {name}" for name in ("points", "images") if name in old), "data")
  return ", ".join(said) or f"{number} as before, with other contents"
