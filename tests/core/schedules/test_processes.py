"""Every process against its authors' own form, another one it becomes, and its own ends."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from scorelab.metrics import energy_distance, mode_weight_tv
from scorelab.predictions import noised
from scorelab.samplers import SAMPLERS
from scorelab.schedules import (
  BETAS,
  SCHEDULES,
  Cosine,
  CosineFlow,
  Discrete,
  GaussianChannel,
  GeometricVarianceExploding,
  Grid,
  Laplace,
  LinearFlow,
  Shifted,
  SigmaPower,
  Sigmoid,
  SubVP,
  VarianceExploding,
  VariancePreserving,
  linear_betas,
  uniform,
  uniform_log_snr,
)
from scorelab.targets.mixtures import nine_modes

pytestmark = pytest.mark.usefixtures("quick_compilation")

TIMES = np.array([0.0034, 0.0513, 0.3137, 0.5, 0.7707, 0.9903])
ONE_TABLE = [name for name in SCHEDULES if name not in BETAS or name == "vp_betas"]
ALL = {name: SCHEDULES[name]() for name in ONE_TABLE} | {
  "zero_terminal_snr": Discrete(linear_betas(num_levels=50), zero_terminal_snr=True),
  "shifted": Shifted(SubVP(), -1.2),
  "shifted_flow": Shifted(LinearFlow(), 0.8),
}
at = jax.jit(lambda schedule, t: schedule.at(t))
at_log_snr = jax.jit(lambda schedule, log_snr: schedule.at_log_snr(log_snr))
each = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)


def test_jit_tells_schedules_apart():
  """Two kinds of schedule never have the same tree structure, or one's program may run for both."""
  structures = {name: jax.tree.structure(schedule) for name, schedule in ALL.items()}
  for name, structure in structures.items():
    same = [other for other, found in structures.items() if found == structure]
    # Tables are of one class, and differ in their arrays.
    assert same == [name] or {type(ALL[other]) for other in same} == {Discrete}


