"""Runs main.py and says at every moment what it is at.

  python scripts/disturbing/watched.py FILE SECONDS main.py --config=...

FILE holds one word, the phase that the main thread is in, at most a hundredth of a second old. The
clock that Python tells is SECONDS ahead of the system's.
"""

from __future__ import annotations

import os
import pathlib
import runpy
import sys
import threading
import time
from types import FrameType

# The phase by the file and the name of a function; the innermost one on the stack counts.
_PHASES = {
  ("training", "train"): "training",
  ("checkpoints", "restore"): "restoring",
  ("checkpoints", "save"): "saving",
  ("checkpoints", "wait"): "saving",
  ("evaluation", "draw_sets"): "sampling",
  ("evaluation", "evaluate"): "evaluating",
  ("ensemble_evaluation", "evaluate"): "evaluating",
  ("summary", "draw_run"): "drawing",
  ("ensembles", "draw_ensemble"): "drawing",
}
_WIDTH = 16


def phase_of(frame: FrameType | None) -> str | None:
  """The phase of a thread's stack, if it is in one."""
  while frame is not None:
    where = pathlib.Path(frame.f_code.co_filename)
    if phase := _PHASES.get((where.stem, frame.f_code.co_name)):
      return phase
    frame = frame.f_back
  return None


def publish(file: int, thread: int) -> None:
  """Writes the thread's phase again and again."""
  seen = False
  while True:
    phase = phase_of(sys._current_frames().get(thread))
    seen = seen or phase is not None
    word = phase or ("between" if seen else "starting")
    os.pwrite(file, word.ljust(_WIDTH).encode(), 0)
    time.sleep(0.005)


def main() -> None:
  """Watches the program that is named on the command line, which sees its own arguments."""
  path, ahead, program, *arguments = sys.argv[1:]
  seconds, nanoseconds = time.time, time.time_ns
  if offset := int(ahead):  # before anything else has taken the functions away
    time.time = lambda: seconds() + offset
    time.time_ns = lambda: nanoseconds() + offset * 10**9
  file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
  thread = threading.main_thread().ident or 0
  threading.Thread(target=publish, args=(file, thread), daemon=True).start()
  sys.argv = [program, *arguments]
  sys.path[0] = str(pathlib.Path(program).parent)
  runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
  main()
