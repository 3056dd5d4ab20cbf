"""What samplers do to a Gaussian's law: its weak order, and the marginals of every process.

With the exact score of a Gaussian a sampler is affine in its start and in its noise, so that the
law of what comes out is known from derivatives, without sampling.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers import SAMPLERS, RecordedNoise, corrector_step
from scorelab.schedules import (
  Grid,
  Level,
  LinearFlow,
  SubVP,
  VarianceExploding,
  VariancePreserving,
  uniform,
)
from scorelab.targets.mixtures import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VARIANCE, MEAN = 0.7, 1.5
RANGES = {
  "ve": (VarianceExploding(0.02, 10.0, 5.0), 0.9, 0.3),
  "vp": (VariancePreserving(), 0.9, 0.1),
  "sub-vp": (SubVP(), 0.9, 0.2),
  "flow": (LinearFlow(), 0.9, 0.1),
}


def target():
  return GaussianMixture([1.0], np.full((1, 1), MEAN), np.full(1, VARIANCE))


def law(sampler, process, num_steps, draws):
  """Mean and variance at the last level of samples that start from the true law at the first."""
  schedule, high, low = RANGES[process]
  grid = uniform(schedule, num_steps, t_max=high, t_min=low, to_data=False)
  mean = grid[0].alpha * MEAN
  variance = grid[0].alpha ** 2 * VARIANCE + grid[0].sigma ** 2

  @jax.jit
  def run(x, draws):
    return sampler(RecordedNoise(draws), target().predict, x[None], grid).x[0]

  zero = jnp.zeros((draws * num_steps, 1))
  gain, gains = jax.jit(jax.grad(run, (0, 1)))(mean, zero)
  return run(mean, zero), gain**2 * variance + jnp.sum(gains**2)


WEAK_ORDERS = [
  # name, options, draws of a step, order
  ("ancestral", {"variance": "small"}, 1, 1),
  ("ancestral", {"variance": "large"}, 1, 1),
  ("ddim", {"eta": 1.0}, 1, 1),
  ("ddim", {"eta": 0.5}, 1, 1),
  ("euler_maruyama", {}, 1, 1),
  ("euler_maruyama", {"eta": 0.5}, 1, 1),
  # The flow to a cleaner level and noise back keep the law: as exact as the solver of the flow.
  ("dpm_solver_2_ancestral", {}, 1, 2),
  ("dpmpp_2s_ancestral", {}, 1, 2),
  ("dpmpp_sde", {}, 2, 1),
  ("dpmpp_2m_sde", {}, 1, 2),
  ("dpmpp_2m_sde", {"eta": 0.5}, 1, 2),
  ("dpmpp_3m_sde", {}, 1, 2),  # its noise within a step is not seen by x0, whatever the order
]


# By default, and end to end; a draw more or other options are slow tests.
QUICK, LONGER = ("euler_maruyama",), ("dpmpp_2m_sde",)


def _marks(name, options):
  if name in QUICK and not options:
    return ()
  return pytest.mark.e2e if name in LONGER and not options else pytest.mark.slow


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "options", "draws", "order"),
  [pytest.param(*row, marks=_marks(*row[:2])) for row in WEAK_ORDERS],
)
def test_weak_order(name, options, draws, order):
  """512 and 1024 steps: the error of the variance is halved as often, for every process."""
  for process, (schedule, _, low) in RANGES.items():
    sampler = functools.partial(SAMPLERS[name], **options)
    end = schedule.at(low)
    mean, variance = end.alpha * MEAN, end.alpha**2 * VARIANCE + end.sigma**2
    errors = []
    for num_steps in (512, 1024):
      got = law(sampler, process, num_steps, draws)
      errors.append([abs(got[0] - mean), abs(got[1] - variance)])
    measured = np.log2(errors[0][1] / errors[1][1])
    assert abs(measured - order) < 0.2, (process, measured, errors)


@pytest.mark.e2e
@pytest.mark.parametrize("eta", [0.5, 1.5])
def test_every_eta_of_the_reverse_sde_keeps_the_law(eta):
  """In 512 steps to the 5 % that a method of first order leaves; noise of eta = 1 is 40 % off."""
  sampler = functools.partial(SAMPLERS["euler_maruyama"], eta=eta)
  for process in ("ve", "vp"):
    schedule, _, low = RANGES[process]
    end = schedule.at(low)
    mean, variance = law(sampler, process, 512, 1)
    np.testing.assert_allclose(mean, end.alpha * MEAN, 0.05)
    np.testing.assert_allclose(variance, end.alpha**2 * VARIANCE + end.sigma**2, 0.05)


@pytest.mark.e2e
def test_the_optimal_variance_is_exact():
  """Of a Gaussian at any number of steps: no order."""
  sampler = functools.partial(SAMPLERS["ancestral"], variance="optimal")
  for process, (schedule, _, low) in RANGES.items():
    end = schedule.at(low)
    got = law(sampler, process, 3, 1)
    expected = end.alpha * MEAN, end.alpha**2 * VARIANCE + end.sigma**2
    np.testing.assert_allclose(got, expected, 1e-9)


# In many steps, and within 4 standard errors. Re-noising is too narrow however many there are; the
# corrector has the bias of its own step size, and Langevin chains one of theirs. Consistency
# sampling takes another kind of prediction: tests/core/losses/test_consistency.py.
EXACT_MEANS = np.array([1.0, -0.5])
EXACT_COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.8]])
NAMES = list({sampler: name for name, sampler in reversed(SAMPLERS.items())}.values())
LEFT_OUT = ("renoise", "annealed_langevin", "consistency")
MARGINALS = {name: {} for name in NAMES if name not in LEFT_OUT}
MARGINALS |= {"ddim": {"eta": 1.0}, "euler": {"churn": 10.0}, "heun": {"churn": 10.0}}
MARGINALS["predictor_corrector"] = {"snr": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize("process", RANGES)
@pytest.mark.parametrize("name", MARGINALS)
def test_marginals_of_a_gaussian(name, process):
  """Mean and covariance from the true law at one level to the law at another, by 200 steps."""
  schedule, high, low = RANGES[process]
  law = GaussianMixture([1.0], EXACT_MEANS[None], EXACT_COVARIANCE[None])
  grid = uniform(schedule, 200, t_max=high, t_min=low, to_data=False)

  @jax.jit
  def run(key):
    first, noise, sample = jax.random.split(key, 3)
    start = law.sample(first, 4000)
    x = grid[0].alpha * start + grid[0].sigma * jax.random.normal(noise, start.shape)
    given = Grid(grid.schedule, grid.levels, ends_at_data=False)
    return SAMPLERS[name](sample, law.predict, x, given, **MARGINALS[name]).x

  x, end = np.asarray(run(jax.random.key(1))), grid[200]
  apart = x - end.alpha * EXACT_MEANS
  products = apart[:, :, None] * apart[:, None, :]
  covariance = end.alpha**2 * EXACT_COVARIANCE + end.sigma**2 * np.eye(2)
  for values, truth in ((apart, np.zeros(2)), (products, covariance)):
    error = np.abs(values.mean(0) - truth) / (values.std(0) / len(x) ** 0.5)
    assert error.max() < 4, error


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.7])
def test_a_corrector_steps_by_its_ratio_of_signal_to_noise(snr):
  """For one point |h score| / |sqrt(2 h) z| is the ratio that was asked for, whatever the score.

  Over a batch it holds for the means of the norms.
  """
  rng = np.random.default_rng(0)
  x, score, z = rng.normal(size=(3, 6, 4))
  for event_ndim, at in ((None, slice(0, 1)), (1, slice(None))):
    pred = Prediction.of(x[at], Level(None, 1.0, 1.0), "score", score=10 * score[at])
    both = corrector_step(pred, z[at], snr, event_ndim) - x[at]
    # The norm of the noise sets the step: signs turn the noise over and leave it.
    other = corrector_step(pred, -z[at], snr, event_ndim) - x[at]
    signal, noise = (both + other) / 2, (both - other) / 2
    norms = [np.linalg.norm(part, axis=-1).mean() for part in (signal, noise)]
    assert norms[0] / norms[1] == pytest.approx(snr, rel=1e-12)
