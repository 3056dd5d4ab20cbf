"""Old import path, from before version 0.9: the names are now in `scorelab.schedules`."""

from typing import TypeVar

from scorelab.schedules.grid import Grid
from scorelab.schedules.level import PROCESSES, Level, require_time, rescaled, safe_sqrt
from scorelab.schedules.schedule import Schedule
from scorelab.schedules.tabulated import Tabulated

_T = TypeVar("_T")


def by_formula(cls: type[_T]) -> type[_T]:
  """Returns the class as it is: a subclass of Schedule is a pytree without a decorator."""
  return cls


__all__ = [
  "PROCESSES",
  "Grid",
  "Level",
  "Schedule",
  "Tabulated",
  "by_formula",
  "require_time",
  "rescaled",
  "safe_sqrt",
]
