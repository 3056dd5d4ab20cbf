"""The published numbers, in scripts/published.csv, and what ours are to them.

Columns of a published number:

    system, config        A to E, and the config that is held to it
    quantity, at          what it is, and where: a number of steps, say
    published             the number, or those of several draws (keys, seeds) with a space between
    keys                  draws that one number is the mean of, where its own spread is not known
    tolerance             by how much ours may differ, 0.1 or 5%; empty for the rule below
    zero                  the quantity of a network that is zero everywhere, if it is known
    file, where           ours: a CSV under results/reference/, and 'column=value; column=value' of
                          its rows, over which the mean is taken; or 'parameters', and a network
    value, error, number  its columns: ours, its standard error, and how many draws that is over
    source, note          who says so; why this tolerance, or why there is nothing to compare

Verdicts:

    agrees        within two standard errors of the difference, or equal where the tolerance is 0
    compatible    within a tolerance; all of these were set when our number was known
    differs       neither
    not compared  nothing to compare, or a rule that a network of zeros would pass as well
    not measured  ours is not in its file

The published standard error is that of the published draws; of one number alone, single draws are
taken to vary as ours do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from scorelab.config.options import literal
from scorelab.networks import NETWORKS
from scorelab.plotting import read_csv

FILE = pathlib.Path(__file__).with_suffix(".csv")
PARAMETERS = "parameters"
VERDICTS = ("agrees", "compatible", "differs", "not compared", "not measured")
ERRORS = 2.0  # standard errors of the difference that are no difference


@dataclasses.dataclass(frozen=True)
class Entry:
  """A published number; the module says what each field is."""

  system: str
  config: str
  quantity: str
  at: str
  published: tuple[float, ...]
  keys: int
  tolerance: str
  zero: str
  file: str
  where: dict[str, str]
  value: str
  error: str
  number: str
  source: str
  note: str

  @property
  def mean(self) -> float:
    """Mean of the published draws."""
    return statistics.mean(self.published)

  @property
  def is_uninformative(self) -> bool:
    """Returns True if a network that is zero everywhere is within the tolerance."""
    allowed = self.allowed
    return bool(self.zero and allowed) and abs(float(self.zero) - self.mean) <= (allowed or 0.0)

  @property
  def allowed(self) -> float | None:
    """The tolerance in the number's own unit; None where standard errors decide."""
    if not self.tolerance:
      return None
    if self.tolerance.endswith("%"):
      return abs(self.mean) * float(self.tolerance[:-1]) / 100
    return float(self.tolerance)


@dataclasses.dataclass(frozen=True)
class Found:
  """Our number.

  Attributes:
    value: of it.
    error: its standard error, or nan.
    number: of draws, or nan.
  """

  value: float
  error: float = math.nan
  number: float = math.nan


@functools.cache
def entries() -> tuple[Entry, ...]:
  """All published numbers, as the file has them."""
  found = []
  for row in read_csv(FILE):
    text = {name: _text(value) for name, value in row.items()}
    parts = [part.partition("=") for part in text.pop("where").split("; ") if part]
    published = tuple(float(word) for word in text.pop("published").split())
    where = {name: value for name, _, value in parts}
    keys = int(float(text.pop("keys") or 1))
    found.append(Entry(published=published, where=where, keys=keys, **text))
  return tuple(found)


def _text(value: Any) -> str:
  """A cell as it was written, but for the form of its number."""
  if isinstance(value, float | int):
    return "" if math.isnan(value) else f"{value:.15g}"
  return str(value)


def select(file: str, **where: str) -> list[Entry]:
  """The numbers that ours in this file are held to, where these columns have these values."""
  return [e for e in entries() if e.file == file and where.items() <= e.where.items()]


def get(config: str, quantity: str) -> float:
  """The published number of this name."""
  (entry,) = (e for e in entries() if (e.config, e.quantity) == (config, quantity))
  return entry.mean


def locate(entry: Entry, reference: pathlib.Path) -> Found | None:
  """Our number; None if there is no such file or no such row of it.

  Args:
    entry: which.
    reference: the folder of results/reference/.

  Raises:
    KeyError: the file has no such column.
  """
  if entry.file == PARAMETERS:
    return Found(count_parameters(entry.where))
  path = reference / entry.file
  if not entry.file or not path.exists():
    return None
  rows = [row for row in read_csv(path) if _fits(row, entry.where)]
  if not rows:
    return None
  value = statistics.mean(float(row[entry.value]) for row in rows)
  if not entry.error:
    return Found(value)
  number = float(rows[0][entry.number]) if entry.number else math.nan
  return Found(value, float(rows[0][entry.error]), number)


def _fits(row: dict[str, Any], where: dict[str, str]) -> bool:
  """Returns True if a row has these values; numbers are equal however they are written."""
  return all(_text(row[name]) == _text(literal(value)) for name, value in where.items())


