"""Runs main.py and says at every moment what it is at.

  python scripts/chaos_trials/watched.py FILE SECONDS main.py --config=...

FILE holds one word, the phase that the main thread is in. The clock that Python tells is SECONDS
ahead of the system's.
"""

from __future__ import annotations

import functools
import os
import pathlib
import runpy
import sys
import time
from typing import Any

_WIDTH = 16  # of the word in the file, which is written over


class Phase:
  """The phase that a process is in, in a file."""

  def __init__(self, path: str) -> None:
    self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    self._set("starting")

  def _set(self, phase: str) -> None:
    self._now = phase
    os.pwrite(self._file, phase.ljust(_WIDTH).encode(), 0)

  def during(self, owner: Any, name: str, phase: str) -> None:
    """Puts a function in the place of a module's or a class's that names its phase."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def named(*args: Any, **kwargs: Any) -> Any:
      outer = self._now
      self._set(phase)
      try:
        return inner(*args, **kwargs)
      finally:
        self._set("between" if outer == "starting" else outer)

    setattr(owner, name, named)


def main() -> None:
  """Watches the program that is named on the command line, which sees its own arguments."""
  path, ahead, program, *arguments = sys.argv[1:]
  seconds, nanoseconds = time.time, time.time_ns
  if offset := int(ahead):  # before anything else has taken the functions away
    time.time = lambda: seconds() + offset
    time.time_ns = lambda: nanoseconds() + offset * 10**9
  phase = Phase(path)
  sys.argv = [program, *arguments]
  sys.path[0] = str(pathlib.Path(program).parent)
  from scorelab import evaluation, training
  from scorelab.evaluation import ensemble_figures, evaluator, figures
  from scorelab.evaluation import ensembles as ensemble_evaluation
  from scorelab.runs.checkpoints import Checkpoints

  phase.during(training, "train", "training")
  phase.during(Checkpoints, "restore", "restoring")
  phase.during(Checkpoints, "save", "saving")
  phase.during(Checkpoints, "wait", "saving")
  phase.during(ensemble_evaluation, "evaluate", "evaluating")
  phase.during(evaluation, "evaluate", "evaluating")
  phase.during(evaluator, "draw_sets", "sampling")
  phase.during(figures, "draw_run", "drawing")
  phase.during(ensemble_figures, "draw_ensemble", "drawing")
  runpy.run_path(program, run_name="__main__")  # in this process, whose functions are watched


if __name__ == "__main__":
  main()
