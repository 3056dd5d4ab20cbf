"""Finds the weights of a model in a directory, in every layout used on the hub.

One file, or shards named by an index; in full precision or as a variant; safetensors before
PyTorch's `.bin`:

    STEM.safetensors            STEM.safetensors.index.json + STEM-00001-of-00002.safetensors
    STEM.VARIANT.safetensors    STEM.safetensors.index.VARIANT.json + ...
    STEM.bin                    STEM.bin.index.json + STEM-00001-of-00002.bin
    STEM.VARIANT.bin            STEM.bin.index.VARIANT.json + ...
"""

from __future__ import annotations

import pathlib
import re

from scorelab.pretrained.files import Arrays, PretrainedError, Weights, read_settings, shown
from scorelab.pretrained.pickled import PICKLES, read_bin, refuse_pickle

_HALF = ("fp16", "bf16")  # variants that are the same model in lower precision
_SUFFIXES = (".safetensors", ".bin")


def find_weights(
  directory: pathlib.Path, stems: tuple[str, ...], variant: str | None = None
) -> Weights | Arrays:
  """Returns the weights in a directory.

  Args:
    directory: where they are.
    stems: file names without variant and ending, in order of preference.
    variant: 'fp16', 'non_ema', ...; None takes full precision, else half precision. Other variants
      are other models and must be named.

  Raises:
    PretrainedError: there are none, only other variants, only pickles that cannot be read safely,
      or an index that does not fit its files.
  """
  for suffix in _SUFFIXES:
    for name in (None, *_HALF) if variant is None else (variant,):
      for stem in stems:
        if (file := directory / _file_name(stem, name, suffix)).is_file():
          return Weights(file) if suffix == ".safetensors" else read_bin(file)
        for index in _index_names(stem, name, suffix):
          if (directory / index).is_file():
            return _sharded(directory / index, suffix)
  raise _not_found(directory, stems, variant)


def has_safetensors(directory: pathlib.Path) -> bool:
  """Returns True if a directory, or a folder in it, holds safetensors files."""
  return next(directory.rglob("*.safetensors"), None) is not None


def _file_name(stem: str, variant: str | None, suffix: str) -> str:
  return f"{stem}{suffix}" if variant is None else f"{stem}.{variant}{suffix}"


def _index_names(stem: str, variant: str | None, suffix: str) -> tuple[str, ...]:
  """Returns the names of an index: diffusers', and transformers' for a variant."""
  if variant is None:
    return (f"{stem}{suffix}.index.json",)
  return (f"{stem}{suffix}.index.{variant}.json", f"{stem}.{variant}{suffix}.index.json")


def _not_found(
  directory: pathlib.Path, stems: tuple[str, ...], variant: str | None
) -> PretrainedError:
  """Returns the error for missing weights; it names the files that exist instead."""
  files = sorted(directory.iterdir()) if directory.is_dir() else []
  stem = "|".join(map(re.escape, stems))
  pattern = re.compile(
    rf"(?:{stem})\.(?:([\w-]+?)(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
    r"|(?:safetensors|bin)\.index\.([\w-]+)\.json)"
  )
  matches = [match for file in files if (match := pattern.fullmatch(file.name))]
  variants = sorted({match[1] or match[2] for match in matches})
  missing = f"{directory}: there is no {_file_name(stems[0], variant, '.safetensors')}"
  if variants:
    named = shown(", ".join(variants))
    return PretrainedError(f"{missing}; found the variants {named}: set pretrained.variant")
  for file in files:
    if file.suffix in PICKLES:
      return refuse_pickle(file)
  shards = [file.name for file in files if file.suffix in _SUFFIXES]
  if shards:
    return PretrainedError(f"{missing}, nor an index of {shown(shards[0])}")
  return PretrainedError(missing)


def _sharded(index: pathlib.Path, suffix: str) -> Weights | Arrays:
  """Returns the weights of the files that an index names."""
  places = read_settings(index).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise PretrainedError(f"{index}: there is no weight_map")
  for name in places.values():
    plain = isinstance(name, str) and pathlib.PurePath(name).name == name and "\\" not in name
    if not plain or not name.endswith(suffix):
      kind = suffix.removeprefix(".")
      raise PretrainedError(f"{index}: {shown(name)} is no {kind} file of this directory")
  files = [index.parent / name for name in sorted(set(places.values()))]
  weights: Weights | Arrays
  if suffix == ".safetensors":
    weights = Weights(*files)
  else:
    weights = Arrays()
    for file in files:
      part = read_bin(file)
      if twice := sorted(weights.keys() & part.keys()):
        raise PretrainedError(f"{file}: {shown(twice[0])} is in another file too")
      weights.update(part)
  if weights.keys() != places.keys():
    differing = sorted(weights.keys() ^ places.keys())
    raise PretrainedError(f"{index}: {shown(differing[0])} is in the index or a file, not in both")
  return weights
