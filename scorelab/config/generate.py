"""Writes parts.json, what a command line knows of the parts before JAX is imported.

python -m scorelab.config.generate    # after a change of a registry or of a part's signature
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from scorelab.config import fields
from scorelab.config.parts import METRIC_PARTS, PARTS
from scorelab.signatures import Option, options_of_part, summary


def described_parts() -> dict[str, dict[str, dict[str, Any]]]:
  """Returns what parts.json must hold, read from the registries."""
  return {
    section: {
      selector: {name: _described(part) for name, part in parts.items()}
      for selector, parts in selectors.items()
    }
    for section, selectors in (PARTS | {"metric": METRIC_PARTS}).items()
  }


def as_text(parts: Mapping[str, Any]) -> str:
  """Returns the file's text."""
  return json.dumps(parts, indent=1, ensure_ascii=False) + "\n"


def _described(part: Callable[..., Any]) -> dict[str, Any]:
  options = {name: _option(option) for name, option in options_of_part(part).items()}
  return {"summary": summary(part), "options": options}


def _option(option: Option) -> dict[str, Any]:
  """Returns an option as JSON values, without what is not known of it."""
  allowed = option.range.words if option.range else ", ".join(map(str, option.choices))
  default = getattr(option.default, "__name__", None) or repr(option.default)
  said = {"kind": option.kind, "allowed": allowed, "default": default, "help": option.help}
  return {name: value for name, value in said.items() if value}


if __name__ == "__main__":
  fields.FILE.write_text(as_text(described_parts()), encoding="utf-8")
