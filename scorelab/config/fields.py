"""Fields of a config: those of its sections, and every option of the parts that a section can name.

The options are read from parts.json, so that a mistake is refused before JAX is imported.
`python -m scorelab.config.generate` writes that file from the parts' signatures.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scorelab.config.sections import SECTIONS, Whole
from scorelab.signatures import Option, options_of_part, summary

FILE = pathlib.Path(__file__).with_name("parts.json")
_TYPES = {"float": float, "int": int, "str": str, "bool": bool, "tuple": tuple, "part": str}
_ADDED: dict[str, dict[str, type]] = {}


@functools.cache
def known_parts() -> dict[str, dict[str, dict[str, Any]]]:
  """Returns the contents of parts.json for each part, by section, selecting field, and name."""
  return json.loads(FILE.read_text(encoding="utf-8"))


def described(part: Callable[..., Any]) -> dict[str, Any]:
  """Returns the contents of parts.json for a part: its summary, and its options by name."""
  known = options_of_part(part)
  options = {name: _described(option) for name, option in known.items() if option.kind}
  return {"summary": summary(part), "options": options}


def _described(option: Option) -> dict[str, str]:
  """Returns an option as texts, without those that are empty."""
  names = ", ".join(map(str, option.choices))
  allowed = option.range.description if option.range else f"one of {names}" if names else ""
  default = getattr(option.default, "__name__", None) or repr(option.default)
  texts = {"kind": option.kind, "allowed": allowed, "default": default, "help": option.help}
  return {name: text for name, text in texts.items() if text}


def types_of(section: str) -> dict[str, type]:
  """Returns the types of a section's fields, by name."""
  selectors = known_parts().get(section, {})
  found = {"name": str} if selectors else {}
  found |= _held(section, {o.name: o.kind for o in options_of_part(SECTIONS[section]).values()})
  for parts in selectors.values():
    for part in parts.values():
      new = _held(section, {name: option.get("kind") for name, option in part["options"].items()})
      found = new | found
  return _ADDED.get(section, {}) | found


def _held(section: str, kinds: Mapping[str, str | None]) -> dict[str, type]:
  """Returns the types of those options that a section can hold: no functions but named parts."""
  selectors = known_parts().get(section, {})
  return {
    name: _TYPES[kind]
    for name, kind in kinds.items()
    if kind in _TYPES and (kind != "part" or name in selectors)
  }


def unlisted(section: str, settings: Mapping[str, Any] | ConfigDict) -> dict[str, type]:
  """Returns the types of options of the named parts that parts.json lacks, by name.

  They are parts of one's own, or of a registry line that is newer than the file. Imports JAX if
  there is such a part.

  Args:
    section: 'sampler'.
    settings: its values, or some of them.
  """
  names = {
    selector: settings[selector]
    for selector, parts in known_parts().get(section, {}).items()
    if settings.get(selector) is not None and settings[selector] not in parts
  }
  if not names:
    return {}
  from scorelab.config.parts import named_parts

  found: dict[str, type] = {}
  for part in named_parts(section, names):
    found |= _held(section, {o.name: o.kind for o in options_of_part(part).values()})
  return found


def add(section: str, types: Mapping[str, type]) -> None:
  """Adds fields to a section of every config that is made from now on."""
  _ADDED.setdefault(section, {}).update(types)


def add_unlisted(config: ConfigDict) -> None:
  """Adds to a config the options that parts.json lacks of the parts that it names, unset."""
  for section in SECTIONS:
    part = config[section]
    with part.unlocked():
      for name, kind in unlisted(section, part).items():
        if name not in part:
          part[name] = placeholder(kind)


def make_config() -> ConfigDict:
  """Returns a config with every field, at its default; None is the named part's own default."""
  config = ConfigDict(_defaults(options_of_part(Whole)))
  for section, own in SECTIONS.items():
    defaults = _defaults(options_of_part(own))
    if section in known_parts():
      defaults = {"name": own.name, **defaults}  # pyrefly: ignore[missing-attribute]
    types = types_of(section)
    config[section] = ConfigDict(
      {name: placeholder(kind) for name, kind in types.items() if defaults.get(name) is None}
      | {name: value for name, value in defaults.items() if value is not None}
    )
  return config


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
  return {name: option.default for name, option in options.items()}
