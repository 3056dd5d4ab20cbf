"""Exports a run's network as safetensors, for diffusers if possible, or in scorelab's own format.

scorelab-export --workdir=results/NAME/ID --to=DIRECTORY [--format=plain]

diffusers: a `unet2d` with a table of betas, read as noise, x0 or v, as a DDPMPipeline. plain:
model.safetensors and config.json of any network, for scorelab.pretrained.load_model.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from scorelab import training
from scorelab.config.importing import make_importable
from scorelab.config.shipped import root
from scorelab.errors import ScorelabError
from scorelab.experiment.build import build
from scorelab.experiment.recorded import build_without_data
from scorelab.experiment.spec import Experiment
from scorelab.predictions import Exact
from scorelab.pretrained import PretrainedError, save_model, save_pipeline
from scorelab.runs.workdir import Workdir
from scorelab.typing import Params

# Sections that a reader of the weights needs next to the network.
_ABOUT = ("schedule", "parameterization", "target")


def export(experiment: Experiment, params: Params, directory: pathlib.Path, form: str) -> None:
  """Writes the network with these parameters.

  Raises:
    PretrainedError: there is none, or diffusers has no such network or process.
  """
  parameterization, shape = experiment.parameterization, experiment.target.event_shape
  if isinstance(parameterization, Exact):
    raise PretrainedError("parameterization.name = 'exact' has no network to export")
  network: Any = getattr(parameterization.apply, "__self__")  # noqa: B009 (a bound method)
  if form == "plain":
    about = {name: _set(experiment.config[name]) for name in _ABOUT}
    save_model(directory, network, params, shape, about)
    return
  config = experiment.config["parameterization"]
  conditioning, steps = config["conditioning"], config["num_train_steps"] or 1000
  levels = getattr(experiment.schedule, "times", ())
  if conditioning != "time_index" or steps != len(levels):
    raise PretrainedError(
      f"parameterization.conditioning = {conditioning!r} of {steps} steps, and diffusers tells a "
      "network the index of each of the schedule's own steps: use --format=plain"
    )
  kind = config["name"]
  save_pipeline(directory, network, params, experiment.schedule, kind, shape)  # pyrefly: ignore


def _set(section: dict[str, object]) -> dict[str, object]:
  return {name: value for name, value in section.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line.

  Args:
    argv: its arguments; by default those of this process.

  Returns:
    The exit code: 0, or 2 after one line about a mistake.
  """
  parser = argparse.ArgumentParser(description="Writes a run's network as safetensors.")
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--to", type=pathlib.Path, required=True)
  parser.add_argument("--format", choices=("diffusers", "plain"), default="diffusers")
  arguments = parser.parse_args(argv)
  make_importable(root())
  from configs import base

  workdir = Workdir(arguments.workdir.absolute())
  try:
    file = workdir.path / "config.json"
    if not file.is_file():
      raise PretrainedError(f"{arguments.workdir}: there is no run here")
    config = base.get_config()
    recorded = json.loads(file.read_text())["config"]
    data = recorded.pop("data", None)
    _update(config, recorded)
    experiment = build(config) if data is None else build_without_data(config, data)
    state = training.restore_trained(experiment, workdir)
    params = training.evaluated_params(state, experiment.evaluation.ema)
    export(experiment, params, arguments.to, arguments.format)
  except ScorelabError as error:
    print(error, file=sys.stderr)
    return 2
  print(arguments.to)
  return 0


def _update(config: ConfigDict, values: dict[str, object]) -> None:
  """Sets a run's resolved fields: JSON's lists are a config's tuples."""
  for name, value in values.items():
    if isinstance(value, dict):
      _update(config[name], value)
    elif value is not None:
      config[name] = tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
  sys.exit(main())
