"""Times sides in turn, and computes ratios, shares of limits, exponents and targets."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from scripts.benchmarks.timed_processes import MissingError, Side, Worker

PAUSE = 0.1  # seconds between turns: spinning threads of the side before have gone to sleep


@dataclasses.dataclass(frozen=True)
class Bar:
  """Target for a median: a 'ratio' or 'share' at least, 'memory' or 'seconds' at most.

  Attributes:
    kind: one of these four; memory in bytes.
    side: label of the side; for a ratio, the other side.
    bound: the number.
  """

  kind: str
  side: str
  bound: float

  def met(self, value: float) -> bool:
    """Returns True if this value reaches the target."""
    return value >= self.bound if self.kind in ("ratio", "share") else value <= self.bound


@dataclasses.dataclass(frozen=True)
class Match:
  """Sides that are timed in turn, round after round.

  Attributes:
    name: unique within its case.
    sides: by label. The time of each is divided by that of the first, which is ours.
    limits: by label, sides that do only the unavoidable work, each of one unit.
    rtol, atol: tolerance for outputs against the first side's; None compares none.
    rounds: maximum number of rounds, for slow sides.
    sizes: sizes of the sides of a scaling, in order; then an exponent is fitted.
    bars: targets.
  """

  name: str
  sides: Mapping[str, Side]
  limits: Mapping[str, Side] = dataclasses.field(default_factory=dict)
  rtol: float | None = None
  atol: float = 0.0
  rounds: int | None = None
  sizes: tuple[float, ...] = ()
  bars: tuple[Bar, ...] = ()


class ValuesError(Exception):
  """Sides that should have equal outputs differ."""


def run(match: Match, repeats: int, pause: float = PAUSE) -> dict[str, Any]:
  """Times the sides of a match in turn.

  Args:
    match: its sides; those that lack a package are left out.
    repeats: rounds; match.rounds at most.
    pause: seconds before each turn.

  Returns:
    JSON values: `match`, `n`, `ratios` and `shares` (by side: median, quartiles), `memory_bytes`,
    `differences` (of outputs from the first's), `left_out`, `exponent` where there are sizes,
    `bars`, `device`; and `seconds`, the medians, which are no result on a shared machine.

  Raises:
    ValuesError: outputs differ.
    MissingError: the first side lacks a package.
    SideError: a process has failed.
  """
  ours, *_ = match.sides
  with contextlib.ExitStack() as stack:
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}
    for label, side in {**match.sides, **match.limits}.items():
      try:
        workers[label] = stack.enter_context(Worker(side))
      except MissingError as error:
        if label == ours:
          raise
        left_out[label] = str(error)
    differences = _compare(match, workers)
    times: dict[str, list[float]] = {label: [] for label in workers}
    for _ in range(min(repeats, match.rounds or repeats)):
      for label, worker in workers.items():
        time.sleep(pause)
        times[label].append(worker.turn())
  taken = {label: np.asarray(values) for label, values in times.items()}
  others = [label for label in match.sides if label in taken and label != ours]
  result: dict[str, Any] = {
    "match": match.name,
    "ours": ours,
    "n": len(taken[ours]),
    "ratios": {label: quartiles(taken[label] / taken[ours]) for label in others},
    "shares": _shares(match, workers, taken),
    "memory_bytes": {label: workers[label].memory for label in match.sides if label in workers},
    "differences": differences,
    "left_out": left_out,
    "device": workers[ours].device,
    "seconds": {label: float(np.median(values)) for label, values in taken.items()},
  }
  if match.sizes:
    result["exponent"] = _exponent(match.sizes, np.stack([taken[s] for s in match.sides]))
  result["bars"] = _bars(match, result)
  return result


def quartiles(values: np.ndarray) -> dict[str, Any]:
  """Returns the median of values [n] and its quartiles."""
  low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
  return {"median": float(median), "quartiles": [float(low), float(high)]}


def _compare(match: Match, workers: Mapping[str, Worker]) -> dict[str, float]:
  """Returns the largest differences of outputs from the first side's.

  Raises:
    ValuesError: one is beyond the match's tolerance.
  """
  if match.rtol is None:
    return {}
  ours, *_ = match.sides
  expected, found = workers[ours].output(), {}
  assert expected is not None
  for label in match.sides:
    if label == ours or label not in workers or (value := workers[label].output()) is None:
      continue
    try:
      np.testing.assert_allclose(value, expected, rtol=match.rtol, atol=match.atol)
    except AssertionError as error:
      raise ValuesError(f"{match.name}: {label} and {ours} differ: {error}") from error
    found[label] = float(np.max(np.abs(value - expected)))
  return found


def _shares(
  match: Match, workers: Mapping[str, Worker], taken: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Returns by side the limit that it is nearest to and the share of it that it reaches."""
  shares: dict[str, Any] = {}
  for side in match.sides:
    for limit in match.limits:
      if side not in workers or limit not in workers:
        continue
      ((unit, amount),) = workers[limit].amounts.items()
      if unit not in workers[side].amounts:
        continue
      needed = workers[side].amounts[unit] / amount * taken[limit]  # seconds, at the limit's speed
      share = {"of": limit, "unit": unit, **quartiles(needed / taken[side])}
      if side not in shares or share["median"] > shares[side]["median"]:
        shares[side] = share
  return shares


def _exponent(sizes: tuple[float, ...], times: np.ndarray) -> dict[str, Any]:
  """Fits cost ~ size^exponent to times [sizes, rounds]; `last` is between the last two sizes."""
  logs = np.log(np.asarray(sizes))
  fitted = np.polyfit(logs, np.log(times), 1)[0]
  last = np.log(times[-1] / times[-2]) / (logs[-1] - logs[-2])
  return {"sizes": list(sizes), **quartiles(fitted), "last": quartiles(last)}


def _bars(match: Match, result: Mapping[str, Any]) -> list[dict[str, Any]]:
  names = {"ratio": "ratios", "share": "shares", "memory": "memory_bytes", "seconds": "seconds"}
  bars = []
  for bar in match.bars:
    value = result[names[bar.kind]].get(bar.side)
    if value is not None:
      value = value["median"] if isinstance(value, dict) else value
      bars.append({**dataclasses.asdict(bar), "met": bar.met(value)})
  return bars
