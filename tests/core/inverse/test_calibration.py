"""Calibration ranks, and where approximate likelihoods are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from scorelab.inverse import (
  POSTERIORS,
  Observation,
  calibration_ranks,
  observed,
  tmpd,
  uniformity,
)
from scorelab.metrics import score_error
from scorelab.schedules import VarianceExploding
from scorelab.targets import GaussianMixture, grid25

TARGET = GaussianMixture([0.3, 0.7], [[-1.5, 0.5], [1.5, -0.5]], [0.5, 0.3])


@pytest.mark.e2e
@pytest.mark.parametrize("widened", [False, True])
def test_exact_posteriors_are_calibrated_and_wider_ones_are_not(widened):
  """A right sampler's p-values exceed 1e-3; spreading its samples by a third is found at 1e-6."""
  a = np.array([[1.0, 0.5]])

  def one(key):
    draw, noise, posterior = jax.random.split(key, 3)
    x = TARGET.sample(draw, 1)[0]
    law = TARGET.given(observed(noise, a, x, 0.6))
    samples = law.sample(posterior, 49)
    return x, jnp.where(widened, law.mean + 4 / 3 * (samples - law.mean), samples)

  truth, samples = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 3000))
  ranks = calibration_ranks(samples, truth)
  assert ranks.min() == 0 and ranks.max() == 49
  p = uniformity(ranks, 49)
  assert (p < 1e-6).all() if widened else (p > 1e-3).all()


def test_p_values_are_scipys():
  ranks = np.random.default_rng(0).integers(0, 100, (500, 3))
  counts = [np.bincount(coordinate // 10, minlength=10) for coordinate in ranks.T]
  expected = scipy.stats.chisquare(counts, axis=1).pvalue
  np.testing.assert_allclose(uniformity(ranks, 99), expected, rtol=1e-12)


def test_bins_must_divide_the_ranks():
  with pytest.raises(ValueError, match=r"bins = 10 must divide the number of ranks, n \+ 1 = 101"):
    uniformity(np.zeros((50, 2), int), 100)


@pytest.mark.e2e
def test_score_errors_of_approximate_likelihoods():
  """By level, over the exact posterior: TMPD's vanishes at both ends, and is below DPS's.

  At little noise x_0 is known, so that every covariance is right; at much noise the gradient of any
  likelihood is small. DPS's covariance, 0, is furthest off between.
  """
  seen = Observation([[0.3, -0.2, 0.5, 0.1]], [2.0], 0.3)
  target = grid25(4)
  levels = jax.vmap(VarianceExploding(sigma_max=1e4).at_ratio)(jnp.array([0.01, 1.0, 5.0, 1e3]))

  def errors(method):
    predict = method(target.predict, seen)
    run = jax.jit(lambda: score_error(jax.random.key(0), target.given(seen), predict, levels, 500))
    return np.asarray(run().relative)

  moments, points = errors(tmpd), errors(POSTERIORS["dps"])
  assert moments[0] < 1e-3 and moments[-1] < 1e-2
  assert (moments < points).all() and points[1] > 10 * moments[1]
