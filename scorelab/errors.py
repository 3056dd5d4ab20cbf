"""Errors that end a command with one line, and helpers for such lines."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection


class ScorelabError(Exception):
  """Root of the errors that a user can act on; the message is one line.

  Attributes:
    exit_code: of a command that ends with it: 1 for a failed run, 2 for a refused request, 75 for a
      run that was stopped and can be resumed.
    alone: True if other processes of the same run do not end by themselves.
  """

  exit_code = 1
  alone = False


class ConfigError(ScorelabError, ValueError):
  """Invalid config; the message does not hold the config's name."""

  exit_code = 2


class RunError(ScorelabError, RuntimeError):
  """A run that cannot continue in its directory."""


class RefusedError(RunError):
  """A request that is incompatible with the contents of the run's directory."""

  exit_code = 2


def did_you_mean(name: str, known: Collection[str]) -> str:
  """Returns '; did you mean ...?' if a known name is close, else ''."""
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
  return f"; did you mean {close[0]!r}?" if close else ""


def print_line(text: str) -> None:
  """Prints one line on stderr; unprintable characters, as in a file's name, are escaped."""
  line = text if text.isprintable() else text.encode("unicode_escape").decode()
  print(line, file=sys.stderr)
