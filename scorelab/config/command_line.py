"""Parses configs from the command line: 'configs/NAME.py:arg' and '--config.FIELD=VALUE'.

Nothing here imports JAX, so that mistakes are reported at once.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from scorelab.config import fields
from scorelab.config.importing import make_importable
from scorelab.config.sections import SECTIONS
from scorelab.errors import ConfigError, did_you_mean

# Fields that may be None of which 'none' is a value too: there only 'None' and '' unset.
NONE_IS_A_NAME = {"target.scaling", "network.level_features", "network.attention"}


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


def read_config(
  config: str, arguments: Sequence[str] = (), report: Callable[[str], Any] | None = None
) -> ConfigDict:
  """Reads a config file and sets fields.

  Args:
    config: 'configs/NAME.py' or 'configs/NAME.py:arg'.
    arguments: each '--config.FIELD=VALUE'.
    report: called with a line that names the options that a replaced component has dropped.

  Raises:
    ConfigError: there is no such file, field or value; one line.
  """
  from scorelab.config.swaps import drop_old_options

  if message := missing_file(config):
    raise ConfigError(message)
  import_beside(config)
  values = flags.FlagValues()
  argv = ["", f"--config={config}", *arguments]
  flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  try:
    parse_flags(argv, values)
  except Exception as error:  # config modules and ml_collections may raise anything
    raise ConfigError(explain(error, config, argv)) from error
  dropped = drop_old_options(flag.value, replaced_values(values))
  if dropped and report:
    report(f"{config}: {dropped}")
  return flag.value


def import_beside(config: str) -> None:
  """Adds a config file's folder and the current directory to the import path."""
  make_importable(pathlib.Path(config.partition(":")[0]).parent)
  make_importable(os.getcwd())


def parse_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Parses a command line; returns the arguments that are not flags.

  The value 'None', 'none' or nothing unsets a config field that may be None.

  Args:
    argv: the program's name and its arguments.
    values: flags, one of them a config file's with the name `config`; they receive the values.
  """
  given: list[str] = []
  for argument in argv[1:]:
    if given and "=" not in given[-1] and _unsets(f"{given[-1]}={argument}"):
      given[-1] += f"={argument}"  # typed as two words
    else:
      given.append(argument)
  _add_unlisted_fields([argv[0], *given])
  last = {_field(argument): argument for argument in given}
  unset = [field for field, argument in last.items() if _unsets(argument)]
  kept = [a for a in given if not _unsets(a) and _field(a) not in unset]
  rest = values([argv[0], *kept])
  flag = values["config"]
  config: Any = flag.value
  for field in unset:
    section, name = field.split(".")
    config[section][name] = None
    config_flags.get_override_values(flag)[field] = None
  return rest


def replaced_values(values: flags.FlagValues) -> dict[str, Any]:
  """Returns the config file's own values of the typed fields, by dotted name."""
  typed = config_flags.get_override_values(values["config"])
  return {field: values[f"config.{field}"].default for field in typed}


def _field(argument: str) -> str:
  """Returns 'SECTION.FIELD' of '--config.SECTION.FIELD=VALUE' or '--noconfig...', else ''."""
  name = argument.partition("=")[0].lstrip("-").removeprefix("no")
  return name.removeprefix("config.") if name.startswith("config.") else ""


def _unsets(argument: str) -> bool:
  """Returns True if an argument '--config.SECTION.FIELD=VALUE' sets a field to None."""
  field, (_, sign, text) = _field(argument), argument.partition("=")
  words = ("None", "") if field in NONE_IS_A_NAME else ("None", "none", "")
  return bool(sign) and text in words and field in nullable_fields()


@functools.cache
def nullable_fields() -> frozenset[str]:
  """Returns the fields that may be None, as 'SECTION.FIELD'."""
  sections = fields.make_config().items()
  return frozenset(
    f"{path}.{name}"
    for path, section in sections
    if isinstance(section, ConfigDict)
    for name, value in section.items()
    if value is None
  )


def missing_file(config: str) -> str | None:
  """Returns the message for a config file that does not exist."""
  file = pathlib.Path(config.partition(":")[0])
  if file.is_file():
    return None
  known = [str(path) for path in sorted(file.parent.glob("*.py"))]
  return f"--config={config}: there is no such file{did_you_mean(str(file), known)}"


def explain(error: Exception, config: str, argv: Sequence[str]) -> str:
  """Returns a parsing error as one line; for an unknown field, suggests the closest one."""
  # If a config module fails, the text is its traceback; the last line names the error.
  lines = str(error).strip().splitlines() or [type(error).__name__]
  message = lines[-1].removeprefix("ValueError: ")
  if config and isinstance(error, (AttributeError, KeyError, flags.UnrecognizedFlagError)):
    message = _unknown_field(config, argv) or message
  return message if message.startswith(config) else f"{config or 'main.py'}: {message}"


def _add_unlisted_fields(argv: Sequence[str]) -> None:
  """Adds the typed fields that are options of a part of one's own, which the command line names."""
  typed = typed_values(argv)
  sections = {field.partition(".")[0] for field in typed} & SECTIONS.keys()
  for section in sections:
    known = fields.types_of(section)
    names = [field.partition(".")[2] for field in typed if field.startswith(f"{section}.")]
    if all(name in known for name in names):
      continue
    own = _bare_config(typed.get("", ""), argv[0])
    settings = dict(own[section]) if own is not None and section in own else {}
    settings |= {name: typed[f"{section}.{name}"] for name in names}
    fields.add(section, fields.unlisted(section, settings))


def typed_values(argv: Sequence[str]) -> dict[str, str]:
  """Returns what a command line gives each field, by dotted name; the config file's is ''."""
  typed = {}
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    name, sign, value = argument.partition("=")
    if argument.startswith("-") and (field := _field(argument)):
      typed[field] = value if sign else following
    elif name.lstrip("-") == "config" and argument.startswith("-"):
      typed[""] = value if sign else following
  return typed


def _bare_config(config: str, program: str) -> ConfigDict | None:
  """Returns the config of a file with no field set; None if it fails."""
  values = flags.FlagValues()
  bare = [program, f"--config={config}"]
  flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=bare)
  try:
    values(bare)
  except Exception:  # the config itself fails
    return None
  return flag.value if isinstance(flag.value, ConfigDict) else None


def _unknown_field(config: str, argv: Sequence[str]) -> str | None:
  """Returns a message on the first --config.FIELD that the config lacks, or None."""
  bare = _bare_config(config, argv[0])
  if bare is None:
    return None
  sections = bare.to_dict()
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
