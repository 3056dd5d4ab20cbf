"""Particle samplers: exact as particles and steps grow, with errors of slope -1/2 in particles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.inverse import Observation, fps_smc, mcgdiff, mmps, observed, pigdm, tds, tmpd
from scorelab.inverse.mcgdiff import mcgdiff_cloud
from scorelab.inverse.twisted import twisted_cloud
from scorelab.metrics import mode_weight_tv
from scorelab.samplers import KeyNoise
from scorelab.samplers.particles import resampled
from scorelab.schedules import VarianceExploding, VariancePreserving, karras
from scorelab.targets import GaussianMixture, grid25

TARGET = GaussianMixture([0.3, 0.7], [[-1.5, 0.5], [1.5, -0.5]], [0.5, 0.3])
SEEN = Observation([[1.0, 0.5]], [0.3], 0.6)
CLOUDS = {
  "mcgdiff": functools.partial(mcgdiff_cloud, threshold=1.0, least_noise=1e-4),
  "tds_pigdm": lambda *a, **k: twisted_cloud(*a, twist=pigdm, threshold=0.5, data_std=None, **k)[0],
  "tds_tmpd": lambda *a, **k: twisted_cloud(*a, twist=tmpd, threshold=0.5, data_std=None, **k)[0],
}


# The tests of every change run the cheapest cloud; -m slow runs the others.
NAMES = ["mcgdiff", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CLOUDS)[1:])]


@functools.partial(jax.jit, static_argnames=("name", "clouds", "particles", "steps", "process"))
def estimates(key, name, clouds, particles, steps, process="ve"):
  """Each cloud's mean of x_0, and its estimate of log p(y)."""
  schedule = VarianceExploding(sigma_max=20.0) if process == "ve" else VariancePreserving()
  grid = karras(schedule, steps)
  start, key = jax.random.split(key)
  x = grid.prior(start, (clouds, 2))
  cloud = CLOUDS[name](key, TARGET.predict, x, grid, SEEN, particles=particles)
  mean = jnp.einsum("np,npi->ni", jnp.exp(cloud.log_weights), cloud.x)
  return mean, cloud.log_evidence


@pytest.mark.e2e
@pytest.mark.parametrize(
  "name, process",
  [
    ("mcgdiff", "vp"),
    ("tds_tmpd", "ve"),
    *(
      pytest.param(name, process, marks=pytest.mark.slow)
      for name, process in [
        ("mcgdiff", "ve"),
        ("tds_tmpd", "vp"),
        ("tds_pigdm", "ve"),
        ("tds_pigdm", "vp"),
      ]
    ),
  ],
)
def test_many_particles_give_the_posterior(name, process):
  """Mean of x_0 and log p(y) of 60 clouds of 1,000 and 100 steps.

  Tolerances are three standard errors and the discretisation, which is at most 0.02: 0.03, and 0.1
  for the evidence of MCGDiff, whose standard error is 0.025.
  """
  mean, log_evidence = estimates(jax.random.key(0), name, 60, 1000, 100, process)
  posterior = TARGET.given(SEEN)
  np.testing.assert_allclose(mean.mean(0), posterior.mean, atol=0.03)
  evidence = jnp.log(jnp.mean(jnp.exp(log_evidence)))
  tolerance = 0.1 if name == "mcgdiff" else 0.03
  np.testing.assert_allclose(evidence, TARGET.log_evidence(SEEN), atol=tolerance)


