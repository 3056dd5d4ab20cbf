"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], levels, and grids of them."""

from collections.abc import Callable

from scorelab.schedules import grid_registry, schedule_registry
from scorelab.schedules.discrete import (
  BETAS,
  Discrete,
  cosine_betas,
  discrete,
  linear_betas,
  scaled_linear_betas,
  sigmoid_betas,
  vp_betas,
)
from scorelab.schedules.grid import Grid
from scorelab.schedules.grid_registry import *
from scorelab.schedules.grids import given_log_snrs, ratio_ends
from scorelab.schedules.level import PROCESSES, Level, require_time, rescaled, safe_sqrt
from scorelab.schedules.schedule import Schedule
from scorelab.schedules.schedule_registry import *
from scorelab.schedules.sde import forward_path, reverse_drift
from scorelab.schedules.shifted import Shifted
from scorelab.schedules.tabulated import Tabulated
from scorelab.validation import Registry, parts_of

SCHEDULES: dict[str, Callable[..., Schedule]] = Registry("schedule", parts_of(schedule_registry))
SCHEDULES |= {name: discrete(betas) for name, betas in BETAS.items()}
GRIDS: dict[str, Callable[..., Grid]] = Registry("grid", parts_of(grid_registry))
