"""Distances to a support, shares of parts and memorised samples: by hand, and for exact draws."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scorelab.metrics import (
  METRICS,
  Reference,
  component_tv,
  memorised_share,
  nearest_point_distance,
  support_distance,
)
from scorelab.targets.circles import two_circles, two_circles_points

LINE = SimpleNamespace(  # the axis x2 = 0, in a left part of weight 1/4 and a right one
  distance=lambda x: np.abs(x[:, 1]),
  component=lambda x: (x[:, 0] > 0).astype(int),
  weights=np.array([0.25, 0.75]),
)
X = np.array([[1.0, 0.5], [-1.0, -1.5], [2.0, 0.0], [0.5, 2.0]])


def test_by_hand():
  assert support_distance(None, X, LINE) == 1.0
  assert component_tv(None, X, LINE) == 0.0
  assert component_tv(None, X[1:3], Reference(target=LINE)) == 0.25
  points = np.array([[1.0, 0.0], [5.0, 0.0]])
  distances = [0.5, np.hypot(2, 1.5), 1.0, np.hypot(0.5, 2)]
  np.testing.assert_allclose(nearest_point_distance(None, X, points), np.mean(distances))
  # Over the distances to the other point: 0.12, 0.40, 0.33 (just 1/3, so not below it) and 0.42.
  assert memorised_share(None, X, Reference(points)) == 0.25
  assert memorised_share(None, X, Reference(points), ratio=0.41) == 0.75


def test_exact_draws_and_a_memory():
  """Dense draws: chance alone, u < 1/4 of half a gap; draws of the points: all of them."""
  dense, points = two_circles(), two_circles_points()
  x = np.asarray(dense.sample(jax.random.key(0), 4000))
  reference = Reference(points.points, dense)
  assert support_distance(None, x, reference) < 1e-6
  assert component_tv(None, x, reference) < 4 * 0.5 / 4000**0.5
  assert abs(memorised_share(None, x, reference) - 0.5) < 0.04
  # |chord| = 2 r sin(u / 2) for u uniform up to pi / 10.
  mean = 4 * 0.5 * (1 - np.cos(np.pi / 20)) / (np.pi / 10)
  np.testing.assert_allclose(nearest_point_distance(None, x, reference), mean, 0.04)
  own = np.asarray(points.sample(jax.random.key(1), 100))
  assert memorised_share(None, own, reference) == 1
  assert support_distance(None, own, points) == nearest_point_distance(None, own, reference) == 0


@pytest.mark.parametrize(
  "name", ["support_distance", "component_tv", "nearest_point_distance", "memorised_share"]
)
def test_what_is_not_finite_is_nan(name):
  x = np.array([[np.nan, 0.0], [1.0, 1.0]])
  reference = Reference(two_circles_points().points, two_circles())
  assert np.isnan(METRICS[name](None, x, reference))


def test_errors():
  with pytest.raises(ValueError, match="SimpleNamespace: this metric needs its distance"):
    support_distance(None, X, SimpleNamespace())
  with pytest.raises(ValueError, match="1 points, must be at least 2"):
    memorised_share(None, X, X[:1])
