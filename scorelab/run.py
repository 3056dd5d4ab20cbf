"""A run's folder and the signals that end it: the edge between a run and its machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from scorelab.fingerprints import changes
from scorelab.stopping import (
  PREEMPTED_EXIT_CODE,
  Preempted,
  StopFlag,  # noqa: F401 (imported from here)
)

# What only evaluation depends on: it may change in a finished folder, and is evaluated again.
EVALUATION_FIELDS = ("sampler", "evaluation")
_FINGERPRINT = "data.sha256"


class RunError(RuntimeError):
  """A run that cannot go on in this folder; the message is one line."""


class RefusedError(RunError):
  """What was asked does not fit what is in the folder."""


def exit_with(main: Callable[[], int]) -> NoReturn:
  """Ends the program with what `main` returns; with PREEMPTED_EXIT_CODE where it was stopped.

  A run that was refused, or could not go on, is a line and code 2 or 1.
  """
  try:
    sys.exit(main())
  except Preempted:
    print("stopped and saved; the same command goes on", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except KeyboardInterrupt:  # outside of a StopFlag's block
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except RunError as error:
    print(error, file=sys.stderr)
    sys.exit(2 if isinstance(error, RefusedError) else 1)


def leads() -> bool:
  """Whether this process writes what a run leaves: the only one, or the first of several."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Waits until every process is here; each such place has a name of its own."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON so that a reader, or a kill, sees the old file or the new one, never half."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
  os.replace(temporary, path)


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a JSONL file, one a line; a line that a kill or a full disk tore is left out."""
  objects = []
  for line in path.read_text().splitlines() if path.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      objects.append(json.loads(line))
  return objects


def append_jsonl(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Adds one object as a line of its own, also after a torn one."""
  line = json.dumps(value, allow_nan=False) + "\n"
  with path.open("a+b") as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      line = line if file.read() == b"\n" else "\n" + line
    file.write(line.encode())


