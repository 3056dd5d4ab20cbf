"""Table of timings of docs/speed.md, from the JSON files that scripts/benchmark.py writes."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def table(folder: pathlib.Path, cases: Sequence[str]) -> str:
  """Returns the table of the cases that have JSON in the folder, in this order.

  Raises:
    ValueError: none has.
  """
  files = (folder / f"{case}.json" for case in cases)
  records = [json.loads(file.read_text()) for file in files if file.exists()]
  if not records:
    raise ValueError(f"{folder} has no JSON of a case: run scripts/benchmark.py first")
  return "\n".join(rows(records))


def rows(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Lines of Markdown: a row for each match."""
  devices = sorted({record["device"] for record in records})
  lines = [f"Device: {'; '.join(devices)}. Versions and commands are in the JSON.", ""]
  lines += ["| case | | time over ours, median (quartiles) | n | share of the limit | memory |"]
  lines += ["|---|---|---|---|---|---|"]
  for record in records:
    case = f"`{record['case']}`"
    for match in record["matches"]:
      cells = [case, match["match"], _ratios(match), str(match["n"]), _share(match), _memory(match)]
      lines.append(f"| {' | '.join(cells)} |")
      case = ""
  return lines


def _number(value: float) -> str:
  """Three digits, without an exponent."""
  return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _spread(value: Mapping[str, Any]) -> str:
  low, high = value["quartiles"]
  return f"{_number(value['median'])} ({_number(low)} to {_number(high)})"


def _ratios(match: Mapping[str, Any]) -> str:
  if "exponent" in match:
    exponent = match["exponent"]
    ends = f"{exponent['sizes'][0]:g} to {exponent['sizes'][-1]:g}"
    last = _spread(exponent["last"])
    return f"{ends}: exponent {_spread(exponent)}, between the last two {last}"
  over = "" if match["ours"] == "ours" else f", over {match['ours']}"
  each = [f"{side} {_spread(ratio)}" for side, ratio in match["ratios"].items()]
  return "; ".join(each) + over


def _share(match: Mapping[str, Any]) -> str:
  share = match["shares"].get(match["ours"])
  return "" if share is None else f"{100 * share['median']:.0f} % of {share['of']}"


def _memory(match: Mapping[str, Any]) -> str:
  """Ours, where it is worth a word."""
  mebibytes = match["memory_bytes"][match["ours"]] / 2**20
  return f"{mebibytes:.0f} MiB" if mebibytes >= 256 else ""
