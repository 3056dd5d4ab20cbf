"""A finished run, opened for reading."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from scorelab import run, training
from scorelab.experiment import Experiment, build
from scorelab.rows import Row
from scorelab.schedules import Grid
from scorelab.typing import Params


@dataclasses.dataclass(frozen=True)
class Source:
  """A finished run, and where its figures go.

  Attributes:
    name: of its config.
    config: as it was run.
    experiment: of that config.
    params: the evaluated parameters.
    workdir: the run's folder; only read.
    out: the figures' folder.
    keys: sampling keys of what is measured here.
    command: what a reader types to get the figures.
  """

  name: str
  config: ConfigDict
  experiment: Experiment
  params: Params
  workdir: run.Workdir
  out: pathlib.Path
  keys: int
  command: str

  def key(self, purpose: int) -> jax.Array:
    """A key for a figure: apart from all that training and evaluation use."""
    return jax.random.fold_in(jax.random.key(self.config.seed), 1000 + purpose)

  def evaluating(self, *rows: str, sigma_max: float | None = None, **changes: Any) -> Experiment:
    """The experiment with these rows alone, as config.evaluation.rows has them.

    Args:
      rows: at least one.
      sigma_max: of the schedule, in place of the run's own.
      changes: to further fields of config.evaluation.
    """
    config = self.config.copy_and_resolve_references()
    config.evaluation.update(rows=rows, **changes)
    if sigma_max is not None:
      config.schedule.sigma_max = sigma_max
    experiment = build(config)
    protocol = experiment.evaluation
    protocol = dataclasses.replace(protocol, rows=protocol.rows[1:])  # the first is the run's own
    return dataclasses.replace(experiment, evaluation=protocol)

  def sampler(self, spec: str) -> tuple[Row, Grid]:
    """A sampler and its grid, as config.evaluation.rows has it."""
    (row,) = self.evaluating(spec).evaluation.rows
    assert row.grid is not None, f"{spec} is no sampler on a grid"
    return row, row.grid


def open_source(name: str, path: pathlib.Path, out: pathlib.Path | None, keys: int) -> Source:
  """A finished run of main.py, read only.

  Args:
    name: of its config.
    path: its workdir.
    out: where figures go; None is results/reference/<name>.
    keys: sampling keys of what is measured here.

  Raises:
    RunError: there is no finished run.
  """
  if not (path / "DONE").exists():
    raise run.RunError(f"{path}: holds no finished run; first run main.py with --workdir={path}")
  recorded = json.loads((path / "config.json").read_text())["config"]
  config = ConfigDict(_tuples(recorded))
  experiment = build(config)
  workdir = run.Workdir(path.absolute())
  params = training.evaluated_params(training.restore_trained(experiment, workdir))
  command = f"python scripts/figures.py {name} --workdir results/{name}/{run.run_id(recorded)}"
  if keys != 10:
    command += f" --keys {keys}"
  out = pathlib.Path("results/reference") / name if out is None else out
  return Source(name, config, experiment, params, workdir, out, keys, command)


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that a config has."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value
