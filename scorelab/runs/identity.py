"""The fields that identify a run, and their hash: the run id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# Fields that only evaluation depends on. They may change for a finished run, which is then
# evaluated again.
EVALUATION_FIELDS = ("sampler", "observation", "evaluation")


FINGERPRINT = "data.sha256"


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, value) of every field of nested mappings."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def training_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that training depends on and that are set, by dotted name, as JSON values.

  For an ensemble of several seeds, the values of samplers in ensemble.over are left out. Data in
  files are identified by their fingerprint, not by their path.
  """
  fields = set_fields({k: v for k, v in config.items() if k not in EVALUATION_FIELDS})
  if "ensemble.seeds" in fields and "ensemble.over" in fields:
    parts = fields.pop("ensemble.over").replace(";", " ").split()
    if trained := [part for part in parts if not part.startswith("sampler.")]:
      fields["ensemble.over"] = " ".join(trained)
  return fields


def set_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that are not None, by dotted name, as JSON values.

  A field added later defaults to None, so it changes no old run id.
  """
  fields = dict(_flatten(json.loads(json.dumps(config))))
  if FINGERPRINT in fields:
    told = {FINGERPRINT: fields[FINGERPRINT]}
    fields = {k: v for k, v in fields.items() if not k.startswith("data.") and k != "target.path"}
    fields |= told
  return {name: value for name, value in fields.items() if value is not None}


def without_data(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without its data's fingerprint, as runs were recorded before it existed."""
  return {name: value for name, value in config.items() if name != "data"}


def comparable(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
  """Returns two configs without their fingerprints, unless both have one.

  Without a fingerprint only the paths of the data can be compared.
  """
  if ("data" in old) == ("data" in new):
    return old, new
  return without_data(old), without_data(new)


def run_id(config: Mapping[str, Any]) -> str:
  """Returns a short hash of all that training depends on: a command finds its run again."""
  text = json.dumps(training_fields(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]
