"""Euler's method in time: its order, and the published loop with its two sign errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers import euler_time
from scorelab.schedules import Grid, LinearFlow, SigmaPower, SubVP, VariancePreserving, uniform
from scorelab.targets.mixtures import GaussianMixture

KEY = jax.random.key(0)
MEAN, STD = np.array([1.0, -0.5]), 0.7
pytestmark = pytest.mark.usefixtures("quick_compilation")


def solution(noise, level):
  """The probability flow of N(m, STD^2 I): each point keeps its place in standard units."""
  return level.alpha * MEAN + noise * np.sqrt((level.alpha * STD) ** 2 + level.sigma**2)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "schedule", [SigmaPower(1.01), SigmaPower(25.0), VariancePreserving(), SubVP(), LinearFlow()]
)
def test_first_order_in_time_for_every_process(schedule, x64):
  """64 and 128 steps from t = 1, which is pure noise for the flow: the error is halved.

  To t = 0.1 only: in time the slope of sigma at the data is that of a root.
  """
  target = GaussianMixture([1.0], MEAN[None], np.full(1, STD**2))
  noise = np.random.default_rng(0).normal(size=(16, 2))

  def error(num_steps):
    grid = uniform(schedule, num_steps, t_min=0.1, to_data=False)
    x = euler_time(KEY, target.predict, jnp.asarray(solution(noise, grid[0])), grid).x
    return np.sqrt(np.mean((x - solution(noise, grid[num_steps])) ** 2))

  coarse, fine = error(64), error(128)
  np.testing.assert_allclose(np.log2(coarse / fine), 1, atol=0.1)
  assert fine < 0.1


@pytest.mark.parametrize("base", [1.01, 25.0])
def test_the_published_loop_and_its_sign_errors(base, x64):
  """A network that learned minus the score, subtracted: T = 20 times, the first one never asked."""

  def minus_score(x, t):
    return np.sin(2 * x + t) + x / (1 + t)

  def predict(x, level):
    return Prediction.of(x, level, "score", score=-(jnp.sin(2 * x + level.t) + x / (1 + level.t)))

  x = start = np.random.default_rng(0).normal(size=(5, 3))
  times = np.linspace(1.0, 1e-5, 20)
  for t in times[1:]:
    x = x - (times[0] - times[1]) * 0.5 * base**t * minus_score(x, t)
  x = np.tanh(x)

  grid = uniform(SigmaPower(base), 19, to_data=False)
  given = {"unsquared": True, "at_arrival": True, "squash": True}
  samples = euler_time(KEY, predict, jnp.asarray(start), grid, **given)
  np.testing.assert_allclose(samples.x, x, rtol=1e-10)
  np.testing.assert_array_equal(samples.path[-1], samples.x)
  # Each liberty alone: near g = 1 only the tanh and the time matter, and far from it all do.
  plain = euler_time(KEY, predict, jnp.asarray(start), grid).x
  assert np.abs(np.tanh(plain) - x).max() > 1e-3
  unsquared = euler_time(KEY, predict, jnp.asarray(start), grid, unsquared=True).x
  assert (np.abs(unsquared - plain).max() < 0.02) == (base == 1.01)


def test_refusals():
  grid = uniform(SigmaPower(), 3)
  with pytest.raises(ValueError, match="at_arrival = True needs a grid with to_data = False"):
    euler_time(KEY, lambda x, level: None, jnp.ones(2), grid, at_arrival=True)
  untimed = Grid.from_arrays([1.0, 1.0], [2.0, 1.0], process="ve")
  with pytest.raises(ValueError, match="no time"):
    euler_time(KEY, lambda x, level: Prediction.of(x, level, "x0", x0=x), jnp.ones(2), untimed)
