"""Processes against the literature's closed forms and finite differences, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import CONDITIONINGS
from scorelab.schedules import (
  BETAS,
  GRIDS,
  SCHEDULES,
  Discrete,
  GeometricVarianceExploding,
  Grid,
  Level,
  LinearFlow,
  Shifted,
  SubVP,
  VarianceExploding,
  VariancePreserving,
  given_log_snrs,
  karras,
  linear_betas,
  quadratic,
  uniform,
  uniform_log_snr,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# One of each class: what tables of betas hold is tested apart.
IDS = [name for name in SCHEDULES if name not in BETAS or name == "vp_betas"]
ALL = [SCHEDULES[name]() for name in IDS]
TABLE = Grid.from_arrays(
  [0.1, 0.4, 0.8, 1.0], [0.995, 0.9, 0.6, 0.0], process="vp", t=[1.0, 0.7, 0.3, 0.0]
).schedule
each = pytest.mark.parametrize(
  "schedule",
  [
    *ALL,
    TABLE,
    Discrete(linear_betas(num_levels=40), zero_terminal_snr=True),
    Shifted(SubVP(), -1.2),
  ],
  ids=[*IDS, "tabulated", "zero_terminal_snr", "shifted"],
)
# Away from the ends, where log-SNR may be infinite, and from where a table's slope changes.
TIMES = np.array([0.0034, 0.0513, 0.3137, 0.5004, 0.7707, 0.9903])
X0, NOISE = np.random.default_rng(0).normal(size=(2, len(TIMES), 3))


@jax.jit
def everything(schedule, t):
  """What a schedule says at t, in one compilation."""
  level = schedule.at(t)
  return {
    "level": level,
    "time": schedule.time(level.log_snr),
    "at_log_snr": schedule.at_log_snr(level.log_snr),
    "beyond": schedule.at_log_snr(schedule.log_snr(schedule.t_max + 0 * t) - 0.3),
    "drift": schedule.drift(t),
    "diffusion_squared": schedule.diffusion_squared(t),
    "velocity": schedule.velocity(level, X0[: len(t)], NOISE[: len(t)]),
  }


def slope(f, t, h=1e-5):
  """Central differences of fourth order: an error of about 1e-10 at smooth functions."""
  a, b, c, d = np.asarray(jax.jit(jax.vmap(f))(t + h * np.array([[-2], [-1], [1], [2]])))
  return (a - 8 * b + 8 * c - d) / (12 * h)


@pytest.mark.usefixtures("x64")
class TestProcess:
  def test_system_a_levels(self):
    """The notebook's own lines, worked out by hand: sigma 0.02 to 10, rho 5, 100 levels."""
    sigma = np.asarray(uniform(VarianceExploding(0.02, 10.0, 5.0), 100).levels.sigma)
    assert sigma.shape == (101,)
    np.testing.assert_allclose(sigma[[0, 99, 100]], [10, 0.02, 0], 1e-12)
    # From 0.02^(1/5) = 0.4573050519 and 10^(1/5) = 1.5848931925, at t = 98/99, 50/99 and 1/99.
    np.testing.assert_allclose(sigma[[1, 49, 98]], [9.645804304, 1.141344200, 0.022617824], 1e-8)

  @pytest.mark.parametrize("schedule", ALL[:3], ids=IDS[:3])
  def test_ve_diffusion_is_the_rate_of_the_variance(self, schedule):
    says = everything(schedule, TIMES)
    rate = slope(lambda t: schedule.sigma(t) ** 2, TIMES)
    np.testing.assert_allclose(says["diffusion_squared"], rate, 1e-8)
    np.testing.assert_allclose(says["drift"], 0, atol=1e-15)

  def test_geometric_ve_diffusion(self):
    """Song et al. 2021, eq. 30: g = smin (smax / smin)^t sqrt(2 log(smax / smin))."""
    g2 = everything(GeometricVarianceExploding(0.01, 50.0), np.array([0.5]))["diffusion_squared"]
    np.testing.assert_allclose(g2, 0.5 * 2 * np.log(5000), 1e-12)

  def test_vp_sde(self):
    """Song et al. 2021, eq. 32: dx = -beta x / 2 dt + sqrt(beta) dw, also at the data."""
    t = np.array([0.0, *TIMES[1:-1], 1.0])
    beta = 0.1 + t * (20 - 0.1)
    says = everything(VariancePreserving(), t)
    np.testing.assert_allclose(says["drift"], -beta / 2, 1e-12)
    np.testing.assert_allclose(says["diffusion_squared"], beta, 1e-12)
    alpha, sigma = np.asarray(says["level"].alpha), np.asarray(says["level"].sigma)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, 1e-14)
    np.testing.assert_allclose(alpha[-1], 0.00657159, 1e-5)  # exp(-(0.1 + 20) / 4)

  def test_linear_flow_sde(self):
    """f = -1 / (1 - t) and g^2 = 2 t / (1 - t), the SDE with the marginals of the straight path."""
    says = everything(LinearFlow(), np.array([0.0, 0.5, 0.75, 0.9, 0.95, 0.96]))
    np.testing.assert_allclose(says["drift"], [-1, -2, -4, -10, -20, -25], 1e-12)
    np.testing.assert_allclose(says["diffusion_squared"], [0, 2, 6, 18, 38, 48], 1e-12)

  @each
  def test_time_inverts_log_snr(self, schedule):
    # 1e-9: an alpha of 1 - 1e-4 leaves time(log-SNR) its last digits only.
    np.testing.assert_allclose(everything(schedule, TIMES)["time"], TIMES, 1e-9)

  @each
  def test_at_log_snr_agrees_with_at(self, schedule):
    says = everything(schedule, TIMES)
    for a, b in zip(says["at_log_snr"], says["level"], strict=True):
      np.testing.assert_allclose(a, b, 1e-9)
    assert (np.diff(says["level"].sigma / says["level"].alpha) > 0).all()

  @pytest.mark.e2e
  @each
  def test_at_log_snr_goes_on_beyond_the_ends(self, schedule):
    """Churn at the first level asks for it: a noisier level, of the ratio asked for."""
    beyond, end = everything(schedule, TIMES)["beyond"], schedule.at(schedule.t_max)
    ratio = np.exp(0.3) * end.sigma / end.alpha
    np.testing.assert_allclose(beyond.sigma / beyond.alpha, ratio, 1e-12)

  @pytest.mark.parametrize("schedule", ALL, ids=IDS)
  def test_velocity_is_the_rate_of_x(self, schedule):
    def x(t):
      return schedule.alpha(t)[:, None] * X0 + schedule.sigma(t)[:, None] * NOISE

    velocity = everything(schedule, TIMES)["velocity"]
    np.testing.assert_allclose(velocity, slope(x, TIMES), 1e-7, 1e-8)

  @each
  def test_velocity_is_the_sdes_probability_flow(self, schedule):
    """f x - g^2 score / 2 (Song et al. 2021, eq. 13), with score = -noise / sigma."""
    says = everything(schedule, TIMES)
    alpha, sigma, f, g2 = (
      np.asarray(a)[:, None] for a in (*says["level"][1:], says["drift"], says["diffusion_squared"])
    )
    flow = f * (alpha * X0 + sigma * NOISE) + g2 * NOISE / sigma / 2
    np.testing.assert_allclose(says["velocity"], flow, 1e-8, 1e-9)


