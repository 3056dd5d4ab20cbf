"""Reads untrusted files of weights and settings.

A safetensors file starts with 8 bytes that hold the length of the header. The header is a JSON
object with the dtype, shape and offset of each tensor; the tensors follow one after the other
(https://huggingface.co/docs/safetensors). The header is checked against the file before anything is
allocated. Each tensor is read separately, because the memory of a mapped file would be needed in
addition to that of the tensors.

The reader of `safetensors` 0.8 does not replace this one: it rejects bfloat16 (TypeError) in NumPy,
and by default it maps the file, 1024 MiB of memory for 512 MiB of tensors against 512 MiB here.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from scorelab.errors import ScorelabError

# NumPy's dtype of each that weights may have; bfloat16 is read as its bits.
_READ = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_FLOATS = {name: np.dtype(dtype).itemsize for name, dtype in _READ.items()}
_INTEGERS = {
  "I64": 8,
  "I32": 4,
  "I16": 2,
  "I8": 1,
  "U64": 8,
  "U32": 4,
  "U16": 2,
  "U8": 1,
  "BOOL": 1,
}
_MAX_HEADER = 100_000_000  # the library's own limit
_MAX_SETTINGS = 10_000_000


class PretrainedError(ScorelabError, ValueError):
  """Files that do not form a model; the message is one line."""


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds a JSON object.

  Raises:
    PretrainedError: there is no such file, or it holds something else.
  """
  if not path.is_file():
    raise PretrainedError(f"{path}: there is no such file")
  if path.stat().st_size > _MAX_SETTINGS:
    raise PretrainedError(f"{path}: {path.stat().st_size} bytes are too many for settings")
  return _parse(path, path.read_bytes())


def _parse(path: pathlib.Path, text: bytes) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise PretrainedError(f"{path}: no JSON ({str(error).splitlines()[0]})") from None
  if not isinstance(value, dict):
    raise PretrainedError(f"{path}: holds a {type(value).__name__} where an object is wanted")
  return value


class Weights(Mapping[str, np.ndarray]):
  """Tensors by name, of one or several safetensors files, each read on access.

  A tensor is read as float32.
  """

  def __init__(self, *files: pathlib.Path):
    """Reads the headers.

    Raises:
      PretrainedError: a file is damaged, or two of them hold the same name.
    """
    self.shapes: dict[str, tuple[int, ...]] = {}
    self._places: dict[str, tuple[pathlib.Path, str, int]] = {}
    for file in files:
      for name, (dtype, shape, start) in _read_header(file).items():
        if name in self._places:
          raise PretrainedError(f"{file}: {shown(name)} is in {self._places[name][0].name} too")
        self.shapes[name], self._places[name] = shape, (file, dtype, start)

  def __getitem__(self, name: str) -> np.ndarray:
    file, dtype, start = self._places[name]
    if dtype not in _FLOATS:
      raise PretrainedError(f"{file}: {shown(name)} is of dtype {dtype}, no floating point")
    shape = self.shapes[name]
    numbers = np.fromfile(file, _READ[dtype], math.prod(shape), offset=start)
    if numbers.size != math.prod(shape):
      raise PretrainedError(f"{file}: ends within {shown(name)}")
    numbers = numbers.view(ml_dtypes.bfloat16) if dtype == "BF16" else numbers
    return numbers.reshape(shape).astype(np.float32, copy=False)

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)


class Arrays(dict[str, np.ndarray]):
  """Tensors in memory by name, with the interface of `Weights`."""

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor, by name."""
    return {name: array.shape for name, array in self.items()}


def _read_header(file: pathlib.Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
  """Returns dtype, shape and offset of every tensor, checked against the size of the file."""
  if not file.is_file():
    raise PretrainedError(f"{file}: there is no such file")
  total = file.stat().st_size
  with file.open("rb") as opened:
    length = int.from_bytes(opened.read(8), "little")
    if total < 8 or length > min(total - 8, _MAX_HEADER):
      raise PretrainedError(
        f"{file}: no safetensors, or torn: {total} bytes, with a header of {length} to begin with"
      )
    header = _parse(file, opened.read(length))
  header.pop("__metadata__", None)
  room, tensors, places = total - 8 - length, {}, []
  for name, entry in header.items():
    dtype, shape, (start, end) = _entry(file, name, entry)
    size = (_FLOATS | _INTEGERS)[dtype] * math.prod(shape)
    if not 0 <= start <= end <= room or end - start != size:
      raise PretrainedError(
        f"{file}: {shown(name)} {dtype} {list(shape)} takes {size} bytes, and has "
        f"{start}:{end} of {room}"
      )
    tensors[name] = dtype, shape, 8 + length + start
    places.append((start, end, name))
  reached = 0
  for start, end, name in sorted(places):
    if start != reached:
      raise PretrainedError(f"{file}: {shown(name)} begins at {start}, and not at {reached}")
    reached = end
  if reached != room:
    raise PretrainedError(f"{file}: {room} bytes of tensors, and the header says {reached}")
  return tensors


def _entry(
  file: pathlib.Path, name: str, entry: Any
) -> tuple[str, tuple[int, ...], tuple[int, int]]:
  """Returns a header's entry, after checking its types."""

  def whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)

  dtype = entry.get("dtype") if isinstance(entry, dict) else entry
  if not isinstance(dtype, str) or dtype not in _FLOATS | _INTEGERS or dtype is entry:
    raise PretrainedError(f"{file}: {shown(name)} is of dtype {shown(dtype)}, which is not known")
  shape, places = entry.get("shape"), entry.get("data_offsets")
  if not whole(shape) or not whole(places) or len(places) != 2 or len(shape) > 8:
    raise PretrainedError(f"{file}: {shown(name)} has no shape and place: {shown(entry)}")
  return dtype, tuple(shape), (places[0], places[1])


def shown(value: Any, most: int = 120) -> str:
  """Formats untrusted text on one short line."""
  try:
    text = value if isinstance(value, str) else repr(value)
  except (RecursionError, ValueError):  # deeper, or with more digits, than Python prints
    text = f"a {type(value).__name__}"
  text = text[: most + 1].encode("unicode_escape").decode()
  return text if len(text) <= most else text[: most - 3] + "..."
