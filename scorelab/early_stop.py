"""Handles stop requests before a run has begun and after it has ended, when nothing can be lost.

Answers the signals of `scorelab.runs.signals` with one line and exit code 75. Imports almost
nothing, so that main.py can install it before everything else. Signals before a program's first
line are not covered.
"""

from __future__ import annotations

import _signal  # pyrefly: ignore[missing-import] (the part of `signal` that is loaded already)
import os

_line = ""


def install(line: str) -> None:
  """Ends the process at SIGINT, SIGTERM and SIGUSR2, except while a `StopFlag` is active.

  Args:
    line: the line to print.
  """
  set_line(line)
  for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR2):
    _signal.signal(number, _end)


def set_line(line: str) -> None:
  """Sets the line to print from now on."""
  global _line  # noqa: PLW0603 (there is one process, and it ends once)
  _line = line


def _end(number: int, frame: object) -> None:
  del number, frame
  os.write(2, f"{_line}\n".encode())
  os._exit(75)  # as scorelab.runs.signals.PREEMPTED_EXIT_CODE
