"""The SDE derived from alpha and sigma: against differences, Fokker-Planck and simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.schedules import (
  BETAS,
  SCHEDULES,
  Discrete,
  Grid,
  Shifted,
  SubVP,
  forward_path,
  linear_betas,
  reverse_drift,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

ONE_TABLE = [name for name in SCHEDULES if name not in BETAS or name == "vp_betas"]
ALL = {name: SCHEDULES[name]() for name in ONE_TABLE} | {
  "zero_terminal_snr": Discrete(linear_betas(num_levels=40), zero_terminal_snr=True),
  "shifted": Shifted(SubVP(), -1.2),
}
EVERY = {name: build() for name, build in SCHEDULES.items()} | ALL
each = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
KEY = jax.random.key(0)
# Away from the ends and from where the slope of a table changes.
TIMES = np.array([0.0134, 0.0513, 0.3137, 0.5004, 0.7707, 0.9603])


WIDTH = 1e-5
AROUND = TIMES + WIDTH * np.array([[-2], [-1], [1], [2]])


def slope(values):
  """Central differences of fourth order at TIMES, of a function's values AROUND them."""
  a, b, c, d = values
  return (a - 8 * b + 8 * c - d) / (12 * WIDTH)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
def test_drift_and_diffusion_are_slopes(schedule):
  """f = d log alpha / dt; g^2 = alpha^2 d(sigma / alpha)^2 / dt, what is added to x / alpha."""

  @jax.jit
  def measure(t, around):
    f, g2 = schedule.drift(t), schedule.diffusion_squared(t)
    return f, g2, schedule.alpha(t), schedule.alpha(around), schedule.sigma(around)

  f, g2, alpha, *around = map(np.asarray, measure(TIMES, AROUND))
  np.testing.assert_allclose(f, slope(np.log(around[0])), 1e-7, 1e-9)
  np.testing.assert_allclose(g2, alpha**2 * slope((around[1] / around[0]) ** 2), 1e-6)


@pytest.mark.usefixtures("x64")
@each
def test_backwards_keeps_the_variance(schedule):
  """Of data N(0, s^2), V = alpha^2 s^2 + sigma^2: backwards by a x and eta g dw it must fall as

  dV/dt = 2 a V - eta^2 g^2, whatever eta is (the Fokker-Planck equation of a Gaussian).
  """
  s = 1.7

  x = np.array([[0.3], [-2.0]]) * np.ones(6)

  def variance(level):
    return (level.alpha * s) ** 2 + level.sigma**2

  @jax.jit
  def measure(t, around, eta):
    level = schedule.at(t)
    v = variance(level)
    drift = jax.vmap(lambda x: reverse_drift(schedule, level, x, -x / v, eta=eta))(x)
    fall = 2 * drift / x * v - eta**2 * schedule.diffusion_squared(t)
    return fall, variance(schedule.at(around))

  for eta in (0.0, 0.6, 1.0):
    fall, around = map(np.asarray, measure(TIMES, AROUND, eta))
    np.testing.assert_allclose(fall, np.broadcast_to(slope(around), fall.shape), 1e-6, 1e-7)


@pytest.mark.usefixtures("x64")
@each
def test_the_probability_flow_is_the_velocity(schedule):
  """From the score what `velocity` says from x0 and noise, for points and levels in a batch."""

  @jax.jit
  def both(x0, noise):
    level = schedule.at(TIMES)
    at = level.like(x0)
    x, score = at.alpha * x0 + at.sigma * noise, -noise / at.sigma
    flow = reverse_drift(schedule, level, x, score, eta=0.0)
    return flow, schedule.velocity(level, x0, noise)

  flow, velocity = both(*np.random.default_rng(0).normal(size=(2, 6, 3)))
  np.testing.assert_allclose(flow, velocity, 1e-8, 1e-9)


def test_a_level_without_time_is_refused():
  grid = Grid.from_arrays([0.1, 0.5, 1.0], [0.9, 0.5, 0.0], process="vp")
  with pytest.raises(ValueError, match="this level has no time"):
    reverse_drift(grid.schedule, grid[0], jnp.ones(2), jnp.ones(2))


@functools.partial(jax.jit, static_argnums=3)
def simulate(key, schedule, times, num_points):
  """Many points, all from 1.5 where times[0] = 0, else from the law there."""
  start, key = jax.random.split(key)
  level = schedule.at(times[0])
  x = level.alpha * 1.5 + level.sigma * jax.random.normal(start, (num_points,))
  return forward_path(key, schedule, x, times)


# From 0 where f and g^2 are smooth there.
FROM_DATA = ("variance_preserving", "sub_vp", "sigma_power", "cosine", "sigmoid", "linear_flow")


# One of each kind: the others differ by alpha and sigma only, which finite differences have tested.
SIMULATED = ("sub_vp", "linear_flow")
KINDS = ("variance_exploding", "sigma_power", "laplace", "zero_terminal_snr")
OTHERS = [
  pytest.param(name, marks=pytest.mark.e2e if name in KINDS else pytest.mark.slow)
  for name in EVERY
  if name not in SIMULATED
]


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*SIMULATED, *OTHERS])
def test_forward_simulation_has_the_marginals(name):
  """Mean and std half-way and late, of 20,000 points after 400 steps in all, or more.

  4 standard errors are 0.028 of sigma for the mean and 0.020 for the std; the method's bias, which
  is of first order, adds at most 0.015.
  """
  schedule, num_steps = EVERY[name], 400
  if name == "gaussian_channel":
    num_steps = 6400  # its mean starts at 125 sigma, and what a step misses is in proportion to it
  times = jnp.linspace(0.0 if name in FROM_DATA else 0.02, 0.96, num_steps + 1)
  x, path = simulate(KEY, schedule, times, 20_000)
  np.testing.assert_array_equal(x, path[-1])
  for i in (num_steps // 2, num_steps):
    level, points = schedule.at(times[i]), np.asarray(path[i - 1])
    np.testing.assert_allclose(points.mean(), 1.5 * level.alpha, 0, 0.035 * level.sigma)
    np.testing.assert_allclose(points.std(), level.sigma, 0.035)


@pytest.mark.e2e
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["variance_preserving", "sigmoid", "cosine_flow"])
def test_forward_simulation_is_of_first_order(name):
  """What is left of the signal, as the noise cancels between two starts with one key."""
  schedule, errors = ALL[name], []
  for num_steps in (200, 400, 800):
    times = jnp.linspace(0.0, 0.9, num_steps + 1)
    starts = jnp.array([0.0, 1.0])
    ends = jax.jit(jax.vmap(lambda x, t=times: forward_path(KEY, schedule, x, t)[0]))(starts)
    errors.append(abs(ends[1] - ends[0] - schedule.alpha(times[-1])))
  np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, 0.1)
