"""Tables of betas against diffusers' own, and processes of T steps between and beyond their points.

Where `schedules.npz` comes from is told beside it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab.config.options import make
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.predictions import Prediction
from scorelab.samplers import SAMPLERS
from scorelab.schedules import (
  BETAS,
  SCHEDULES,
  Cosine,
  Discrete,
  VariancePreserving,
  cosine_betas,
  linear_betas,
  scaled_linear_betas,
  sigmoid_betas,
  uniform,
  vp_betas,
)
from scorelab.targets.mixtures import GaussianMixture
from tests.paths import TESTDATA

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIFFUSERS = np.load(TESTDATA / "schedules.npz")
IMAGES = {"beta_min": 1e-4, "beta_max": 0.02}
TABLES = {
  "linear_T1000_0.0001_0.02": linear_betas,
  "linear_T100_0.001_0.2": vp_betas,  # 0.1 / N and 20 / N at N = 100
  "scaled_linear_T1000_0.00085_0.012": scaled_linear_betas,
  "squaredcos_cap_v2_T1000_0.0001_0.02": cosine_betas,
  "sigmoid_T1000_0.0001_0.02": lambda: sigmoid_betas(num_levels=1000, start=-6, end=6, **IMAGES),
}
at = jax.jit(lambda schedule, t: schedule.at(t))


def check(schedule, name, rtol):
  """The levels at t = (i + 1) / T, every ninth, are the library's."""
  alpha_bar = DIFFUSERS[f"{name}/alphas_cumprod"]
  known = np.arange(0, schedule.times.size + (schedule.noise_time is not None), 9)
  num_levels = known[-1] + 1
  level = at(schedule, (known + 1) / num_levels)
  np.testing.assert_allclose(level.alpha**2, alpha_bar, rtol)
  np.testing.assert_allclose(level.sigma**2, 1 - alpha_bar, rtol)


@pytest.mark.parametrize("name", TABLES)
def test_betas_are_diffusers(name):
  np.testing.assert_allclose(TABLES[name]()[::9], DIFFUSERS[f"{name}/betas"], 1e-10)


@pytest.mark.parametrize("name", TABLES)
def test_levels_are_diffusers(name):
  # The log-SNR, at most 10, is rounded to float32's 24 bits once: alpha^2 to twice 10 * 6e-8.
  check(Discrete(TABLES[name]()), name, 2e-6)
  with jax.enable_x64(True):
    check(Discrete(TABLES[name]()), name, 1e-10)


def test_zero_terminal_snr_is_diffusers():
  name = "scaled_linear_T1000_0.00085_0.012_zsnr"
  check(Discrete(scaled_linear_betas(), zero_terminal_snr=True), name, 2e-6)
  with jax.enable_x64(True):
    schedule = Discrete(scaled_linear_betas(), zero_terminal_snr=True)
    check(schedule, name, 1e-9)
    # diffusers' own rescaled betas, the last of them 1, are such a table already.
    assert DIFFUSERS[f"{name}/betas"][-1] == 1
    own = at(Discrete([0.5, 0.5, 1.0]), jnp.array([1 / 3, 2 / 3, 1.0]))
    np.testing.assert_allclose(own.alpha**2, [0.5, 0.25, 0], 1e-14)


def test_the_2015_table():
  """Sohl-Dickstein et al. as reimplemented: the ends by hand, and products without logarithms."""
  betas = sigmoid_betas()
  assert betas.shape == (40,)
  np.testing.assert_allclose(betas[[0, -1]], [1.0004569e-5, 0.29998638], 1e-7)
  level = at(Discrete(betas), jnp.arange(1, 41) / 40)
  np.testing.assert_allclose(level.alpha**2, np.cumprod(1 - betas), 2e-6)


