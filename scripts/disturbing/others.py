"""Other disturbances than kills: a disk that is full, a folder that is read-only, two at once."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable

from scripts.disturbing.kills import Timetable
from scripts.disturbing.runs import BrokenError, Lab, saved_step, snapshot

Say = Callable[[str], object]
_FIRST_ROOM = 64 * 1024  # bytes


def mounting() -> list[str] | None:
  """The command that gives a program mounts of its own; None where that is not allowed."""
  for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
    with tempfile.TemporaryDirectory() as folder:
      mount = [*command, "mount", "-t", "tmpfs", "none", folder]
      try:
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
          return command
      except FileNotFoundError:
        pass
  return None


def mount(folder: pathlib.Path, options: str) -> None:
  """Mounts a file system in memory, or changes the options of the one that is there."""
  if os.path.ismount(folder):
    options = f"remount,{options}"
  subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


def unmount(folder: pathlib.Path) -> None:
  """Ends what `mount` has mounted, if it has."""
  if os.path.ismount(folder):
    subprocess.run(["umount", str(folder)], check=True)


def fill_disk(lab: Lab, folder: pathlib.Path, times: Timetable, say: Say, mounts: bool) -> None:
  """A run on a disk that is full, gets half as much room again, is full once more, ... and is done.

  Without mounts, no file may be larger than the room, which fails in the same places.
  """
  del times
  room, starts = _FIRST_ROOM, 0
  while True:
    if mounts:
      mount(folder, f"size={room}")
    saved = saved_step(folder / "run")
    process = lab.start(folder, largest_file=None if mounts else room)
    if process.popen.wait() == 0:
      process.must_have_gone_on_from(saved)
      break
    line = process.must_refuse(1, "make room")
    process.must_have_gone_on_from(saved)
    kept = saved_step(process.workdir)
    if (kept or 0) < (saved or 0):
      raise BrokenError(f"the checkpoint of step {saved} is lost with {room} bytes of room")
    say(f"{room // 1024} KiB of room, step {kept} saved: {line}")
    room, starts = room * 3 // 2, starts + 1
  if not starts:
    raise BrokenError(f"{room} bytes of room were enough: nothing was tried")
  say(f"{room // 1024} KiB are enough, at start {starts + 1}")


def forbid_writing(
  lab: Lab, folder: pathlib.Path, times: Timetable, say: Say, mounts: bool
) -> None:
  """A run that is started in a read-only folder: at first, while it trains, evaluates, is done."""
  if mounts:
    mount(folder, "size=1g")
  elif os.geteuid() == 0:
    say("left out: nothing is read-only for root, and mounts are not allowed here")
    return

  def writable(yes: bool) -> None:
    if mounts:
      mount(folder, "rw" if yes else "ro")
    else:
      for path in [folder, *folder.rglob("*")]:
        path.chmod((path.stat().st_mode | 0o200) if yes else (path.stat().st_mode & ~0o222))

  moments = [("", 0), ("training", times.lines // 2), ("evaluating", times.lines)]
  for phase, lines in moments:
    if phase:
      process = lab.start(folder)
      if not process.reaches(phase, lines):
        raise BrokenError(f"it ended before it was {phase}")
      process.end(signal.SIGKILL)
    writable(False)
    before = snapshot(folder)
    line = lab.start(folder).must_refuse(2, "make it writable")
    if snapshot(folder) != before:
      raise BrokenError("a read-only folder was written")
    writable(True)
    say(f"read-only {f'after a kill while {phase}' if phase else 'and empty'}: {line}")
  if code := lab.start(folder).wait():
    raise BrokenError(f"writable again, it fails with code {code}")
  writable(False)
  done = lab.start(folder)
  if code := done.wait():
    raise BrokenError(f"done and read-only, it fails with code {code}: {done.said()[-1:]}")
  writable(True)
  say("done and read-only: it shows its table")


def start_twice(lab: Lab, folder: pathlib.Path, times: Timetable, say: Say, mounts: bool) -> None:
  """Two starts in the same folder at once; the first one is killed, and a third takes it over."""
  del mounts
  first = lab.start(folder)
  if not first.reaches("training", times.lines // 3):
    raise BrokenError("the first start ended before the second one")
  first.popen.send_signal(signal.SIGSTOP)
  try:
    before = snapshot(folder)
    second = lab.start(folder)
    line = second.must_refuse(2, f"process {first.popen.pid} on {socket.gethostname()}")
    if snapshot(folder) != before:
      raise BrokenError("the second start has written into the first one's folder")
  finally:
    first.popen.send_signal(signal.SIGCONT)
  say(f"the second start: {line}")
  saved = saved_step(first.workdir)
  first.end(signal.SIGKILL)
  saved = saved_step(first.workdir)
  third = lab.start(folder)
  if code := third.wait():
    raise BrokenError(f"the lock of a dead process was not taken over, code {code}: {third.said()}")
  third.must_have_gone_on_from(saved)
  say("killed, its folder was taken over")


OTHERS = {"full_disk": fill_disk, "read_only": forbid_writing, "two_starts": start_twice}