@pytest.mark.usefixtures("x64")
class TestClosedForms:
  def test_sub_vp_sde(self):
    """Song et al. 2021, eq. 12: VP's drift, g^2 = beta (1 - exp(-2 B)); also at the data."""
    t = np.array([0.0, *TIMES, 1.0])
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    schedule = SubVP()
    np.testing.assert_allclose(schedule.drift(t), -beta / 2, 1e-12)
    np.testing.assert_allclose(
      schedule.diffusion_squared(t), -beta * np.expm1(-2 * integral), 1e-11
    )
    assert (schedule.variance(t[1:]) < VariancePreserving().variance(t[1:])).all()

  def test_sigma_power_sde(self):
    """g = base^t; sigma(1)^2 by hand at base 1.01; Brownian motion as the base goes to 1."""
    for base in (1.01, 25.0):
      g2 = SigmaPower(base).diffusion_squared(TIMES)
      np.testing.assert_allclose(g2, base ** (2 * TIMES), 1e-12)
    np.testing.assert_allclose(SigmaPower(1.01).variance(jnp.array(1.0)), 1.0100166, 1e-7)
    np.testing.assert_allclose(SigmaPower(1 + 1e-9).variance(TIMES), TIMES, 1e-7)

  def test_cosine_as_published(self):
    """Nichol and Dhariwal 2021, eq. 17."""
    f = np.cos((TIMES + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    level = Cosine().at(TIMES)
    np.testing.assert_allclose(level.alpha**2, f, 1e-12)
    np.testing.assert_allclose(level.sigma**2, 1 - f, 1e-10)
    for a, b in zip(Cosine(0.0).at(TIMES), CosineFlow().at(TIMES), strict=True):
      np.testing.assert_allclose(a, b, 1e-13)

  @pytest.mark.parametrize("numbers", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7), (-3.0, 3.0, 0.1)])
  def test_sigmoid_as_published(self, numbers):
    """Jabri et al. 2022, with SciPy's logistic function."""
    start, end, tau = numbers
    low, u, high = (
      scipy.special.expit(a / tau) for a in (start, start + TIMES * (end - start), end)
    )
    level = Sigmoid(*numbers).at(TIMES)
    np.testing.assert_allclose(level.alpha**2, (high - u) / (high - low), 1e-10, 1e-15)
    np.testing.assert_allclose(level.sigma**2, (u - low) / (high - low), 1e-10, 1e-15)

  def test_laplace_is_the_quantile(self):
    """SciPy's, of 2 lambda; t uniform draws the log-SNR from the law."""
    for mu, b in ((0.0, 0.5), (-1.0, 1.3)):
      known = scipy.stats.laplace(mu, b)
      schedule = Laplace(mu, b)
      np.testing.assert_allclose(2 * schedule.log_snr(TIMES), known.isf(TIMES), 1e-12, 1e-13)
      np.testing.assert_allclose(schedule.time(known.isf(TIMES) / 2), TIMES, 1e-12)

  def test_cosine_flow_sde(self):
    """f = -(pi / 2) tan(pi t / 2) and g^2 = pi tan(pi t / 2)."""
    tan = np.tan(np.pi / 2 * TIMES)
    np.testing.assert_allclose(CosineFlow().drift(TIMES), -np.pi / 2 * tan, 1e-12)
    np.testing.assert_allclose(CosineFlow().diffusion_squared(TIMES), np.pi * tan, 1e-12)
    speed = np.hypot(*CosineFlow().rates(TIMES))
    np.testing.assert_allclose(speed, np.pi / 2, 1e-13)

  def test_gaussian_channel_is_the_geometric_exploding_one(self):
    """Over its noise: x / sigma of N(x_0, sigma^2 I), with the same drift of the log-SNR."""
    channel, exploding = GaussianChannel(0.01, 50.0), GeometricVarianceExploding(0.02, 100.0)
    np.testing.assert_allclose(channel.alpha(TIMES), 1 / exploding.sigma(TIMES), 1e-12)
    assert channel.alpha(1.0) == 0.01 and (channel.sigma(TIMES) == 1).all()
    np.testing.assert_allclose(channel.diffusion_squared(TIMES), 2 * np.log(5000), 1e-12)

  @pytest.mark.e2e
  def test_every_point_is_on_its_process(self):
    on = {
      "ve": lambda alpha, sigma: alpha,
      "vp": lambda alpha, sigma: alpha**2 + sigma**2,
      "flow": lambda alpha, sigma: alpha + sigma,
      "sub_vp": lambda alpha, sigma: alpha**2 + sigma,
      "channel": lambda alpha, sigma: sigma,
    }
    for name, schedule in ALL.items():
      for level in (at(schedule, TIMES), at_log_snr(schedule, np.linspace(-30, 30, 7))):
        np.testing.assert_allclose(on[schedule.process](*level[1:]), 1, 1e-13, err_msg=name)


