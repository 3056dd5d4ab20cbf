"""Imports components that a user wrote outside this package."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from typing import Any


def make_importable(folder: str | os.PathLike[str]) -> None:
  """Appends a folder to sys.path, so that its files hide no installed package."""
  path = os.path.abspath(folder)
  if path not in sys.path:
    sys.path.append(path)
    importlib.invalidate_caches()


def import_attribute(name: str) -> Any:
  """Imports 'module.attribute' from the current directory, PYTHONPATH or an installed package.

  Raises:
    ImportError: the module or the attribute is missing, or the module fails; one line.
  """
  module_name, _, attribute = name.rpartition(".")
  make_importable(os.getcwd())
  try:
    module = importlib.import_module(module_name)
  except Exception as error:  # a user's module may raise anything
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
      raise ImportError(
        f"there is no module {missing!r} in the current directory or on PYTHONPATH"
      ) from error
    raise ImportError(f"{module_name} fails: {_in_one_line(error)}") from error
  if not hasattr(module, attribute):
    close = difflib.get_close_matches(attribute, dir(module), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ImportError(f"{module_name} has no {attribute!r}{hint}")
  return getattr(module, attribute)


def _in_one_line(error: Exception) -> str:
  """Formats an error's type, first line and location."""
  said = (str(error) or type(error).__name__).partition("\n")[0]
  text = f"{type(error).__name__}: {said}"
  if isinstance(error, SyntaxError):  # its text has the location
    return text
  place = traceback.extract_tb(error.__traceback__)[-1]
  return f"{text} ({os.path.basename(place.filename)}, line {place.lineno})"
