"""Checks names, options and numbers of a config.

Every mistake is a ConfigError of one line that names the field, its value, the allowed values and
the closest match.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from scorelab.config.fields import unlisted
from scorelab.config.importing import import_attribute
from scorelab.config.sections import SECTIONS
from scorelab.errors import ConfigError, did_you_mean
from scorelab.signatures import option_defaults

Section: TypeAlias = Mapping[str, Any] | ConfigDict
"""A sub-config: options by name, None if the named function's own default holds."""


def choose(known: Mapping[str, Any], name: Any, path: str, what: str, own: bool = True) -> Any:
  """Returns known[name], or a user's own component imported by its dotted name.

  Args:
    known: a registry.
    name: a key of it, or 'module.attribute'.
    path: the field, for messages.
    what: the kind of component, for messages.
    own: True if components from outside the registry are allowed.

  Raises:
    ConfigError: there is none; lists the known names and suggests the closest.
  """
  if name in known:
    return known[name]
  example = next(iter(known.values()), "")
  dotted = "." in str(name) and all(part.isidentifier() for part in str(name).split("."))
  if own and dotted and not isinstance(example, str):  # strings are choices, not parts
    try:
      found = import_attribute(name)
    except ImportError as error:
      raise ConfigError(f"{path} = {name!r}: {error}") from error
    if callable(example) and not callable(found):
      raise ConfigError(f"{path} = {name!r} is not a function or a class")
    if not (callable(example) or isinstance(found, type(example))):
      raise ConfigError(f"{path} = {name!r} must be a {type(example).__name__}")
    return found
  article = "an" if what[0] in "aeiou" else "a"
  raise ConfigError(
    f"{path} = {name!r} is not {article} {what}{did_you_mean(str(name), known)} "
    f"(known: {', '.join(sorted(known))})"
  )


def literal(text: str) -> Any:
  """Parses a typed value: a Python literal, or else the text itself."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def check_fields(config: Any, known: ConfigDict, section: str = "") -> None:
  """Checks the fields of a config for unknown names and wrong types.

  Args:
    config: return value of `get_config`.
    known: the config with every field; a field that may be None has a placeholder there.
    section: the section that these fields belong to; "" is the whole config.

  Raises:
    ConfigError: a field is missing or unknown, or its value has another type than the known one.
  """
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"{section or 'the config'} = {_short(config)} must be a ConfigDict")
  for name in dict.fromkeys((*config, *known)):
    field = f"{section}.{name}".lstrip(".")
    if name not in known:
      if section in SECTIONS and name in unlisted(section, config):
        continue  # an option of a part of one's own
      raise ConfigError(f"{field} is not a field{did_you_mean(str(name), [*known])}")
    if name not in config:
      raise ConfigError(f"{field} is missing")
    value, kind = config[name], known.get_type(name)
    if kind is ConfigDict:
      check_fields(value, known[name], field)
    elif not (value is None and known[name] is None) and not _fits(value, kind):
      raise ConfigError(f"{field} = {_short(value)}, must be of type {kind.__name__}")
    elif kind is tuple and known[name]:
      item_kind = type(known[name][0])
      if not all(_fits(item, item_kind) for item in value or ()):
        raise ConfigError(f"{field} = {_short(value)}, must be a tuple of {item_kind.__name__}")


def _fits(value: Any, kind: type) -> bool:
  if kind is tuple:
    plain = (int, float, str, type(None))
    return isinstance(value, (tuple, list)) and all(
      isinstance(item, plain) or _fits(item, tuple) for item in value
    )
  if kind in (int, float):
    return isinstance(value, (int, kind)) and not isinstance(value, bool)
  return isinstance(value, kind)


def _short(value: Any) -> str:
  text = repr(value).partition("\n")[0]
  return text if len(text) <= 80 else f"{text[:77]}..."


def accepted_options(*functions: Callable[..., Any]) -> set[str]:
  """Returns the keyword options of functions or classes."""
  return {name for function in functions for name in option_defaults(function)}


def options_of(function: Callable[..., Any], section: Section) -> dict[str, Any]:
  """Returns the options of a function that a section sets."""
  accepted = accepted_options(function)
  return {k: v for k, v in section.items() if k in accepted and v is not None}


def refuse_unused(
  section: Section,
  path: str,
  named: str,
  functions: Iterable[Callable[..., Any]],
  also: Collection[str] = (),
) -> None:
  """Raises ConfigError for a value that is set but that none of the functions takes."""
  accepted = accepted_options(*functions)
  for field, value in section.items():
    if value is not None and field != "name" and field not in accepted and field not in also:
      raise ConfigError(
        f"{path}.{field} = {value!r} is not an option of {named}{did_you_mean(field, accepted)} "
        f"(options: {', '.join(sorted(accepted)) or 'none'})"
      )


def make(
  known: Mapping[str, Callable[..., Any]],
  section: Section,
  path: str,
  what: str,
  also: Collection[str] = (),
) -> Any:
  """Calls the function that a section names with the options that it sets."""
  function = choose(known, section["name"], f"{path}.name", what)
  refuse_unused(section, path, section["name"], (function,), also)
  with config_errors(path):
    return function(**options_of(function, section))


@contextlib.contextmanager
def config_errors(path: str) -> Iterator[None]:
  """Turns what a part raises about its options into a ConfigError that names the section."""
  try:
    yield
  except (OSError, TypeError, ValueError) as error:
    raise ConfigError(f"{path}: {error}") from error


def check_bound(
  field: str, value: Any, shown: str | None = None, settings: Section = MappingProxyType({})
) -> None:
  """Raises ConfigError if a number, or one of a tuple's, is outside what its field allows.

  Args:
    field: 'seed' or 'section.name'.
    value: the field's value; traced numbers pass, since their values were checked before.
    shown: the field's name in the message, if it is another one.
    settings: the values of the section, which name its parts.
  """
  from scorelab.config.parts import range_of  # not above: these import JAX
  from scorelab.validation import is_traced

  section, _, name = field.rpartition(".")
  allowed = None if value is None else range_of(section, name, settings)
  for number in value if isinstance(value, (tuple, list)) else (value,):
    if value is None or is_traced(number):
      continue
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if allowed and not (is_number and allowed.allows(number)):
      raise ConfigError(f"{shown or field} = {value!r}, must be {allowed.description}")
    if is_number and not abs(number) <= (most := _largest(field, number)):
      raise ConfigError(
        f"{shown or field} = {value!r}, must be between -{most:.10g} and {most:.10g}"
      )


def _largest(field: str, number: float) -> float:
  """Returns the largest value of the field's dtype, float32 or int32."""
  if isinstance(number, float):
    return 3.4e38
  return 2**32 - 1 if field.endswith("seed") else 2**31 - 1


def check_bounds(config: ConfigDict) -> None:
  """Raises ConfigError for the first number of the config that is out of range."""
  check_bound("seed", config.seed)
  for name, section in config.items():
    if isinstance(section, ConfigDict):
      for field, value in section.items():
        check_bound(f"{name}.{field}", value, settings=section)
        if name == "network" and isinstance(value, tuple) and float in map(type, value):
          raise ConfigError(f"network.{field} = {value!r}, must be whole numbers")


def named(names: tuple[str, ...]) -> dict[str, str]:
  """Returns a registry of names that stand for themselves, for `choose`."""
  return {name: name for name in names}
