"""Circles: the exact prediction against quadrature over the angle, and against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from scorelab.schedules import Level, VariancePreserving
from scorelab.targets.circles import Circles, _direction_variances, equidistant, two_circles

pytestmark = pytest.mark.usefixtures("quick_compilation")

CENTRES = np.array([[0.7, 0.7], [-0.7, -0.7]])
POINTS = np.array([[0.3, 0.1], [-0.9, 0.2], [0.7, 0.7], [1.2, 0.7], [3.0, -2.0], [0.71, 0.7]])


def quadrature(x, alpha, sigma, noise, num=40_000):
  """Moments of x_0 given x_t = x by the midpoint rule over the angle, exact for smooth periods.

  Returns the log-density, E[x_0], its diagonal variance, and E[eps] = (x - alpha E[x_0]) / sigma.
  """
  angle = 2 * np.pi * (np.arange(num) + 0.5) / num
  ring = 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
  nodes = np.concatenate([centre + ring for centre in CENTRES])  # of the circles: x_0 less noise
  total = alpha**2 * noise**2 + sigma**2
  logs = -((x - alpha * nodes) ** 2).sum(1) / 2 / total
  top = scipy.special.logsumexp(logs)
  weights = np.exp(logs - top)[:, None]
  # Given its node, x_0 is Gaussian about it.
  means = nodes + alpha * noise**2 / total * (x - alpha * nodes)
  mean = (weights * means).sum(0)
  variance = (weights * (means - mean) ** 2).sum(0) + noise**2 * sigma**2 / total
  score = (weights * (alpha * nodes - x)).sum(0) / total
  return top - np.log(len(nodes) * 2 * np.pi * total), mean, variance, score


LEVELS = [(1.0, 0.02), (0.9, 0.1), (0.6, 0.8), (0.05, 1.0), (0.0, 1.0), (1.0, 50.0)]


@pytest.mark.e2e
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_prediction_is_that_of_quadrature(x64, noise):
  """float64, from little noise to none of the signal: every view, variance and log-density."""
  predict = jax.jit(two_circles(noise=noise).predict)
  for alpha, sigma in LEVELS:
    pred = predict(jnp.asarray(POINTS), Level(None, jnp.array(alpha), jnp.array(sigma)))
    for i, x in enumerate(POINTS):
      log_density, mean, variance, score = quadrature(x, alpha, sigma, noise)
      where = str((alpha, sigma, x))
      np.testing.assert_allclose(pred.log_density[i], log_density, 1e-9, 1e-9, err_msg=where)
      np.testing.assert_allclose(pred.x0[i], mean, 1e-8, 1e-9, err_msg=where)
      np.testing.assert_allclose(pred.score[i], score, 1e-8, 1e-9 / sigma, err_msg=where)
      np.testing.assert_allclose(pred.x0_variance[i], variance, 1e-6, 1e-9, err_msg=where)


def test_score_is_the_gradient_of_the_log_density(x64):
  """By autodiff, in a batch of levels, and with finite second derivatives in a centre."""
  target, schedule = two_circles(noise=0.01), VariancePreserving()
  level = schedule.at(jnp.linspace(0.05, 0.95, len(POINTS)))
  x = jnp.asarray(POINTS)

  @jax.jit
  def both(x):
    def total(x):
      pred = target.predict(x, level)
      return pred.log_density.sum(), pred.score

    gradient, score = jax.grad(total, has_aux=True)(x)
    flow = jax.jvp(lambda x: target.predict(x, level).score, (x,), (jnp.ones_like(x),))[1]
    return gradient, score, flow

  gradient, score, flow = both(x)
  np.testing.assert_allclose(score, gradient, 1e-9, 1e-9)
  assert np.isfinite(both(level.like(x).alpha * CENTRES[:1])[2]).all() and np.isfinite(flow).all()


@pytest.mark.e2e
def test_float32_keeps_its_digits_at_every_level():
  """Against float64 on the same numbers, 10 sigma about the circles, sigma from 1e-3 to 100.

  The score is conditioned like |x| / sigma, so that one rounding of x is 6e-8 / sigma of its unit.
  """
  target, rng = two_circles(), np.random.default_rng(0)
  x0 = np.asarray(target.sample(jax.random.key(0), 500))
  predict = jax.jit(lambda x, s: target.predict(x, Level(None, jnp.ones_like(s), s)))
  for sigma in np.float32([1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]):
    x = (x0 + sigma * rng.normal(size=x0.shape)).astype(np.float32)
    single = views(predict(x, sigma))
    with jax.enable_x64(True):
      double = views(predict(x.astype(float), sigma.astype(float)))
    rounding = 2e-6 + 2e-6 / sigma
    for (got, want), limit in zip(
      zip(single, double, strict=True), (1e-5, rounding / sigma, 1e-6), strict=True
    ):
      np.testing.assert_allclose(got, want, 1e-4, limit)


def views(pred):
  """x0, score and variance, on the host."""
  assert np.isfinite(pred.log_density).all()
  return [np.asarray(a) for a in (pred.x0, pred.score, pred.x0_variance)]


def test_draws_distances_and_shares():
  """Draws lie on the circles, as many on each; the distance is that to many of its points."""
  target = two_circles()
  x = np.asarray(target.sample(jax.random.key(0), 4000))
  assert target.distance(x).max() < 1e-6
  assert abs(target.component(x).mean() - 0.5) < 4 * 0.5 / 4000**0.5
  angles = np.arctan2(*(x - CENTRES[target.component(x)]).T)
  assert scipy.stats.kstest(angles, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
  dense = equidistant(2000, 0.5, 0.7)
  far = np.random.default_rng(0).normal(size=(50, 2)) * 2
  nearest = np.linalg.norm(far[:, None] - dense, axis=-1).min(1)
  np.testing.assert_allclose(target.distance(far), nearest, 1e-4, 1e-4)


def test_a_training_set_of_twenty():
  """Equidistant points on the same circles, while draws stay dense."""
  target = two_circles(num_points=10)
  train = np.asarray(target.splits["train"])
  assert train.shape == (20, 2) and target.distance(train).max() < 1e-6
  chords = np.linalg.norm(
    train - np.roll(train.reshape(2, 10, 2), 1, axis=1).reshape(20, 2), axis=1
  )
  np.testing.assert_allclose(chords, np.sin(np.pi / 10), 1e-5)  # 2 r sin(pi / 10)
  np.testing.assert_array_equal(target.component(train), np.repeat([0, 1], 10))
  assert not isinstance(two_circles().splits.get("train"), jax.Array)
  assert len(np.unique(np.asarray(target.sample(jax.random.key(0), 100)), axis=0)) == 100


@pytest.mark.e2e
def test_one_circle_with_no_signal_left_is_its_mean(x64):
  """alpha = 0: the mean and the variance of the law itself, r^2 / 2 + noise^2."""
  target = Circles(np.array([[0.2, -1.0]]), 2.0, 0.3)
  pred = target.predict(jnp.array([5.0, 1.0]), Level(None, jnp.array(0.0), jnp.array(1.0)))
  np.testing.assert_allclose(pred.x0, [0.2, -1.0], 1e-12)
  np.testing.assert_allclose(pred.x0_variance, 2.0 + 0.09, 1e-12)


@pytest.mark.e2e
def test_series_of_little_and_much_concentration_join_scipys_bessel_functions(x64):
  """A / k and A' = 1 - A / k - A^2, A = I1 / I0: in float64 where nothing cancels, 1e-12.

  In float32 the ends are farther in, at k = 0.0186 and 24: to its rounding against float64, where
  the difference has its digits up to k = 1e4.
  """
  for dtype, k, tolerance in (
    (jnp.float64, np.array([1e-6, 1e-5, 1e-4, 1.2e-4, 1e-3, 0.1, 1.0, 30.0]), 1e-12),
    (jnp.float32, np.array([1e-4, 1e-2, 0.0185, 0.0187, 0.5, 23.0, 25.0, 100.0, 1e4]), 2e-5),
  ):
    a = scipy.special.ive(1, k) / scipy.special.ive(0, k)
    across, along = _direction_variances(jnp.asarray(k, dtype))
    np.testing.assert_allclose(across, a / k, rtol=tolerance)
    np.testing.assert_allclose(along, 1 - a / k - a**2, rtol=50 * tolerance)
