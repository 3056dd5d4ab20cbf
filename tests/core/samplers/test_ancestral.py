"""Ancestral steps against Gaussian conditioning, DDIM and the ends; diffusers in test_oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers import (
  RecordedNoise,
  ancestral,
  ancestral_step,
  ddim,
  ddim_step,
  renoise,
  renoise_step,
)
from scorelab.schedules import (
  GaussianChannel,
  Level,
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
  karras,
  uniform,
)
from scorelab.targets.mixtures import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VE, VP, FLOW = VarianceExploding(0.02, 10.0, 5.0), VariancePreserving(), LinearFlow()
MEAN, VARIANCE = np.array([1.0, -0.5]), np.array([1.5, 0.2])
KEY = jax.random.key(0)
processes = pytest.mark.parametrize("schedule", [VE, VP, FLOW], ids=["ve", "vp", "flow"])


@jax.jit
def exact(x, level):
  return GaussianMixture([1.0], MEAN[None], VARIANCE[None]).predict(x, level)


def moments(step, pred, now, nxt, **options):
  """Mean and variance of a step, which is linear in its noise."""
  mean = step(pred, now, nxt, jnp.zeros(2), **options)
  return mean, (step(pred, now, nxt, jnp.ones(2), **options) - mean) ** 2


def conditional(x, now, nxt, alpha_ts, beta):
  """Mean and variance of x_s given x_t = x, by x_s ~ N(alpha_s m, V_s), x_t = alpha_ts x_s + ..."""
  before = nxt.alpha**2 * VARIANCE + nxt.sigma**2
  after = alpha_ts**2 * before + beta
  gain = alpha_ts * before / after
  return nxt.alpha * MEAN + gain * (x - now.alpha * MEAN), before - gain**2 * after


@processes
@pytest.mark.parametrize("times", [(0.9, 0.4), (0.4, 0.38), (0.1, 0.05)])
def test_optimal_variance_is_the_gaussian_conditional(schedule, times):
  """One step of a Gaussian is exact in mean and variance, however long; the others in the mean."""
  now, nxt = schedule.at(times[0]), schedule.at(times[1])
  alpha_ts = now.alpha / nxt.alpha
  x = jnp.array([0.3, -2.0])
  pred = exact(x, now)
  beta = now.sigma**2 - (alpha_ts * nxt.sigma) ** 2
  mean, variance = conditional(x, now, nxt, alpha_ts, beta)
  got = moments(ancestral_step, pred, now, nxt, variance="optimal")
  np.testing.assert_allclose(got, (mean, variance), 1e-9)
  small = moments(ancestral_step, pred, now, nxt)
  np.testing.assert_allclose(small[0], mean, 1e-9)
  assert (small[1] < variance).all()


@processes
def test_optimal_variance_keeps_the_law_of_a_gaussian(schedule):
  """All the way, in 3 steps: affine maps, whose mean and variance are followed exactly."""
  grid = uniform(schedule, 3, t_max=0.9, t_min=0.1, to_data=False)
  mean = grid[0].alpha * MEAN
  variance = grid[0].alpha ** 2 * VARIANCE + grid[0].sigma ** 2
  for i in range(3):
    now, nxt = grid[i], grid[i + 1]

    def of(x, now=now, nxt=nxt):
      return moments(ancestral_step, exact(x, now), now, nxt, variance="optimal")

    slope = of(mean + 1)[0] - of(mean)[0]
    mean, variance = of(mean)[0], slope**2 * variance + of(mean)[1]
  np.testing.assert_allclose(mean, nxt.alpha * MEAN, 1e-9)
  np.testing.assert_allclose(variance, nxt.alpha**2 * VARIANCE + nxt.sigma**2, 1e-9)


def test_the_two_fixed_variances_are_the_extremes():
  """DDPM, section 3.2: exact for one point, and for N(0, I) on a variance-preserving process."""
  now, nxt, x = VP.at(0.6), VP.at(0.4), jnp.array([0.3, -2.0])
  for variance, covariance in (("small", 0.0), ("large", 1.0)):
    pred = GaussianMixture([1.0], np.zeros((1, 2)), np.array([covariance])).predict(x, now)
    exact = moments(ancestral_step, pred, now, nxt, variance="optimal")
    got = moments(ancestral_step, pred, now, nxt, variance=variance)
    np.testing.assert_allclose(got, exact, 1e-9)


def test_learned_variance_is_between_in_logarithms():
  now, nxt, x = VP.at(0.6), VP.at(0.4), jnp.array([0.3, -2.0])

  def variance(name, fraction=None):
    pred = Prediction.of(x, now, "x0", x0=x / 2, variance_fraction=fraction)
    return moments(ancestral_step, pred, now, nxt, variance=name)[1]

  small, large = variance("small"), variance("large")
  np.testing.assert_allclose(variance("learned", jnp.zeros(2)), small, 1e-9)
  np.testing.assert_allclose(variance("learned", jnp.ones(2)), large, 1e-9)
  middle = variance("learned", jnp.array([0.5, 0.25]))
  np.testing.assert_allclose(middle[0] ** 2, small[0] * large[0], 1e-9)
  np.testing.assert_allclose(middle[1] ** 4, small[1] ** 3 * large[1], 1e-9)


@pytest.mark.e2e
@processes
def test_small_is_ddim_at_eta_1(schedule):
  """The Bayes posterior with the guessed x_0, on every process and with the same key."""
  grid, x = karras(schedule, 6), jax.random.normal(KEY, (3, 2))
  paths = [
    jax.jit(lambda x, f=f, o=o: f(KEY, exact, x, grid, **o).path)(x)
    for f, o in ((ancestral, {}), (ddim, {"eta": 1.0}))
  ]
  np.testing.assert_allclose(*paths, 1e-9, 1e-12)


@processes
def test_renoise_is_ddim_that_renews_all(schedule):
  now, nxt, z = schedule.at(0.6), schedule.at(0.4), jnp.array([1.0, -2.0])
  pred = exact(jnp.array([0.3, -1.0]), now)
  np.testing.assert_allclose(
    renoise_step(pred, now, nxt, z), ddim_step(pred, now, nxt, z, 1e9), 1e-12
  )


@pytest.mark.parametrize("variance", ["small", "large", "optimal", "learned"])
def test_ends(variance):
  """Onto the data no noise, and x0 itself; from pure noise, no trace of x; finite gradients."""
  data, pure = Level(None, jnp.ones(()), jnp.zeros(())), FLOW.at(1.0)
  x, now, nxt = jnp.array([0.3, -2.0]), FLOW.at(0.5), FLOW.at(0.4)

  def of(x, now, nxt, z, fraction=0.5):
    x0, spread = jnp.array([0.7, 0.1]), jnp.full(2, 0.3)
    fractions = jnp.full(2, fraction)
    pred = Prediction.of(x, now, "x0", x0=x0, x0_variance=spread, variance_fraction=fractions)
    return ancestral_step(pred, now, nxt, z, variance)

  np.testing.assert_allclose(of(x, now, data, jnp.full(2, 9.0)), [0.7, 0.1], 1e-12)
  np.testing.assert_allclose(of(x, pure, nxt, jnp.zeros(2)), 0.6 * np.array([0.7, 0.1]), 1e-12)
  still = of(x, now, now, jnp.full(2, 9.0))
  np.testing.assert_allclose(still, x, 1e-12)  # a step of no width goes nowhere

  def total(t, s, fraction):
    return jnp.sum(of(x, FLOW.at(t), FLOW.at(s), jnp.ones(2), fraction))

  for times in ((0.5, 0.4), (1.0, 0.4), (0.5, 0.0), (0.5, 0.5)):
    slopes = jax.grad(total, (0, 1, 2))(*times, 0.5)
    assert np.isfinite(slopes).all(), (times, slopes)


def test_renoise_ends_at_x0():
  grid = uniform(VP, 3)
  samples = jax.jit(lambda x: renoise(KEY, exact, x, grid))(jnp.ones((4, 2)))
  last = exact(samples.path[-2], grid[2]).x0
  np.testing.assert_allclose(samples.x, last, 1e-12)


def test_renoise_without_its_last_step_keeps_the_last_noise():
  """One step less, on the same draws but the last: noised to the last noisy level."""
  grid, x = uniform(VP, 3), jnp.ones((4, 2))
  whole = renoise(KEY, exact, x, grid)
  noisy = renoise(KEY, exact, x, grid, denoise=False)
  assert (whole.nfe, noisy.nfe, noisy.path.shape) == (3, 2, (2, 4, 2))
  point = GaussianMixture([1.0], MEAN[None], np.zeros(1))  # its guess is always right
  many = renoise(KEY, point.predict, jnp.ones((4000, 2)), grid, denoise=False).x
  np.testing.assert_allclose(many.mean(0), grid[2].alpha * MEAN, atol=5 * grid[2].sigma / 63)
  np.testing.assert_allclose(many.std(0), grid[2].sigma, 0.05)


@pytest.mark.parametrize("denoise", [False, True])
def test_renoise_with_the_published_slips(denoise):
  """The loop over [-i] as it is written in Python, on arrays of levels from clean to noisy."""
  grid, x = uniform(VP, 5), jnp.array([[0.3, -2.0], [1.0, 0.4]])
  seen = []

  def predict(x, level):
    jax.debug.callback(lambda a: seen.append(float(a)), level.alpha, ordered=True)
    return exact(x, level)

  draws = np.random.default_rng(0).normal(size=(5, 2, 2))
  got = renoise(RecordedNoise(draws), predict, x, grid, slips=True, denoise=denoise)
  jax.effects_barrier()
  alphas, sigmas = grid.levels.alpha[:-1][::-1], grid.levels.sigma[:-1][::-1]
  np.testing.assert_allclose(seen, alphas[np.array([0, 4, 3, 2, 1])], 1e-12)
  for i, z in enumerate(draws):
    x0 = exact(x, Level(None, alphas[-i], sigmas[-i])).x0
    x = alphas[-i + 1] * x0 + sigmas[-i + 1] * z
    x = x0 if denoise and i == 4 else x
  np.testing.assert_allclose(got.x, x, 1e-12)
  assert got.nfe == 5


@pytest.mark.parametrize("sampler", [ancestral, renoise, ddim])
def test_one_step_is_the_published_formula(sampler):
  """x = 0.01 x_0 + eps and back: 100 (z - eps_hat(z)), by whichever sampler."""
  grid = uniform(GaussianChannel(alpha_min=0.01), 1)
  z = jax.random.normal(KEY, (5, 2))

  def predict(x, level):
    return Prediction.of(x, level, "noise", noise=jnp.tanh(x))

  np.testing.assert_array_equal(grid.prior(KEY, (5, 2)), z)
  samples = sampler(jax.random.key(1), predict, z, grid)
  assert samples.nfe == 1
  np.testing.assert_allclose(samples.x, 100 * (z - jnp.tanh(z)), 1e-12)


def test_errors():
  for grid in (uniform(VP, 2), uniform(VP, 3, to_data=False)):
    with pytest.raises(ValueError, match="slips = True needs a grid of at least 3 steps"):
      renoise(KEY, exact, jnp.ones(2), grid, slips=True)
  pred = Prediction.of(jnp.ones(2), VP.at(0.5), "x0", x0=jnp.ones(2))
  for variance, words in (
    ("medium", "must be one of small, large, learned, optimal"),
    ("optimal", "x0_variance"),
    ("learned", "variance_fraction"),
  ):
    with pytest.raises(ValueError, match=words):
      ancestral_step(pred, VP.at(0.5), VP.at(0.4), jnp.ones(2), variance)
