"""Identities of schedules, grids, predictions and metrics, whatever the process, numbers and shape.

None repeats a formula of the code: they are inverses, norms, derivatives by differences, gradients
of a Gaussian's log-density, and what makes a distance a distance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from scorelab.metrics import METRICS
from scorelab.predictions import Prediction, mixed, x0_slope
from scorelab.schedules import (
  GRIDS,
  Cosine,
  CosineFlow,
  Discrete,
  GaussianChannel,
  GeometricVarianceExploding,
  Grid,
  Laplace,
  Level,
  LinearFlow,
  Shifted,
  SigmaPower,
  Sigmoid,
  SubVP,
  VarianceExploding,
  VariancePreserving,
)

pytestmark = pytest.mark.usefixtures("x64_module", "quick_compilation")
quick = settings(
  max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)


@pytest.fixture(scope="module")
def x64_module():
  with jax.enable_x64(True):
    yield


def numbers(low, high):
  return st.floats(low, high, allow_subnormal=False)


def ordered(low, high, ratio=1.1):
  """Two positive numbers, the second larger by this ratio at least."""
  pair = st.tuples(numbers(low, high), numbers(low, high)).map(sorted)
  return pair.filter(lambda p: p[1] > ratio * p[0])


CONTINUOUS = st.one_of(
  st.builds(lambda s, rho: VarianceExploding(*s, rho), ordered(1e-3, 1e3), numbers(1, 10)),
  ordered(1e-3, 1e3).map(lambda s: GeometricVarianceExploding(*s)),
  numbers(1.001, 100).map(SigmaPower),
  ordered(0.05, 30).map(lambda s: VariancePreserving(*s)),
  ordered(0.05, 30).map(lambda s: SubVP(*s)),
  numbers(0, 0.1).map(Cosine),
  st.builds(lambda a, b, c: Sigmoid(-a, b, c), *[numbers(0.5, 4)] * 2, numbers(0.5, 2)),
  st.builds(Laplace, numbers(-2, 2), numbers(0.2, 2)),
  st.just(LinearFlow()),
  st.just(CosineFlow()),
  ordered(1e-2, 1e2).map(lambda s: GaussianChannel(*s)),
)
TABLES = st.lists(numbers(0.01, 0.6), min_size=12, max_size=12).map(Discrete)
SCHEDULES = st.one_of(
  CONTINUOUS, CONTINUOUS, TABLES, st.builds(Shifted, CONTINUOUS, numbers(-2, 2))
)
TIMES = st.lists(numbers(0.02, 0.98), min_size=6, max_size=6, unique=True).map(
  lambda t: np.sort(np.array(t))
)


@jax.jit
def told(schedule, t):
  level, h = schedule.at(t), 1e-5
  before, after = schedule.log_snr(t - h), schedule.log_snr(t + h)
  return {
    "level": level,
    "time": schedule.time(level.log_snr),
    "again": schedule.at_log_snr(level.log_snr),
    "by_ratio": schedule.at_ratio(level.sigma / level.alpha),
    "slope": (after - before) / (2 * h),
    "one_sided": (schedule.log_snr(t + 2 * h) - after) / h,
    "drift": schedule.drift(t),
    "rates": schedule.rates(t),
    "diffusion_squared": schedule.diffusion_squared(t),
  }


NORMS = {
  "ve": lambda alpha, sigma: alpha,
  "vp": np.hypot,
  "flow": lambda alpha, sigma: alpha + sigma,
  "channel": lambda alpha, sigma: sigma,
  "sub_vp": lambda alpha, sigma: alpha**2 + sigma,
}


class TestSchedules:
  @pytest.mark.e2e
  @quick
  @given(SCHEDULES, TIMES)
  def test_time_and_level_tell_each_other(self, schedule, t):
    assume(np.diff(t).min() > 1e-3)
    found = jax.tree.map(np.asarray, told(schedule, t))
    level = found["level"]
    assert (np.diff(level.log_snr) < 0).all()
    np.testing.assert_allclose(NORMS[schedule.process](level.alpha, level.sigma), 1, 1e-9)
    np.testing.assert_allclose(found["time"], t, 1e-6)
    for again in (found["again"], found["by_ratio"]):
      np.testing.assert_allclose(again.alpha, level.alpha, 1e-9)
      np.testing.assert_allclose(again.sigma, level.sigma, 1e-9)

  @pytest.mark.e2e
  @quick
  @given(SCHEDULES, TIMES)
  def test_the_sde_is_the_log_snr_s(self, schedule, t):
    """g^2 = -2 sigma^2 d lambda / dt (Kingma et al. 2021), by differences; f = d log alpha / dt."""
    found = jax.tree.map(np.asarray, told(schedule, t))
    level, slope = found["level"], found["slope"]
    smooth = np.abs(found["one_sided"] - slope) < 1e-2 * np.abs(slope)  # a table has corners
    expected = -2 * level.sigma**2 * slope
    np.testing.assert_allclose(found["diffusion_squared"][smooth], expected[smooth], 1e-4)
    assert (found["diffusion_squared"] > 0).all()
    alpha_rate, sigma_rate = found["rates"]
    np.testing.assert_allclose(alpha_rate, found["drift"] * level.alpha, 1e-7, 1e-12)
    by_snr = alpha_rate / level.alpha - sigma_rate / level.sigma
    np.testing.assert_allclose(by_snr[smooth], slope[smooth], 1e-4)

  @quick
  @given(CONTINUOUS, TIMES, numbers(-2, 2), numbers(-2, 2))
  def test_shifts_add_up(self, schedule, t, a, b):
    plain, once = schedule.at(t), Shifted(schedule, a + b).at(t)
    twice = Shifted(Shifted(schedule, a), b).at(t)
    np.testing.assert_allclose(once.log_snr, plain.log_snr + a + b, 1e-9, 1e-9)
    for x, y in zip(once, twice, strict=True):
      np.testing.assert_allclose(x, y, 1e-9)


class TestGrids:
  @pytest.mark.e2e
  @quick
  @given(SCHEDULES, st.sampled_from(sorted(GRIDS)), st.sampled_from((1, 4)), st.booleans())
  def test_run_from_noise_to_data(self, schedule, name, num_steps, to_data):
    options = {"to_data": to_data}
    if name == "given":
      ends = (float(schedule.log_snr(jnp.asarray(t))) for t in (0.9, 0.1))
      options["log_snrs"] = np.linspace(*ends, num_steps + (not to_data))
    if name == "timesteps":
      options["num_levels"] = 12
    grid = GRIDS[name](schedule, num_steps, **options)
    alpha, sigma, t = (np.asarray(a) for a in (grid.levels.alpha, grid.levels.sigma, grid.levels.t))
    assert grid.num_steps == num_steps and len(alpha) == num_steps + 1
    assert (np.diff(sigma / np.where(alpha > 0, alpha, 1e-300)) < 0).all()
    # sigma(0) may be above 0; the time of a level is an inverse, which rounds
    assert (np.diff(t[:num_steps]) < 0).all() and t[-1] <= t[-2] + 1e-12
    assert grid.ends_at_data == to_data == (sigma[-1] == 0)
    if name == "given":
      found = np.asarray(grid.levels.log_snr)[: len(options["log_snrs"])]
      np.testing.assert_allclose(found, options["log_snrs"], 1e-9, 1e-9)
    if to_data:
      np.testing.assert_array_equal((t[-1], alpha[-1]), (0, 1))

  @pytest.mark.e2e
  @quick
  @given(SCHEDULES, ordered(0.01, 50, 1.5), numbers(1, 9), st.sampled_from((4, 9)))
  def test_ends_and_spacing_are_as_asked(self, schedule, ends, rho, num_steps):
    """Roots of order rho of sigma / alpha are equally spaced; its logarithm, in the other grid."""
    low, high = ends
    for name, options, warp in (
      ("karras", {"rho": rho}, lambda ratio: ratio ** (1 / rho)),
      ("uniform_log_snr", {}, np.log),
    ):
      grid = GRIDS[name](schedule, num_steps, sigma_min=low, sigma_max=high, **options)
      ratio = np.asarray(grid.levels.sigma / grid.levels.alpha)[:-1]
      np.testing.assert_allclose(ratio[[0, -1]], (high, low), 1e-6)
      steps = np.diff(warp(ratio))
      np.testing.assert_allclose(steps, steps.mean(), 1e-5)

  @pytest.mark.e2e
  @quick
  @given(CONTINUOUS, st.sampled_from((1, 4)), st.booleans())
  def test_arrays_make_the_same_grid(self, schedule, num_steps, with_times):
    grid = GRIDS["uniform_log_snr"](schedule, num_steps)
    t = grid.levels.t if with_times and grid.levels.t[-2] > 0 else None
    same = Grid.from_arrays(grid.levels.alpha, grid.levels.sigma, process=schedule.process, t=t)
    np.testing.assert_array_equal(same.levels.sigma, grid.levels.sigma)
    for level, own in zip(grid, same, strict=True):
      if level.sigma > 0:
        between = same.schedule.at_log_snr(own.log_snr)
        np.testing.assert_allclose(between.alpha, level.alpha, 1e-9)
        np.testing.assert_allclose(between.sigma, level.sigma, 1e-9)


SHAPES = st.sampled_from((((), (1,)), ((3,), (2,)), ((2,), (4, 4, 1)), ((2, 3), (2,))))
VIEWS = ("x0", "noise", "score", "v", "flow")


@st.composite
def truths(draw):
  """x0, noise and a level: of each point its own, or of all."""
  batch, event = draw(SHAPES)
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  of_each = draw(st.booleans())
  alpha, sigma = np.exp(rng.uniform(-4, 4, (2, *(batch if of_each else ()))))
  x0, noise = rng.normal(size=(2, *batch, *event))
  level = Level(None, jnp.asarray(alpha), jnp.asarray(sigma))
  return jnp.asarray(x0), jnp.asarray(noise), level


class TestPredictions:
  @quick
  @given(truths(), st.sampled_from(VIEWS))
  def test_every_view_gives_every_other(self, truth, kind):
    x0, noise, level = truth
    x, known = mixed(x0, noise, level)
    told = Prediction.of(x, level, kind, **{kind: known.view(kind)})
    size = jnp.max(jnp.abs(x) + 1) * jnp.max(jnp.maximum(1 / level.alpha, 1 / level.sigma))
    for view in VIEWS:
      found = told.view(view)
      assert found.shape == x.shape
      np.testing.assert_allclose(found, known.view(view), 1e-7, 1e-9 * size**2)

  @quick
  @given(truths())
  def test_the_score_is_the_gradient_of_the_log_density(self, truth):
    """Of q(x_t | x_0), a Gaussian: by autodiff of SciPy's formula."""
    x0, noise, level = truth
    x, known = mixed(x0, noise, level)
    at = level.like(x)

    def log_density(x):
      return jnp.sum(jax.scipy.stats.norm.logpdf(x, at.alpha * x0, at.sigma))

    np.testing.assert_allclose(known.score, jax.grad(log_density)(x), 1e-7, 1e-9)

  @quick
  @given(truths(), st.sampled_from(VIEWS))
  def test_an_error_in_a_view_is_one_in_x0(self, truth, kind):
    """By as much as `x0_slope` says: a finite step, as x0 is affine in every view."""
    x0, noise, level = truth
    x, known = mixed(x0, noise, level)
    moved = Prediction.of(x, level, kind, **{kind: known.view(kind) + 1.0}).x0
    slope = level._replace(sigma=x0_slope(kind, level)).like(x).sigma
    np.testing.assert_allclose(jnp.abs(moved - x0), jnp.broadcast_to(slope, x.shape), 1e-6, 1e-6)


