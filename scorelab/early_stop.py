"""Stop requests while nothing can be lost: before a run has begun, and after it has ended.

Answers the signals of `scorelab.runs.signals` with one line and exit code 75. Imports next to
nothing, so that main.py can install it before everything else. What Python does before a program's
first line is not covered.
"""

from __future__ import annotations

import _signal  # pyrefly: ignore[missing-import] (the part of `signal` that is loaded already)
import os
import sys

_line = ""


def install(line: str) -> None:
  """Ends the process at SIGINT, SIGTERM and SIGUSR2, until a `StopFlag` takes over and afterwards.

  Args:
    line: what is printed.
  """
  say(line)
  for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR2):
    _signal.signal(number, _end)


def say(line: str) -> None:
  """Sets what is printed from now on."""
  global _line  # noqa: PLW0603 (there is one process, and it ends once)
  _line = line


def _end(number: int, frame: object) -> None:
  del number, frame
  if last_words := sys.modules.get("scorelab.runs.abort_notice"):
    last_words.take_back()
  os.write(2, f"{_line}\n".encode())
  os._exit(75)  # as scorelab.runs.signals.PREEMPTED_EXIT_CODE
