"""Networks of features that are given, such as Inception's: a function of yours by its name."""

from __future__ import annotations

import importlib
from typing import Any

import jax

from scorelab.metrics.features import Extractor, batched


def imported_features(path: str) -> Extractor:
  """The extractor that a function is: 'package.module.function'.

  The function takes images [n, h, w, c] in float32, -1 to 1, gives features [n, d], and is jitted;
  it reads its weights when it is traced, from wherever it likes.

  Raises:
    ValueError: there is no such module or no such function in it.
  """
  module, _, name = path.rpartition(".")
  try:
    function: Any = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    raise ValueError(f"features = {path!r}: {error}") from error
  return batched(jax.jit(function))