@pytest.mark.usefixtures("x64")
class TestShifted:
  def test_of_ve_scales_its_limits(self):
    shifted, scaled = (
      Shifted(VarianceExploding(0.02, 10.0), -np.log(4)),
      VarianceExploding(0.08, 40.0),
    )
    np.testing.assert_allclose(shifted.sigma(TIMES), scaled.sigma(TIMES), 1e-13)
    np.testing.assert_allclose(
      shifted.diffusion_squared(TIMES), scaled.diffusion_squared(TIMES), 1e-12
    )

  def test_of_the_cosine_as_published(self):
    """Hoogeboom et al. 2023: logSNR = -2 log tan(pi t / 2) + 2 log(64 / d)."""
    shifted = Shifted(CosineFlow(), np.log(64 / 256))
    published = -2 * np.log(np.tan(np.pi * TIMES / 2)) + 2 * np.log(64 / 256)
    np.testing.assert_allclose(2 * shifted.log_snr(TIMES), published, 1e-12)

  def test_of_the_flow_is_a_change_of_time(self):
    """Esser et al. 2024 (arXiv 2403.03206), eq. 23: t -> k t / (1 + (k - 1) t), k = exp(-shift)."""
    level = Shifted(LinearFlow(), -np.log(3)).at(np.array([0.0, *TIMES, 1.0]))
    moved = 3 * level.t / (1 + 2 * level.t)
    np.testing.assert_allclose(level.sigma, moved, 1e-13)
    np.testing.assert_allclose(level.alpha, 1 - moved, 1e-12)

  @pytest.mark.e2e
  @each
  def test_adds_to_the_log_snr(self, schedule):
    shifted = Shifted(schedule, 0.7)
    log_snr = schedule.log_snr(TIMES) + 0.7
    np.testing.assert_allclose(shifted.log_snr(TIMES), log_snr, 1e-10, 1e-12)
    np.testing.assert_allclose(shifted.time(log_snr), TIMES, 1e-9)

  def test_at_the_data(self):
    """g^2 = k^2 (alpha' / alpha)^2 g^2, from d(sigma / alpha)^2 / dt, also where sigma = 0."""
    for schedule in (VariancePreserving(), SubVP(), Cosine(), SigmaPower(), LinearFlow()):
      shifted = Shifted(schedule, -0.4)
      t = jnp.array([0.0, 0.3])
      scale = np.exp(0.4) * shifted.alpha(t) / schedule.alpha(t)
      expected = scale**2 * schedule.diffusion_squared(t)
      np.testing.assert_allclose(shifted.diffusion_squared(t), expected, 1e-12, 1e-14)


# What the numbers of the formulas may be, from and to.
RANGES = {
  "variance_exploding": ((1e-3, 0.5), (1.0, 100.0), (1.0, 9.0)),
  "geometric_variance_exploding": ((1e-3, 0.5), (1.0, 100.0)),
  "sigma_power": ((1.01, 50.0),),
  "variance_preserving": ((0.05, 1.0), (2.0, 30.0)),
  "sub_vp": ((0.05, 1.0), (2.0, 30.0)),
  "cosine": ((0.0, 0.1),),
  "sigmoid": ((-4.0, 0.0), (1.0, 4.0), (0.5, 2.0)),
  "laplace": ((-3.0, 3.0), (0.2, 2.0)),
}


@jax.jit
def round_trips(schedule, t):
  """Levels at t, and what the log-SNR and the ratio lead back to."""
  level = schedule.at(t)
  ratio = level.sigma / level.alpha
  return level, schedule.at_log_snr(level.log_snr), schedule.at_ratio(ratio)


def check_round_trips(schedule, t, rtol):
  """The same level by t, log-SNR and ratio, up to rtol of the ratio, and a falling log-SNR."""
  level, *others = jax.tree.map(np.asarray, round_trips(schedule, t))
  assert (np.diff(level.sigma / level.alpha) > 0).all()
  for other in others:
    np.testing.assert_allclose(other.alpha, level.alpha, rtol)
    np.testing.assert_allclose(other.sigma, level.sigma, rtol)
    again = np.asarray(round_trips(schedule, other.t)[0].sigma)
    np.testing.assert_allclose(again, level.sigma, rtol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RANGES)
def test_round_trips_for_any_numbers(name):
  @hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
  @hypothesis.given(
    st.tuples(*(st.floats(*r) for r in RANGES[name])),
    st.floats(0.001, 0.02),
    st.floats(0.98, 0.995),
  )
  def check(numbers, first, last):
    check_round_trips(SCHEDULES[name](*numbers), np.linspace(first, last, 33), 1e-9)

  check()


@each
def test_round_trips_in_float32(schedule):
  """log(sigma / alpha), of size 10, loses 1e-6, and so does the ratio; t near 1 keeps 6e-8 of 1."""
  check_round_trips(schedule, np.linspace(0.004, 0.99, 33, dtype=np.float32), 1e-5)