@pytest.mark.e2e
@pytest.mark.parametrize("name", NAMES)
def test_errors_fall_as_the_root_of_the_particles(name):
  """Root mean square error of the mean over 800 clouds of 16, 64 and 256: slope -1/2.

  The limit is that of 32 clouds of 8,192 with the same 20 steps. To 0.1: a slope's standard error
  is 0.03 and the bias, of order 1 / particles, still counts at 16.
  """
  limit = estimates(jax.random.key(1), name, 32, 8192, 20)[0].mean(0)
  numbers = np.array([16, 64, 256])
  errors = []
  for particles in numbers:
    mean, _ = estimates(jax.random.key(2), name, 800, int(particles), 20)
    errors.append(float(jnp.sqrt(jnp.mean((mean - limit) ** 2))))
  slope = np.polyfit(np.log(numbers), np.log(errors), 1)[0]
  assert abs(slope + 0.5) < 0.1, (slope, errors)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["mcgdiff", pytest.param("tds", marks=pytest.mark.slow)])
def test_samples_are_of_the_posterior(name):
  """2,000 samples of 32 particles each: moments to five standard errors and discretisation."""
  sampler = {"mcgdiff": mcgdiff, "tds": tds}[name]
  grid = karras(VarianceExploding(sigma_max=20.0), 100)
  x = grid.prior(jax.random.key(0), (2000, 2))
  run = jax.jit(lambda: sampler(jax.random.key(1), TARGET.predict, x, grid, SEEN))
  samples, posterior = run(), TARGET.given(SEEN)
  np.testing.assert_allclose(samples.x.mean(0), posterior.mean, atol=0.15)
  np.testing.assert_allclose(samples.x.std(0), posterior.variance**0.5, atol=0.1)
  assert samples.path.shape == (100, 2000, 2)
  assert samples.nfe == 3200 and samples.particles == 32
  assert samples.gradients == (3200 if name == "tds" else 0)


@pytest.mark.e2e
def test_mcgdiff_observes_each_coordinate_at_its_own_noise():
  """Singular values 2 and 0.2 in four dimensions, and none: A is not diagonal, nor is y's noise."""
  rng = np.random.default_rng(0)
  u, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  v, _ = np.linalg.qr(rng.normal(size=(4, 4)))
  a = u @ np.diag([2.0, 0.2, 0.0]) @ v[:3]
  target = GaussianMixture([1.0], rng.normal(size=(1, 4)), [1.0])
  seen = Observation(a, a @ rng.normal(size=4), 0.3)
  grid = karras(VarianceExploding(sigma_max=20.0), 60)
  x = grid.prior(jax.random.key(0), (16, 4))
  cloud = jax.jit(
    lambda: CLOUDS["mcgdiff"](jax.random.key(1), target.predict, x, grid, seen, particles=2000)
  )()
  posterior = target.given(seen)
  mean = jnp.einsum("np,npi->i", jnp.exp(cloud.log_weights), cloud.x) / 16
  np.testing.assert_allclose(mean, posterior.mean, atol=0.05)
  offset = cloud.x - posterior.mean
  found = jnp.einsum("np,npi,npj->ij", jnp.exp(cloud.log_weights), offset, offset) / 16
  np.testing.assert_allclose(found, posterior.covariance, atol=0.12)  # 60 steps: a tenth too small


@pytest.mark.e2e
def test_noise_free_observations_are_met():
  """MCGDiff takes noise_std = 0: A x = y to its least_noise; unseen coordinates keep their law."""
  seen = Observation([[1.0, 0.0]], [1.2], 0.0)
  grid = karras(VarianceExploding(sigma_max=20.0), 60)
  x = grid.prior(jax.random.key(0), (500, 2))
  samples = jax.jit(lambda: mcgdiff(jax.random.key(1), TARGET.predict, x, grid, seen).x)()
  np.testing.assert_allclose(samples[:, 0], 1.2, atol=1e-3)
  posterior = TARGET.given(seen)
  np.testing.assert_allclose(samples[:, 1].mean(), posterior.mean[1], atol=0.12)


@pytest.mark.e2e
def test_a_twist_without_its_likelihood_is_refused():
  grid = karras(VarianceExploding(), 5)
  x = grid.prior(jax.random.key(0), (3, 2))
  with pytest.raises(ValueError, match="twist = mmps must know its likelihood: use tmpd or pigdm"):
    tds(jax.random.key(1), TARGET.predict, x, grid, SEEN, twist=mmps)
  with pytest.raises(ValueError, match="noise_std = 0 must be > 0 for tds"):
    tds(jax.random.key(1), TARGET.predict, x, grid, Observation(np.eye(2), [0.0, 0.0], 0.0))


