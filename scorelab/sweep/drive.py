"""Runs the unfinished rows of a sweep and tracks their progress."""

from __future__ import annotations

import json
import pathlib
import threading
import time
from collections.abc import Sequence

from scorelab.sweep.board import Board
from scorelab.sweep.engines import Engine, Handle
from scorelab.sweep.plan import Row, Task
from scorelab.sweep.tasks import Outcome, failure, is_locked

_POLL = 0.2  # seconds


def tasks_of(rows: Sequence[Row]) -> list[Task]:
  """Returns the tasks of unfinished rows, each once, a training before its evaluations."""
  found: dict[pathlib.Path, Task] = {}
  for row in rows:
    if not row.done:
      if row.training is not None and not is_trained(row.training):
        found[row.training.workdir] = row.training
      found[row.task.workdir] = row.task
  return list(found.values())


def is_trained(training: Task) -> bool:
  """Returns True if a shared training is complete."""
  return (training.workdir / "DONE").exists() or _step(training) >= training.num_steps


def _step(task: Task) -> int:
  """Returns the step of the last complete checkpoint."""
  folder = task.workdir / "checkpoints"
  names = [path.name for path in folder.iterdir()] if folder.exists() else []
  return max((int(name) for name in names if name.isdigit()), default=0)


def last_metrics(task: Task) -> dict[str, float]:
  """Returns the last complete line of a run's metrics.jsonl; {} if there is none."""
  file = task.workdir / "metrics.jsonl"
  try:
    with file.open("rb") as lines:
      lines.seek(max(0, file.stat().st_size - 8192))
      whole = lines.read().split(b"\n")[:-1]
    return json.loads(whole[-1])
  except (OSError, ValueError, IndexError):
    return {}


def run_rows(
  rows: Sequence[Row], engine: Engine, retry: bool, stop: threading.Event, board: Board
) -> dict[pathlib.Path, Outcome]:
  """Runs unfinished rows until all have ended, or until `stop` is set and all have saved.

  Args:
    rows: rows of the sweep.
    engine: runs the tasks.
    retry: True to run failed tasks again.
    stop: checked regularly.
    board: displays the progress.

  Returns:
    The outcome of each row, and of each shared training that was run, by folder.
  """
  outcomes = {row.task.workdir: Outcome("done") for row in rows if row.done}
  waiting = tasks_of(rows)
  if not retry:
    for task in waiting:
      if (line := failure(task.workdir)) is not None:
        outcomes[task.workdir] = Outcome("failed", line)
  waiting = [task for task in waiting if task.workdir not in outcomes]
  first = {task.workdir for task in waiting}
  handles: dict[pathlib.Path, tuple[Task, Handle]] = {}
  board.begin(rows, outcomes)
  while waiting or handles:
    if stop.is_set():
      engine.stop()
      outcomes |= {task.workdir: Outcome("stopped") for task in waiting}
      waiting = []
    for task in list(waiting):
      trained = outcomes.get(task.source) if task.source else None
      if task.source in first and trained is None:
        continue  # it is still being trained
      waiting.remove(task)
      if trained is not None and trained.state != "done":
        line = f"its training {trained.state}: {trained.line}".rstrip(": ")
        outcomes[task.workdir] = Outcome(trained.state, line)
        board.ended(task, outcomes[task.workdir])
      else:
        handles[task.workdir] = (task, engine.submit(task))
    for task, handle in list(handles.values()):
      if handle.done():
        del handles[task.workdir]
        outcomes[task.workdir] = _outcome(handle, stop)
        board.ended(task, outcomes[task.workdir])
    running = [task for task, _ in handles.values() if is_locked(task.workdir)]
    board.show([(task, last_metrics(task)) for task in running], outcomes)
    time.sleep(_POLL)
  return outcomes


def _outcome(handle: Handle, stop: threading.Event) -> Outcome:
  """Returns a handle's outcome; an exception means that the engine lost or cancelled the task."""
  try:
    return handle.result()
  except Exception as error:
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return Outcome("stopped" if stop.is_set() else "failed", line)
