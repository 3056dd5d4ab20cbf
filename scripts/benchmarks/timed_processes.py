"""One side of a comparison: built once in its own process, and called in turn.

Two libraries in one process distort each other's times: PyTorch's OpenMP workers spin for some 10
ms after a call and occupy the cores. Here each side has its own process, and there is a pause
between turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
_ENVIRONMENT = {
  "JAX_DEFAULT_MATMUL_PRECISION": "float32",  # as configs have it, and PyTorch by default
  "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share an accelerator
}


class MissingError(Exception):
  """A side needs a package that is not installed; the message is its name."""


class SideError(Exception):
  """A side's process has failed; its own message is on stderr."""


@dataclasses.dataclass(frozen=True)
class Task:
  """Work of a side's process.

  Attributes:
    call: the work, which waits for its result. Where it returns a float, that is how many seconds
      it took, by its own measure.
    output: what the other sides should find too, or None.
    amounts: what one call has to do at least, by unit: "FLOP", "byte", "value sorted".
  """

  call: Callable[[], Any]
  output: Callable[[], Any] | None = None
  amounts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Side:
  """Recipe for a side: a function that a process calls to build its task.

  Attributes:
    make: a function at the top of a module, `(**options) -> Task`; an ImportError leaves the side
      out.
    options: JSON values.
    environment: variables of the process.
  """

  make: Callable[..., Task]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Worker(contextlib.AbstractContextManager):
  """A side's process, which has built its task and called it once when this returns.

  Attributes:
    amounts: the task's.
    memory: the most bytes that the first call took beyond what was there before it.
    device: the kind of JAX's device, and how many there are.

  Raises:
    MissingError: a package is missing.
    SideError: the process has failed.
  """

  def __init__(self, side: Side) -> None:
    self._name = f"{side.make.__qualname__}({dict(side.options)})"
    command = [sys.executable, "-m", "scripts.benchmarks.worker"]
    self._process = subprocess.Popen(
      [*command, side.make.__module__, side.make.__qualname__, json.dumps(dict(side.options))],
      cwd=ROOT,
      env={**os.environ, **_ENVIRONMENT, **side.environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    try:
      ready = self._answer()
    except BaseException:
      self.__exit__()
      raise
    self.amounts: dict[str, float] = ready["amounts"]
    self.memory: int = ready["memory"]
    self.device: str = ready["device"]

  def __exit__(self, *exc_info: object) -> None:
    assert self._process.stdin and self._process.stdout
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()  # which ends it
    self._process.stdout.close()
    self._process.wait()

  def turn(self) -> float:
    """Returns the seconds of a call; for short calls the mean over a twentieth of a second."""
    self._ask({"do": "turn"})
    return self._answer()["seconds"]

  def output(self) -> np.ndarray | None:
    """Returns the task's output, or None."""
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, "output.npy")
      self._ask({"do": "output", "path": str(path)})
      return np.load(path) if self._answer()["written"] else None

  def _ask(self, request: dict[str, str]) -> None:
    assert self._process.stdin
    with contextlib.suppress(BrokenPipeError):  # the answer will be missing
      print(json.dumps(request), file=self._process.stdin, flush=True)

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      raise SideError(f"{self._name} has failed")
    answer = json.loads(line)
    if missing := answer.get("missing"):
      raise MissingError(missing)
    return answer
