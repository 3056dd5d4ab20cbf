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
  return [_shipped(argument) for argument in argv]


def _shipped(argument: str) -> str:
  name, _, value = argument.partition("=")
  here = pathlib.Path(value.partition(":")[0]).is_file()
  if name.lstrip("-") != "config" or not value.startswith("configs/") or here:
    return argument
  return f"{name}={root() / value}"