def truncate_jsonl(path: pathlib.Path, step: int) -> None:
  """Drops the lines later than `step`, which a resumed run writes again."""
  if path.exists():
    kept = [json.dumps(line) + "\n" for line in read_jsonl(path) if line["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of every field of nested mappings."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def training_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that are set and that training depends on, by dotted name, as JSON values.

  Of an ensemble of so many seeds, ensemble.over without the values of its samplers. Data in files
  are told apart by their fingerprint, wherever they are.
  """
  fields = _set_fields({k: v for k, v in config.items() if k not in EVALUATION_FIELDS})
  if "ensemble.seeds" in fields and "ensemble.over" in fields:
    parts = fields.pop("ensemble.over").replace(";", " ").split()
    if trained := [part for part in parts if not part.startswith("sampler.")]:
      fields["ensemble.over"] = " ".join(trained)
  return fields


def _set_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are not None, by dotted name, as JSON values: new ones change no old run."""
  fields = dict(_flatten(json.loads(json.dumps(config))))
  if _FINGERPRINT in fields:
    told = {_FINGERPRINT: fields[_FINGERPRINT]}
    fields = {k: v for k, v in fields.items() if not k.startswith("data.") and k != "target.path"}
    fields |= told
  return {name: value for name, value in fields.items() if value is not None}


def without_data(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without its data's fingerprint, as runs were recorded before it existed."""
  return {name: value for name, value in config.items() if name != "data"}


def _comparable(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
  """Two configs, with their data where both know them: else only the path can be compared."""
  if ("data" in old) == ("data" in new):
    return old, new
  return without_data(old), without_data(new)


def run_id(config: Mapping[str, Any]) -> str:
  """A short hash of what training depends on: the same command finds its run again."""
  text = json.dumps(training_fields(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def find(root: pathlib.Path, config: Mapping[str, Any]) -> pathlib.Path:
  """Returns a run's default directory under `root`: its run id.

  A run on data in files that is there by its id from before data had fingerprints is found too.
  """
  path, older = root / run_id(config), root / run_id(without_data(config))
  return older if older.exists() and not path.exists() else path


def on_other_data(root: pathlib.Path, config: Mapping[str, Any]) -> str:
  """Returns a line about a run under `root` that differs in its data alone; '' if there is none."""
  if "data" not in config:
    return ""
  wanted = training_fields(config) | {_FINGERPRINT: None}
  for file in sorted(root.glob("*/config.json")):
    with contextlib.suppress(RefusedError):
      found = _recorded_config(file.parent)
      if "data" in found and training_fields(found) | {_FINGERPRINT: None} == wanted:
        return (
          f"{file.parent} is the same run on other data: {changes(found['data'], config['data'])}"
        )
  return ""


def environment() -> dict[str, Any]:
  """Versions, device, precision and git revision: what a rerun needs to know."""
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  root, revision = pathlib.Path(__file__).parent.parent, None
  if (root / ".git").exists() and shutil.which("git"):  # an installed package has none
    revision = subprocess.run(
      ["git", "describe", "--always", "--dirty"],
      cwd=root,
      capture_output=True,
      text=True,
      check=False,
    ).stdout.strip()
  return {
    "python": platform.python_version(),
    **{name: metadata.version(name) for name in packages},
    "platform": platform.platform(),
    "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
    "processes": jax.process_count(),
    "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    "git": revision or None,
  }


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Where a run leaves what it leaves; `open_workdir` makes it."""

  path: pathlib.Path

  @property
  def checkpoints(self) -> pathlib.Path:
    """Orbax's folder."""
    return self.path / "checkpoints"

  @property
  def metrics(self) -> pathlib.Path:
    """One object per logged step, the same in every rerun."""
    return self.path / "metrics.jsonl"

  @property
  def timings(self) -> pathlib.Path:
    """Whatever depends on the clock."""
    return self.path / "timings.jsonl"

  @property
  def evaluation(self) -> pathlib.Path:
    """The table of metrics with its error budget."""
    return self.path / "evaluation.json"

  @property
  def members(self) -> pathlib.Path:
    """Of an ensemble: a folder for each member, with its evaluation.json and samples.npz."""
    return self.path / "members"

  @property
  def samples(self) -> pathlib.Path:
    """Final samples of each sampler."""
    return self.path / "samples.npz"

  @property
  def figures(self) -> pathlib.Path:
    """Folder of figures."""
    return self.path / "figures"

  @property
  def done(self) -> pathlib.Path:
    """Written last: everything that was asked is there."""
    return self.path / "DONE"


def is_done(path: pathlib.Path, config: Mapping[str, Any]) -> bool:
  """Whether the folder holds all that this config asks for."""
  if not Workdir(path).done.exists():
    return False
  old, new = _comparable(_recorded_config(path), config)
  return _set_fields(old) == _set_fields(new)


def _recorded_config(path: pathlib.Path) -> dict[str, Any]:
  """The config of the run in a folder. Raises RefusedError where it is damaged."""
  file = path / "config.json"
  try:
    return json.loads(file.read_text())["config"]
  except (ValueError, KeyError, TypeError):
    raise RefusedError(
      f"{file} is damaged: put back what was there, or give another --workdir"
    ) from None


def check_data(path: pathlib.Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
  """Raises RefusedError where two configs have fingerprints of different data.

  Args:
    path: of the run, for the message.
    found: its config.
    config: the one asked for.
  """
  old, new = found.get("data"), config.get("data")
  if old and new and old["sha256"] != new["sha256"]:
    raise RefusedError(
      f"{path}: holds a run on other data ({changes(old, new)}): give another --workdir, or those "
      "data by --config.target.path"
    )


def open_workdir(
  path: pathlib.Path,
  config: Mapping[str, Any],
  overrides: Mapping[str, Any],
  read_only: bool = False,
) -> Workdir:
  """Makes the folder, or finds the run that is in it.

  Args:
    path: the folder.
    config: the resolved config, JSON values only.
    overrides: what was typed, by field.
    read_only: whether another process writes; what it refuses is refused here too.

  Returns:
    The folder; its DONE is removed where what evaluation depends on has changed, and so are the
    evaluations of an ensemble's members.

  Raises:
    RefusedError: a field that training depends on differs from the run that is there, or what that
      run was cannot be read.
  """
  workdir = Workdir(path.absolute())
  if not read_only:
    path.mkdir(parents=True, exist_ok=True)
  record = {"config": config, "overrides": overrides}
  file = path / "config.json"
  if file.exists():
    found, asked = _comparable(_recorded_config(path), config)
    old, new = training_fields(found), training_fields(asked)
    for name in sorted((old.keys() | new.keys()) - {_FINGERPRINT}):
      if old.get(name) != new.get(name):
        advice = "give another --workdir, or that value"
        if name == "training.num_steps":  # its learning-rate schedule depends on it
          advice = "to train longer or shorter, start from scratch in another --workdir"
        raise RefusedError(
          f"{path}: holds a run with {name} = {old.get(name)!r}, not {new.get(name)!r}: {advice}"
        )
    check_data(path, found, asked)
    if "data" in config and "data" not in asked and leads():
      print(
        f"{path}: holds a run from before data had fingerprints: whether its data have changed "
        "since is not known",
        file=sys.stderr,
      )
    if _set_fields(found) == _set_fields(asked):
      return workdir
    if not read_only:
      workdir.done.unlink(missing_ok=True)
      for of_member in workdir.members.glob("*/evaluation.json"):
        of_member.unlink()
  if read_only:
    return workdir
  write_json(path / "environment.json", {**environment(), "command": sys.argv})
  write_json(file, json.loads(json.dumps(record)))  # last: where it is, there is the other
  return workdir
