"""Grids that scripts compare: every stock spacing with several cleanest levels and exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

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


def spacings(sigma_mins: Sequence[float]) -> tuple[Spacing, ...]:
  """Returns uniform and quadratic times, and five spacings to each cleanest sigma / alpha."""
  found = [Spacing("uniform", "uniform", {}), Spacing("quadratic", "quadratic", {})]
  for low in sigma_mins:
    found.append(Spacing(f"log-SNR, {low:g}", "uniform_log_snr", {"sigma_min": low}))
    for rho in RHOS:
      options = {"sigma_min": low, "rho": rho}
      found.append(Spacing(f"karras {rho:g}, {low:g}", "karras", options))
  return tuple(found)


def make_all(spacings: Sequence[Spacing], schedule: Schedule, num_steps: int) -> list[Grid]:
  """Returns the grid of each spacing, to the data; those that differ in numbers by one program."""
  found: dict[str, Grid] = {}
  for grid in dict.fromkeys(spacing.grid for spacing in spacings):
    own = [spacing for spacing in spacings if spacing.grid == grid]
    options = {k: jnp.asarray([s.options[k] for s in own]) for k in own[0].options}

    def make(options: dict[str, jax.Array], grid: str = grid) -> Grid:
      return GRIDS[grid](schedule, num_steps, **options)

    # With axis_size: uniform times have no options.
    made = jax.jit(jax.vmap(make, axis_size=len(own)))(options)
    found |= {s.name: jax.tree.map(lambda a, i=i: a[i], made) for i, s in enumerate(own)}
  return [found[spacing.name] for spacing in spacings]
