"""Shared code of scripts that train many runs."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from scorelab import evaluation, training
from scorelab.experiment.build import build
from scorelab.experiment.spec import Experiment
from scorelab.runs import lock
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir, open_workdir


@contextlib.contextmanager
def opened(config: ConfigDict, path: pathlib.Path) -> Iterator[tuple[Experiment, Workdir]]:
  """Opens a run's folder, locked within the `with` block; yields the experiment and the folder.

  Raises:
    RefusedError: another process holds the folder, or it contains another run.
  """
  experiment = build(config)
  with lock.hold(path):
    yield experiment, open_workdir(path, experiment.config, {})


def run(config: ConfigDict, path: pathlib.Path) -> None:
  """Trains and evaluates in this folder, unless done; resumes a stopped run."""
  with opened(config, path) as (experiment, workdir), StopFlag() as stop:
    if workdir.done.exists():
      return
    state = training.train(experiment, workdir, stop)
    evaluation.evaluate(experiment, training.evaluated_params(state), workdir, stop)
    workdir.done.touch()
