"""Grids that scripts compare: every stock spacing with several cleanest levels and exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
  """Returns the grid of each spacing, to the data, by one program for all of them."""
  kinds = {grid: [s for s in spacings if s.grid == grid] for grid in {s.grid for s in spacings}}

  @jax.jit
  def make(options: dict[str, dict[str, jax.Array]]) -> dict[str, Grid]:
    # With axis_size: uniform times have no options.
    return {
      grid: jax.vmap(
        lambda own, grid=grid: GRIDS[grid](schedule, num_steps, **own), axis_size=len(kinds[grid])
      )(own)
      for grid, own in options.items()
    }

  options = {
    grid: {k: jnp.asarray([s.options[k] for s in own]) for k in own[0].options}
    for grid, own in kinds.items()
  }
  found = {}
  for grid, made in make(options).items():
    arrays = jax.tree.map(np.asarray, made)
    found |= {s.name: jax.tree.map(lambda a, i=i: a[i], arrays) for i, s in enumerate(kinds[grid])}
  return [found[spacing.name] for spacing in spacings]
