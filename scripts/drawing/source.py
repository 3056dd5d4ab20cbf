"""Opens finished runs for figures, and the folders that figures go to."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from configs import base
from scorelab import training
from scorelab.errors import RunError
from scorelab.experiment.build import build
from scorelab.experiment.row import Row
from scorelab.experiment.sampler_spec import make_row, parse_row
from scorelab.experiment.spec import Experiment
from scorelab.runs.identity import run_id, without_data
from scorelab.runs.workdir import Workdir, check_data
from scorelab.schedules import Grid
from scorelab.typing import Params

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Sheet:
  """Figures that need no run.

  Attributes:
    name: of the system, or of the config that was run.
    out: the figures' folder.
    others: folder of the folders of other configs' figures, for comparisons.
    command: what a reader types to get the figures.
  """

  name: str
  out: pathlib.Path
  others: pathlib.Path
  command: str


@dataclasses.dataclass(frozen=True)
class Source(Sheet):
  """A finished run, and where its figures go.

  Attributes:
    config: as it was run.
    experiment: of that config.
    params: the evaluated parameters.
    workdir: the run's folder; only read.
    keys: sampling keys of what is measured here.
  """

  config: ConfigDict
  experiment: Experiment
  params: Params
  workdir: Workdir
  keys: int

  def key(self, purpose: int) -> jax.Array:
    """A key for a figure: apart from all that training and evaluation use."""
    return jax.random.fold_in(jax.random.key(self.config.seed), 1000 + purpose)

  def rows(self, *specs: str, sigma_max: float | None = None) -> tuple[Row, ...]:
    """Samplers on their grids, as config.evaluation.rows has them.

    Args:
      specs: 'name:num_steps:field=value:...', on the grid of the run's own sampler.
      sigma_max: of the schedule, in place of the run's own.
    """
    own = {name: value for name, value in self.config.sampler.items() if value is not None}
    schedule: Any = self.experiment.schedule
    if sigma_max is not None:
      schedule = dataclasses.replace(schedule, sigma_max=sigma_max)
    return tuple(
      make_row(parse_row(spec, own, spec), spec, schedule, has_density=False) for spec in specs
    )

  def evaluating(self, rows: tuple[Row, ...], metrics: Sequence[str]) -> Experiment:
    """The experiment with these rows and metrics to evaluate, over `keys` keys."""
    protocol = self.experiment.evaluation
    chosen = {name: protocol.metrics[name] for name in metrics}
    protocol = dataclasses.replace(protocol, rows=rows, metrics=chosen, num_keys=self.keys)
    return dataclasses.replace(self.experiment, evaluation=protocol)

  def sampler(self, spec: str) -> tuple[Row, Grid]:
    """One of `rows`, and its grid."""
    (row,) = self.rows(spec)
    assert row.grid is not None, f"{spec} is no sampler on a grid"
    return row, row.grid


def open_sheet(
  name: str, out: pathlib.Path, options: str = "", others: pathlib.Path | None = None
) -> Sheet:
  """Returns the sheet of this name; its command has these options, `others` is out's parent."""
  command = f"python scripts/figures.py {name}{options}"
  return Sheet(name, out, others or out.parent, command)


def open_source(
  name: str,
  path: pathlib.Path,
  out: pathlib.Path,
  keys: int,
  metrics: Sequence[str] = (),
  others: pathlib.Path | None = None,
) -> Source:
  """Opens a finished run of main.py for reading.

  Args:
    name: of its config.
    path: its workdir.
    out: where figures go.
    keys: sampling keys of what is measured here.
    metrics: what is measured here, in addition to what the run measured.
    others: folder of the folders of other configs' figures [out's parent].

  Raises:
    RunError: there is no finished run, or its data have changed.
  """
  if not (path / "DONE").exists():
    raise RunError(f"{path}: holds no finished run; first run main.py with --workdir={path}")
  recorded = json.loads((path / "config.json").read_text())["config"]
  fields = without_data(recorded)
  config = ConfigDict(_tuples(_completed(fields, base.get_config().to_dict())))
  config.evaluation.metrics = tuple(dict.fromkeys([*config.evaluation.metrics, *metrics]))
  experiment = build(config)
  check_data(path, recorded, experiment.config)
  workdir = Workdir(path.absolute())
  state = training.restore_trained(experiment, workdir)
  params = training.evaluated_params(state, experiment.evaluation.ema)
  options = f" --workdir results/{name}/{run_id(recorded)}"
  if keys != 10:
    options += f" --keys {keys}"
  sheet = open_sheet(name, out, options, others)
  return Source(
    **vars(sheet), config=config, experiment=experiment, params=params, workdir=workdir, keys=keys
  )


def _completed(recorded: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
  """The recorded config with the fields that are younger than it at their defaults."""
  return fields | {
    name: _completed(value, fields.get(name, {})) if isinstance(value, dict) else value
    for name, value in recorded.items()
  }


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that a config has."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value


def target_of(experiment: Experiment, kind: type[_T]) -> _T:
  """Returns the experiment's target, which must be of this kind.

  Raises:
    TypeError: it is of another one.
  """
  target = experiment.target
  if not isinstance(target, kind):
    raise TypeError(f"target = {type(target).__name__} must be a {kind.__name__}")
  return target
