"""Flow matching with the exact velocity, and diffusion's view of the same path: the same samples.

The velocity field of a mixture is NumPy's, from Bayes' rule over its components, and SciPy follows
it; the other side is our exact prediction with diffusion's samplers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from scorelab.samplers import SAMPLERS
from scorelab.schedules import Grid, LinearFlow, VariancePreserving
from scorelab.targets.gaussian_mixture import GaussianMixture

WEIGHTS, STD = np.array([0.5, 0.3, 0.2]), 0.4
MEANS = np.array([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
START = 0.98  # of the time of linear flow


def velocity(t, x):
  """E[noise - x_0 | x_t = x] on x_t = (1 - t) x_0 + t noise: x [n, 2] -> [n, 2]."""
  variance = (1 - t) ** 2 * STD**2 + t**2
  gap = x[:, None] - (1 - t) * MEANS
  log_shares = np.log(WEIGHTS) - (gap**2).sum(-1) / (2 * variance)
  shares = np.exp(log_shares - log_shares.max(1, keepdims=True))
  shares /= shares.sum(1, keepdims=True)
  # Of each component, by the regression of (x_0, noise) on x_t.
  x0 = MEANS + (1 - t) * STD**2 / variance * gap
  noise = t / variance * gap
  return (shares[:, :, None] * (noise - x0)).sum(1)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def law(x64):
  del x64  # one setting for all of a test
  return GaussianMixture(WEIGHTS, MEANS, np.full(3, STD**2))


def starts(n=40):
  return np.random.default_rng(0).normal(size=(n, 2))


def test_one_velocity(law):
  """Flow matching's target is the probability flow's drift, f x - g^2 score / 2, at every level."""
  schedule, x, times = LinearFlow(), starts(), np.array([0.05, 0.5, START])

  @jax.jit
  @jax.vmap
  def views(t):
    pred = law.predict(jnp.asarray(x), schedule.at(t))
    drift = schedule.drift(t) * x - schedule.diffusion_squared(t) * pred.score / 2
    return pred.flow, drift

  expected = np.array([velocity(t, x) for t in times])
  for found in views(times):
    np.testing.assert_allclose(found, expected, 1e-9, 1e-9)


@pytest.mark.e2e
def test_the_same_samples(law):
  """Where SciPy's flow arrives, DDIM arrives to first order in the steps, and Heun to second."""
  x = starts()
  solved = scipy.integrate.solve_ivp(
    lambda t, y: velocity(t, y.reshape(-1, 2)).ravel(), (START, 0), x.ravel(), "DOP853",
    rtol=1e-9, atol=1e-9,
  )  # fmt: skip
  ends = solved.y[:, -1].reshape(-1, 2)

  def run(name, num_steps):
    grid = LinearFlow().grid(jnp.linspace(START, 0, num_steps + 1)[:-1])
    return SAMPLERS[name](jax.random.key(0), law.predict, jnp.asarray(x), grid).x

  for name, order, bound in (("ddim", 1, 0.05), ("heun", 2, 1e-3)):
    few, many = jax.jit(lambda name=name: (run(name, 100), run(name, 400)))()
    few, many = (np.abs(found - ends).max() for found in (few, many))
    assert many < bound
    np.testing.assert_allclose(np.log(few / many) / np.log(4), order, atol=0.3)


def test_processes_are_one(law):
  """A VP process of its own takes the same noise to the same point: log-SNR alone matters."""

  @jax.jit
  def run():
    ends = []
    for schedule in (VariancePreserving(), LinearFlow()):
      grid = Grid(schedule, schedule.at_log_snr(jnp.linspace(-3, 5, 30)), ends_at_data=False)
      x = grid[0].sigma * jnp.asarray(starts())
      found = SAMPLERS["ddim"](jax.random.key(0), law.predict, x, grid).x
      ends.append(found / grid[29].alpha)
    return ends

  np.testing.assert_allclose(*run(), 1e-8, 1e-8)
