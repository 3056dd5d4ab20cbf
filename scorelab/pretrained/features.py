"""Networks of features from a file, such as Inception's: programs that `jax.export` has written."""

from __future__ import annotations

import pathlib

import jax
from jax import export

from scorelab.metrics.features import Extractor, batched

SUFFIX = ".jaxexport"


def exported_features(path: str) -> Extractor:
  """The extractor in a file: bytes of `jax.export.export(jax.jit(f))(...).serialize()`.

  f takes images [n, h, w, c] in float32, -1 to 1, and gives features [n, d]; n may be symbolic.

  Raises:
    ValueError: there is no such file, it is none, or it does not take images.
  """
  try:
    program = export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
  except FileNotFoundError:
    raise ValueError(f"features = {path!r}: there is no such file") from None
  except Exception as error:  # whatever flatbuffers and MLIR raise
    raise ValueError(f"features = {path!r} is no program of jax.export") from error
  inputs, outputs = program.in_avals, program.out_avals
  if len(inputs) != 1 or len(inputs[0].shape) != 4 or [len(o.shape) for o in outputs] != [2]:
    raise ValueError(f"features = {path!r} must take one array [n, h, w, c] and give one [n, d]")
  size = inputs[0].shape[0]
  return batched(jax.jit(program.call), size if isinstance(size, int) else 256)
