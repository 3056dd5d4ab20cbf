"""Runs main.py and the scripts as processes of their own, forked from one that has imported.

`Forked().run(argv)` does what `python main.py ARGV` does, in a fraction of the time: the imports
are there, no backend of JAX is up before the fork. Run as a program it is the process that forks.
"""

import dataclasses
import gc
import importlib
import json
import os
import pathlib
import resource
import runpy
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
# All that a run imports, most of it on use.
IMPORTED = (
  *("scorelab.cli.train", "scorelab.config.generate", "scorelab.evaluation.ensemble_figures"),
  *("scorelab.evaluation.pretrained", "scorelab.evaluation.tensorboard", "scorelab.likelihood"),
  *("scorelab.plotting", "scorelab.training.ensembles", "scorelab.sweep", "scorelab.report"),
  *("diffrax", "matplotlib.pyplot", "ot", "scipy.stats", "sklearn.datasets"),
)


class Forked:
  """A process that runs main.py and scripts again and again; a context manager.

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
    """Runs main.py with these arguments."""
    return self.python([self._root / "main.py", *argv], timeout)

  def python(self, argv, timeout=900.0, cwd="."):
    """Runs a file with arguments, `-m` and a module, or `-c` and code, as `python ARGV` does.

    Args:
      argv: the file, `-m` or `-c`, and what follows.
      timeout: seconds, after which it is killed.
      cwd: its current directory, by default the one that all have.
    """
    request = [[str(argument) for argument in argv], timeout, str(cwd)]
    print(json.dumps(request), file=self._server.stdin, flush=True)
    return Result(*json.loads(self._server.stdout.readline()))


def serve():
  """Answers a line [argv, timeout, cwd] with a line of what `Result` holds."""
  sys.path[0] = str(ROOT)
  for module in IMPORTED:
    importlib.import_module(module)
  gc.freeze()  # no process need look through what was imported
  for line in sys.stdin:
    argv, timeout, cwd = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
      child = os.fork()
      if child == 0:
        become(argv, cwd, out.fileno(), err.fileno())
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


def become(argv, cwd, out, err):
  """Runs Python's arguments in this process, as an interpreter does, and ends it."""
  os.chdir(cwd)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(out, 1)
  os.dup2(err, 2)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  code = 1
  try:
    execute(*argv)
    code = 0
  except SystemExit as ended:
    code = ended.code or 0
    if not isinstance(code, int):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def execute(program, *arguments):
  """Runs a program as `__main__`, by its file, `-m` and its module, or `-c` and its text."""
  if program == "-c":
    sys.argv = ["-c", *arguments[1:]]
    exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
  elif program == "-m":
    sys.argv = [*arguments]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
  else:
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(pathlib.Path(program).resolve().parent))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
  serve()
