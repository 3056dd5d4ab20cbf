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


@pytest.fixture
def law(x64):
  del x64  # one setting for all of a test
  return GaussianMixture(WEIGHTS, MEANS, np.full(3, STD**2))


def starts(n=40):
  return np.random.default_rng(0).normal(size=(n, 2))


def test_one_velocity(law):
  """Flow matching's target is the probability flow's drift, f x - g^2 score / 2, at every level."""
  schedule, x = LinearFlow(), jnp.asarray(starts())
  for t in (0.05, 0.5, START):
    pred = law.predict(x, schedule.at(t))
    expected = velocity(t, np.asarray(x))
    f, g2 = schedule.drift(jnp.asarray(t)), schedule.diffusion_squared(jnp.asarray(t))
    np.testing.assert_allclose(pred.flow, expected, 1e-9, 1e-9)
    np.testing.assert_allclose(f * x - g2 * pred.score / 2, expected, 1e-9, 1e-9)


def test_the_same_samples(law):
  """Where SciPy's flow arrives, DDIM arrives to first order in the steps and Heun to second.

  On linear flow's levels and on the variance-preserving process of the same log-SNRs, from the
  start that is rescaled with it.
  """
  x = starts()
  solved = scipy.integrate.solve_ivp(
    lambda t, y: velocity(t, y.reshape(-1, 2)).ravel(), (START, 0), x.ravel(), "DOP853",
    rtol=1e-9, atol=1e-9,
  )  # fmt: skip
  ends = solved.y[:, -1].reshape(-1, 2)
  flow = LinearFlow()

  def run(name, process, num_steps):
    levels = flow.at(jnp.linspace(START, 0, num_steps + 1))
    if process == "vp":
      norm = np.sqrt(levels.alpha**2 + levels.sigma**2)
      grid = Grid.from_arrays(levels.alpha / norm, levels.sigma / norm, process="vp")
    else:
      norm = np.ones(num_steps + 1)
      grid = Grid.from_arrays(levels.alpha, levels.sigma, process="flow")
    key = jax.random.key(0)
    return jax.jit(lambda x: SAMPLERS[name](key, law.predict, x, grid).x)(x / norm[0])

  for name, process, order in (("ddim", "flow", 1), ("ddim", "vp", 1), ("heun", "flow", 2)):
    errors = [np.abs(run(name, process, n) - ends).max() for n in (100, 400)]
    assert errors[1] < {1: 0.05, 2: 1e-3}[order]
    np.testing.assert_allclose(np.log(errors[0] / errors[1]) / np.log(4), order, atol=0.3)


def test_processes_are_one(law):
  """A VP process of its own takes the same noise to the same point: log-SNR alone matters."""
  vp, flow = VariancePreserving(), LinearFlow()
  log_snrs = jnp.linspace(-3, 5, 30)
  ends = []
  for schedule in (vp, flow):
    levels = schedule.at_log_snr(log_snrs)
    grid = Grid(schedule, levels, ends_at_data=False)
    x = levels.sigma[0] * jnp.asarray(starts())
    found = SAMPLERS["ddim"](jax.random.key(0), law.predict, x, grid).x
    ends.append(found / levels.alpha[-1])
  np.testing.assert_allclose(ends[0], ends[1], 1e-8, 1e-8)
