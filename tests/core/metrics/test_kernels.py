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


@pytest.mark.e2e
@pytest.mark.parametrize("d", [2, 20])
def test_equals_brute_force(d):
  x, y = _points(60, 45, d)
  cross, x_self, y_self = cdist(x, y).mean(), cdist(x, x).mean(), cdist(y, y).mean()
  expected = 2 * cross - x_self - y_self
  rtol = 1e-11
  np.testing.assert_allclose(energy_distance(None, x, y), expected, rtol=rtol)
  unbiased = 2 * cross - x_self * 60 / 59 - y_self * 45 / 44
  np.testing.assert_allclose(energy_distance(None, x, y, unbiased=True), unbiased, rtol=rtol)
  x32, y32 = x.astype(np.float32), y.astype(np.float32)
  np.testing.assert_allclose(energy_distance(None, x32, y32), expected, atol=2e-5 * cross)
  np.testing.assert_allclose(mean_pairwise_distance(x, y), cross, rtol=1e-12)


@pytest.mark.e2e
@pytest.mark.parametrize("d", [1, 2, 9, 16, 80, 800])
def test_tight_modes_far_apart_in_float32(d):
  """SciPy's distances in float64 of the same points: modes 10,000 times as far apart as wide.

  |x|^2 + |y|^2 - 2 x.y in float32 gives a negative distance, or one several times too large; a
  float32 sum of distances of about 100 is off by 1 %. Each distance is rounded by 6e-8 of itself,
  which 90,000 pairs average out to less than 1e-3 of the energy distance.
  """
  rng = np.random.default_rng(d)
  means = 50.0 * rng.choice([-1, 1], (4, d))
  modes = np.arange(300) % 4  # as many in each, else the modes' shares are the distance
  x, y = (means[modes] + 0.01 * rng.normal(size=(2, 300, d))).astype(np.float32)
  cross, x_self, y_self = (cdist(*pair).mean() for pair in ((x, y), (x, x), (y, y)))
  expected = 2 * cross - x_self - y_self
  np.testing.assert_allclose(energy_distance(None, x, y), expected, rtol=1e-3)


def test_far_from_the_origin():
  """Points that float32 holds exactly, 2^20 from the origin: as those about the origin."""
  rng = np.random.default_rng(0)
  x, y = (rng.integers(-80, 80, (2, 100, 12)) / 8).astype(np.float32)
  expected = energy_distance(None, x, y)
  np.testing.assert_allclose(energy_distance(None, x + 2**20, y + 2**20), expected, rtol=1e-9)


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
