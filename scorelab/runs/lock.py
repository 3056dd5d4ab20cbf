"""Exclusive lock on a run directory."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Iterator

import filelock

from scorelab.errors import RefusedError

# Errors that a user can fix, so that the run resumes: a full disk, a read-only directory.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some file systems of clusters


class UnwritableError(RefusedError):
  """The directory is locked by another process, or cannot be written; only its writer finds out."""

  alone = True


def why_unwritable(path: pathlib.Path, error: OSError) -> str | None:
  """Returns one line of advice on a directory that cannot be written; None for any other error."""
  folder, file = path.absolute(), pathlib.Path(str(error.filename or path)).absolute()
  if not (file.is_relative_to(folder) or folder.is_relative_to(file)):
    return None
  if error.errno in _FULL:
    advice = "nothing that was saved is lost: make room, and run the same command to resume"
  elif error.errno in _FORBIDDEN:
    advice = "make it writable, or give another --workdir"
  else:
    return None
  return f"{path}: cannot be written ({error.strerror}): {advice}"


@contextlib.contextmanager
def hold(path: pathlib.Path, off: bool = False) -> Iterator[None]:
  """Locks a run directory, created if missing, within a `with` block.

  The lock belongs to the operating system and ends with the process, so it is never stale: a file
  system without locks is not locked, rather than by a marker file. With `off`, nothing is done.

  Raises:
    UnwritableError: another process, named in the message, holds the lock; or the directory cannot
      be written.
  """
  if off:
    yield
    return
  file = path / "LOCK"
  lock = filelock.FileLock(file, blocking=False, fallback_to_soft=False, on_acquired=_write_name)
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock.acquire()
  except filelock.Timeout:
    raise UnwritableError(
      f"{path}: {_holder(file)} is using this directory: wait until it ends, or set "
      "another --workdir"
    ) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      reason = why_unwritable(path, error) or f"{path}: cannot be the workdir: {error.strerror}"
      raise UnwritableError(reason) from error
  try:
    yield
  finally:
    lock.release()


def _write_name(descriptor: int) -> None:
  """Writes this process's name into the lock file, unless the disk is full."""
  with contextlib.suppress(OSError):
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(file: pathlib.Path) -> str:
  """Returns the name in a lock file; Windows lets no other process read it."""
  try:
    return file.read_text().strip() or "another process"
  except OSError:
    return "another process"
