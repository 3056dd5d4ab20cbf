"""Predictions at noisy points in every view, and parameterizations of networks."""

from scorelab.predictions.conditioning import (
  CONDITIONINGS,
  log_sigma,
  noise_ratio,
  signal_level,
  time,
  time_index,
  unconditional,
)
from scorelab.predictions.parameterizations import (
  EDM,
  PARAMETERIZATIONS,
  Consistency,
  Exact,
  Parameterization,
  ReverseStep,
  ScaledScore,
)
from scorelab.predictions.views import (
  Prediction,
  mixed,
  noised,
  x0_slope,
)
from scorelab.schedules import ratio_ends

__all__ = [
  "CONDITIONINGS",
  "EDM",
  "PARAMETERIZATIONS",
  "Consistency",
  "Exact",
  "Parameterization",
  "Prediction",
  "ReverseStep",
  "ScaledScore",
  "log_sigma",
  "mixed",
  "noise_ratio",
  "noised",
  "ratio_ends",
  "signal_level",
  "time",
  "time_index",
  "unconditional",
  "x0_slope",
]
