"""One process at a time in a run's folder, and what is said where it cannot be written."""

import errno
import fcntl
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from scorelab.runs import lock

HOLD = """
import pathlib, sys
from scorelab.runs import lock
with lock.hold(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.mark.e2e
def test_a_folder_belongs_to_one_process_while_it_lives(tmp_path):
  folder = tmp_path / "a" / "run"
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as holder:
    assert holder.stdout.readline() == b"held\n"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    who = f"process {holder.pid} on {socket.gethostname()} is using this directory"
    with pytest.raises(lock.UnwritableError, match=who), lock.hold(folder):
      pass
    with lock.hold(folder, off=True):
      pass
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    holder.kill()
  with lock.hold(folder):  # what it left names a dead process
    assert f"process {os.getpid()} on" in (folder / "LOCK").read_text()
    with pytest.raises(lock.UnwritableError, match=str(os.getpid())), lock.hold(folder):
      pass
  with lock.hold(folder):
    pass


def test_a_folder_that_cannot_be_locked_or_made(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  with pytest.raises(lock.UnwritableError, match="file"), lock.hold(tmp_path / "file"):
    pass

  def refuse(code):
    def flock(*_):
      raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)

  refuse(errno.ENOSYS)
  with lock.hold(tmp_path / "run"):  # a file system without locks
    pass
  refuse(errno.EIO)
  with pytest.raises(lock.UnwritableError, match="Input/output"), lock.hold(tmp_path / "run"):
    pass


@pytest.mark.parametrize(
  ("code", "advice"),
  [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "make it writable")],
)
def test_what_can_be_mended_is_one_line(code, advice):
  line = lock.why_unwritable(pathlib.Path("results/a"), OSError(code, os.strerror(code)))
  assert line.startswith(f"results/a: cannot be written ({os.strerror(code)})")
  assert advice in line and "\n" not in line


def test_other_errors_are_not_about_the_folder():
  folder = pathlib.Path("results/a")
  assert lock.why_unwritable(folder, FileNotFoundError(errno.ENOENT, "none")) is None
  assert lock.why_unwritable(folder, PermissionError(errno.EACCES, "no", "results/b")) is None
  assert lock.why_unwritable(folder, PermissionError(errno.EACCES, "no", "results/a/b"))
  assert lock.why_unwritable(folder, PermissionError(errno.EACCES, "no", "results"))
