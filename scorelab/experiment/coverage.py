"""Warns about rows that start at a level where the prior does not cover the noised data."""

from __future__ import annotations

import inspect
import math

import jax.numpy as jnp
import numpy as np

from scorelab.config.options import make
from scorelab.errors import ConfigError
from scorelab.experiment.row import Row
from scorelab.experiment.spec import Experiment
from scorelab.metrics.prior import Moments, least_ratio, prior_divergence
from scorelab.schedules import GRIDS, SCHEDULES, Level, Schedule, Shifted

MOST_NATS = 0.1
"""Divergence of the noised data from the prior that needs no warning."""

# Fields of a schedule that set its noisiest level, and whether a larger value makes more noise.
_ENDS = {"sigma_max": True, "base": True, "beta_max": True, "alpha_min": False}


def coverage_warnings(experiment: Experiment) -> list[str]:
  """Returns one line per starting level at which the prior differs from the noised data's law.

  A line names the rows that start there, a divergence in nats, and the values to set. The
  divergence is between the prior and the data noised to that level, as a Gaussian with their mean
  and covariance.
  """
  moments = None
  starts: dict[tuple[float, float], list[Row]] = {}
  for row in experiment.evaluation.rows:
    if row.grid is not None:
      alpha, sigma = (float(np.asarray(a)[0]) for a in row.grid.levels[1:])
      if alpha > 0:
        starts.setdefault((alpha, sigma), []).append(row)
  lines = []
  for (alpha, sigma), rows in starts.items():
    moments = moments or Moments.of(experiment.data.get("x", experiment.validation["x"]))
    std = _prior_std(experiment.schedule, alpha, sigma)
    cost = prior_divergence(moments, alpha, sigma, std)
    if cost > MOST_NATS:
      names = ", ".join(dict.fromkeys(row.sampler for row in rows))
      lines.append(
        f"{names}: sampling starts at sigma / alpha = {sigma / alpha:.4g}, where the data still "
        f"show: by mean and covariance the noised data are {cost:.3g} nats from the prior "
        f"N(0, {std:.4g}^2 I); for at most {MOST_NATS} "
        + _remedy(experiment, rows[0], moments, sigma / alpha)
      )
  return lines


def _prior_std(schedule: Schedule, alpha: float, sigma: float) -> float:
  return float(schedule.prior_std(Level(None, jnp.asarray(alpha), jnp.asarray(sigma))))


def _cost_at_end(schedule: Schedule, moments: Moments) -> float:
  """Returns the divergence at t = 1."""
  alpha, sigma = (float(a) for a in schedule.at(1.0)[1:])
  return prior_divergence(moments, alpha, sigma, _prior_std(schedule, alpha, sigma))


def _remedy(experiment: Experiment, row: Row, moments: Moments, start: float) -> str:
  """Returns the values to set so that the prior covers the data where a row starts."""
  schedule, grid = experiment.schedule, row.options["grid"]
  needed = _rounded(least_ratio(moments, schedule, MOST_NATS), up=True)
  at_end = schedule.at(1.0)
  end = float(at_end.sigma) / float(at_end.alpha) if float(at_end.alpha) else math.inf
  ways_by_option = {
    "spacing": "sampler.spacing = 'trailing'",
    "t_max": "sampler.t_max = 1.0",
    "sigma_max": f"sampler.sigma_max = {needed:g}",
  }
  options = inspect.signature(GRIDS[grid]).parameters
  own = next(
    (way for option, way in ways_by_option.items() if option in options),
    f"a first one of sampler.log_snrs = {-math.log(needed):.4g}",
  )
  if start < end * (1 - 1e-4) and _cost_at_end(schedule, moments) <= MOST_NATS:
    return f"set {own}"
  ways = [found] if (found := _schedule_field(experiment, moments)) else []
  if ways and start < end * (1 - 1e-4):
    ways = [f"{ways[0]} and {own}"]
  section = experiment.config["target"]
  if section["name"] == "points" and not section["standardise"]:
    ways = ["target.standardise = True", *ways]
  return "set " + " or ".join(ways) if ways else f"start at sigma / alpha = {needed:g} or above"


def _schedule_field(experiment: Experiment, moments: Moments) -> str | None:
  """Returns 'schedule.sigma_max = ...', with a value that makes t = 1 noisy enough, or None."""
  section = {k: v for k, v in experiment.config["schedule"].items() if v is not None}
  construct = SCHEDULES[section["name"]]
  shift = section.pop("shift", None)

  def enough(field: str, value: float) -> bool:
    try:
      schedule = make(SCHEDULES, {**section, field: value}, "schedule", "schedule")
    except ConfigError:
      return False
    schedule = schedule if shift is None else Shifted(schedule, shift)
    return _cost_at_end(schedule, moments) <= MOST_NATS

  for field, larger in _ENDS.items():
    parameter = inspect.signature(construct).parameters.get(field)
    if parameter is None:
      continue
    start = float(section.get(field, parameter.default))
    factors = [2.0 ** (k if larger else -k) for k in range(1, 61)]
    found = next((k for k, f in enumerate(factors) if enough(field, start * f)), None)
    if found is None:
      continue
    far, near = start * factors[found], start * (factors[found - 1] if found else 1.0)
    for _ in range(8):
      middle = math.sqrt(far * near)
      far, near = (middle, near) if enough(field, middle) else (far, middle)
    return f"schedule.{field} = {_rounded(far, up=larger):g}"
  return None


def _rounded(value: float, up: bool) -> float:
  """Rounds up or down to two digits."""
  unit = 10.0 ** (math.floor(math.log10(value)) - 1)
  return (math.ceil if up else math.floor)(value / unit) * unit
