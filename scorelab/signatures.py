"""Options of parts, read from their signatures: name, type, range, default and help.

The help is what the docstring's section `Args` or `Attributes` says of the option.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from scorelab.ranges import Range, members, range_in

GIVEN = frozenset({"parent", "name", "kind", "event_ndim", "outputs", "schedule"})
"""Keywords that an experiment passes itself."""

_SECTIONS = ("Args:", "Attributes:")
_ELSEWHERE = re.compile(r"(?:as for|see) `(\w+)`(?=[.;])")
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


class Option(NamedTuple):
  """One keyword of a part.

  Attributes:
    name: the keyword.
    kind: 'float', 'int', 'str', 'bool' or 'tuple'; 'part' for a function, which a config names;
      None for what a config cannot hold.
    range: the numbers that it allows; None for any.
    choices: the names that it allows, if it takes one of a few.
    default: its default; of a function its name in the registry.
    help: one paragraph of the docstring; '' if there is none.
  """

  name: str
  kind: str | None
  range: Range | None
  choices: tuple[Any, ...]
  default: Any
  help: str


def option_defaults(part: Callable[..., Any]) -> dict[str, Any]:
  """Returns the defaults of the keyword options of a function or class, None for a required one.

  Without the keywords that an experiment passes itself.
  """
  parameters = _parameters if isinstance(part, Hashable) else _parameters.__wrapped__
  return {
    name: None if parameter.default is inspect.Parameter.empty else parameter.default
    for name, parameter in parameters(part).items()
    if name not in GIVEN
    and (
      parameter.kind is inspect.Parameter.KEYWORD_ONLY
      or parameter.default is not inspect.Parameter.empty
    )
  }


@functools.cache
def _parameters(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
  return inspect.signature(part).parameters


def options_of_part(part: Callable[..., Any]) -> Mapping[str, Option]:
  """Returns the keyword options of a function or class, by name."""
  return _read_once(part) if isinstance(part, Hashable) else _read(part)


def _read(part: Callable[..., Any]) -> Mapping[str, Option]:
  hints, helps, choices = _hints(part), described(part), _choices(part)
  return {
    name: Option(
      name,
      _kind(hints.get(name), default),
      range_in(hints.get(name)),
      tuple(choices.get(name, ())),
      _named(default, choices.get(name, ())),
      helps.get(name, ""),
    )
    for name, default in option_defaults(part).items()
  }


def _named(default: Any, known: Any) -> Any:
  """Returns the name of a default that is a part of a registry, or the default itself."""
  if callable(default) and isinstance(known, Mapping):
    return next((name for name, part in known.items() if part is default), default)
  return default


_read_once = functools.cache(_read)


def summary(part: Callable[..., Any]) -> str:
  """Returns the first line of a part's docstring."""
  text = inspect.getdoc(_inner(part)) or ""
  return text.partition("\n")[0]


def described(part: Callable[..., Any]) -> dict[str, str]:
  """Returns what a docstring's `Args` or `Attributes` say, by name, each in one line.

  For "as for `euler`." it is the text of that function of the same module.
  """
  inner = _inner(part)
  sources = inner.__mro__[::-1] if isinstance(inner, type) else (inner,)
  found: dict[str, str] = {}
  for source in sources:  # of a class, its bases first
    module = sys.modules.get(getattr(source, "__module__", ""))
    known = vars(module) if module else {}
    lines = inspect.cleandoc(getattr(source, "__doc__", None) or "").splitlines()
    for start, line in enumerate(lines):
      if line in _SECTIONS:
        found |= _entries(lines[start + 1 :])
    for name, text in found.items():
      if (other := _ELSEWHERE.match(text)) and other[1] in known:
        there = described(known[other[1]]).get(name, text)
        found[name] = f"{there.removesuffix('.')}{text[other.end() :]}"
  return found


def _entries(lines: list[str]) -> dict[str, str]:
  """Returns the entries of a docstring's section, up to the next section."""
  block = []
  for line in lines:
    if line and not line.startswith(" "):
      break
    block.append(line)
  found: dict[str, str] = {}
  names: list[str] = []
  for line in textwrap.dedent("\n".join(block)).splitlines():
    if match := _ENTRY.fullmatch(line):
      names = match[1].split(", ")
      found |= dict.fromkeys(names, match[2])
    elif line.startswith(" "):
      found |= {name: f"{found[name]} {line.strip()}" for name in names}
    else:
      names = []
  return found


def _inner(part: Callable[..., Any]) -> Any:
  """Returns the function or class behind partial applications and wrappers."""
  while isinstance(part, functools.partial):
    part = part.func
  return part if isinstance(part, type) else inspect.unwrap(part)


def _choices(part: Callable[..., Any]) -> Mapping[str, Any]:
  while isinstance(part, functools.partial):
    part = part.func
  target: Any = part.__init__ if isinstance(part, type) else part
  return getattr(target, "__choices__", {})


def _hints(part: Callable[..., Any]) -> dict[str, Any]:
  """Returns the annotations of a part; those that cannot be resolved are left out."""
  inner = _inner(part)
  sources = (inner, inner.__init__) if isinstance(inner, type) else (inner,)
  found: dict[str, Any] = {}
  for source in sources:
    try:
      found |= typing.get_type_hints(source, include_extras=True)
    except (AttributeError, NameError, TypeError):  # names for type checkers only
      continue
  return found


def _kind(hint: Any, default: Any) -> str | None:
  """Returns the type of an option by its annotation, or else by its default."""
  if hint is None:
    hint = type(default)
  names = set()
  for member in members(hint):
    origin = typing.get_origin(member) or member
    if origin is typing.Literal:
      names |= {type(value).__name__ for value in typing.get_args(member)}
    else:
      names.add(getattr(origin, "__name__", ""))
  for kind in ("float", "int", "str", "bool", "tuple"):
    if kind in names:
      return kind
  return "part" if names & {"Callable", "function"} else None
