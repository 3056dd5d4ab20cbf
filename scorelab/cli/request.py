"""Parses the command line of a run. Nothing here imports JAX, so mistakes are reported at once."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import base
from scorelab.config.command_line import (
  expand_flagfiles,
  explain,
  import_beside,
  missing_file,
  parse_flags,
  replaced_values,
)
from scorelab.config.options import check_fields
from scorelab.errors import ConfigError

_FLAGS = (
  *("config", "mode", "workdir", "distributed", "coordinator", "num_processes", "process_id"),
  "tensorboard",
)
MODES = ("train_and_eval", "train", "eval")


@dataclasses.dataclass(frozen=True)
class Request:
  """A parsed command line.

  Attributes:
    argv: the program's name and its arguments, with flag files expanded.
    file: the config as it was typed, 'configs/NAME.py:arg'.
    config: the config with the typed fields set.
    overrides: the typed values, by dotted name.
    replaced: the config file's own values of these fields.
    mode: one of MODES.
    workdir: directory of the run; None chooses results/<config>/<run id>.
    distributed: True if this is one of several processes of the run.
    coordinator: host:port of process 0; None with num_processes and process_id lets JAX find it.
    num_processes: number of processes of the run.
    process_id: index of this process, from 0.
    tensorboard: True if TensorBoard events are written.
  """

  argv: Sequence[str]
  file: str
  config: ConfigDict
  overrides: dict[str, Any]
  replaced: dict[str, Any]
  mode: str
  workdir: str | None
  distributed: bool
  coordinator: str | None
  num_processes: int | None
  process_id: int | None
  tensorboard: bool

  @property
  def name(self) -> str:
    """Name of the config."""
    return pathlib.Path(self.file.partition(":")[0]).stem


def _define_flags(argv: Sequence[str]) -> flags.FlagValues:
  """Returns the flags of a command line, not yet parsed."""
  values = flags.FlagValues()
  to: dict[str, Any] = {"flag_values": values}
  config_flags.DEFINE_config_file(
    "config", None, "The experiment: configs/NAME.py[:fast].", sys_argv=list(argv), **to
  )
  flags.DEFINE_string("workdir", None, "Run directory [results/<config>/<run id>].", **to)
  flags.DEFINE_enum("mode", "train_and_eval", MODES, "What to do.", **to)
  flags.DEFINE_bool(
    "distributed",
    False,
    "One of several processes that train together, on a shared --workdir.",
    **to,
  )
  flags.DEFINE_string(
    "coordinator",
    None,
    "With --distributed: host:port of process 0 [as Slurm or a TPU pod says].",
    **to,
  )
  flags.DEFINE_integer("num_processes", None, "With --coordinator.", **to)
  flags.DEFINE_integer("process_id", None, "With --coordinator: from 0.", **to)
  flags.DEFINE_bool(
    "tensorboard",
    False,
    "Also write scalars and figures as events, in <workdir>/tensorboard.",
    **to,
  )
  flags.DEFINE_bool("help", False, "Show this help.", short_name="h", **to)
  flags.mark_flag_as_required("config", **to)
  return values


def usage(argv: Sequence[str]) -> str:
  """Returns the flags with their help."""
  return (
    f"usage: {argv[0]} --config=configs/NAME.py [--config.SECTION.FIELD=VALUE] [flags]\n"
    f"{_define_flags(argv)}\n\n"
    "The fields of a config: scorelab options, scorelab options sampler.dpmpp_2m"
  )


def help_requested(argv: Sequence[str]) -> bool:
  """Returns True if the command line asks for help."""
  return any(word in ("-h", "--h", "-help", "--help") for word in argv[1:])


def _config_flag(argv: Sequence[str]) -> str:
  """Returns the config as it was typed, 'configs/NAME.py:arg'; '' if none was."""
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    name, sign, value = argument.lstrip("-").partition("=")
    if name == "config":
      return value if sign else following
  return ""


def parse(argv: Sequence[str]) -> Request:
  """Parses a command line.

  Args:
    argv: the program's name and its arguments.

  Raises:
    ConfigError: a flag, a file, a field or a value is wrong; one line.
  """
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    return _parse(expand_flagfiles(argv))
  finally:
    logging.set_verbosity(verbosity)


def _parse(argv: list[str]) -> Request:
  file = _config_flag(argv)
  if sum(argument.partition("=")[0].lstrip("-") == "config" for argument in argv) > 1:
    raise ConfigError("main.py: --config is given more than once")
  if file and (message := missing_file(file)):
    raise ConfigError(message)
  import_beside(file)
  values = _define_flags(argv)
  try:
    rest = parse_flags(argv, values)
    check_fields(values["config"].value, base.get_config())
  except Exception as error:  # config modules and ml_collections may raise anything
    raise ConfigError(explain(error, file, argv)) from error
  if len(rest) > 1:
    raise ConfigError(f"main.py: {rest[1]!r} is not a flag; did you mean --config={rest[1]}?")
  given: dict[str, Any] = {field: values[field].value for field in _FLAGS}
  overrides = config_flags.get_override_values(values["config"])
  request = Request(argv, file, overrides=overrides, replaced=replaced_values(values), **given)
  _check(request)
  return request


def _check(request: Request) -> None:
  """Raises ConfigError for incompatible flags, or an unusable run directory."""
  given = {
    "--coordinator": request.coordinator,
    "--num_processes": request.num_processes,
    "--process_id": request.process_id,
  }
  named = [name for name, value in given.items() if value is not None]
  if named and (not request.distributed or len(named) < len(given)):
    raise ConfigError(
      f"main.py: {', '.join(named)} must come with --distributed and all of {list(given)}"
    )
  if not (request.workdir or "").isprintable():
    raise ConfigError(f"main.py: --workdir={request.workdir!r} must be one line")
  try:
    pathlib.Path(request.workdir or ".").exists()
  except OSError as error:
    raise ConfigError(f"main.py: --workdir: {error.strerror}") from error
