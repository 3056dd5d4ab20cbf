"""Faults other than kills: a full disk, a read-only folder, two starts at once."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

from scripts.chaos_trials.runs import RUN, BrokenError, saved_step, snapshot
from scripts.chaos_trials.trial import Trial, print_line

_FIRST_ROOM = 64 * 1024  # bytes


def mount_command() -> list[str] | None:
  """The command that gives a program mounts of its own; None where that is not allowed."""
  for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(FileNotFoundError):
      mount = [*command, "mount", "-t", "tmpfs", "none", folder]
      if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        return command
  return None


def remount(folder: pathlib.Path, options: str) -> None:
  """Changes the options of what is mounted."""
  subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@contextlib.contextmanager
def disk(folder: pathlib.Path, mounts: bool) -> Iterator[None]:
  """A disk in memory for a folder, within a `with` block; without mounts there is none."""
  if not mounts:
    yield
    return
  subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", str(folder)], check=True)
  try:
    yield
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(trial: Trial, name: str, mounts: bool) -> None:
  """A run on a disk that is full, gets half as much room again, is full once more, ... and is done.

  Without mounts no file may be larger than the room, which fails in the same places.
  """
  folder, room, refused = trial.folder(name), _FIRST_ROOM, 0
  with disk(folder, mounts):
    while True:
      if mounts:
        remount(folder, f"size={room}")
      saved = saved_step(folder / RUN)
      process = trial.lab.start(folder, largest_file=None if mounts else room)
      if process.wait() == 0:
        break
      line = process.require_refusal(1, "make room")
      process.require_resumed_from(saved)
      if (saved_step(folder / RUN) or 0) < (saved or 0):
        raise BrokenError(f"the checkpoint of step {saved} is lost, with {room} bytes of room")
      print_line(f"{room // 1024} KiB of room: {line}")
      room, refused = room * 3 // 2, refused + 1
    process.require_resumed_from(saved)
    if not refused:
      raise BrokenError(f"{room} bytes of room were enough: nothing was tried")
    print_line(f"{name}: {room // 1024} KiB are enough, after {refused} starts on a full disk")
    trial.compare(folder)


def forbid_writing(trial: Trial, name: str, mounts: bool) -> None:
  """A run that is started in a read-only folder: empty, in training, in evaluation, and done."""
  if not mounts and os.geteuid() == 0:
    print_line(f"{name}: left out: nothing is read-only for root, and mounts are not allowed here")
    return
  folder = trial.folder(name)

  def writable(yes: bool) -> None:
    if mounts:
      remount(folder, "rw" if yes else "ro")
      return
    for path in [folder, *folder.rglob("*")]:
      path.chmod((path.stat().st_mode | 0o200) if yes else (path.stat().st_mode & ~0o222))

  with disk(folder, mounts):
    for phase in ("", "training", "evaluating"):
      if phase:
        process = trial.lab.start(folder)
        if not process.reaches(phase, trial.times.lines // 2):
          raise BrokenError(f"it ended before it was {phase}")
        process.end(signal.SIGKILL)
      writable(False)
      before = snapshot(folder)
      line = trial.lab.start(folder).require_refusal(2, "make it writable")
      if snapshot(folder) != before:
        raise BrokenError("a read-only folder was written")
      writable(True)
      print_line(f"read-only {f'after a kill while {phase}' if phase else 'and empty'}: {line}")
    trial.lab.start(folder).require_success()
    writable(False)
    trial.lab.start(folder).require_success()
    writable(True)
    print_line("read-only and done: it shows its table")
    trial.compare(folder)


def start_twice(trial: Trial, name: str) -> None:
  """Two starts in the same folder at once; the first one is killed, and a third takes it over."""
  folder = trial.folder(name)
  first = trial.lab.start(folder)
  if not first.reaches("training", trial.times.lines // 3):
    raise BrokenError("the first start ended before the second one")
  first.popen.send_signal(signal.SIGSTOP)
  before = snapshot(folder)
  second = trial.lab.start(folder)
  line = second.require_refusal(2, f"process {first.popen.pid} on {socket.gethostname()}")
  if snapshot(folder) != before:
    raise BrokenError("the second start has written into the first one's folder")
  print_line(f"the second start: {line}")
  first.end(signal.SIGKILL)
  saved = saved_step(first.workdir)
  third = trial.lab.start(folder)
  third.require_success()
  third.require_resumed_from(saved)
  print_line("the first one killed, a third start took its folder over")
  trial.compare(folder)