def test_prior_std():
  """VE starts from N(0, sigma_max^2 I), the others from N(0, I)."""
  # (25^2 - 1) / (2 log 25) is SigmaPower's largest variance.
  expected = [80, 50, (624 / 2 / np.log(25)) ** 0.5] + [1] * (len(ALL) - 3)
  grids = jax.jit(lambda: [uniform(schedule, 3) for schedule in ALL])()
  np.testing.assert_allclose([g.schedule.prior_std(g[0]) for g in grids], expected, 1e-5)
  draws = [g.prior(jax.random.key(0), (4000, 2)) for g in grids]
  # 4 standard errors of a std from 8000 numbers.
  np.testing.assert_allclose([x.std() for x in draws], expected, 4 / 16000**0.5)


@pytest.mark.parametrize(
  ("build", "line"),
  [
    (lambda: VarianceExploding(2.0, 1.0), "sigma_min = 2.0 and sigma_max = 1.0 must satisfy"),
    (lambda: VarianceExploding(0.0, 1.0), "sigma_min = 0.0"),
    (lambda: GeometricVarianceExploding(-1.0, 1.0), "sigma_min = -1.0"),
    (lambda: VariancePreserving(20.0, 0.1), "beta_min = 20.0"),
  ],
)
def test_schedules_refuse(build, line):
  with pytest.raises(ValueError, match=line):
    build()


