"""Collects runs in any state for a report."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scorelab.evaluation.table import row_labels
from scorelab.metrics.budget import PARTS
from scorelab.runs.files import read_jsonl
from scorelab.sweep.tasks import failure, is_locked

_PICTURES = (".png", ".gif", ".mp4")


class ReportError(ValueError):
  """A report that cannot be made; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Numbers:
  """A metric of a row; unknown numbers are nan.

  Attributes:
    value, sem: the metric and its standard error.
    parts: parts of the error budget by name; they add up to the value, unless there is only a
      floor.
  """

  value: float
  sem: float
  parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class EvaluationRow:
  """A sampler of a run, with its metrics."""

  sampler: str
  label: str
  nfe: float
  metrics: Mapping[str, Numbers]


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's folder.

  Attributes:
    path: the folder.
    name: a unique name among the runs.
    state: 'done', 'trained', 'running', 'failed', 'unfinished' or 'damaged'.
    note: details of the state, such as its progress and unreadable files.
    fields: the config's fields that are set, by dotted name.
    typed: fields set on the command line.
    command: the command as typed, or ''.
    environment: versions and devices, by name.
    history: lines of metrics.jsonl that have a step and a loss.
    rows: rows of the evaluation.
    pictures: figure files.
  """

  path: pathlib.Path
  name: str
  state: str
  note: str
  fields: Mapping[str, Any]
  typed: Sequence[str]
  command: str
  environment: Mapping[str, str]
  history: Sequence[Mapping[str, float]]
  rows: Sequence[EvaluationRow]
  pictures: Sequence[pathlib.Path]


def find_runs(places: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """The workdirs among folders and below them, sorted, each once.

  Raises:
    ReportError: a place does not exist, or no run is in it.
  """
  found: set[pathlib.Path] = set()
  for place in places:
    if not place.is_dir():
      raise ReportError(f"{place}: there is no such folder")
    runs = {
      file.parent.absolute()
      for name in ("config.json", "FAILED", "metrics.jsonl")
      for file in place.rglob(name)
      if "checkpoints" not in file.parts
    }
    if not runs:
      raise ReportError(f"{place}: no run is in this folder")
    found |= runs
  return sorted(found)


def names_of(paths: Sequence[pathlib.Path]) -> list[str]:
  """Returns the shortest unique path endings: one folder if all have the same parent, else more."""
  parts = 1 if len({path.parent for path in paths}) == 1 < len(paths) else 2
  while len({path.parts[-parts:] for path in paths}) < len(paths):
    parts += 1
  return ["/".join(path.parts[-parts:]) for path in paths]


def read_runs(places: Iterable[pathlib.Path]) -> list[Run]:
  """Every run among the places."""
  paths = find_runs(places)
  return [read_run(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def read_run(path: pathlib.Path, name: str) -> Run:
  """Reads a run in any state; unreadable parts are left out and mentioned in its note."""
  damage: list[str] = []

  def attempt(file: str, read: Callable[[pathlib.Path], Any], otherwise: Any) -> Any:
    try:
      return read(path / file)
    except FileNotFoundError:
      return otherwise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
      damage.append(f"{file}: {type(error).__name__}")
      return otherwise

  fields = attempt("config.json", _read_fields, {})
  typed = attempt("config.json", lambda file: list(_read_object(file)["overrides"]), [])
  environment = attempt("environment.json", _read_object, {})
  history = attempt("metrics.jsonl", _read_history, [])
  rows = attempt("evaluation.json", _read_rows, [])
  state, note = _state(path, fields, history)
  if damage and state != "running":
    state = "damaged"
  command = environment.pop("command", None)
  pictures = [p for p in (path / "figures").glob("*") if p.suffix in _PICTURES]
  return Run(
    path=path,
    name=name,
    state=state,
    note="; ".join(filter(None, [note, *dict.fromkeys(damage)])),
    fields=fields,
    typed=typed,
    command=_command(command),
    environment={k: _shown(v) for k, v in environment.items()},
    history=history,
    rows=rows,
    pictures=sorted(pictures),
  )


def _state(
  path: pathlib.Path, fields: Mapping[str, Any], history: Sequence[Mapping[str, float]]
) -> tuple[str, str]:
  """Returns a run's state and a note about it."""
  total, step = fields.get("training.num_steps"), 0
  if history:
    step = int(history[-1]["step"])
  so_far = f"step {step} of {total}" if isinstance(total, int) else ""
  if (line := failure(path)) is not None:
    return "failed", line
  if (path / "DONE").exists():
    return "done", ""
  if is_locked(path):
    return "running", so_far
  if not fields:
    return "damaged", "no config.json"
  if isinstance(total, int) and step >= total:
    return "trained", "not evaluated"
  return "unfinished", so_far


