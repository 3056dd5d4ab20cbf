"""The final states of two runs, array by array."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from scorelab import ensembles
from scorelab.command_line import read_config
from scorelab.experiment import build
from scorelab.run import Workdir
from scorelab.sharding import make_layout
from scorelab.training import restore_trained


def final_state(arguments: Sequence[str], workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the last checkpoint, by name: parameters, averages, optimiser, step.

  Args:
    arguments: main.py's, with --config=...
    workdir: a finished run's.
  """
  (file,) = (a.removeprefix("--config=") for a in arguments if a.startswith("--config="))
  jax.config.update("jax_platforms", "cpu")  # the runs themselves may want all of a GPU's memory
  config = read_config(file, [a for a in arguments if a.startswith("--config.")])
  program = None
  if ensembles.asked(config):
    ensemble = ensembles.build(config)
    experiment = ensemble.experiment
    program = ensembles.make_program(ensemble, make_layout(experiment.sharding))
  else:
    config.ensemble.seeds = None
    experiment = build(config)
  state: Any = restore_trained(experiment, Workdir(workdir), program)
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in leaves}


def state_differences(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> list[str]:
  """The names of the arrays whose bits differ."""
  if old.keys() != new.keys():
    return ["the state has other arrays"]
  return [f"{name} differs" for name in old if old[name].tobytes() != new[name].tobytes()]
