"""Files of points, and the targets that they are: the one place where data come from outside.

What is wrong with a file is a ValueError of one line that begins with its path.
"""

from __future__ import annotations

import csv
import math
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from scorelab.images import images
from scorelab.options import ConfigError, check_memory, did_you_mean
from scorelab.targets.data_set import DataSet, split


def points(
  path: str = "",
  columns: tuple[str, ...] | None = None,
  array: str | None = None,
  validation_fraction: float = 0.1,
  test_fraction: float = 0.2,
  split_seed: int = 0,
  standardise: bool = False,
) -> DataSet:
  """The points of a CSV, TSV, NPY or NPZ file, dealt out by `split`, whose options these are.

  Args:
    path: the file.
    columns: of a CSV or TSV, the names of the coordinates in its first line; None for all columns.
    array: of an NPZ, the name of the array [n, *event_shape]; None for its only one.
    validation_fraction, test_fraction, split_seed, standardise: as for `split`.

  Raises:
    ValueError: the file cannot be read, or holds no such points; see `read_points`.
  """
  found = read_points(path, columns, array)
  try:
    return split(
      found,
      validation_fraction=validation_fraction,
      test_fraction=test_fraction,
      split_seed=split_seed,
      standardise=standardise,
    )
  except ValueError as error:
    raise ValueError(f"path = {path!r}: {error}") from error


# Targets that are files, by their config names.
FILES: dict[str, Callable[..., Any]] = {"images": images, "points": points}


def read_points(
  path: str, columns: Sequence[str] | None = None, array: str | None = None
) -> np.ndarray:
  """The points of a file, [n, *event_shape] in float64, all finite; numbers alone are points [1].

  Args:
    path, columns, array: as for `points`. A first line with a name in it is a header.

  Raises:
    ValueError: there is no such file; it is of another kind, or not what its name says; a column or
      an array is not there; something is no number, or not finite in float32; lines are of unequal
      length; or there is not one point.
  """
  file, suffix = pathlib.Path(path), pathlib.Path(path).suffix.lower()
  known = {".csv", ".tsv", ".npy", ".npz"}
  try:
    if not path:
      raise ValueError("must name a file of points")
    if suffix not in known:
      raise ValueError(f"must end in one of {', '.join(sorted(known))}")
    if columns is not None and suffix in (".npy", ".npz"):
      raise ValueError(f"columns = {columns} is no option of a {suffix} file")
    if array is not None and suffix != ".npz":
      raise ValueError(f"array = {array!r} is no option of a {suffix} file")
    if file.exists() and not file.is_file():
      raise ValueError("is no regular file")
    if suffix in (".npy", ".npz"):
      values = _read_numpy(file, array)
    else:
      values = _read_text(file, columns, "," if suffix == ".csv" else "\t")
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim == 0 or not values.size:
      raise ValueError("holds no points")
    bad = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(bad):
      index = bad[0].tolist()
      raise ValueError(
        f"{len(bad)} of {values.size} numbers are not finite in float32, the first at {index}"
      )
  except FileNotFoundError:
    raise ValueError(f"path = {path!r}: there is no such file") from None
  except (OSError, ValueError) as error:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(f"path = {path!r}: {line}") from error
  return values


def _read_numpy(file: pathlib.Path, array: str | None) -> np.ndarray:
  try:
    if file.suffix.lower() == ".npy":
      with file.open("rb") as stream:
        return _read_array(stream, file.stat().st_size, "it")
    with zipfile.ZipFile(file) as archive:
      member = _member(archive, array)
      with archive.open(member) as stream:
        named = f"array {member.filename.removesuffix('.npy')!r}"
        return _read_array(stream, member.file_size, named)
  except (ConfigError, OSError):
    raise
  except Exception as error:  # zipfile, zlib and NumPy have many
    raise ValueError(f"is no {file.suffix} file of plain arrays") from error


def _member(archive: zipfile.ZipFile, array: str | None) -> zipfile.ZipInfo:
  names = [name.removesuffix(".npy") for name in archive.namelist()]
  if array is None and len(names) != 1:
    raise ConfigError(f"holds {len(names)} arrays ({', '.join(names)}): give target.array")
  name = names[0] if array is None else array
  if name not in names:
    raise ConfigError(
      f"array = {name!r} is not in it{did_you_mean(name, names)} (known: {', '.join(names)})"
    )
  return archive.infolist()[names.index(name)]


def _read_array(stream: IO[bytes], size: int, named: str) -> np.ndarray:
  """The array of a stream of so many bytes; what its header asks for is checked before it is made.

  Nothing is unpickled: that may run anything.
  """
  readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
  shape, _, dtype = readers[npy.read_magic(stream)](stream)
  if dtype.hasobject:
    raise ConfigError(f"{named} holds pickled objects, which are not read")
  if dtype.kind not in "biuf":
    raise ConfigError(f"{named} holds {dtype}, not real numbers")
  number, left = math.prod(shape), size - stream.tell()
  check_memory(16 * number, f"{named}, of shape {shape},")
  if min(shape, default=1) < 0 or number * dtype.itemsize > left:
    raise ConfigError(f"{named} is of shape {shape}, and holds only {left} bytes")
  stream.seek(0)
  return npy.read_array(stream, allow_pickle=False).astype(float)


def _read_text(file: pathlib.Path, columns: Sequence[str] | None, delimiter: str) -> np.ndarray:
  with file.open(newline="", encoding="utf-8-sig") as lines:
    try:
      rows = [
        (number, [cell.strip() for cell in row])
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=1)
        if any(cell.strip() for cell in row) and not row[0].startswith("#")
      ]
    except (csv.Error, UnicodeDecodeError) as error:
      raise ValueError("is no text of numbers") from error
  if not rows:
    raise ValueError("holds no points")
  names: list[str] | None = None
  if any(_number(cell) is None for cell in rows[0][1]):
    names = rows.pop(0)[1]
  index = None
  if columns is not None:
    if names is None:
      raise ValueError(f"columns = {tuple(columns)} need a first line of names")
    for column in columns:
      if names.count(column) != 1:
        said = "twice in it" if column in names else f"not in it{did_you_mean(str(column), names)}"
        raise ValueError(f"column {column!r} is {said} (known: {', '.join(names)})")
    index = [names.index(column) for column in columns]
  width = len(rows[0][1]) if names is None and rows else len(names or ())
  values = []
  for number, row in rows:
    if len(row) != width:
      raise ValueError(f"line {number} has {len(row)} columns, not {width}")
    chosen = row if index is None else [row[i] for i in index]
    numbers = [_number(cell) for cell in chosen]
    if None in numbers:
      raise ValueError(f"line {number}: {chosen[numbers.index(None)]!r} is not a number")
    values.append(numbers)
  return np.array(values, float)


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None
