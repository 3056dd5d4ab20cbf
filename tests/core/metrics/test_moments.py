"""Errors of mean, covariance and credible intervals: against laws for which they are known."""

import jax
import numpy as np
import pytest
import scipy.stats

from scorelab.metrics import METRICS, Reference
from scorelab.targets import GaussianMixture

LAW = GaussianMixture([1.0], [[1.0, -2.0]], [[[4.0, 0.0], [0.0, 1.0]]])
X, Y = (np.asarray(LAW.sample(jax.random.key(seed), 20_000)) for seed in (0, 1))


def test_a_shift_and_a_scale_are_measured():
  """By how far, and by how much, to sampling errors: of variances 1 %, so 0.06 of 4 / 1 - 1."""
  assert METRICS["mean_shift"](None, X + [3.0, 4.0], Y) == pytest.approx(5 / 5**0.5, abs=0.02)
  assert METRICS["covariance_error"](None, 2 * X, Y) == pytest.approx(3, abs=0.2)
  assert METRICS["covariance_error"](None, 0 * X, Y) == pytest.approx(1, abs=1e-6)
  for name in ("mean_shift", "covariance_error"):
    assert METRICS[name](None, X, Y) < 0.06  # three standard errors of 0.02


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_intervals_of_a_wider_or_narrower_law(scale):
  """The mass of scaled normal quantiles, under the exact law and under points."""
  x = LAW.means[0] + scale * (X - LAW.means[0])
  mass = 1 - 2 * scipy.stats.norm.sf(scale * scipy.stats.norm.ppf(0.9))
  for reference in (Reference(target=LAW), Reference(Y, LAW), Y):
    found = METRICS["interval_error"](None, x, reference, level=0.8)
    assert found == pytest.approx(abs(mass - 0.8), abs=0.01)
