"""A finite data set as a distribution: against mixtures of no width, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.samplers import ancestral
from scorelab.schedules import Level, VariancePreserving, uniform_log_snr
from scorelab.targets.circles import two_circles_points
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)


@pytest.mark.e2e
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_is_a_mixture_of_points(x64, chunk_size):
  """float64: the same prediction whatever the chunks, the last of them not full; alpha = 0 too."""
  points = RNG.normal(2.0, 1.0, (30, 3))
  known = GaussianMixture(np.ones(30), points, np.zeros(30))
  ours = Empirical(points, chunk_size=chunk_size)
  x = jnp.asarray(RNG.normal(size=(5, 4, 3)))
  for level in (
    Level(None, jnp.array(0.9), jnp.array(0.1)),
    Level(None, jnp.array(0.0), jnp.array(1.0)),
    VariancePreserving().at(jnp.asarray(RNG.uniform(0.05, 1, (5, 4)))),
  ):
    got, want = jax.jit(ours.predict)(x, level), jax.jit(known.predict)(x, level)
    for view in ("score", "x0", "noise", "log_density"):
      np.testing.assert_allclose(getattr(got, view), getattr(want, view), 1e-9, 1e-9, err_msg=view)
    np.testing.assert_allclose(got.x0_variance, want.x0_variance, 1e-8, 1e-12)


@pytest.mark.e2e
def test_float32_variance_between_two_points_far_from_the_others():
  """Half way between two points d apart x_0's variance is d^2 / 4: squares of positions cancel."""
  points = np.array([[1024.0, 1024], [1024 + 2**-7, 1024], [-1024, -1024]], np.float32)
  x = jnp.asarray([[1024 + 2**-8, 1024]], jnp.float32)
  found = Empirical(points, chunk_size=2).predict(x, Level(None, jnp.ones(()), jnp.asarray(0.01)))
  np.testing.assert_allclose(found.x0_variance, [[2.0**-16, 0]], rtol=1e-5)
  np.testing.assert_array_equal(found.x0, x)


def test_float32_at_little_noise():
  """sigma = 1e-3, four std off the points: the score to float32's last digits, as a mixture's."""
  points = RNG.normal(0, 10, (20, 2)).astype(np.float32)
  x = points + 4e-3 * RNG.normal(size=(20, 2)).astype(np.float32)
  level = Level(None, jnp.array(1.0), jnp.array(1e-3))
  got = jax.jit(Empirical(points).predict)(jnp.asarray(x), level)
  np.testing.assert_allclose(got.score, (points.astype(float) - x) / 1e-6, 1e-5)
  np.testing.assert_allclose(got.x0, points, 1e-6)


def test_float32_between_two_points():
  """Where two points of twenty count, a hundred times closer to each other than to their middle.

  For +- h about the origin: E[x_0 | x] = h tanh(h . x / sigma^2), its variance h^2 - E[x_0 | x]^2.
  """
  h, sigma = np.array([0.05, 0.1]), 0.1
  away = RNG.normal(0, 10, (18, 2)) + 30
  x = np.outer(np.linspace(-1, 1, 9), h)
  want = h * np.tanh(x @ h / sigma**2)[:, None]
  points = np.concatenate([[h, -h], away]).astype(np.float32)
  level = Level(None, jnp.array(1.0), jnp.array(sigma, jnp.float32))
  got = jax.jit(Empirical(points).predict)(jnp.asarray(x, jnp.float32), level)
  np.testing.assert_allclose(got.x0, want, 1e-5, 1e-6)
  # Squares of the distance to the middle, 40, are rounded.
  np.testing.assert_allclose(got.x0_variance, h**2 - want**2, atol=40**2 * 2**-24)
  np.testing.assert_allclose(got.score, (want - x) / sigma**2, 1e-4, 1e-4)


def test_large_sets_fit_in_memory():
  """60,000 points of 784 numbers take 188 MB: beside them only what 64 noisy points need."""
  points = jax.ShapeDtypeStruct((60_000, 28, 28, 1), jnp.float32)
  x, number = jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((), float)

  def predict(points, x, alpha, sigma):
    pred = Empirical(points, chunk_size=1000).predict(x, Level(None, alpha, sigma))
    return pred.x0, pred.score, pred.x0_variance, pred.log_density

  memory = jax.jit(predict).lower(points, x, number, number).compile().memory_analysis()
  # All differences would be 12 GB, a chunk's with every noisy point 200 MB, all weights 15 MB.
  assert memory.temp_size_in_bytes < 30e6, memory.temp_size_in_bytes


@pytest.mark.e2e
def test_what_follows_its_score_memorises():
  """Ancestral samples of the exact predict are training points; draws are, as often each."""
  target = two_circles_points()
  assert target.points.shape == (20, 2) and target.event_shape == (2,)
  np.testing.assert_allclose(target.scale, (0.49 + 0.125) ** 0.5, 1e-5)
  # To a noise at which the points, 0.3 apart, do not overlap: a posterior mean is one of them.
  grid = uniform_log_snr(VariancePreserving(), 100, sigma_min=0.01)
  x = jax.random.normal(jax.random.key(0), (500, 2))
  samples = jax.jit(lambda x: ancestral(jax.random.key(1), target.predict, x, grid).x)(x)
  assert target.distance(samples).max() < 1e-3
  draws = target.sample(jax.random.key(2), 4000)
  _, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
  assert len(counts) == 20 and np.abs(counts - 200).max() < 5 * 200**0.5


def test_errors():
  for points, options, words in (
    (np.zeros((0, 2)), {}, "must be .n, .event."),
    (np.zeros(3), {}, "must be .n, .event."),
    (np.zeros((3, 2)), {"chunk_size": 0}, "chunk_size = 0"),
  ):
    with pytest.raises(ValueError, match=words):
      Empirical(points, **options)
