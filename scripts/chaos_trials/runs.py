"""Runs of main.py from outside: started, watched and ended."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from scorelab.runs.files import read_jsonl

ROOT = pathlib.Path(__file__).parent.parent.parent
_WATCHED = ROOT / "scripts" / "chaos_trials" / "watched.py"
RUN = "run"  # the workdir in its folder: the same for all, so that the same command made them
_PATIENCE = 1800.0  # seconds for whatever is waited for
TICK = 0.004  # seconds between two looks


class BrokenError(Exception):
  """A run did what no disturbance excuses; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Lab:
  """Starts runs of main.py.

  Attributes:
    arguments: main.py's, without --workdir.
    cache: the folder of compiled programs that all share.
    started: all processes so far.
  """

  arguments: Sequence[str]
  cache: pathlib.Path
  started: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

  def close(self) -> None:
    """Kills what still runs."""
    for popen in self.started:
      popen.kill()

  def start(
    self, folder: pathlib.Path, *, ahead: int = 0, largest_file: int | None = None
  ) -> Process:
    """Starts main.py with its workdir in a folder.

    Args:
      folder: exists; the process's output is kept next to it.
      ahead: seconds that its clock is before the system's.
      largest_file: bytes that a file may have, as if the disk were full then.
    """
    phase, said = (folder.with_name(f"{folder.name}.{end}") for end in ("phase", "stderr"))
    phase.unlink(missing_ok=True)
    program = [sys.executable, _WATCHED, phase, ahead, ROOT / "main.py"]
    with said.open("w") as stderr:
      process = subprocess.Popen(
        [*map(str, program), *self.arguments, f"--workdir={RUN}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={
          **os.environ,
          "JAX_COMPILATION_CACHE_DIR": str(self.cache),
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
      )
    self.started.append(process)
    if largest_file is not None:
      _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
      resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, hard))
    return Process(process, folder / RUN, phase, said, time.time())


@dataclasses.dataclass(frozen=True)
class Process:
  """A process of main.py."""

  popen: subprocess.Popen[bytes]
  workdir: pathlib.Path
  _phase: pathlib.Path
  _said: pathlib.Path
  _begun: float

  def phase(self) -> str:
    """Returns the current phase."""
    word = self._phase.read_text().strip() if self._phase.exists() else ""
    if word == "training":  # Orbax writes while training continues
      for path in (self.workdir / "checkpoints").glob("*tmp*"):
        try:
          if path.stat().st_ctime > self._begun:
            return "saving"
        except FileNotFoundError:
          pass
    return word or "starting"

  def reaches(self, phase: str, lines: int = 0) -> bool:
    """Waits for a phase, and for lines of metrics.jsonl; False where it ended before."""
    deadline = time.monotonic() + _PATIENCE
    while self.popen.poll() is None:
      if self.phase() == phase and (not lines or count_lines(self.workdir) >= lines):
        return True
      if time.monotonic() > deadline:
        self.end(signal.SIGKILL)
        raise BrokenError(f"it has hung for {_PATIENCE:.0f} s, waited for while {phase}")
      time.sleep(TICK)
    return False

  def end(self, number: signal.Signals) -> int:
    """Sends a signal and waits; returns the exit code."""
    self.popen.send_signal(number)
    return self.wait()

  def wait(self) -> int:
    """Waits for the end; returns the exit code."""
    try:
      return self.popen.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      self.popen.kill()
      self.popen.wait()
      raise BrokenError(f"it does not end within {_PATIENCE:.0f} s") from None

  def require_success(self) -> None:
    """Waits for the end; raises BrokenError if the exit code is not 0."""
    if code := self.wait():
      raise BrokenError(f"exit code {code}; it said: {' | '.join(self.said()[-3:])}")

  def said(self) -> list[str]:
    """The lines of its stderr."""
    return self._said.read_text(errors="replace").splitlines()

  def resumed_from(self) -> int | None:
    """Returns the step that it reports to resume from; None if it has not reported one."""
    found = [re.search(r"resuming from step (\d+)", line) for line in self.said()]
    return next((int(match[1]) for match in found if match), None)

  def require_resumed_from(self, saved: int | None) -> None:
    """Raises BrokenError unless it resumed from the newest checkpoint."""
    step = self.resumed_from()
    if step is not None and step != saved:
      raise BrokenError(f"it went on from step {step}, where {saved} was the newest checkpoint")
    logged = max((line["step"] for line in read_jsonl(self.workdir / "metrics.jsonl")), default=0)
    if logged < (saved or 0):
      raise BrokenError(f"metrics.jsonl ends at step {logged}, before the checkpoint of {saved}")

  def require_refusal(self, code: int, *words: str) -> str:
    """Waits for the end; the line it ended with. BrokenError if code, line or words differ."""
    found, lines = self.wait(), self.said()
    line = lines[-1] if lines else ""
    if found != code:
      raise BrokenError(f"exit code {found}, not {code}; it said: {' | '.join(lines[-3:])}")
    if "Traceback" in "".join(lines):
      raise BrokenError(f"there is a traceback in {self._said}")
    if missing := [word for word in (RUN, *words) if word not in line]:
      raise BrokenError(f"its last line does not say {missing[0]!r}: {line}")
    return line


def count_lines(workdir: pathlib.Path) -> int:
  """Whole lines of metrics.jsonl."""
  file = workdir / "metrics.jsonl"
  return file.read_bytes().count(b"\n") if file.exists() else 0


def saved_step(workdir: pathlib.Path) -> int | None:
  """The step of the newest checkpoint that was committed."""
  folder = workdir / "checkpoints"
  found = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []
  return max(found, default=None)


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file's bytes by its path below a folder."""
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}
