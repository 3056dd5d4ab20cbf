"""Prints a notice if a process is aborted from outside Python.

If one of several processes dies, JAX's runtime aborts the others in the middle of a call: no Python
handler runs, and they cannot print a message themselves.
"""

from __future__ import annotations

import atexit
import os
import signal
import time

_children: list[int] = []


def leave(message: str) -> None:
  """Forks a child that writes the message to stderr once this process has ended.

  A normal exit cancels it. Call this before any thread starts.

  Args:
    message: one or two lines.
  """
  parent = os.getpid()
  if child := os.fork():
    _children.append(child)
    atexit.register(take_back)
    return
  for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent handles them
    signal.signal(number, signal.SIG_IGN)
  while os.getppid() == parent:
    time.sleep(0.2)
  os.write(2, f"{message}\n".encode())
  os._exit(0)


def take_back() -> None:
  """Cancels the abort notice."""
  while _children:
    child = _children.pop()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
