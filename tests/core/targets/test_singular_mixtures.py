"""Mixtures with components that have no width along some axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.schedules import Level
from scorelab.targets.gaussian_mixture import GaussianMixture

DATA = Level(None, jnp.ones(()), jnp.zeros(()))


def _points(d):
  """Two means [2, d] and points on, near and far from them [6, d], exact in float32."""
  means = np.zeros((2, d))
  means[1] = 3
  return means, np.concatenate([means, means + 0.25, means - 40])


def _covariances(kind, d):
  """The first component a point (or, if full, a plane); the second of unit variances."""
  if kind == "isotropic":
    return np.array([0.0, 1.0])
  flat = np.zeros(d) if kind == "diagonal" else np.arange(d) % 2.0
  both = np.stack([flat, np.ones(d)])
  return both if kind == "diagonal" else both[:, None] * np.eye(d)


# 20: sums over components by products
@pytest.mark.e2e
@pytest.mark.parametrize("kind, d", [("isotropic", 20), ("diagonal", 2), ("full", 2)])
def test_a_component_without_weight_does_not_matter(kind, d):
  """Level by level what the mixture without it gives."""
  means, x = _points(d)
  covariances = _covariances(kind, d)
  target = GaussianMixture([0.0, 1.0], means, covariances)
  alone = GaussianMixture([1.0], means[1:], covariances[1:])
  np.testing.assert_allclose(target.log_prob(x), alone.log_prob(x), rtol=1e-6)
  np.testing.assert_allclose(target.score(x), alone.score(x), rtol=1e-6)
  for level in (DATA, DATA._replace(sigma=jnp.asarray(0.5))):
    found, expected = target.predict(x, level), alone.predict(x, level)
    for field in ("score", "x0", "x0_variance", "log_density"):
      a, b = getattr(found, field), getattr(expected, field)
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_law_without_density_is_refused():
  means, x = _points(2)
  target = GaussianMixture([0.5, 0.5], means, [1.0, 0.0])
  for density in (target.log_prob, target.score):
    with pytest.raises(ValueError, match="component 1 has no width along some axis"):
      density(x)
  perturbed = target.perturbed(1.0, 0.1)
  assert np.isfinite(perturbed.log_prob(x)).all() and np.isfinite(perturbed.score(x)).all()


@pytest.mark.e2e
@pytest.mark.parametrize("kind, d", [("isotropic", 20), ("diagonal", 2)])
def test_predictions_at_the_data_are_the_limit_of_little_noise(kind, d):
  """sigma = 1e-6 in float64: off the point its component has no share, on it all of it."""
  means, x = _points(d)
  given = [0.5, 0.5], means, _covariances(kind, d)
  found = GaussianMixture(*given).predict(jnp.asarray(x, jnp.float32), DATA)
  with jax.enable_x64(True):
    level = Level(None, jnp.ones(()), jnp.asarray(1e-6))
    limit = GaussianMixture(*given).predict(jnp.asarray(x), level)
  for field in ("score", "x0", "x0_variance"):
    expected = np.asarray(getattr(limit, field))
    np.testing.assert_allclose(getattr(found, field), expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.log_density[1:], limit.log_density[1:], rtol=1e-5)
  assert np.isfinite(found.log_density[0])  # of the point itself: there is no limit


@pytest.mark.e2e
@pytest.mark.parametrize("d", [2, 20])
def test_points_alone(d):
  """x_0 is the point where x is, at sigma = 0."""
  means, _ = _points(d)
  found = GaussianMixture([0.3, 0.7], means, [0.0, 0.0]).predict(means, DATA)
  np.testing.assert_array_equal(found.x0, means)
  np.testing.assert_array_equal(found.score, 0)
  np.testing.assert_array_equal(found.x0_variance, 0)
  assert np.isfinite(found.log_density).all()


@pytest.mark.e2e
def test_gradients_are_finite():
  means, x = _points(2)

  def log_prob(variances):
    return GaussianMixture(np.array([0.5, 0.5]), means, variances).log_prob(x).sum()

  assert np.isfinite(jax.grad(log_prob)(jnp.zeros(2))).all()
