"""Plans the runs of a sweep: points from fields and values, commands and folders from points."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from scorelab.config.command_line import missing_file, read_config
from scorelab.data.points import fingerprint
from scorelab.errors import ConfigError
from scorelab.runs.identity import EVALUATION_FIELDS
from scorelab.runs.workdir import find, is_done

Point: TypeAlias = dict[str, str]
"""Settings of one run as typed: value by field."""


class SweepError(ValueError):
  """A sweep that cannot be started; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Range:
  """A range to draw numbers from, including both ends.

  Attributes:
    low, high: the ends.
    log: True if the logarithm is uniform.
    whole: True for integers.
  """

  low: float
  high: float
  log: bool = False
  whole: bool = False

  def at(self, u: float) -> str:
    """Returns the number at this quantile with four significant digits, as text."""
    if self.log:
      value = self.low * (self.high / self.low) ** u
    else:
      value = self.low + (self.high - self.low) * u
    return str(round(value)) if self.whole else f"{value:.4g}"


def split_values(text: str) -> list[str]:
  """Splits '0,.5,(64, 64)' at the commas outside brackets and quotes."""
  parts, depth, quote = [""], 0, ""
  for char in text:
    if quote:
      quote = "" if char == quote else quote
    elif char in "'\"":
      quote = char
    else:
      depth += (char in "([{") - (char in ")]}")
    if char == "," and depth == 0 and not quote:
      parts.append("")
    else:
      parts[-1] += char
  return [part.strip() for part in parts]


def parse_grid(spec: str) -> tuple[str, list[str]]:
  """Parses 'sampler.eta=0,.5' into ('sampler.eta', ['0', '.5'])."""
  field, sign, text = spec.partition("=")
  values = split_values(text)
  if not sign or not field or not all(values):
    raise SweepError(f"--grid {spec}: must read FIELD=VALUE,VALUE")
  return field.removeprefix("config."), values


def parse_range(spec: str, config: ConfigDict) -> tuple[str, Range]:
  """Parses 'optimizer.learning_rate=1e-4:1e-2:log' into a field and its range.

  The range is of integers if the field is.

  Raises:
    SweepError: the syntax is wrong, or the field takes no numbers.
  """
  field, sign, text = spec.partition("=")
  field = field.removeprefix("config.")
  low, *rest = text.split(":")
  if not sign or not rest or rest[1:] not in ([], ["log"]):
    raise SweepError(f"--range {spec}: must read FIELD=LOW:HIGH or FIELD=LOW:HIGH:log")
  section, _, name = field.rpartition(".")
  try:
    kind = (config[section] if section else config).get_type(name)
  except (AttributeError, KeyError):
    kind = float  # there is no such field: `resolve` says so, and what was meant
  if kind not in (int, float):
    raise SweepError(f"--range {spec}: {field} is not a number; give its values by --grid")
  try:
    ends = float(low), float(rest[0])
  except ValueError:
    raise SweepError(f"--range {spec}: {low!r} and {rest[0]!r} must be numbers") from None
  found = Range(*ends, log=bool(rest[1:]), whole=kind is int)
  if not found.low < found.high or (found.log and found.low <= 0):
    raise SweepError(f"--range {spec}: LOW must be below HIGH, and above 0 where it is log")
  return field, found


