"""What scripts of many runs share."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from scorelab import evaluation, training
from scorelab.experiment import build
from scorelab.run import StopFlag, open_workdir


def run(config: ConfigDict, path: pathlib.Path) -> None:
  """Trains and measures in this folder, unless that is done; goes on where it was stopped."""
  experiment = build(config)
  workdir = open_workdir(path, experiment.config, {})
  if workdir.done.exists():
    return
  with StopFlag() as stop:
    state = training.train(experiment, workdir, stop)
    evaluation.evaluate(experiment, training.evaluated_params(state), workdir, stop)
  workdir.done.touch()