def count_parameters(where: dict[str, str]) -> int:
  """The parameters of the network `name` with these options, on an input of this `shape`."""
  return _count(tuple(where.items()))


@functools.cache
def _count(where: tuple[tuple[str, str], ...]) -> int:
  options = {name: literal(value) for name, value in where}
  network, x = NETWORKS[options.pop("name")], jnp.ones(options.pop("shape"))
  shapes = jax.eval_shape(network(**options).init, jax.random.key(0), x, jnp.ones(1))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def decide(entry: Entry, found: Found | None) -> dict[str, Any]:
  """A line of verdicts.csv: the published number, ours, the rule and the verdict."""
  known = math.nan  # the published standard error
  if len(entry.published) > 1:
    known = statistics.stdev(entry.published) / len(entry.published) ** 0.5
  elif found is not None and entry.allowed is None:
    known = found.error * (found.number / entry.keys) ** 0.5
  line: dict[str, Any] = {
    **{name: getattr(entry, name) for name in ("system", "config", "quantity", "at")},
    "published": entry.mean,
    "published_sem": known,
    **dict.fromkeys(("value", "sem", "difference", "errors_apart")),
    **{"rule": "", "verdict": "not measured" if entry.file else "not compared"},
    **{"source": entry.source, "note": entry.note},
  }
  if found is None:
    return line
  difference = found.value - entry.mean
  line |= {"value": found.value, "sem": found.error, "difference": difference}
  if entry.is_uninformative:
    return line | {"verdict": "not compared", "note": "a network of zeros would pass as well"}
  within = "agrees"
  if entry.allowed is not None:
    within = "compatible" if entry.allowed else "agrees"
    rule = f"within {entry.tolerance}" if entry.allowed else "exactly"
    apart, limit = abs(difference), entry.allowed
  else:
    rule, limit = f"within {ERRORS:g} standard errors", ERRORS
    both = math.hypot(found.error, known)
    if not both > 0:  # one draw has no error
      return line | {"rule": rule}
    apart = line["errors_apart"] = abs(difference) / both
  return line | {"rule": rule, "verdict": within if apart <= limit else "differs"}


def verdicts(reference: pathlib.Path) -> list[dict[str, Any]]:
  """Returns every published number next to ours, from the CSVs of results/reference/ alone."""
  return [decide(entry, locate(entry, reference)) for entry in entries()]


def as_markdown(lines: Sequence[dict[str, Any]]) -> str:
  """The verdicts for a README, what differs only in `at` on one line."""
  groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
  for line in lines:
    groups.setdefault((line["system"], line["config"], line["quantity"]), []).append(line)
  table = ["| | config | quantity | published | ours | rule | verdict |", "|---" * 7 + "|"]
  for (system, config, quantity), group in groups.items():
    places = [line["at"] for line in group]
    where = f" at {_joined(places)}" if any(places) else ""
    published = ", ".join(_number(line["published"]) for line in group)
    ours = ", ".join(_with_error(line) for line in group if line["value"] is not None)
    rule = ", ".join(dict.fromkeys(line["rule"] for line in group))
    cells = [system, f"`{config}`", quantity + where, published, ours, rule, _verdict(group)]
    table.append("| " + " | ".join(cells) + " |")
  return "\n".join(table)


def counts_as_markdown(lines: Sequence[dict[str, Any]]) -> str:
  """Number of published numbers per system and verdict."""
  table = ["| system | " + " | ".join(VERDICTS) + " |", "|---" * (1 + len(VERDICTS)) + "|"]
  for system in dict.fromkeys(line["system"] for line in lines):
    found = [line["verdict"] for line in lines if line["system"] == system]
    table.append(f"| {system} | " + " | ".join(str(found.count(name)) for name in VERDICTS) + " |")
  found = [line["verdict"] for line in lines]
  return "\n".join(
    [*table, "| all | " + " | ".join(str(found.count(name)) for name in VERDICTS) + " |"]
  )


def _joined(places: Sequence[str]) -> str:
  """'4 steps', '9 steps' as '4, 9 steps'."""
  if all(place.endswith(" steps") for place in places):
    return ", ".join(place.removesuffix(" steps") for place in places) + " steps"
  return "; ".join(places)


def _number(value: float) -> str:
  """Three digits, and whole numbers in full."""
  return f"{value:,.0f}" if value == round(value) and abs(value) >= 10 else f"{value:#.3g}"


def _with_error(line: dict[str, Any]) -> str:
  error = "" if math.isnan(line["sem"]) else f" ± {line['sem']:.1g}"
  return _number(line["value"]) + error


def _verdict(group: Sequence[dict[str, Any]]) -> str:
  """'agrees', or what each verdict is given to."""
  found = {
    line["verdict"]: [g["at"] for g in group if g["verdict"] == line["verdict"]] for line in group
  }
  if len(found) == 1:
    return next(iter(found))
  return "; ".join(f"{verdict} at {_joined(places)}" for verdict, places in found.items())
