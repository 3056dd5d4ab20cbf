import jax
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from scorelab.metrics import (
  Reference,
  energy_distance,
  kernel_distance,
  kernels,
  mean_pairwise_distance,
)


def _points(n, m, d):
  rng = np.random.default_rng(d)
  return rng.normal(size=(n, d)), 0.5 + 1.5 * rng.normal(size=(m, d))


def test_equals_scipy_squared_in_one_dimension():
  x, y = _points(70, 90, 1)
  expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
  np.testing.assert_allclose(energy_distance(None, x, y), expected, rtol=1e-10)
  np.testing.assert_allclose(energy_distance(None, x[:, 0], y[:, 0]), expected, rtol=1e-10)


@pytest.mark.parametrize("d", [2, 20])
def test_equals_brute_force(d):
  x, y = _points(60, 45, d)
  cross, x_self, y_self = cdist(x, y).mean(), cdist(x, x).mean(), cdist(y, y).mean()
  expected = 2 * cross - x_self - y_self
  # Above 8 dimensions a point's distance to itself comes out as the root of a rounding error.
  rtol = 1e-11 if d <= 8 else 1e-7
  np.testing.assert_allclose(energy_distance(None, x, y), expected, rtol=rtol)
  unbiased = 2 * cross - x_self * 60 / 59 - y_self * 45 / 44
  np.testing.assert_allclose(energy_distance(None, x, y, unbiased=True), unbiased, rtol=rtol)
  x32, y32 = x.astype(np.float32), y.astype(np.float32)
  np.testing.assert_allclose(energy_distance(None, x32, y32), expected, atol=2e-5 * cross)
  np.testing.assert_allclose(mean_pairwise_distance(x, y), cross, rtol=1e-12)


def test_unbiased_is_zero_on_average_and_the_floor_is_as_stated():
  """Exact against exact: U averages 0, V averages E|x - x'| (1/n + 1/m); N(0, 1): 2 / sqrt(pi)."""
  rng = np.random.default_rng(0)
  pairs = [rng.normal(size=(2, 20)) for _ in range(200)]
  for unbiased, expected in [(True, 0), (False, 2 / np.sqrt(np.pi) * (1 / 20 + 1 / 20))]:
    values = [energy_distance(None, x, y, unbiased=unbiased) for x, y in pairs]
    assert abs(np.mean(values) - expected) < 4 * stats.sem(values)


def test_blocks_and_reference_change_nothing(monkeypatch):
  x, y = _points(60, 45, 2)
  whole = energy_distance(None, x, y)
  reference = Reference(y)
  for _ in range(2):
    np.testing.assert_allclose(energy_distance(None, x, reference), whole, rtol=1e-12)
  assert len(reference._cache) == 1
  monkeypatch.setattr(kernels, "_BLOCK", 20)
  np.testing.assert_allclose(energy_distance(None, x, y), whole, rtol=1e-12)


def test_mean_distances_runs_under_jit():
  x, y = _points(6, 5, 3)
  rows = jax.jit(kernels.mean_distances)(x, y)
  np.testing.assert_allclose(rows, cdist(x, y).mean(1), rtol=1e-6)


def test_refusals():
  x, y = _points(4, 5, 2)
  with pytest.raises(ValueError, match="y has points of dimension 1, must be 2"):
    energy_distance(None, x, y[:, :1])
  with pytest.raises(ValueError, match="must be at least 2"):
    energy_distance(None, x[:1], y, unbiased=True)
  with pytest.raises(ValueError, match="Reference without points"):
    energy_distance(None, x, Reference(target=object()))


def test_kernel_distance_compares_moments():
  """In one dimension (x y + 1)^3 sums moments: 3 d_1^2 + 3 d_2^2 + d_3^2 of their differences."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(0.3, 1.2, 70), rng.exponential(size=40)
  expected = sum(c * ((x**k).mean() - (y**k).mean()) ** 2 for k, c in ((1, 3), (2, 3), (3, 1)))
  for against in (y, Reference(y)):
    np.testing.assert_allclose(kernel_distance(None, x, against, unbiased=False), expected)


def test_kernel_distance_has_no_bias():
  """Degree 1 is |difference of means|^2 / d: 2 here, and 0 for one law, whatever the sizes."""
  rng = np.random.default_rng(0)
  same, apart = [], []
  for _ in range(300):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(9, 3))
    same.append(kernel_distance(None, x, y, degree=1))
    apart.append(kernel_distance(None, x + np.sqrt(2), y, degree=1))
  for values, truth in ((same, 0), (apart, 2)):
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 4 * error
  assert min(same) < 0


def test_kernel_distance_refuses():
  with pytest.raises(ValueError, match="degree = 0, must be at least 1"):
    kernel_distance(None, np.ones(3), np.ones(3), degree=0)
  with pytest.raises(ValueError, match=r"degree = 2\.5, must be at least 1 and whole"):
    kernel_distance(None, np.ones(3), np.ones(3), degree=2.5)
  with pytest.raises(ValueError, match="unbiased = True with 1 and 3 points"):
    kernel_distance(None, np.ones(1), np.ones(3))
