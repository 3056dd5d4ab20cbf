"""Words about a process that is ended from outside Python.

Where one of several processes dies, JAX's runtime aborts the others in the middle of a call: no
handler of theirs runs, and they can say nothing themselves.
"""

from __future__ import annotations

import atexit
import os
import signal
import time

_children: list[int] = []


def leave(message: str) -> None:
  """Forks a child that writes the message to stderr when this process has ended.

  An orderly end takes it back. To be called before there are threads.

  Args:
    message: a line or two.
  """
  parent = os.getpid()
  if child := os.fork():
    _children.append(child)
    atexit.register(take_back)
    return
  for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent heeds them
    signal.signal(number, signal.SIG_IGN)
  while os.getppid() == parent:
    time.sleep(0.2)
  os.write(2, f"{message}\n".encode())
  os._exit(0)


def take_back() -> None:
  """Nothing will be said."""
  while _children:
    child = _children.pop()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
