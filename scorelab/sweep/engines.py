"""Engines that run a sweep's processes: this machine, Slurm through submitit, or Ray."""

from __future__ import annotations

import logging
import os
import pathlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from scorelab.config.options import literal
from scorelab.sweep.plan import SweepError, Task
from scorelab.sweep.tasks import MAIN, Outcome, Slot, make_slots, python_path, run_task


class Handle(Protocol):
  """A submitted task."""

  def done(self) -> bool:
    """Returns True if it has ended."""
    ...

  def result(self) -> Outcome:
    """Returns its outcome; raises the engine's error if the task's own process was lost."""
    ...


class Engine(Protocol):
  """Runs tasks, as many at a time as it can."""

  def submit(self, task: Task) -> Handle:
    """Submits a task."""
    ...

  def stop(self) -> None:
    """Asks running tasks to save and end, and drops the rest; may be called again."""
    ...

  def close(self) -> None:
    """Frees resources; called when every task has ended."""
    ...


class Local:
  """Processes on this machine, each with a slot of its cores and GPUs.

  They share the compilation cache in `cache`.
  """

  def __init__(self, jobs: int, cache: pathlib.Path, program: Sequence[str] = MAIN) -> None:
    self._program, self._stop = program, threading.Event()
    self._threads = ThreadPoolExecutor(jobs)
    self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in make_slots(jobs, cache.absolute()):
      self._slots.put(slot)

  def _run(self, task: Task) -> Outcome:
    slot = self._slots.get()
    try:
      return run_task(task, slot, self._program, self._stop)
    finally:
      self._slots.put(slot)

  def submit(self, task: Task) -> Handle:
    return self._threads.submit(self._run, task)

  def stop(self) -> None:
    self._stop.set()

  def close(self) -> None:
    self._threads.shutdown()


class Requeued:
  """Callable for submitit that runs `run_task`; a job preempted by Slurm is queued again."""

  def __init__(self, program: Sequence[str]) -> None:
    self._program = tuple(program)

  def __call__(self, task: Task) -> Outcome:
    return run_task(task, program=self._program)

  def checkpoint(self, task: Task) -> Any:
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(self, task)


class Slurm:
  """One Slurm job per task; `resources` are those of update_parameters, and `cluster`."""

  def __init__(
    self,
    jobs: int,
    resources: dict[str, Any],
    folder: pathlib.Path,
    program: Sequence[str] = MAIN,
  ) -> None:
    try:
      import submitit
    except ImportError:
      raise SweepError("--engine=slurm needs submitit: pip install -e '.[slurm]'") from None
    os.environ["PYTHONPATH"] = python_path()
    try:
      cluster = resources.pop("cluster", None)
      self._executor = submitit.AutoExecutor(folder / "slurm" / "%j", cluster=cluster)
      limit = {"slurm_array_parallelism": jobs}
      self._executor.update_parameters(**{"timeout_min": 24 * 60, **limit, **resources})
    except Exception as error:  # whatever submitit says of an unknown cluster or parameter
      raise SweepError(f"--engine=slurm: {str(error).splitlines()[0]}") from error
    self._run, self._jobs = Requeued(program), []

  def submit(self, task: Task) -> Handle:
    job = self._executor.submit(self._run, task)
    self._jobs.append(job)
    return job

  def stop(self) -> None:
    for job in self._jobs:
      if not job.done():
        job.cancel()

  def close(self) -> None:
    pass


class Ray:
  """Tasks of a Ray cluster; `resources` are those of `ray.remote`, and `address`."""

  def __init__(self, jobs: int, resources: dict[str, Any], program: Sequence[str] = MAIN) -> None:
    try:
      import ray
    except ImportError:
      raise SweepError("--engine=ray needs Ray: pip install -e '.[ray]'") from None
    self._program, self._ray = tuple(program), ray
    options: dict[str, Any] = {"num_cpus": 1, "max_retries": 3}
    address = resources.pop("address", None)
    here: dict[str, Any] = {} if address else {"num_cpus": jobs, "include_dashboard": False}
    try:
      ray.init(
        address,
        runtime_env={"env_vars": {"PYTHONPATH": python_path()}},
        log_to_driver=False,
        logging_level=logging.ERROR,
        **here,
      )
      # A worker that dies has left a checkpoint: it is tried again elsewhere.
      self._remote: Any = ray.remote(**{**options, **resources})(run_task)
    except Exception as error:  # whatever Ray says of an address or a resource
      raise SweepError(f"--engine=ray: {str(error).splitlines()[0]}") from error
    self._references: list[Any] = []

  def submit(self, task: Task) -> Handle:
    reference = self._remote.remote(task, program=self._program)
    self._references.append(reference)
    return reference.future()

  def stop(self) -> None:
    for reference in self._references:
      self._ray.cancel(reference)

  def close(self) -> None:
    self._ray.shutdown()


def parse_resources(specs: Sequence[str]) -> dict[str, Any]:
  """Parses ['timeout_min=60'] into values by name; a value is a Python literal, or else text."""
  found: dict[str, Any] = {}
  for spec in specs:
    name, sign, text = spec.partition("=")
    if not sign:
      raise SweepError(f"--resource {spec}: must read NAME=VALUE")
    found[name] = literal(text)
  return found


def make_engine(
  name: str, jobs: int, specs: Sequence[str], root: pathlib.Path, program: Sequence[str] = MAIN
) -> Engine:
  """The engine of this name.

  Args:
    name: 'local', 'slurm' or 'ray'.
    jobs: tasks at a time.
    specs: its resources, each 'NAME=VALUE'.
    root: where it may leave what it leaves.
    program: what runs a config.

  Raises:
    SweepError: it is not installed, or cannot be begun with these resources.
  """
  resources = parse_resources(specs)
  if name == "slurm":
    return Slurm(jobs, resources, root, program)
  if name == "ray":
    return Ray(jobs, resources, program)
  if resources:
    raise SweepError(f"--resource {specs[0]} is for --engine=slurm or --engine=ray")
  return Local(jobs, root / "compiled", program)
