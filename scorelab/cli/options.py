"""Lists parts and their options: `scorelab options sampler.dpmpp_2m`. Does not import JAX.

scorelab options                       # sections of a config
scorelab options sampler               # the parts of a section, and the section's own fields
scorelab options sampler.dpmpp_2m      # the options of a part
scorelab options sampler.my_module.f   # also of your own part, which is imported
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scorelab.config import fields
from scorelab.config.importing import import_attribute
from scorelab.config.sections import SECTIONS
from scorelab.errors import ConfigError, did_you_mean
from scorelab.signatures import summary

_WIDTH = 100
_HELP = ("-h", "--help")


def main(argv: Sequence[str]) -> int:
  """Prints the requested sections and parts.

  Args:
    argv: the program's name, and 'SECTION' or 'SECTION.PART', any number of them.

  Returns:
    The exit code: 0, or 2 for an unknown name.
  """
  names = argv[1:]
  if any(name in _HELP for name in names):
    print(__doc__)
    return 0
  try:
    print("\n\n".join("\n".join(_answer(name)) for name in names or ("",)))
  except ConfigError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


def _answer(name: str) -> Iterator[str]:
  """Yields the lines on a section, a part, or on all sections for ''.

  Raises:
    ConfigError: there is none of this name.
  """
  section, _, part = name.partition(".")
  known = SECTIONS.keys() | fields.known_parts().keys()
  if not name:
    sections = {name: summary(own) for name, own in SECTIONS.items()}
    metrics = {"metric": "One of evaluation.metrics, 'name' or 'name:option=value'."}
    yield from _table((sections | metrics).items())
  elif section not in known:
    raise ConfigError(
      f"scorelab options: {section!r} is not a section of a config{did_you_mean(section, known)} "
      f"(known: {', '.join(sorted(known))})"
    )
  elif part:
    yield from _part(section, part)
  else:
    yield from _section(section)


def _section(section: str) -> Iterator[str]:
  """Yields a section's own fields and the parts that it can name."""
  if section in SECTIONS:
    own = fields.described(SECTIONS[section])
    yield f"{section}: {own['summary']}"
    yield from _options(own["options"])
  for selector, parts in fields.known_parts().get(section, {}).items():
    yield ""
    yield f"config.{section}.{selector}:" if section in SECTIONS else "evaluation.metrics:"
    yield from _table((name, part["summary"]) for name, part in parts.items())


def _part(section: str, name: str) -> Iterator[str]:
  """Yields the options of every part of this name in a section."""
  selectors = fields.known_parts().get(section, {})
  found = [
    (selector, parts[name]) for selector, parts in selectors.items() if name in parts
  ] or _own_part(section, name)
  for number, (selector, part) in enumerate(found):
    if number:
      yield ""
    yield f"{section}.{name}: {part['summary']}"
    if section in SECTIONS:
      yield f"  --config.{section}.{selector}={name}"
    else:
      yield f"  --config.evaluation.metrics=\"('{name}',)\""
    yield from _options(part["options"])
    if not part["options"]:
      yield "  no options"


def _own_part(section: str, name: str) -> list[tuple[str, dict[str, Any]]]:
  """Returns a user's own part, by its dotted name."""
  selectors = fields.known_parts().get(section, {})
  known = [part for parts in selectors.values() for part in parts]
  if "." not in name or not selectors:
    raise ConfigError(
      f"scorelab options: {section}.{name} is not a part{did_you_mean(name, known)} "
      f"(known: {', '.join(sorted(known)) or 'none'})"
    )
  try:
    return [("name", fields.described(import_attribute(name)))]
  except (ImportError, TypeError, ValueError) as error:
    raise ConfigError(f"scorelab options: {section}.{name}: {error}") from error


def _options(options: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
  """Yields each option with its type, what it allows, its default and its help."""
  for name, option in options.items():
    kind = "str" if option["kind"] == "part" else option["kind"]
    said = (kind, option.get("allowed"), f"default {option['default']}")
    yield from _wrapped(f"{name}: {', '.join(filter(None, said))}", "  ")
    yield from _wrapped(option.get("help", ""), "      ")


def _wrapped(text: str, indent: str) -> list[str]:
  return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent="      ")


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
  rows = list(rows)
  width = max((len(name) for name, _ in rows), default=0)
  for name, text in rows:
    yield f"  {name:<{width}}  {text}"
