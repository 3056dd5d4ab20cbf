"""A run's directory: its files, its environment, and whether it is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from scorelab.data.fingerprints import changes
from scorelab.errors import RefusedError
from scorelab.runs.distributed import is_leader
from scorelab.runs.files import append_jsonl, write_json
from scorelab.runs.identity import (
  FINGERPRINT,
  comparable,
  run_id,
  set_fields,
  training_fields,
  without_data,
)
from scorelab.runs.signals import PREEMPTED_EXIT_CODE, Preempted, StopFlag  # noqa: F401 (imported from here)


def find(root: pathlib.Path, config: Mapping[str, Any]) -> pathlib.Path:
  """Returns a run's default directory under `root`: its run id.

  For data in files, also finds a run whose id dates from before data had fingerprints.
  """
  path, older = root / run_id(config), root / run_id(without_data(config))
  return older if older.exists() and not path.exists() else path


def on_other_data(root: pathlib.Path, config: Mapping[str, Any]) -> str:
  """Returns a line about a run under `root` that differs only in its data; '' if there is none."""
  if "data" not in config:
    return ""
  wanted = training_fields(config) | {FINGERPRINT: None}
  for file in sorted(root.glob("*/config.json")):
    with contextlib.suppress(RefusedError):
      found = _recorded_config(file.parent)
      if "data" in found and training_fields(found) | {FINGERPRINT: None} == wanted:
        return (
          f"{file.parent} is the same run on other data: {changes(found['data'], config['data'])}"
        )
  return ""


def environment() -> dict[str, Any]:
  """Returns versions, device, precision and git revision, as needed to rerun a run."""
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  root, revision = pathlib.Path(__file__).parents[2], None
  if (root / ".git").exists() and shutil.which("git"):  # an installed package has no revision
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
  """Paths of a run's output files; `open_workdir` creates the directory."""

  path: pathlib.Path
  sinks: list[Callable[[Mapping[str, Any]], None]] = dataclasses.field(
    default_factory=list, compare=False, repr=False
  )
  """Called with each line that `log` writes, such as TensorBoard's."""

  def log(self, line: Mapping[str, Any]) -> None:
    """Appends a line to metrics.jsonl and passes it to every sink."""
    append_jsonl(self.metrics, line)
    for sink in self.sinks:
      sink(line)

  @property
  def checkpoints(self) -> pathlib.Path:
    """Orbax's directory."""
    return self.path / "checkpoints"

  @property
  def metrics(self) -> pathlib.Path:
    """JSONL of one object per logged step, the same in every rerun."""
    return self.path / "metrics.jsonl"

  @property
  def timings(self) -> pathlib.Path:
    """JSONL of everything that depends on the clock."""
    return self.path / "timings.jsonl"

  @property
  def evaluation(self) -> pathlib.Path:
    """The table of metrics with its error budget."""
    return self.path / "evaluation.json"

  @property
  def members(self) -> pathlib.Path:
    """Directory of an ensemble's members, each with its evaluation.json and samples.npz."""
    return self.path / "members"

  @property
  def samples(self) -> pathlib.Path:
    """Final samples of each sampler, NPZ."""
    return self.path / "samples.npz"

  @property
  def figures(self) -> pathlib.Path:
    """Directory of figures."""
    return self.path / "figures"

  @property
  def done(self) -> pathlib.Path:
    """Marker of a finished run, written last."""
    return self.path / "DONE"


def is_done(path: pathlib.Path, config: Mapping[str, Any]) -> bool:
  """Returns True if the directory holds all results that this config requests."""
  if not Workdir(path).done.exists():
    return False
  old, new = comparable(_recorded_config(path), config)
  return set_fields(old) == set_fields(new)


def find_done(paths: Iterable[pathlib.Path], config: Mapping[str, Any]) -> pathlib.Path | None:
  """Returns the first directory of a finished run on data in files with this config, or None.

  The data may no longer exist, so only their path is compared.

  Args:
    paths: directories to search.
    config: the config, JSON values, without a fingerprint.
  """
  for path in paths:
    if Workdir(path).done.exists():
      found = _recorded_config(path)
      if "data" in found and set_fields(without_data(found)) == set_fields(config):
        return path
  return None


def _recorded_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the config of the run in a directory. Raises RefusedError if it is damaged."""
  file = path / "config.json"
  try:
    return json.loads(file.read_text())["config"]
  except (ValueError, KeyError, TypeError):
    raise RefusedError(f"{file} is damaged: restore it, or give another --workdir") from None


def check_data(path: pathlib.Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
  """Raises RefusedError if two configs have fingerprints of different data.

  Args:
    path: directory of the run, for the message.
    found: its config.
    config: the requested config.
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
  command: Sequence[str] | None = None,
) -> Workdir:
  """Creates a run's directory, or checks the run that is already in it.

  Args:
    path: the directory.
    config: the resolved config, JSON values only.
    overrides: the typed values, by field.
    read_only: True if another process writes; the same requests are refused.
    command: the program and its arguments, for the record; by default this process's.

  Returns:
    The directory. If a field that only evaluation depends on has changed, its DONE marker and the
    evaluations of an ensemble's members are removed.

  Raises:
    RefusedError: a field that training depends on differs from the existing run, or the config of
      that run cannot be read.
  """
  workdir = Workdir(path.absolute())
  if not read_only:
    path.mkdir(parents=True, exist_ok=True)
  record = {"config": config, "overrides": overrides}
  file = path / "config.json"
  if file.exists():
    found, asked = comparable(_recorded_config(path), config)
    old, new = training_fields(found), training_fields(asked)
    for name in sorted((old.keys() | new.keys()) - {FINGERPRINT}):
      if old.get(name) != new.get(name):
        advice = "give another --workdir, or that value"
        if name == "training.num_steps":  # its learning-rate schedule depends on it
          advice = "to train longer or shorter, start from scratch in another --workdir"
        raise RefusedError(
          f"{path}: holds a run with {name} = {old.get(name)!r}, not {new.get(name)!r}: {advice}"
        )
    check_data(path, found, asked)
    if "data" in config and "data" not in asked and is_leader():
      print(
        f"{path}: holds a run from before data had fingerprints: whether its data have changed "
        "since is not known",
        file=sys.stderr,
      )
    if set_fields(found) == set_fields(asked):
      return workdir
    if not read_only:
      workdir.done.unlink(missing_ok=True)
      for of_member in workdir.members.glob("*/evaluation.json"):
        of_member.unlink()
  if read_only:
    return workdir
  write_json(path / "environment.json", {**environment(), "command": [*(command or sys.argv)]})
  write_json(file, json.loads(json.dumps(record)))  # last: where it is, there is the other
  return workdir