# Metrics of points, with the power of a length that each is.
DIRECTIONS = {d: np.linalg.qr(np.random.default_rng(d).normal(size=(9, d)).T)[0] for d in (1, 2, 9)}
POWERS = {
  "sliced_wasserstein": 1,
  "max_sliced_wasserstein": 1,
  "wasserstein": 1,
  "energy_distance": 1,
  "frechet": 2,
}
DISTANCES = {
  f"{name}, p = {p}" if "wasser" in name else name: (name, {"p": p} if "wasser" in name else {})
  for name in POWERS
  for p in ((1, 2) if "wasser" in name else (2,))
}
each = pytest.mark.parametrize(("name", "options"), DISTANCES.values(), ids=DISTANCES)


@st.composite
def clouds(draw, number=2):
  """Sets of points in the same space, of a few sizes; some points may be equal."""
  dim = draw(st.sampled_from((1, 2, 9)))
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  sets = [rng.normal(rng.normal(), 1, (draw(st.sampled_from((2, 5))), dim)) for _ in range(number)]
  if draw(st.booleans()):
    sets[0][1] = sets[0][0]
  return sets


def measure(name, options, x, y):
  """The metric, along the axes where it projects."""
  if "sliced" in name:
    options = options | {"projections": DIRECTIONS[x.shape[1]]}
  return METRICS[name](None, x, y, **options)


