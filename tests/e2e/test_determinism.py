"""The same command in two processes leaves the same bits."""

import importlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from scorelab import training
from scorelab.experiment.build import build
from scorelab.runs.workdir import open_workdir


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncsn_gmm", "cond_digits"])
def test_two_processes_leave_the_same_bits(name, tmp_path):
  """Checkpoint, metrics, table and samples; the second one hashes otherwise and compiles anew."""
  for i, extra in enumerate(({}, {"PYTHONHASHSEED": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"})):
    command = [sys.executable, "main.py", f"--config=configs/{name}.py:fast"]
    subprocess.run(
      [*command, f"--workdir={tmp_path / str(i)}"],
      env=os.environ | {"JAX_PLATFORMS": "cpu"} | extra,
      check=True,
      timeout=1200,
    )
  first, second = tmp_path / "0", tmp_path / "1"
  for file in ("metrics.jsonl", "evaluation.json"):
    assert (first / file).read_bytes() == (second / file).read_bytes()
  a, b = np.load(first / "samples.npz"), np.load(second / "samples.npz")
  assert a.files == b.files
  for array in a.files:
    np.testing.assert_array_equal(a[array], b[array])
  experiment = build(importlib.import_module(f"configs.{name}").get_config("fast"))
  states = [
    training.restore_trained(experiment, open_workdir(folder, experiment.config, {}))
    for folder in (first, second)
  ]
  for x, y in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
