"""Loads point clouds from CSV, TSV, NPY and NPZ files.

If a file cannot be used, raises a ValueError of one line that begins with the file's path.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Annotated, Any

import numpy as np
from numpy.lib import format as npy

from scorelab.data.fingerprints import of_images, of_points
from scorelab.data.image_files import open_images
from scorelab.data.images import images
from scorelab.data.memory import check_memory
from scorelab.data.text_tables import TextTable, read_text_table
from scorelab.errors import ConfigError, did_you_mean, print_line
from scorelab.ranges import AtLeast, Between
from scorelab.targets.data_set import DataSet, split


def points(
  path: str = "",
  columns: tuple[str, ...] | None = None,
  array: str | None = None,
  validation_fraction: Annotated[float, Between(0, 1, "[)")] = 0.1,
  test_fraction: Annotated[float, Between(0, 1, "[)")] = 0.2,
  split_seed: Annotated[int, AtLeast(0)] = 0,
  standardise: bool = False,
  header: bool | None = None,
) -> DataSet:
  """Reads points from a CSV, TSV, NPY or NPZ file and splits them.

  Prints one line to stderr about the points.

  Args:
    path: the file.
    columns: for a CSV or TSV, the names of the coordinates in its first line, or their positions
      '0', '1', ... without such a line; None for all columns.
    array: for an NPZ, the name of the array [n, *event_shape]; None for its only one.
    validation_fraction, test_fraction, split_seed, standardise: as for `split`.
    header: for a CSV or TSV, whether the first line has names; None decides by its cells.

  Raises:
    ValueError: the file cannot be read, or holds no such points; see `read_points`.
  """
  table = read_table(path, columns, array, header)
  fingerprint = of_points(table.values, table.names)
  try:
    found = split(
      table.values,
      validation_fraction=validation_fraction,
      test_fraction=test_fraction,
      split_seed=split_seed,
      standardise=standardise,
      names=table.names,
      fingerprint=fingerprint,
    )
  except ValueError as error:
    raise ValueError(f"path = {path!r}: {error}") from error
  print_line(_summary(path, table))
  return found


# Targets that read files, by their config names.
FILES: dict[str, Callable[..., Any]] = {"images": images, "points": points}


def fingerprint(section: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns the fingerprint of the data that a target's section names; None without files.

  Equals `points(...).fingerprint` or `images(...).fingerprint`, but does not decode images.

  Args:
    section: config.target, as a mapping of JSON values.

  Raises:
    ValueError: the data cannot be read.
  """
  given = {name: value for name, value in section.items() if value is not None}

  def chosen(*names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}

  if given["name"] == "points":
    table = read_table(**chosen("path", "columns", "array", "header"))
    return of_points(table.values, table.names)
  if given["name"] == "images":
    label_column = given.get("label_column", "label") if given.get("labelled") else None
    return of_images(open_images(**chosen("path", "column", "part"), label_column=label_column))
  return None


def _summary(path: str, table: TextTable) -> str:
  """Returns a line on the points that were read."""
  number, *shape = table.values.shape
  names = table.names
  if names is None:
    of = f"{shape[0]} numbers" if len(shape) == 1 else f"shape {tuple(shape)}"
  else:
    of = ", ".join(names if len(names) <= 8 else (*names[:6], "...", names[-1]))
    of += f" ({len(names)} columns)" if len(names) > 8 else ""
  return "; ".join((f"{path}: {number} points of {of}", *table.remarks))


def read_points(
  path: str,
  columns: Sequence[str] | None = None,
  array: str | None = None,
  header: bool | None = None,
) -> np.ndarray:
  """Returns the points of a file, [n, *event_shape] in float64, all finite: see `read_table`."""
  return read_table(path, columns, array, header).values


def read_table(
  path: str = "",
  columns: Sequence[str] | None = None,
  array: str | None = None,
  header: bool | None = None,
) -> TextTable:
  """Reads the points of a file, [n, *event_shape] in float64, all finite.

  A one-dimensional array of numbers becomes points [1].

  Args:
    path, columns, array, header: as for `points`.

  Raises:
    ValueError: the file does not exist, has another format than its name says, or holds no points;
      a column or an array is missing; a value is not a number, or not finite in float32; or lines
      have different lengths.
  """
  file, suffix = pathlib.Path(path), pathlib.Path(path).suffix.lower()
  known = {".csv", ".tsv", ".npy", ".npz"}
  try:
    if not path:
      raise ValueError("must name a file of points")
    if suffix not in known:
      raise ValueError(f"must end in one of {', '.join(sorted(known))}")
    if columns is not None and suffix in (".npy", ".npz"):
      raise ValueError(f"columns = {columns} is not an option of a {suffix} file")
    if header is not None and suffix in (".npy", ".npz"):
      raise ValueError(f"header = {header} is not an option of a {suffix} file")
    if array is not None and suffix != ".npz":
      raise ValueError(f"array = {array!r} is not an option of a {suffix} file")
    if file.exists() and not file.is_file():
      raise ValueError("is not a regular file")
    if suffix in (".npy", ".npz"):
      table = TextTable(_read_numpy(file, array), None)
    else:
      table = read_text_table(file, columns, header)
    values = table.values[:, None] if table.values.ndim == 1 else table.values
    if values.ndim == 0 or not values.size:
      raise ValueError("holds no points")
    bad = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(bad):
      index = bad[0].tolist()
      raise ValueError(
        f"{len(bad)} of {values.size} numbers are not finite in float32, the first at {index}: "
        "drop these points, as pandas.DataFrame.dropna does"
      )
  except FileNotFoundError:
    raise ValueError(f"path = {path!r}: there is no such file") from None
  except (OSError, ValueError) as error:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(f"path = {path!r}: {line}") from error
  return dataclasses.replace(table, values=values)


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
  except Exception as error:  # zipfile, zlib and NumPy raise many types
    raise ValueError(f"is not a {file.suffix} file of plain arrays") from error


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
  """Reads an array from a stream of `size` bytes; checks the header before allocating.

  Nothing is unpickled, because that can run arbitrary code.
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
