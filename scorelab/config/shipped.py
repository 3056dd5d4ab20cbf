"""Locates the shipped configs: those of a checkout, or those in an installed wheel."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

_PACKAGE = pathlib.Path(__file__).parents[1]


def root() -> pathlib.Path:
  """Returns the directory that contains configs/: the checkout, or the folder inside a wheel."""
  installed = _PACKAGE / "shipped"
  return installed if installed.is_dir() else _PACKAGE.parent


def with_shipped_configs(argv: Sequence[str]) -> list[str]:
  """Returns the command line with the shipped config's path if the typed file is not found here."""
  pairs = [argument.partition("=") for argument in argv]
  return [
    f"{name}={shipped(value)}" if name.lstrip("-") == "config" and sign else f"{name}{sign}{value}"
    for name, sign, value in pairs
  ]


def shipped(config: str) -> str:
  """Returns the path of a config: the shipped one of configs/NAME.py[:argument] if none is here.

  A name that is in neither place stays as it is if there is a directory configs/ here.
  """
  file, shipped_one = pathlib.Path(config.partition(":")[0]), str(root() / config)
  if not config.startswith("configs/") or file.is_file():
    return config
  mistaken = not pathlib.Path(shipped_one.partition(":")[0]).is_file()
  return config if mistaken and file.parent.is_dir() else shipped_one
