"""Runs one process of main.py: its folder, its share of the machine, its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from scorelab.config.shipped import root
from scorelab.runs.signals import PREEMPTED_EXIT_CODE
from scorelab.sweep.plan import Task

MAIN = (sys.executable, "-m", "scorelab")
LOG = "stderr.txt"  # of the task's process, which holds a lock on it as long as it lives
FAILED = "FAILED"  # the last line of a process that failed, in its folder until it is tried again
_COPIED = ("metrics.jsonl", "timings.jsonl")
_POLL = 0.1  # seconds


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Outcome of a task.

  Attributes:
    state: 'done', 'stopped' (it has saved, or can resume from its last checkpoint) or 'failed'.
    line: the last line of its stderr, where it failed.
    seconds: that it took.
  """

  state: str
  line: str = ""
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Slot:
  """A share of this machine.

  Attributes:
    cores: cores that the process may use; empty for any.
    env: environment variables to set.
  """

  cores: frozenset[int] = frozenset()
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def split_evenly(things: Sequence[str], hands: int) -> list[list[str]]:
  """Distributes things evenly; if there are fewer things than hands, they are shared."""
  if len(things) >= hands:
    return [list(things[hand::hands]) for hand in range(hands)]
  return [[things[hand % len(things)]] for hand in range(hands)]


def visible_gpus() -> list[str]:
  """Returns the ids of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists; empty without GPUs."""
  if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
    return [name.strip() for name in given.split(",") if name.strip()]
  if shutil.which("nvidia-smi") is None:
    return []
  found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
  number = sum(line.startswith("GPU ") for line in found.stdout.splitlines())
  return [str(index) for index in range(number)]


def usable_cores() -> list[int]:
  """Returns the cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def default_jobs() -> int:
  """Returns one job for each GPU, or else one for every two cores."""
  return len(visible_gpus()) or max(1, len(usable_cores()) // 2)


def make_slots(jobs: int, cache: pathlib.Path) -> list[Slot]:
  """Divides this machine's GPUs and cores into `jobs` slots with one compilation cache."""
  cores, gpus = usable_cores(), visible_gpus()
  shares = [frozenset(map(int, hand)) for hand in split_evenly([str(c) for c in cores], jobs)]
  slots = []
  for index, share in enumerate(shares):
    env = {name: str(len(share)) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    env = {name: value for name, value in env.items() if name not in os.environ}
    if gpus:
      env["CUDA_VISIBLE_DEVICES"] = ",".join(split_evenly(gpus, jobs)[index])
      if jobs > len(gpus):
        env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / -(-jobs // len(gpus)):.3f}"
    slots.append(Slot(share, env))
  return slots


def shell_lines(task: Task) -> list[str]:
  """Returns the shell commands equivalent to `run_task`."""
  lines = []
  if task.source is not None:
    copied = [task.shown(task.source / name) for name in ("checkpoints", *_COPIED)]
    lines.append(f"mkdir -p {shlex.quote(task.shown())}")
    lines.append(shlex.join(["cp", "-r", *copied, task.shown()]))
  return [*lines, shlex.join(["python", "-m", "scorelab", *task.arguments])]


def python_path() -> str:
  """Returns a PYTHONPATH by which another process imports this package and its configs."""
  paths = [str(root()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
  return os.pathsep.join(dict.fromkeys(paths))


def failure(workdir: pathlib.Path) -> str | None:
  """Returns the last message of a failed process in this folder; None if none has failed."""
  file = workdir / FAILED
  return file.read_text().strip() if file.exists() else None


class Signals:
  """Sets an event at the first Ctrl-C, SIGTERM or SIGHUP; the second ends this process."""

  def __init__(self, stop: threading.Event, print_line: Callable[[str], object]) -> None:
    self._stop, self._print_line = stop, print_line
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      self._previous[number] = signal.signal(number, self._note)

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: object) -> None:
    del number, frame
    if self._stop.is_set():
      os._exit(PREEMPTED_EXIT_CODE)  # the runs received the signal, and save on their own
    self._stop.set()
    self._print_line("stopping: the runs save and end")


@contextlib.contextmanager
def locked_log(workdir: pathlib.Path, stop: threading.Event) -> Iterator[IO[str] | None]:
  """The folder's empty log, for the child's stderr, once no other process writes it.

  The lock belongs to the open file, so that a child keeps it even if its parent was killed; one of
  `filelock` cannot be inherited. None if `stop` was set before.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / LOG).open("a") as log:
    while not stop.is_set():
      try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        stop.wait(_POLL)
        continue
      log.truncate(0)
      yield log
      return
    yield None


def is_locked(workdir: pathlib.Path) -> bool:
  """Returns True if a task of some sweep runs in the folder."""
  try:
    with (workdir / LOG).open() as log:
      fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except FileNotFoundError:
    return False
  except BlockingIOError:
    return True
  return False


def copy_training(source: pathlib.Path, workdir: pathlib.Path) -> None:
  """Gives a folder another run's training, unless it has it. Checkpoints are linked, not copied."""

  def link(old: str, new: str) -> None:
    try:
      os.link(old, new)
    except OSError:  # another file system, or one without links
      shutil.copy2(old, new)

  if (workdir / "checkpoints").exists():
    return
  for name in _COPIED:
    if (source / name).exists():
      shutil.copy2(source / name, workdir / name)
  half = workdir / "checkpoints.half"
  shutil.rmtree(half, ignore_errors=True)
  shutil.copytree(source / "checkpoints", half, copy_function=link)
  half.rename(workdir / "checkpoints")  # last: what is there is whole


def last_line(file: pathlib.Path) -> str:
  """Returns the last non-empty line of a log."""
  lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
  return next((line for line in reversed(lines) if line), "")


def run_task(
  task: Task,
  slot: Slot = Slot(),
  program: Sequence[str] = MAIN,
  stop: threading.Event | None = None,
) -> Outcome:
  """Runs the task in its folder, once no other process does.

  Where `stop` is set, or an exception comes from a signal, the process gets SIGTERM, and is waited
  for until it has saved.
  """
  begun, stop = time.monotonic(), stop or threading.Event()
  with locked_log(task.workdir, stop) as log:
    if log is None:
      return Outcome("stopped")
    (task.workdir / FAILED).unlink(missing_ok=True)
    if task.source is not None:
      copy_training(task.source, task.workdir)
    process = subprocess.Popen(
      [*program, *task.arguments],
      cwd=task.cwd,
      env={**os.environ, "PYTHONPATH": python_path(), **slot.env},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=log,
      start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which sends SIGTERM
    )
    try:
      if slot.cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):
          os.sched_setaffinity(process.pid, slot.cores)
      while process.poll() is None and not stop.wait(_POLL):
        pass
    finally:
      process.terminate()  # of no effect where it has ended
      code = process.wait()
  seconds = time.monotonic() - begun
  if code == 0:
    return Outcome("done", seconds=seconds)
  if code in (PREEMPTED_EXIT_CODE, -signal.SIGTERM, -signal.SIGINT):
    return Outcome("stopped", seconds=seconds)
  line = last_line(task.workdir / LOG) or f"exit code {code}"
  if code < 0:
    line = f"killed by {signal.Signals(-code).name}; {line}"
  (task.workdir / FAILED).write_text(line + "\n")
  return Outcome("failed", line, seconds)