class TestDistances:
  @each
  @settings(quick, max_examples=20)
  @given(clouds(), numbers(0.01, 100), numbers(-10, 10))
  def test_scale_move_and_swap(self, name, options, sets, factor, offset):
    x, y = sets
    found = measure(name, options, x, y)
    atol = 1e-9 * (1 + factor) ** 2
    assert found > -1e-9
    np.testing.assert_allclose(measure(name, options, y, x), found, 1e-6, 1e-9)
    np.testing.assert_allclose(measure(name, options, x, x), 0, atol=1e-6)
    np.testing.assert_allclose(measure(name, options, x[::-1], y), found, 1e-6, 1e-9)
    np.testing.assert_allclose(measure(name, options, x + offset, y + offset), found, 1e-5, 1e-7)
    scaled = measure(name, options, -factor * x, -factor * y)
    np.testing.assert_allclose(scaled, factor ** POWERS[name] * found, 1e-6, atol)

  @each
  @settings(quick, max_examples=20)
  @given(clouds(3))
  def test_triangles(self, name, options, sets):
    """The root of the squared ones is a distance: of the energy and the Frechet one too."""
    root = 0.5 if name in ("energy_distance", "frechet") else 1.0
    sides = [
      max(measure(name, options, *pair), 0) ** root
      for pair in (sets[:2], sets[1:], (sets[0], sets[2]))
    ]
    assert sides[2] <= sides[0] + sides[1] + 1e-6

  @each
  @settings(quick, max_examples=20)
  @given(clouds())
  def test_points_that_are_there_twice_weigh_twice(self, name, options, sets):
    x, y = sets
    if name == "frechet":
      return  # of the unbiased covariance
    found = measure(name, options, x, y)
    np.testing.assert_allclose(measure(name, options, np.concatenate([x, x]), y), found, 1e-6, 1e-9)

  @quick
  @given(clouds())
  def test_one_is_below_the_other(self, sets):
    """Means below maxima, projections below the whole, order 1 below 2; SciPy's on the line."""
    x, y = sets
    by = {key: measure(*known, x, y) for key, known in DISTANCES.items()}
    for p in (1, 2):
      sliced, most, whole = (
        by[f"{name}wasserstein, p = {p}"] for name in ("sliced_", "max_sliced_", "")
      )
      assert sliced <= most + 1e-9 <= whole + 2e-9
    assert by["wasserstein, p = 1"] <= by["wasserstein, p = 2"] + 1e-9
    if len(x) == len(y):  # Gelbrich 1990: Gaussians of the same moments are the nearest laws
      unbiased = len(x) / (len(x) - 1)
      assert by["frechet"] <= unbiased * by["wasserstein, p = 2"] ** 2 + 1e-9
    if x.shape[1] == 1:
      expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
      for name in ("sliced_wasserstein", "max_sliced_wasserstein", "wasserstein"):
        np.testing.assert_allclose(by[f"{name}, p = 1"], expected, 1e-6, 1e-9)
      expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
      np.testing.assert_allclose(by["energy_distance"], expected, 1e-6, 1e-9)

  @quick
  @given(clouds(), st.integers(0, 2**32 - 1))
  def test_turned_and_moved(self, sets, seed):
    """What does not project is the same after a rotation; a set and its translate are |c| apart."""
    x, y = sets
    rng, dim = np.random.default_rng(seed), x.shape[1]
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    for name in ("wasserstein", "energy_distance", "frechet"):
      found = measure(name, {}, x, y)
      np.testing.assert_allclose(measure(name, {}, x @ turn, y @ turn), found, 1e-6, 1e-7)
    c = rng.normal(size=dim)
    length = np.linalg.norm(c)
    np.testing.assert_allclose(measure("wasserstein", {"p": 1}, x, x + c), length, 1e-6)
    np.testing.assert_allclose(measure("wasserstein", {"p": 2}, x, x + c), length, 1e-6)
    np.testing.assert_allclose(measure("frechet", {}, x, x + c), length**2, 1e-6)

  @quick
  @given(clouds(), numbers(0.1, 10))
  def test_precision_is_the_other_side_s_recall(self, sets, factor):
    x, y = (np.concatenate([points, points + 0.1]) for points in sets)
    precision, recall = METRICS["precision"], METRICS["recall"]
    found = precision(None, x, y)
    assert 0 <= found <= 1
    assert found == recall(None, y, x)
    assert precision(None, x, x) == 1
    assert abs(precision(None, factor * x + 1, factor * y + 1) - found) <= 1 / len(x)  # at a border