@each
def test_float32_keeps_its_digits(schedule):
  """No cancellation, at either end: what float64 says of the same t, of float32 numbers."""
  t = np.array([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999], np.float32)
  single = at(schedule, t)
  with jax.enable_x64(True):
    double = at(jax.tree.map(lambda a: np.asarray(a, np.float64), schedule), t.astype(np.float64))
  assert single.sigma.dtype == np.float32 and double.sigma.dtype == np.float64
  np.testing.assert_allclose(single.alpha, double.alpha, 5e-6)
  np.testing.assert_allclose(single.sigma, double.sigma, 5e-6)


@each
def test_gradients_are_finite_at_the_ends(schedule):
  """Of alpha and sigma by the schedule's numbers, also where one of them is 0; by t within."""
  ends = jnp.array([0.0, 1.0])
  inner = jnp.array([schedule.t_min, schedule.t_max])

  @jax.jit
  def slopes(schedule):
    level, pull = jax.vjp(lambda s: s.at(ends)[1:], schedule)
    return pull(level), schedule.rates(jnp.maximum(inner, 1e-9)), schedule.at(ends)

  *gradients, level = slopes(jax.tree.map(lambda a: jnp.asarray(a, float), schedule))
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradients))
  assert np.isfinite(level.alpha).all() and np.isfinite(level.sigma).all()
  assert level.alpha[0] > level.alpha[1] or schedule.process == "ve"
  assert level.sigma[0] < level.sigma[1] or schedule.process == "channel"


@pytest.mark.parametrize("name", RANGES)
def test_numbers_can_be_vmapped(name):
  """Each of three schedules in a vmap is the one built alone."""
  build = SCHEDULES[name]
  numbers = np.linspace(*np.array(RANGES[name]).T, 5, dtype=np.float32)[1:-1]
  levels = jax.jit(jax.vmap(lambda a: uniform(build(*a), 4).levels))(numbers)
  for i, row in enumerate(numbers.tolist()):
    for a, b in zip(levels, uniform(build(*row), 4).levels, strict=True):
      np.testing.assert_allclose(a[i], b, 1e-5, 1e-7)


# One of each process by default.
FEW = {schedule.process: name for name, schedule in reversed(ALL.items())}.values()
REST = [name for name in ALL if name not in FEW]


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "schedules"),
  [
    ("ddim", FEW),
    pytest.param("ddim", REST, marks=pytest.mark.e2e),
    pytest.param("dpmpp_2m", ALL, marks=pytest.mark.e2e),
  ],
  ids=["ddim", "ddim-rest", "dpmpp_2m"],
)
def test_a_grid_of_each_samples_the_nine_modes(name, schedules):
  """With the exact score, from where the exact law starts: 64 steps end near the floor.

  Of exact points, 2000 against 4000, the energy distance is 0.008 in the mean and the mode-weight
  TV 0.024; modes 10 apart tell a wrong level at once. Of the process these samplers see only the
  grid's levels: one compilation serves all.
  """
  target, keys = nine_modes(), jax.random.split(jax.random.key(0), 4)
  x0, reference = target.sample(keys[0], 2000), target.sample(keys[1], 4000)

  @jax.jit
  def sample(levels):
    grid = Grid(VarianceExploding(), levels, ends_at_data=True)
    return SAMPLERS[name](keys[3], target.predict, noised(keys[2], x0, grid[0])[0], grid).x

  for label in schedules:
    schedule = ALL[label]
    spacing = uniform_log_snr if schedule.t_max < 1 or schedule.process == "ve" else uniform
    x = np.asarray(sample(jax.jit(spacing, static_argnums=1)(schedule, 64).levels))
    assert energy_distance(None, x, reference) < 0.02, label
    assert mode_weight_tv(None, x, target) < 0.04, label
