"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], levels, and grids of them."""

from collections.abc import Callable

from scorelab.schedules.base import PROCESSES, Grid, Level, Schedule, Tabulated, require_time
from scorelab.schedules.continuous import (
  GeometricVarianceExploding,
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
)
from scorelab.schedules.grids import karras, quadratic, uniform, uniform_log_snr

SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "variance_exploding": VarianceExploding,
  "geometric_variance_exploding": GeometricVarianceExploding,
  "variance_preserving": VariancePreserving,
  "linear_flow": LinearFlow,
}

GRIDS: dict[str, Callable[..., Grid]] = {
  "uniform": uniform,
  "quadratic": quadratic,
  "karras": karras,
  "uniform_log_snr": uniform_log_snr,
  "geometric": uniform_log_snr,  # in sigma / alpha
}

__all__ = [
  "GRIDS",
  "PROCESSES",
  "SCHEDULES",
  "GeometricVarianceExploding",
  "Grid",
  "Level",
  "LinearFlow",
  "Schedule",
  "Tabulated",
  "VarianceExploding",
  "VariancePreserving",
  "karras",
  "quadratic",
  "require_time",
  "uniform",
  "uniform_log_snr",
]
