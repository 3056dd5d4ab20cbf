"""Runs main.py as a process of its own for every command line, forked from one that has imported.

`Forked().run(argv)` does what `python main.py ARGV` does, in a fraction of the time: the imports
are there, no backend of JAX is up before the fork. Run as a program it is the process that forks.
"""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback

MEMORY = 8 << 30  # of address space: what asks for more fails here, and spares the machine


@dataclasses.dataclass(frozen=True)
class Result:
  """What a process left: its code (negative: the signal that ended it) and what it said."""

  returncode: int
  stdout: str
  stderr: str
  timed_out: bool


ROOT = pathlib.Path(__file__).parent.parent


class Forked:
  """A process that runs main.py again and again; a context manager.

  Args:
    root: the checkout whose main.py it is.
    cwd: where it runs; the caller's directory by default.
    environment: variables to set, such as PYTHONPATH.
  """

  def __init__(self, root=ROOT, cwd=None, **environment):
    self._root, self._cwd, self._environment = root, cwd, environment

  def __enter__(self):
    fast = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    self._server = subprocess.Popen(
      [sys.executable, self._root / "tests" / "forked_main.py"],
      cwd=self._cwd,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | fast | self._environment,
    )
    return self

  def __exit__(self, *exc):
    self._server.stdin.close()
    self._server.wait()

  def run(self, argv, timeout=120.0):
    print(json.dumps([argv, timeout]), file=self._server.stdin, flush=True)
    return Result(*json.loads(self._server.stdout.readline()))


def serve():
  """Answers a line [argv, timeout] with a line of what `Result` holds."""
  sys.path.insert(0, str(ROOT))
  from scorelab.cli.train import main

  for line in sys.stdin:
    argv, timeout = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
      child = os.fork()
      if child == 0:
        become(["main.py", *argv], out.fileno(), err.fileno(), main)
      waited = 0.0  # of our own time: where the machine is stopped, it goes on later
      while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.005)
        waited += 0.005
        if waited > timeout:
          os.kill(child, signal.SIGKILL)
      texts = []
      for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
    print(json.dumps([os.waitstatus_to_exitcode(ended[1]), *texts, waited > timeout]), flush=True)


def become(argv, out, err, main):
  """Runs main.py in this process, as its `__main__` does, and ends it."""
  sys.argv = argv
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(out, 1)
  os.dup2(err, 2)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  code = 1
  try:
    code = main(argv)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
  serve()
