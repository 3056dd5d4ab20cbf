"""Configs as they are typed, 'configs/NAME.py:arg' and '--config.FIELD=VALUE', and what is wrong.

Nothing here imports JAX: a mistake on the command line is answered at once.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from scorelab.importing import make_importable
from scorelab.options import ConfigError, did_you_mean


def expand_flagfiles(argv: Sequence[str]) -> list[str]:
  """Returns the command line with every --flagfile=FILE replaced by the flags in that file.

  Raises:
    ConfigError: a file cannot be read, or is not text.
  """
  values = flags.FlagValues()
  values.set_gnu_getopt()
  try:
    return [*argv[:1], *values.read_flags_from_files(list(argv[1:]))]
  except (flags.Error, OSError, UnicodeDecodeError) as error:
    said = str(error).removeprefix("ERROR:: Unable to open flagfile: ")
    raise ConfigError(f"main.py: --flagfile: {said}") from error


def read_config(config: str, arguments: Sequence[str] = ()) -> ConfigDict:
  """The config of a file, with fields set.

  Args:
    config: 'configs/NAME.py' or 'configs/NAME.py:arg'.
    arguments: each '--config.FIELD=VALUE'.

  Raises:
    ConfigError: there is no such file, field or value; the line says it whole.
  """
  if message := missing_file(config):
    raise ConfigError(message)
  import_beside(config)
  values = flags.FlagValues()
  argv = ["", f"--config={config}", *arguments]
  flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  try:
    values(argv)
  except Exception as error:  # whatever a config module or ml_collections raises
    raise ConfigError(explain(error, config, argv)) from error
  return flag.value


def import_beside(config: str) -> None:
  """Lets a config file import what is next to it and in the current directory."""
  make_importable(pathlib.Path(config.partition(":")[0]).parent)
  make_importable(os.getcwd())


def missing_file(config: str) -> str | None:
  """What to say where there is no such file."""
  file = pathlib.Path(config.partition(":")[0])
  if file.is_file():
    return None
  known = [str(path) for path in sorted(file.parent.glob("*.py"))]
  return f"--config={config}: there is no such file{did_you_mean(str(file), known)}"


def explain(error: Exception, config: str, argv: Sequence[str]) -> str:
  """What parsing raised, in one line; of an unknown field, which was probably meant."""
  # A config that fails brings its traceback along: the last line says what it is.
  lines = str(error).strip().splitlines() or [type(error).__name__]
  message = lines[-1].removeprefix("ValueError: ")
  if config and isinstance(error, (AttributeError, KeyError, flags.UnrecognizedFlagError)):
    message = _unknown_field(config, argv) or message
  return message if message.startswith(config) else f"{config or 'main.py'}: {message}"


def _unknown_field(config: str, argv: Sequence[str]) -> str | None:
  """What to say of the first --config.FIELD that the config lacks, if there is one."""
  values = flags.FlagValues()
  bare = [argv[0], f"--config={config}"]
  flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=bare)
  try:
    values(bare)
  except Exception:  # the config itself fails
    return None
  if not isinstance(flag.value, ConfigDict):
    return None
  sections = flag.value.to_dict()
  known = [f"config.{name}" for name in sections]
  known += [
    f"config.{name}.{field}"
    for name, section in sections.items()
    if isinstance(section, dict)
    for field in section
  ]
  for argument in argv[1:]:
    path = argument.lstrip("-").partition("=")[0]
    if path.startswith("config.") and path not in known:
      return f"{config}: {path} is not a field{did_you_mean(path, known)}"
  return None
