"""Who writes in a run's folder, and what to do where nobody can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from scorelab.errors import RefusedError

# What may be mended from outside, so that the run goes on: a full disk, a folder that is read-only.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some file systems of clusters


class UnwritableError(RefusedError):
  """Another process holds the folder, or it cannot be written: only its writer finds out."""

  alone = True


def why_unwritable(path: pathlib.Path, error: OSError) -> str | None:
  """What to do about a folder that could not be written, in a line; None for any other error."""
  folder, file = path.absolute(), pathlib.Path(str(error.filename or path)).absolute()
  if not (file.is_relative_to(folder) or folder.is_relative_to(file)):
    return None
  if error.errno in _FULL:
    advice = "nothing that was saved is lost: make room, and the same command goes on"
  elif error.errno in _FORBIDDEN:
    advice = "make it writable, or give another --workdir"
  else:
    return None
  return f"{path}: cannot be written ({error.strerror}): {advice}"


@contextlib.contextmanager
def hold(path: pathlib.Path, off: bool = False) -> Iterator[None]:
  """Keeps other processes out of a run's folder, which is made, within a `with` block.

  The lock is the system's own and ends with the process, however that ends: none is ever stale.
  With `off`, nothing is done.

  Raises:
    UnwritableError: another process holds the folder, and is named; or it cannot be written.
  """
  if off:
    yield
    return
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = (path / "LOCK").open("a+")
  except OSError as error:
    reason = why_unwritable(path, error) or f"{path}: cannot be the workdir: {error.strerror}"
    raise UnwritableError(reason) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read().strip() or "another process"
      raise UnwritableError(
        f"{path}: {holder} is at work here: wait until it ends, or give another --workdir"
      ) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
    with contextlib.suppress(OSError):  # on a full disk the holder has no name
      os.truncate(file.fileno(), 0)
      os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    yield