def test_resampling_is_unbiased_and_only_where_needed():
  """Each ancestor occurs N w times within one, as systematic resampling promises."""
  weights = np.random.default_rng(0).dirichlet(np.ones(10) * 0.5, 50)
  logs = jnp.log(jnp.asarray(weights))
  index, new = resampled(KeyNoise(jax.random.key(0)), logs, 1.0)
  counts = np.stack([np.bincount(i, minlength=10) for i in np.asarray(index)])
  assert (np.abs(counts - 10 * weights) < 1 + 1e-5).all()
  np.testing.assert_allclose(new, -np.log(10), rtol=1e-6)
  uneven = 1 / (weights**2).sum(1) < 4
  index, new = resampled(KeyNoise(jax.random.key(0)), logs, 0.4)
  kept = (np.asarray(index) == np.arange(10)).all(1)
  np.testing.assert_array_equal(kept, ~uneven)
  np.testing.assert_allclose(new[~uneven], logs[~uneven])


@pytest.mark.e2e
def test_fps_weights_and_proposes_for_a_gaussian(x64):
  """With one unit Gaussian and A = I, step by step: moments of particles given noised y.

  The filter's law for the y of every level as if their noises were independent, which is its own
  assumption, is that of a Kalman filter: the same recursion of mean and variance, by hand.
  """
  target, y, noise = GaussianMixture([1.0], [[0.0]], [1.0]), 0.7, 0.5
  seen = Observation([[1.0]], [y], noise)
  grid = karras(VarianceExploding(sigma_max=5.0), 4)
  key = jax.random.key(0)
  x = grid.prior(jax.random.key(1), (200, 1))
  samples = fps_smc(key, target.predict, x, grid, seen, particles=256, renewed=0.0)
  # renewed = 0 keeps y's noise n of a sample: y_r = y + r n, from N(0, 1) over samples.
  means, variances = 0.0, float(grid.schedule.prior_std(grid[0])) ** 2
  slope = 0.0  # of the mean in n
  for i in range(4):
    r, s = (float(grid[j].sigma / grid[j].alpha) for j in (i, i + 1))
    gain = 1 / (1 + r**2)  # x0 = gain z
    shrink = (s / r) ** 2
    factor, step = gain + shrink * (1 - gain), s**2 * (1 - shrink)
    means, slope, variances = factor * means, factor * slope, factor**2 * variances + step
    kalman = variances / (variances + noise**2)
    means, slope = means + kalman * (y - means), slope + kalman * (s - slope)
    variances *= 1 - kalman
  np.testing.assert_allclose(samples.x.mean(), means, atol=0.15)
  np.testing.assert_allclose(samples.x.std(), (variances + slope**2) ** 0.5, atol=0.1)


@pytest.mark.slow
def test_a_twisted_filter_on_25_modes():
  """d = 8, d_y = 2, y of a draw: total variation of the modes' weights below 0.1 with TMPD's twist.

  The covariance of PiGDM's twist is that of one mode, so that it decides between modes too early.
  """
  target, rng = grid25(8), np.random.default_rng(0)
  x = target.sample(jax.random.key(3), 1)[0]
  seen = observed(jax.random.key(4), rng.normal(size=(2, 8)) / 3, x, 0.3)
  grid = karras(VarianceExploding(sigma_max=80.0), 100)
  x = grid.prior(jax.random.key(0), (1000, 8))

  def variation(twist):
    run = jax.jit(lambda: tds(jax.random.key(1), target.predict, x, grid, seen, twist=twist).x)
    return mode_weight_tv(None, np.asarray(run()), target.given(seen))

  assert variation(tmpd) < 0.1 < variation(pigdm)