def _read_object(file: pathlib.Path) -> dict[str, Any]:
  found = json.loads(file.read_text())
  if not isinstance(found, dict):
    raise TypeError
  return found


def _read_fields(file: pathlib.Path) -> dict[str, Any]:
  """Reads the fields of a config that are not None, as {'training.num_steps': 6000, ...}."""
  flat: dict[str, Any] = {}

  def add(section: Mapping[str, Any], prefix: str) -> None:
    for name, value in section.items():
      if isinstance(value, dict):
        add(value, f"{prefix}{name}.")
      elif value is not None:
        flat[prefix + name] = value

  add(_read_object(file)["config"], "")
  return flat


def _read_history(file: pathlib.Path) -> list[dict[str, float]]:
  lines = [line for line in read_jsonl(file) if isinstance(line, dict)]
  shown = ("step", "loss", "val_loss")
  lines = [{k: number(line[k]) for k in shown if k in line} for line in lines]
  return [line for line in lines if math.isfinite(line.get("step", math.nan)) and "loss" in line]


def _read_rows(file: pathlib.Path) -> list[EvaluationRow]:
  found = _read_object(file)["rows"]
  labels = row_labels(found) if found else []
  rows = []
  for row, label in zip(found, labels, strict=True):
    metrics = {
      name: Numbers(
        number(numbers.get("value")),
        number(numbers.get("sem")),
        {part: number(numbers.get(part)) for part in PARTS},
      )
      for name, numbers in row.get("metrics", {}).items()
    }
    rows.append(EvaluationRow(str(row["sampler"]), label, number(row.get("nfe")), metrics))
  return rows


def number(value: Any) -> float:
  """Returns a JSON number, or the mean of a list of them; nan for anything else."""
  if isinstance(value, list) and value:
    return sum(map(number, value)) / len(value)
  return float(value) if isinstance(value, (int, float)) else math.nan


def _command(typed: Any) -> str:
  if not isinstance(typed, list) or not typed:
    return ""
  program, *arguments = map(str, typed)
  path = pathlib.Path(program)
  if path.name == "__main__.py":
    start = ["python", "-m", path.parent.name]
  elif path.suffix != ".py":  # a console script
    start = [path.name]
  else:
    start = ["python", path.name if path.is_absolute() else program]
  return shlex.join([*start, *arguments])


def _shown(value: Any) -> str:
  return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def differing_fields(runs: Sequence[Run]) -> list[str]:
  """Returns the fields in which runs differ, typed ones first."""
  with_config = [run for run in runs if run.fields]
  typed = {field for run in with_config for field in run.typed}
  values: dict[str, set[str]] = {}
  for field in dict.fromkeys(field for run in with_config for field in run.fields):
    values[field] = {str(run.fields.get(field)) for run in with_config}
  found = [field for field, different in values.items() if len(different) > 1]
  return sorted(found, key=lambda field: field not in typed)


def metric_names(runs: Sequence[Run]) -> list[str]:
  """Returns the metrics of all runs, the most common first."""
  counts: dict[str, int] = {}
  for run in runs:
    for name in dict.fromkeys(name for row in run.rows for name in row.metrics):
      counts[name] = counts.get(name, 0) + 1
  return sorted(counts, key=lambda name: -counts[name])