class TestGrid:
  @pytest.mark.parametrize("schedule", ALL, ids=IDS)
  def test_builders_end_where_they_should(self, schedule):
    """N noisy levels and the data; without it, N + 1 levels, the last where the N-th was."""

    def build(to_data):
      builders = {k: f for k, f in GRIDS.items() if k not in ("timesteps", "given")}  # their own
      return jax.jit(lambda: {k: f(schedule, 7, to_data=to_data) for k, f in builders.items()})()

    for (name, grid), open_grid in zip(build(True).items(), build(False).values(), strict=True):
      levels = jax.tree.map(np.asarray, grid.levels)
      assert grid.num_steps == open_grid.num_steps == 7
      assert grid.ends_at_data
      assert not open_grid.ends_at_data
      assert (levels.alpha[-1], levels.sigma[-1], levels.t[-1]) == (1, 0, 0)
      for last in (levels.t[-2], open_grid.levels.t[-1]):
        np.testing.assert_allclose(last, schedule.t_min, 1e-4, 1e-5)
      first = 1.0 if name in ("uniform", "quadratic") else schedule.t_max
      np.testing.assert_allclose([levels.t[0], open_grid.levels.t[0]], first, 1e-5)
      assert (np.diff(levels.t[:-1]) < 0).all()
      assert (np.diff(levels.sigma / np.maximum(levels.alpha, 1e-9)) < 0).all()
      assert all(np.isfinite(a).all() for a in levels)

  @pytest.mark.usefixtures("x64")
  def test_spacings(self):
    schedule = VariancePreserving()

    @jax.jit
    def build():
      ends = {"sigma_max": 80.0, "sigma_min": 0.002}
      return (
        uniform(schedule, 5),
        quadratic(schedule, 5, t_min=0.01, t_max=0.81),
        uniform_log_snr(schedule, 5, **ends),
        karras(schedule, 5, rho=7.0, **ends),
        karras(VarianceExploding(1.0, 2.0), 5, rho=7.0, **ends),
      )

    even, squares, *others = (jax.tree.map(lambda a: np.asarray(a)[:-1], g.levels) for g in build())
    np.testing.assert_allclose(np.diff(even.t), -0.24975, 1e-12)
    np.testing.assert_allclose(np.sqrt(squares.t), [0.9, 0.7, 0.5, 0.3, 0.1], 1e-12)
    geometric, *published = (level.sigma / level.alpha for level in others)
    np.testing.assert_allclose(geometric[:-1] / geometric[1:], 40_000**0.25, 1e-10)
    # Karras et al. 2022 with their sigma_min, sigma_max and rho, for any process.
    for ratio in published:
      np.testing.assert_allclose(ratio, [80, 17.5278, 2.5152, 0.16975, 0.002], 1e-4)

  def test_given_log_snrs_are_the_grid_s(self):
    for schedule in (VarianceExploding(0.02, 20.0, 7.0), VariancePreserving()):
      grid = uniform(schedule, 5)
      again = given_log_snrs(schedule, 5, log_snrs=grid.levels.log_snr[:-1])
      for a, b in zip(jax.tree.leaves(grid.levels), jax.tree.leaves(again.levels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # of float32, through the inverse
    with pytest.raises(ValueError, match="log_snrs = 5 numbers must be 4"):
      given_log_snrs(schedule, 4, log_snrs=(0.0, 1.0, 2.0, 3.0, 4.0))

  def test_pairs_and_loops(self):
    grid = uniform(LinearFlow(), 4)
    now, nxt = grid.pairs
    np.testing.assert_array_equal(now.t[1:], nxt.t[:-1])
    assert [float(level.t) for level in grid] == [*now.t.tolist(), float(nxt.t[-1])]
    assert grid.noisy_pairs[0].t.shape == (3,)
    assert uniform(LinearFlow(), 4, to_data=False).noisy_pairs[0].t.shape == (4,)
    with pytest.raises(IndexError, match="level 5 of a grid of 4 steps"):
      grid[5]

  def test_a_traced_grid(self):
    """A sigma limit can be vmapped: each grid is the one built alone."""
    largest = jnp.array([5.0, 20.0, 80.0])

    def build(s):
      return uniform(VarianceExploding(0.02, s), 6)

    grids = jax.jit(jax.vmap(build))(largest)
    for i, s in enumerate(largest):
      np.testing.assert_allclose(grids.levels.sigma[i], build(float(s)).levels.sigma, 2e-6)
    rate = jax.jit(jax.grad(lambda s: build(s).levels.sigma[0]))(80.0)
    np.testing.assert_allclose(rate, 1, 1e-5)


ALPHA, SIGMA = np.array([0.1, 0.4, 0.8, 1.0]), np.array([0.995, 0.9, 0.6, 0.0])
T = np.array([1.0, 0.6, 0.1, 0.0])


@pytest.mark.usefixtures("x64")
class TestFromArrays:
  @pytest.mark.parametrize("t", [None, T])
  def test_exact_at_its_points(self, t):
    grid = Grid.from_arrays(ALPHA, SIGMA, process="vp", t=t)
    assert grid.ends_at_data
    np.testing.assert_array_equal(grid.levels.alpha, ALPHA)
    np.testing.assert_array_equal(grid.levels.sigma, SIGMA)

  def test_between_and_beyond_its_points(self):
    """Half-way in t, the geometric mean of sigma / alpha; the end's slope goes on outside."""
    sigma = np.array([8.0, 2.0, 1.0])
    schedule = Grid.from_arrays(np.ones(3), sigma, process="ve", t=[1.0, 0.5, 0.25]).schedule
    times = np.array([1.25, 1.0, 0.75, 0.5, 0.375, 0.25, 0.0])
    expected = np.array([16, 8, 4, 2, 2**0.5, 1, 0.5])
    np.testing.assert_allclose(jax.jit(schedule.at)(times).sigma, expected, 1e-13)
    level = jax.jit(schedule.at_log_snr)(-np.log(expected))
    np.testing.assert_allclose(level.t, times, 1e-13, 1e-13)

  @pytest.mark.parametrize("process", ["ve", "vp", "flow"])
  def test_alpha_follows_from_the_process(self, process):
    ratio = np.array([9.0, 4.0, 1.0])
    alpha = {"ve": 1 + 0 * ratio, "vp": (1 + ratio**2) ** -0.5, "flow": 1 / (1 + ratio)}[process]
    grid = Grid.from_arrays(alpha, alpha * ratio, process=process)
    levels = jax.jit(grid.schedule.at_log_snr)(-np.log([*ratio, 6.0]))
    np.testing.assert_allclose(levels.alpha[:3], alpha, 1e-13)
    np.testing.assert_allclose(levels.sigma[:3], alpha * ratio, 1e-13)
    np.testing.assert_allclose(levels.sigma[3] / levels.alpha[3], 6, 1e-13)

  def test_from_pure_noise_and_whole_numbers(self):
    grid = Grid.from_arrays([0, 1, 1], [1, 1, 0], process="vp")
    assert grid.levels.sigma.dtype == np.float64
    # One level with a log-SNR: any monotone line through it, the same both ways.
    log_snrs = np.array([-1.0, 0.0, 1.0])
    schedule = grid.schedule
    np.testing.assert_allclose(schedule.log_snr(schedule.time(log_snrs)), log_snrs, 1e-13)

  def test_without_times_only_time_is_refused(self):
    grid = Grid.from_arrays(ALPHA, SIGMA, process="vp")
    levels = [grid[1], grid.schedule.at_log_snr(0.3), grid.schedule.at(0.4)]
    levels += [uniform(grid.schedule, 3, t_max=0.9, t_min=0.2)[0]]
    for level in levels:
      for name, conditioning in CONDITIONINGS.items():
        if name.startswith("time"):
          with pytest.raises(ValueError, match="this level has no time"):
            conditioning(level)
        else:
          assert np.isfinite(conditioning(level))
      with pytest.raises(ValueError, match="this level has no time"):
        grid.schedule.velocity(level, jnp.ones(2), jnp.ones(2))

  @pytest.mark.parametrize(
    ("alpha", "sigma", "options", "line"),
    [
      (ALPHA, SIGMA, {"process": "edm"}, "process = 'edm' must be one of ve, vp, flow"),
      (ALPHA[1:], SIGMA, {}, r"must have one shape \[N \+ 1\]"),
      ([1.0], [1.0], {}, r"must have one shape \[N \+ 1\]"),
      (ALPHA[::-1], SIGMA[::-1], {}, "must be > 0"),
      ([1, 1, 1], [1, 2, 0], {}, "a grid runs from noise to data"),
      ([1, 1, 1], [1, 1, 0], {}, "a grid runs from noise to data"),
      ([1, 1, 1], [1, 0, 0], {}, "must be > 0"),
      ([1, 1, 1], [1, np.nan, 0], {}, "must be > 0"),
      ([1, -1, 1], [1, 1, 0], {}, "must be > 0"),
      ([0, 1], [1, 0], {}, "one pair at least"),
      (ALPHA, SIGMA, {"t": T[::-1]}, "t must be decreasing"),
      (ALPHA, SIGMA, {"t": T[1:]}, "t must be decreasing"),
    ],
  )
  def test_refusals(self, alpha, sigma, options, line):
    with pytest.raises(ValueError, match=line):
      Grid.from_arrays(alpha, sigma, **{"process": "vp"} | options)


def test_level_like_broadcasts():
  level = Level(None, jnp.ones(5), jnp.arange(5.0))
  assert level.like(jnp.ones((5, 8, 8, 3))).sigma.shape == (5, 1, 1, 1)
  assert level.like(jnp.ones((5, 7, 2))).alpha.shape == (5, 1, 1)
  scalar = jax.tree.map(functools.partial(jnp.take, indices=2), level)
  assert scalar.like(jnp.ones((5, 2))).sigma.shape == ()
