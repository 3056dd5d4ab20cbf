"""JSON and JSON Lines files that stay readable after a kill or on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: after a kill the file has the old or the new content."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
  os.replace(temporary, path)


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the objects of a JSONL file, one per line; skips a line torn by a kill or a full disk."""
  objects = []
  for line in path.read_text().splitlines() if path.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      objects.append(json.loads(line))
  return objects


def append_jsonl(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Appends one object as its own line, even after a torn line."""
  line = json.dumps(value, allow_nan=False) + "\n"
  with path.open("a+b") as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      line = line if file.read() == b"\n" else "\n" + line
    file.write(line.encode())


def truncate_jsonl(path: pathlib.Path, step: int) -> None:
  """Drops the lines after `step`, which a resumed run writes again."""
  if path.exists():
    kept = [json.dumps(line) + "\n" for line in read_jsonl(path) if line["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