@pytest.mark.usefixtures("x64")
class TestBetweenThePoints:
  def test_cosine_betas_are_the_cosine_schedule(self):
    """But for the last, which is clipped."""
    t = np.arange(1, 1000) / 1000
    table, formula = at(Discrete(cosine_betas()), t), at(Cosine(), t)
    np.testing.assert_allclose(table.alpha, formula.alpha, 1e-10)
    np.testing.assert_allclose(table.sigma, formula.sigma, 1e-10)
    last = at(Discrete(cosine_betas()), 1.0).alpha / table.alpha[-1]
    np.testing.assert_allclose(last**2, 1 - 0.999, 1e-10)

  def test_vp_betas_go_to_the_vp_sde(self):
    """The error of log alpha falls as 1 / T (Song et al. 2021, appendix B)."""
    t = np.array([0.1, 0.5, 1.0])
    exact = np.log(at(VariancePreserving(), t).alpha)
    error = [
      np.abs(np.log(at(Discrete(vp_betas(num_levels=n)), t).alpha) - exact).max()
      for n in (200, 400, 800)
    ]
    np.testing.assert_allclose(np.divide(error[:-1], error[1:]), 2, 0.1)

  @pytest.mark.e2e
  def test_log_snr_is_linear_between_and_before(self):
    schedule = Discrete([0.1, 0.2, 0.4, 0.5])
    points = np.asarray(schedule.log_snr(jnp.array([0.25, 0.5, 0.75, 1.0])))
    between = schedule.log_snr(jnp.array([0.3, 0.625, 0.975]))
    expected = [
      0.8 * points[0] + 0.2 * points[1],
      points[1:3].mean(),
      0.1 * points[2] + 0.9 * points[3],
    ]
    np.testing.assert_allclose(between, expected, 1e-13)
    before = schedule.log_snr(jnp.array([0.0, 0.1]))
    slope = (points[1] - points[0]) / 0.25
    np.testing.assert_allclose(before, points[0] - slope * np.array([0.25, 0.15]), 1e-13)

  @pytest.mark.e2e
  def test_alpha_over_sigma_falls_to_zero_over_the_last_interval(self):
    schedule = Discrete(linear_betas(num_levels=10), zero_terminal_snr=True)
    t = np.array([0.9, 0.925, 0.95, 0.975, 1.0])
    level = at(schedule, t)
    snr = np.asarray(level.alpha / level.sigma)
    np.testing.assert_allclose(snr / snr[0], [1, 0.75, 0.5, 0.25, 0], 1e-12)
    assert (level.alpha[-1], level.sigma[-1]) == (0, 1)
    np.testing.assert_allclose(schedule.time(level.log_snr), t, 1e-12)
    rates = schedule.rates(jnp.array(1.0))
    h = 1e-6
    slope = (schedule.alpha(jnp.array(1.0)) - schedule.alpha(jnp.array(1 - h))) / h
    np.testing.assert_allclose(rates, [slope, 0], 1e-5)  # one-sided: first order in h


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["x0", "v", "flow"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_sampling_from_zero_terminal_snr(name, kind):
  """From pure noise, alpha = 0, each view that is defined there follows the exact flow.

  In 200 steps the error of first order is below 0.05, that of second order 0.01; at the end every
  point has kept its place in standard units.
  """
  mean, stds = np.array([1.0, -0.5]), np.array([0.5, 1.5])
  target = GaussianMixture([1.0], mean[None], stds[None] ** 2)
  grid = uniform(Discrete(linear_betas(), zero_terminal_snr=True), 200)
  assert grid[0].alpha == 0

  def predict(x, level):
    return Prediction.of(x, level, kind, **{kind: target.predict(x, level).view(kind)})

  start = np.random.default_rng(0).normal(size=(16, 2))
  x = jax.jit(lambda x: SAMPLERS[name](jax.random.key(0), predict, x, grid).x)(start)
  np.testing.assert_allclose(x, mean + stds * start, 0, 0.05 if name == "ddim" else 0.01)


@pytest.mark.parametrize(
  ("betas", "options", "line"),
  [
    ([[0.1, 0.2]], {}, "betas must be a row of numbers"),
    ([], {}, "betas must be a row of numbers"),
    ([0.1, 0.0], {}, "betas must be a row of numbers"),
    ([1.0, 0.1], {}, "betas must be a row of numbers"),
    ([1.0], {}, "betas must be a row of numbers"),
    ([0.1, np.nan], {}, "betas must be a row of numbers"),
    ([0.1], {"zero_terminal_snr": True}, "one beta alone"),
  ],
)
def test_refusals(betas, options, line):
  with pytest.raises(ValueError, match=line):
    Discrete(betas, **options)


class TestConfigs:
  @pytest.mark.parametrize("name", BETAS)
  def test_a_table_by_name(self, name):
    section = {"name": name, "num_levels": 30, "zero_terminal_snr": True, "beta_min": None}
    schedule = make(SCHEDULES, section, "schedule", "schedule")
    assert schedule.times.shape == (29,)
    assert schedule.at(1.0).alpha == 0

  def test_a_shift_by_name(self):
    config = ncsn_gmm.get_config("fast")
    config.schedule.update(name="cosine", sigma_max=None, sigma_min=None, rho=None, shift=-2.0)
    schedule = build(config).schedule
    np.testing.assert_allclose(schedule.log_snr(0.3), Cosine().log_snr(jnp.array(0.3)) - 2, 1e-5)

  @pytest.mark.parametrize(
    ("change", "line"),
    [
      ({"name": "cosine_beta"}, "did you mean 'cosine_betas'"),
      (
        {"name": "linear_betas", "offset": 0.1},
        "schedule.offset = 0.1 is not an option of linear_betas",
      ),
      ({"name": "linear_betas", "beta_max": 1.5}, "schedule: betas must be a row of numbers"),
      (
        {"name": "linear_betas", "num_levels": 0},
        "schedule.num_levels = 0, must be from 1 to 1000000",
      ),
      ({"name": "sigma_power", "base": 1.0}, "schedule.base = 1.0, must be above 1"),
      ({"name": "sigmoid", "start": 4.0}, "schedule: start = 4.0 and end = 3.0 must satisfy"),
    ],
  )
  def test_mistakes_are_one_line(self, change, line):
    config = ncsn_gmm.get_config("fast")
    config.schedule.update(sigma_max=None, sigma_min=None, rho=None, **change)
    with pytest.raises(ConfigError, match=line):
      build(config)
