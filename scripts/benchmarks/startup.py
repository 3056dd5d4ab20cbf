"""Startup times of a process, and the cost of a checkpoint.

Each call starts a process of its own. The persistent compilation cache is JAX's own, set by
JAX_COMPILATION_CACHE_DIR as a user would.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarks.limits import traffic
from scripts.benchmarks.paired_timing import Bar, Match
from scripts.benchmarks.timed_processes import ROOT, Side, Task
from scripts.benchmarks.training import config_of

PARTS = "losses, metrics, networks, predictions, samplers, schedules, targets"
_IMPORTS = """
import time
begun = time.perf_counter()
{first}
if {beyond}:
  begun = time.perf_counter()
  {then}
print(time.perf_counter() - begun)
"""
_FIRST_STEP = """
from scripts.benchmarks.startup import first_step
first_step({config!r}, {quick})
"""
_FIRST_SAMPLE = """
import jax
from scorelab.samplers import dpmpp_2m
from scorelab.schedules import VarianceExploding, karras
from scorelab.targets.mixtures import nine_modes
target = nine_modes()
grid = karras(VarianceExploding(sigma_min=0.02, sigma_max=80.0), 16)
sample = jax.jit(lambda key: dpmpp_2m(key, target.predict, grid.prior(key, (2000, 2)), grid).x)
sample(jax.random.key(0)).block_until_ready()
"""


def importing(first: str, then: str = "") -> Task:
  """Times importing `first`, or the additional time for `then`."""
  code = _IMPORTS.format(first=first, beyond=bool(then), then=then or "pass")
  return Task(lambda: float(_run(code)))


def _run(code: str, cache: str | None = None) -> str:
  """Returns the output of a new process, with a compilation cache if a folder is given."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
  if cache:
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return run.stdout


def first_step(config: str, quick: bool) -> None:
  """Runs main.py's work up to and including the first training step."""
  from scorelab import training
  from scorelab.experiment.build import build

  experiment = build(config_of(config, quick))
  chunk = training.make_chunk(experiment)
  state, _ = chunk(training.init_state(experiment), experiment.data, length=1)
  jax.block_until_ready(state)


def starting(code: str, cached: bool) -> Task:
  """Starts a whole process, with a compilation cache filled by the first call, or without."""
  if not cached:
    return Task(lambda: _run(code) and None)
  folder = tempfile.mkdtemp()
  _run(code, folder)
  return Task(lambda: _run(code, folder) and None)


def import_time(quick: bool) -> list[Match]:
  """Time of importing scorelab in addition to JAX."""
  del quick
  sides = {
    "JAX": Side(importing, {"first": "import jax"}),
    "scorelab": Side(importing, {"first": "import jax", "then": "import scorelab"}),
    "all its parts": Side(
      importing, {"first": "import jax", "then": f"from scorelab import {PARTS}"}
    ),
    "what main.py trains with": Side(
      importing, {"first": "import jax", "then": "import scorelab.training.loop"}
    ),
  }
  bars = (Bar("seconds", "scorelab", 0.5), Bar("seconds", "all its parts", 0.5))
  return [Match("beyond JAX", sides, bars=bars)]


def first(quick: bool) -> list[Match]:
  """From the start of a process to a first training step, and to first samples."""
  steps = _FIRST_STEP.format(config="ncsn_gmm", quick=quick)
  matches = []
  for name, code, cold, warm in (
    ("a training step of ncsn_gmm", steps, 8.0, 4.0),
    ("2000 samples by the exact score", _FIRST_SAMPLE, None, None),
  ):
    sides = {
      "compilation cache": Side(starting, {"code": code, "cached": True}),
      "no cache": Side(starting, {"code": code, "cached": False}),
      "import jax alone": Side(starting, {"code": "import jax", "cached": False}),
    }
    bars = ()
    if cold and warm:
      bars = Bar("seconds", "no cache", cold), Bar("seconds", "compilation cache", warm)
    matches.append(Match(name, sides, rounds=10, bars=bars))
  return matches


def _state(megabytes: float) -> dict[str, jax.Array]:
  """Ten arrays, in all so large."""
  size = int(megabytes * 2**20 / 4 / 10)
  return {f"a{i}": jnp.full(size, i, jnp.float32) for i in range(10)}


def _savez(file: pathlib.Path, state: dict[str, jax.Array]) -> None:
  arrays: Any = {name: np.asarray(value) for name, value in state.items()}
  np.savez(file, **arrays)


class _Folder:
  """Checkpoints in a folder that is emptied before each save."""

  def __init__(self) -> None:
    self.path = pathlib.Path(tempfile.mkdtemp())

  def fresh(self) -> Any:
    from scorelab.runs.checkpoints import Checkpoints

    shutil.rmtree(self.path)
    return Checkpoints(self.path)


def saving(megabytes: float, what: str) -> Task:
  """Times a save: 'blocking' until training continues, 'whole' until on disk, 'numpy' np.savez."""
  import time

  state, folder = _state(megabytes), _Folder()
  size = {"byte": megabytes * 2**20}
  if what == "numpy":
    file = folder.path / "state.npz"
    return Task(lambda: _savez(file, state))

  def call() -> float:
    with folder.fresh() as checkpoints:
      begun = time.perf_counter()
      checkpoints.save(1, state)
      blocked = time.perf_counter() - begun
      checkpoints.wait()
      return blocked if what == "blocking" else time.perf_counter() - begun

  return Task(call, amounts=size)


def restoring(megabytes: float, what: str) -> Task:
  """'ours', which checks every byte, or 'numpy': np.load."""
  state, folder = _state(megabytes), _Folder()
  if what == "numpy":
    file = folder.path / "state.npz"
    _savez(file, state)

    def load() -> None:
      with np.load(file) as arrays:
        jax.block_until_ready({k: jnp.asarray(v) for k, v in arrays.items()})

    return Task(load)
  with folder.fresh() as checkpoints:
    checkpoints.save(1, state)

  def restore() -> None:
    from scorelab.runs.checkpoints import Checkpoints

    with Checkpoints(folder.path, read_only=True) as checkpoints:
      jax.block_until_ready(checkpoints.restore(state))

  return Task(restore, amounts={"byte": megabytes * 2**20})


def checkpoint(quick: bool) -> list[Match]:
  """Saving and restoring a state of 97 MB, the U-Net's of train_unet with Adam's moments."""
  megabytes = 0.1 if quick else 92.4
  saves = {
    "ours, until training goes on": Side(saving, {"megabytes": megabytes, "what": "blocking"}),
    "ours, until it is on disk": Side(saving, {"megabytes": megabytes, "what": "whole"}),
    "np.savez": Side(saving, {"megabytes": megabytes, "what": "numpy"}),
  }
  loads = {
    "ours": Side(restoring, {"megabytes": megabytes, "what": "ours"}),
    "np.load": Side(restoring, {"megabytes": megabytes, "what": "numpy"}),
  }
  limits = traffic(quick)
  return [Match("save", saves, limits, rounds=10), Match("restore", loads, limits, rounds=10)]
