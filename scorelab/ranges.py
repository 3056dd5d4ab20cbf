"""Ranges of options, written in the signature of the part that takes them.

    def ddim(key, predict, x, grid, *, eta: Annotated[float, AtLeast(0)] = 0.0): ...

Does not import JAX, so that a mistake on the command line is reported at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from typing import Any

ORDERED: tuple[tuple[str, str, bool], ...] = (
  ("sigma_min", "sigma_max", True),
  ("t_min", "t_max", True),
  ("beta_min", "beta_max", True),
  ("alpha_min", "alpha_max", True),
  ("start", "end", True),
  ("guidance_low", "guidance_high", True),
  ("s_tmin", "s_tmax", False),
  ("min_intervals", "max_intervals", False),
)
"""Pairs of options, the smaller one first, and whether they must differ."""


class Range:
  """Base of ranges: the numbers that an option allows. No range holds nan."""

  @property
  def description(self) -> str:
    """The range as it stands in a message, after 'must be'."""
    raise NotImplementedError

  def allows(self, value: Any) -> bool:
    """Returns whether a number is in the range."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class AtLeast(Range):
  """Numbers from `low` on."""

  low: float

  @property
  def description(self) -> str:
    return f"at least {self.low}"

  def allows(self, value: Any) -> bool:
    return bool(value >= self.low)


@dataclasses.dataclass(frozen=True)
class Above(Range):
  """Numbers above `low`."""

  low: float

  @property
  def description(self) -> str:
    return f"above {self.low}"

  def allows(self, value: Any) -> bool:
    return bool(value > self.low)


@dataclasses.dataclass(frozen=True)
class Between(Range):
  """An interval: `ends` says which of its ends belong to it, '[]', '[)', '(]' or '()'.

  Args:
    low, high: the ends.
    ends: '[' and ']' for an end that belongs to the interval, '(' and ')' for one that does not.
    slack: what a number may lie outside, for rounding.
  """

  low: float
  high: float
  ends: str = "[]"
  slack: float = 0.0

  @property
  def description(self) -> str:
    return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"

  def allows(self, value: Any) -> bool:
    low, high = self.low - self.slack, self.high + self.slack
    above = value >= low if self.ends[0] == "[" else value > low
    return bool(above and (value <= high if self.ends[1] == "]" else value < high))


@dataclasses.dataclass(frozen=True)
class FromTo(Range):
  """Whole numbers from `low` to `high`."""

  low: int
  high: int

  @property
  def description(self) -> str:
    return f"from {self.low} to {self.high}"

  def allows(self, value: Any) -> bool:
    return bool(self.low <= value <= self.high)


class Count(FromTo):
  """Whole numbers from 1 to `most`."""

  def __init__(self, most: int):
    super().__init__(1, most)


class OneOf(Range):
  """A few numbers.

  Args:
    values: the numbers, two or more.
  """

  def __init__(self, *values: float):
    self.values = values

  @property
  def description(self) -> str:
    *first, last = map(str, self.values)
    return f"{', '.join(first)} or {last}"

  def allows(self, value: Any) -> bool:
    return value in self.values


class ANumber(Range):
  """Any number: the range of an option that declares none."""

  @property
  def description(self) -> str:
    return "a number"

  def allows(self, value: Any) -> bool:
    return not math.isnan(value)


ANY = ANumber()


def range_in(hint: Any) -> Range | None:
  """Returns the range in an annotation, also in a member of a union; None if there is none."""
  if typing.get_origin(hint) is typing.Annotated:
    for note in hint.__metadata__:
      if isinstance(note, Range):
        return note
  for member in typing.get_args(hint):
    if (found := range_in(member)) is not None:
      return found
  return None


def members(hint: Any) -> tuple[Any, ...]:
  """Returns the members of a union, or the hint alone, without ranges; of an array, its class."""
  origin = typing.get_origin(hint)
  if origin is typing.Annotated:
    return members(typing.get_args(hint)[0])
  if origin in (typing.Union, types.UnionType):
    return tuple(itertools.chain.from_iterable(map(members, typing.get_args(hint))))
  return (getattr(hint, "array_type", hint),)
