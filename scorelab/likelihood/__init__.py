"""Likelihood of a model: its log-density on the probability flow."""

from scorelab.likelihood.flow import (
  DIVERGENCES,
  METHODS,
  STATUSES,
  AdaptiveLogLikelihood,
  LogLikelihood,
  adaptive_log_likelihood,
  log_likelihood,
)

__all__ = [
  "DIVERGENCES",
  "METHODS",
  "STATUSES",
  "AdaptiveLogLikelihood",
  "LogLikelihood",
  "adaptive_log_likelihood",
  "log_likelihood",
]
