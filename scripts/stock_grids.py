"""Grids that scripts compare: every stock spacing with several cleanest levels and exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scorelab.schedules import GRIDS, Grid, Schedule

RHOS = (3.0, 5.0, 7.0, 10.0)


class Spacing(NamedTuple):
  """A stock grid with its options.

  Attributes:
    name: for tables.
    grid: its name in GRIDS.
    options: of the grid.
  """

  name: str
  grid: str
  options: dict[str, float]

  def make(self, schedule: Schedule, num_steps: int) -> Grid:
    """The grid, to the data."""
    return GRIDS[self.grid](schedule, num_steps, **self.options)


def spacings(sigma_mins: Sequence[float]) -> tuple[Spacing, ...]:
  """Returns uniform and quadratic times, and five spacings to each cleanest sigma / alpha."""
  found = [Spacing("uniform", "uniform", {}), Spacing("quadratic", "quadratic", {})]
  for low in sigma_mins:
    found.append(Spacing(f"log-SNR, {low:g}", "uniform_log_snr", {"sigma_min": low}))
    for rho in RHOS:
      options = {"sigma_min": low, "rho": rho}
      found.append(Spacing(f"karras {rho:g}, {low:g}", "karras", options))
  return tuple(found)
