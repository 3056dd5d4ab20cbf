"""Stop requests by SIGINT, SIGTERM and SIGUSR2."""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any, NoReturn

from scorelab.errors import ScorelabError

PREEMPTED_EXIT_CODE = 75
INTERRUPTED_EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Preempted(ScorelabError):  # noqa: N818 (it is no error)
  """A stop was requested. The run has saved its state and can be resumed."""

  exit_code = PREEMPTED_EXIT_CODE

  def __init__(self, message: str = "stopped and saved; run the same command to resume") -> None:
    super().__init__(message)


class StopFlag:
  """Records stop requests within a `with` block; work calls `check` where it can stop.

  A thread receives the signals, because the main thread runs no handler while it waits for a
  compiler or a device. A second SIGINT ends the process at once.

  Args:
    line: printed when a request ends the process at once with code 75, which it does while
      `unsaved` is False; None leaves every exit to the main thread.

  Attributes:
    requested: True once a signal has arrived.
    unsaved: True if an immediate exit would lose work: then requests wait for `check`.
  """

  def __init__(self, line: str | None = None) -> None:
    self.requested = False
    self.unsaved = False
    self.line = line
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> StopFlag:
    self._heard, self._sent = socket.socketpair()
    self._sent.setblocking(False)
    self._wakeup = signal.set_wakeup_fd(self._sent.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
      self._previous[number] = signal.signal(number, self._note)
    threading.Thread(target=self._listen, args=(self._heard,), daemon=True).start()
    return self

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._wakeup)
    self._sent.close()  # ends the thread

  def check(self) -> None:
    """Raises Preempted if a stop was requested."""
    if self.requested:
      raise Preempted

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    if self.line is None:  # else the thread decides alone, so that one line is printed
      self.requested = True

  def _listen(self, heard: socket.socket) -> None:
    interrupts = 0
    with heard:
      while number := heard.recv(1):
        if number[0] not in _SIGNALS:
          continue
        interrupts += number[0] == signal.SIGINT
        if interrupts > 1:
          end_at_once("interrupted twice: ended without saving", INTERRUPTED_EXIT_CODE)
        if self.line is not None and not self.unsaved:
          end_at_once(self.line)
        self.requested = True


def end_at_once(line: str, code: int = PREEMPTED_EXIT_CODE) -> NoReturn:
  """Prints a line and ends the process from any thread, without clean-up."""
  os.write(2, f"{line}\n".encode())
  os._exit(code)
