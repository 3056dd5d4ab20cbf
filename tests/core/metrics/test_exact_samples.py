"""Default metrics on exact samples, against known values, from 1 to 800 dimensions.

Each coordinate is a standard normal, so along any direction the samples are those of N(0, 1). The
mode metrics, the other default ones, are in test_modes.py.
"""

import jax
import numpy as np
import ot
import pytest
from scipy import special, stats

from configs import base
from scorelab.metrics import METRICS, MODE_METRICS

N, M = 200, 300
DISTANCES = ("max_sliced_wasserstein", "sliced_wasserstein", "energy_distance")


def test_all_default_metrics_are_tested():
  assert set(base.get_config().evaluation.metrics) == {*DISTANCES, *MODE_METRICS}


def _pairs(d):
  rng = np.random.default_rng(d)
  for k in range(max(12, 200 // d)):  # in few dimensions distances vary much, and are skew
    x, y = rng.normal(size=(N, d)).astype(np.float32), rng.normal(size=(M, d)).astype(np.float32)
    yield jax.random.key(k), x, y


@pytest.mark.e2e
@pytest.mark.parametrize("d", [1, 2, 8, 80, 800])
def test_energy_distance_is_its_floor(d):
  """E|x - x'| (1 / n + 1 / m), with E|x - x'| = 2 Gamma((d + 1) / 2) / Gamma(d / 2)."""
  values = [METRICS["energy_distance"](*pair) for pair in _pairs(d)]
  mean_distance = 2 * np.exp(special.gammaln((d + 1) / 2) - special.gammaln(d / 2))
  assert abs(np.mean(values) - mean_distance * (1 / N + 1 / M)) < 4 * stats.sem(values)


def _squared_on_the_line(rng):
  """W_2^2 of N and M draws of N(0, 1): the quantile functions' distance on a fine common grid."""
  x, y = np.sort(rng.normal(size=N)), np.sort(rng.normal(size=M))
  cells = (np.arange(N * M // 100) + 0.5) / (N * M // 100)  # 600: both 200 and 300 divide it
  return ((x[(cells * N).astype(int)] - y[(cells * M).astype(int)]) ** 2).mean()


@pytest.mark.e2e
@pytest.mark.parametrize("d", [1, 2, 8, 80, 800])
def test_sliced_distances_are_those_on_the_line(d):
  """The mean of SW_2^2 is that of W_2^2 on the line in every d; the largest slice is POT's."""
  squares, options = [], {"num_projections": 100}
  for key, x, y in _pairs(d):
    squares.append(METRICS["sliced_wasserstein"](key, x, y, **options) ** 2)
    largest = METRICS["max_sliced_wasserstein"](key, x, y, **options)
    assert largest >= squares[-1] ** 0.5 * (1 - 1e-6)
  rng = np.random.default_rng(0)
  expected = [_squared_on_the_line(rng) for _ in range(2000)]
  error = np.hypot(stats.sem(squares), stats.sem(expected))
  assert abs(np.mean(squares) - np.mean(expected)) < 4 * error
  directions = rng.normal(size=(d, 100))
  directions /= np.linalg.norm(directions, axis=0)
  largest = METRICS["max_sliced_wasserstein"](None, x, y, projections=directions)
  expected = ot.sliced.max_sliced_wasserstein_distance(x, y, projections=directions)
  np.testing.assert_allclose(largest, expected, rtol=1e-5)
