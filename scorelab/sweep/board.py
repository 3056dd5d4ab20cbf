"""Progress of a sweep: a live table on a terminal, elsewhere a line for each finished run."""

from __future__ import annotations

import pathlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from scorelab.sweep.plan import Point, Row, Task
from scorelab.sweep.tasks import Outcome

_EVERY = 60  # seconds between two lines of what runs, where lines stay


def short_names(fields: Sequence[str]) -> dict[str, str]:
  """Returns short names of fields: 'eta' for 'sampler.eta', if no other field ends in it."""
  ends = Counter(field.rpartition(".")[2] for field in fields)
  return {f: f.rpartition(".")[2] if ends[f.rpartition(".")[2]] == 1 else f for f in fields}


def label_of(point: Point, names: Mapping[str, str]) -> str:
  """Formats the named fields of a point: 'eta=0.5 width=64'."""
  told = [f"{names[field]}={value}" for field, value in point.items() if field in names]
  return " ".join(told) or "the run"


class Board:
  """Shows a sweep's tasks; a context manager, which restores the terminal."""

  def __init__(self, fields: Sequence[str], stream: TextIO | None = None) -> None:
    self._names = short_names(fields)
    self._console = Console(file=stream or sys.stderr, highlight=False)
    self._live = Live(console=self._console, auto_refresh=False, transient=True)
    self._labels: dict[pathlib.Path, str] = {}
    self._rows: Sequence[Row] = ()
    self._shown = self._begun = time.monotonic()
    self._started: dict[pathlib.Path, float] = {}

  def __enter__(self) -> Board:
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._live.stop()

  def print_line(self, text: str) -> None:
    """Prints a line above the table."""
    self._console.print(text, markup=False, soft_wrap=True)

  def begin(self, rows: Sequence[Row], outcomes: Mapping[pathlib.Path, Outcome]) -> None:
    """Starts the display, with the outcomes of earlier runs; called before the first task."""
    self._rows = rows
    for row in rows:
      self._labels[row.task.workdir] = label_of(row.point, self._names)
      if row.training is not None:
        self._labels[row.training.workdir] = f"training {row.training.workdir.name}"
    found = Counter(outcome.state for outcome in outcomes.values())
    runs = f"{len(rows)} run{'s' * (len(rows) != 1)}"
    self.print_line(f"{runs}: {found['done']} done before, {found['failed']} failed before")

  def ended(self, task: Task, outcome: Outcome) -> None:
    """Records an outcome; called for every task that has ended."""
    self._started.pop(task.workdir, None)
    after = f" after {outcome.seconds:.0f} s" if outcome.seconds else ""
    line = f": {outcome.line}" if outcome.line else ""
    self.print_line(
      f"{time.strftime('%H:%M:%S')} {outcome.state}{after}  {self._label(task)}{line}"
    )

  def show(
    self,
    running: Sequence[tuple[Task, Mapping[str, Any]]],
    outcomes: Mapping[pathlib.Path, Outcome],
  ) -> None:
    """Shows the running tasks with their last line of metrics."""
    now = time.monotonic()
    for task, _ in running:
      self._started.setdefault(task.workdir, now)
    if self._console.is_terminal:
      self._live.update(self._table(running, outcomes, now), refresh=True)
    elif running and now - self._shown > _EVERY:
      self._shown = now
      self.print_line(self._summary(outcomes, len(running)))
      for task, line in running:
        self.print_line(f"  {self._label(task)}: {_progress(task, line)}")

  def _label(self, task: Task) -> str:
    return self._labels.get(task.workdir, task.workdir.name)

  def _summary(self, outcomes: Mapping[pathlib.Path, Outcome], running: int) -> str:
    of_rows = [outcomes.get(row.task.workdir) for row in self._rows]
    found = Counter(outcome.state for outcome in of_rows if outcome)
    ended = "".join(f", {found[state]} {state}" for state in ("failed", "stopped") if found[state])
    minutes = (time.monotonic() - self._begun) / 60
    return f"{found['done']} of {len(of_rows)} done{ended}, {running} running, {minutes:.1f} min"

  def _table(
    self,
    running: Sequence[tuple[Task, Mapping[str, Any]]],
    outcomes: Mapping[pathlib.Path, Outcome],
    now: float,
  ) -> Group:
    table = Table("running", "step", "loss", "s", box=None, pad_edge=False)
    for column in table.columns[1:]:
      column.justify = "right"
    for task, line in running:
      seconds = f"{now - self._started[task.workdir]:.0f}"
      loss = line.get("loss")
      shown = f"{loss:.4g}" if isinstance(loss, float) else ""
      table.add_row(self._label(task), _progress(task, line), shown, seconds)
    return Group(self._summary(outcomes, len(running)), table)


def _progress(task: Task, line: Mapping[str, Any]) -> str:
  """Returns 'step 200/6000', or 'evaluating'."""
  step = line.get("step", 0)
  if not task.num_steps or step >= task.num_steps:
    return "evaluating"
  return f"step {step}/{task.num_steps}"