def by_field(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the pairs as a dict; raises SweepError for a field that is given twice."""
  found: dict[str, Any] = {}
  for field, values in pairs:
    if field in found:
      raise SweepError(f"{field} is given twice")
    found[field] = values
  return found


def grid_points(grid: Mapping[str, Sequence[str]]) -> list[Point]:
  """Returns every combination, the last field changing fastest; one empty point for no fields."""
  return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def random_points(
  number: int, grid: Mapping[str, Sequence[str]], ranges: Mapping[str, Range], seed: int
) -> list[Point]:
  """Draws points from ranges and, uniformly, from listed values.

  The first points do not depend on `number`.
  """
  rng = np.random.default_rng(seed)
  points = []
  for _ in range(number):
    point = {field: values[int(rng.integers(len(values)))] for field, values in grid.items()}
    points.append(point | {field: r.at(rng.uniform()) for field, r in ranges.items()})
  return list({tuple(point.items()): point for point in points}.values())


def points_of_config(config: str) -> list[Point] | None:
  """Returns the points of a config file's `sweep()`; None if it has none.

  It returns a dict by field, or several. A list stands for values to be combined with the other
  fields'; anything else is a single value.
  """
  if message := missing_file(config):
    raise SweepError(message)
  file = config.partition(":")[0]
  spec = importlib.util.spec_from_file_location("swept_config", file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
      return None
    found = module.sweep()
  except Exception as error:  # whatever the file raises
    raise SweepError(f"{file}: sweep(): {error}") from error
  grids = [found] if isinstance(found, Mapping) else found
  if not isinstance(grids, list) or not all(isinstance(grid, Mapping) for grid in grids):
    raise SweepError(f"{file}: sweep() must return a dict of values by field, or a list of them")
  points = []
  for grid in grids:
    several = {k: v if isinstance(v, list) else [v] for k, v in grid.items()}
    points += grid_points({k: [str(value) for value in v] for k, v in several.items()})
  return points


@dataclasses.dataclass(frozen=True)
class Task:
  """One process of a run.

  Attributes:
    arguments: of its command line.
    cwd: where it is typed.
    workdir: the run's folder, absolute.
    num_steps: training steps that it takes; 0 where it only evaluates.
    source: the folder whose training is copied into the workdir first, or None.
  """

  arguments: tuple[str, ...]
  cwd: pathlib.Path
  workdir: pathlib.Path
  num_steps: int
  source: pathlib.Path | None = None

  def shown(self, path: pathlib.Path | None = None) -> str:
    """Returns a path, by default the workdir's, relative to the task's directory if possible."""
    path = path or self.workdir
    return str(path.relative_to(self.cwd) if path.is_relative_to(self.cwd) else path)


@dataclasses.dataclass(frozen=True)
class Row:
  """One run of a sweep: one line of its table.

  Attributes:
    point: what it sets.
    config: the resolved config, JSON values.
    task: what measures it, and trains it too where no other row shares its training.
    training: what trains it, where `task` does not; its folder is the task's source.
  """

  point: Point
  config: dict[str, Any]
  task: Task
  training: Task | None = None

  @property
  def done(self) -> bool:
    """True if its folder holds all requested results."""
    try:
      return is_done(self.task.workdir, self.config)
    except (OSError, ValueError, KeyError):  # half written
      return False


def typed(point: Point) -> list[str]:
  """Returns a point as arguments of main.py."""
  return [f"--config.{field}={value}" for field, value in point.items()]


def resolve(config: str, common: Sequence[str], point: Point) -> ConfigDict:
  """Returns the config of one run; raises SweepError, one line, for a mistake."""
  try:
    found = read_config(config, [*common, *typed(point)], _print_once)
  except ConfigError as error:
    raise SweepError(str(error)) from error
  if found.ensemble.seeds == 1 and not found.ensemble.over:
    found.ensemble.seeds = None  # as a run has it: one seed is no ensemble
  return found


@functools.cache
def _print_once(line: str) -> None:
  """Prints a line to stderr once, even if several points cause it."""
  print(line, file=sys.stderr)


def of_evaluation(field: str) -> bool:
  """Returns True if training does not depend on a field."""
  return field.partition(".")[0] in EVALUATION_FIELDS


def make_rows(
  config: str, common: Sequence[str], points: Sequence[Point], root: pathlib.Path
) -> list[Row]:
  """Returns the rows of points, each in its own folder.

  A point with training fields only is an ordinary run of main.py, in main.py's default folder. If a
  point sets fields that only evaluation depends on, the training goes to that folder, once for all
  points that share it. Each row then runs in <run id>-<hash of the evaluation's fields>, from a
  copy of the training.
  """
  cwd = pathlib.Path.cwd()
  rows: list[Row] = []
  fingerprints: dict[str, dict[str, Any]] = {}
  for point in points:
    resolved = json.loads(resolve(config, common, point).to_json())
    resolved |= _data_of(resolved["target"], fingerprints)
    own = [field for field in point if of_evaluation(field)]
    base = find(root, resolved)
    where = root / f"{base.name}-{evaluation_id(resolved)}" if own else base
    arguments = (f"--config={config}", *common, *typed(point))
    pretrained = (resolved.get("pretrained") or {}).get("path") is not None
    num_steps = 0 if pretrained else resolved["training"]["num_steps"]
    training = None
    if own and num_steps:
      others = typed({field: value for field, value in point.items() if field not in own})
      first = (f"--config={config}", *common, *others, "--mode=train", f"--workdir={base}")
      training = Task(first, cwd, cwd / base, num_steps)
      num_steps, arguments = 0, (*arguments, "--mode=eval")
    task = Task(
      (*arguments, f"--workdir={where}"),
      cwd,
      cwd / where,
      num_steps,
      training.workdir if training else None,
    )
    rows.append(Row(point, resolved, task, training))
  return list({row.task.workdir: row for row in rows}.values())


def _data_of(target: Mapping[str, Any], fingerprints: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """{'data': the fingerprint} of a target in files, or {}; each is computed once."""
  key = json.dumps(target, sort_keys=True)
  if key not in fingerprints:
    try:
      found = fingerprint(target)
    except ValueError as error:
      raise SweepError(f"target: {error}") from error
    fingerprints[key] = {} if found is None else {"data": found}
  return fingerprints[key]


def evaluation_id(config: Mapping[str, Any]) -> str:
  """Returns a short hash of the fields that only evaluation depends on."""
  fields = {
    name: {k: v for k, v in config[name].items() if v is not None} for name in EVALUATION_FIELDS
  }
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:6]


def check(config: str, common: Sequence[str], points: Sequence[Point]) -> None:
  """Builds the experiment of every point that has a value not seen before.

  So every value is tested, but not every combination. Seeds are not tested. The check runs on the
  CPU; the GPUs are left to the runs.

  Raises:
    SweepError: an experiment cannot be built.
  """
  import jax

  from scorelab.evaluation import pretrained as sampling
  from scorelab.experiment.build import build
  from scorelab.training import ensembles

  jax.config.update("jax_platforms", "cpu")
  quick = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", True)
  seen: set[tuple[str, str]] = set()
  try:
    for number, point in enumerate(points):
      news = {(field, value) for field, value in point.items() if field != "seed"} - seen
      if number and not news:
        continue
      seen |= news
      resolved = resolve(config, common, point)
      if resolved.get("pretrained") and resolved.pretrained.path is not None:
        sampling.build(resolved, "eval")
      elif ensembles.is_ensemble(resolved):
        ensembles.build(resolved)
      else:
        build(resolved)
  except ConfigError as error:
    raise SweepError(f"{config.partition(':')[0]}: {error}") from error
  finally:
    jax.config.update("jax_disable_most_optimizations", quick)
