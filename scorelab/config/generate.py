"""Writes parts.json, the description of all parts that command lines use before JAX is imported.

python -m scorelab.config.generate    # after a change of a registry or of a part's signature
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scorelab.config import fields
from scorelab.config.parts import METRIC_PARTS, PARTS


def described_parts() -> dict[str, dict[str, dict[str, Any]]]:
  """Returns what parts.json must hold, read from the registries."""
  return {
    section: {
      selector: {name: fields.described(part) for name, part in parts.items()}
      for selector, parts in selectors.items()
    }
    for section, selectors in (PARTS | {"metric": METRIC_PARTS}).items()
  }


def as_text(parts: Mapping[str, Any]) -> str:
  """Returns the file's text."""
  return json.dumps(parts, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
  fields.FILE.write_text(as_text(described_parts()), encoding="utf-8")
