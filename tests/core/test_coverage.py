"""Warnings before training: a start at which the data still show, and the values that mend it."""

import re

import numpy as np
import pytest

from configs import flow_moons, ncsn_gmm, ncsn_gmm_published
from scorelab.config.options import literal
from scorelab.experiment.build import build
from scorelab.experiment.coverage import MOST_NATS, coverage_warnings
from scorelab.metrics.prior import Moments, prior_divergence

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small(**sections):
  config = ncsn_gmm.get_config("fast")
  config.evaluation.rows = ()
  config.sampler.update(dict.fromkeys(("sigma_min", "sigma_max", "rho", "t_min", "t_max")))
  for name, fields in sections.items():
    if name == "schedule":
      config.schedule.update(dict.fromkeys(config.schedule.keys()))
    config[name].update(fields)
  return config


def table(tmp_path, **sections):
  """An income of 50,000 +- 15,000 and an age of 35 +- 10."""
  points = np.random.default_rng(0).normal([5e4, 35], [1.5e4, 10], (500, 2))
  np.save(tmp_path / "people.npy", points)
  config = small(**sections)
  config.target.update(dict.fromkeys(config.target.keys()))
  config.target.update(name="points", path=str(tmp_path / "people.npy"), num_train=0)
  config.evaluation.metrics = ("energy_distance",)
  return config


def told(config):
  """(nats, fields to set) of the one warning of a config."""
  (line,) = coverage_warnings(build(config))
  assert "\n" not in line
  cost = float(re.search(r"noised data are (\S+) nats", line)[1])
  remedy = line.partition(f"for at most {MOST_NATS} set ")[2]
  return cost, [way.split(" and ") for way in remedy.split(" or ")]


def mended(config, way):
  for setting in way:
    path, _, value = setting.partition(" = ")
    section, field = path.split(".")
    config[section][field] = literal(value)
  return config


CASES = {
  "ve": {"schedule": {"name": "variance_exploding", "sigma_max": 2.0}},
  "power": {"schedule": {"name": "sigma_power", "base": 1.5}},
  "vp": {"schedule": {"name": "variance_preserving", "beta_max": 1.0}},
  "table of betas": {"schedule": {"name": "linear_betas", "num_levels": 50}},
  "channel": {"schedule": {"name": "gaussian_channel", "alpha_min": 0.9}},
  "grid's end": {
    "schedule": {"name": "variance_exploding"},
    "sampler": {"grid": "karras", "sigma_max": 2.0},
  },
  "grid's end, by another grid": {
    "schedule": {"name": "variance_exploding"},
    "sampler": {"grid": "geometric", "sigma_max": 2.0},
  },
  "both ends": {
    "schedule": {"name": "variance_exploding", "sigma_max": 2.0},
    "sampler": {"grid": "karras", "sigma_max": 1.0},
  },
  "time's end": {
    "schedule": {"name": "variance_preserving"},
    "sampler": {"grid": "uniform", "t_max": 0.5},
  },
  "one leading step": {
    "schedule": {"name": "linear_betas"},
    "sampler": {"grid": "timesteps", "spacing": "leading", "num_steps": 1},
  },
  "one step of linspace": {
    "schedule": {"name": "linear_betas"},
    "sampler": {"grid": "timesteps", "spacing": "linspace", "num_steps": 1},
  },
}


@pytest.mark.e2e
@pytest.mark.parametrize("sections", CASES.values(), ids=CASES)
def test_the_values_that_are_told_mend_it(sections):
  """Every way that a warning names leads to a config without one; the cost is that of the data."""
  sections = {"parameterization": {"name": "exact", "conditioning": "log_sigma"}} | sections
  cost, ways = told(small(**sections))
  experiment = build(small(**sections))
  level = experiment.evaluation.rows[0].grid[0]
  std = float(level.sigma) if experiment.schedule.process == "ve" else 1.0
  moments = Moments.of(np.asarray(experiment.validation["x"]))
  exact = prior_divergence(moments, float(level.alpha), float(level.sigma), std)
  assert cost == pytest.approx(exact, rel=5e-3)  # shown with three digits
  assert cost > MOST_NATS and ways
  for way in ways:
    assert not coverage_warnings(build(mended(small(**sections), way))), way


@pytest.mark.e2e
def test_a_single_leading_step_is_told_with_the_whole_cost():
  """It starts at the cleanest level, from N(0, I): the divergence of the data themselves."""
  sections = {"parameterization": {"name": "exact"}} | CASES["one leading step"]
  cost, ways = told(small(**sections))
  assert ways == [["sampler.spacing = 'trailing'"]]
  points = np.asarray(build(small(**sections)).validation["x"], float)
  beta = 1e-4  # of the first step: sigma^2; alpha^2 = 1 - beta
  covariance = (1 - beta) * np.cov(points.T, bias=True) + beta * np.eye(2)
  mean = (1 - beta) ** 0.5 * points.mean(0)
  expected = (np.trace(covariance) - 2 - np.linalg.slogdet(covariance)[1] + mean @ mean) / 2
  assert cost == pytest.approx(expected, rel=0.02)  # of 4,096 of the points


def test_a_table_of_ones_own(tmp_path):
  sections = {"schedule": {"name": "variance_exploding", "sigma_max": 80.0}}
  cost, ways = told(table(tmp_path, **sections))
  income = np.asarray(build(table(tmp_path, **sections)).target.train[:, 0], float) / 80
  # Of a Gaussian of mean m and variance v - 1 in units of the noise; the age adds a ten millionth.
  expected = (income.mean() ** 2 + income.var() - np.log1p(income.var())) / 2
  assert cost == pytest.approx(expected, rel=5e-3)
  assert ways[0] == ["target.standardise = True"]
  assert ways[1][0].startswith("schedule.sigma_max = ")
  for way in ways:
    assert not coverage_warnings(build(mended(table(tmp_path, **sections), way))), way


def test_settings_that_cover_the_data_are_not_warned_of():
  for config in (ncsn_gmm.get_config("fast"), flow_moons.get_config("fast")):
    assert coverage_warnings(build(config)) == []
  # alpha = 0: the law of the start is the prior
  flow = small(parameterization={"name": "exact"}, schedule={"name": "linear_flow"})
  flow.sampler.grid = "uniform"
  assert coverage_warnings(build(flow)) == []


def test_published_settings_are_warned_of_and_build():
  (line,) = coverage_warnings(build(ncsn_gmm_published.get_config("fast")))
  assert "set schedule.sigma_max = 12" in line
  assert "N(0, 10^2 I)" in line
