"""The process of one side: `python -m scripts.benchmarks.worker MODULE FUNCTION OPTIONS`.

It builds its task, calls it once and says so; then it answers each line of stdin by one of stdout,
both JSON, until stdin ends. See `timed_processes.Worker`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pathlib
import re
import resource
import sys
import time
from typing import Any

import numpy as np

from scripts.benchmarks.timed_processes import Task

_SHORT = 0.05  # seconds of calls that make one turn at least
_STATUS = pathlib.Path("/proc/self/status")


def seconds(task: Task) -> float:
  """Times one call."""
  begun = time.perf_counter()
  measured = task.call()
  taken = time.perf_counter() - begun
  return measured if isinstance(measured, float) else taken


def turn(task: Task, last: float) -> float:
  """Seconds of a call; where the last one was short, the mean of several after an uncounted one."""
  gc.collect()
  if last < _SHORT:
    task.call()  # the pause before has cooled the caches
  begun = time.perf_counter()
  times = [seconds(task)]
  while max(sum(times), time.perf_counter() - begun) < _SHORT:
    times.append(seconds(task))
  return float(np.mean(times))


def resident(name: str) -> int:
  """Bytes in memory: 'VmRSS' now, 'VmHWM' at most so far."""
  if not _STATUS.exists():  # no Linux: the most so far is all that is known
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
  return int(found[1]) * 1024 if found else 0


def device() -> str:
  """Returns the kind and number of JAX's devices; a side without JAX is not asked."""
  if "jax" not in sys.modules:
    return "cpu"
  import jax

  devices = jax.devices()
  return f"{devices[0].device_kind} x {len(devices)}"


def main() -> None:
  """Serves one side."""
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

  def answer(**fields: Any) -> None:
    print(json.dumps(fields), file=answers, flush=True)

  module, name, options = sys.argv[1:]
  try:
    task = getattr(importlib.import_module(module), name)(**json.loads(options))
  except ImportError as error:
    answer(missing=error.name or str(error))
    return
  gc.collect()
  before = resident("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5") if _STATUS.exists() else None
  last = seconds(task)
  memory = max(0, resident("VmHWM") - before)
  answer(amounts=dict(task.amounts), memory=memory, device=device())
  for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "turn":
      last = turn(task, last)
      answer(seconds=last)
    else:
      if task.output is not None:
        np.save(request["path"], np.asarray(task.output()))
      answer(written=task.output is not None)


if __name__ == "__main__":
  main()
