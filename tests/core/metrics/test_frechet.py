"""The Gaussian Frechet distance against scipy's matrix square root and against closed forms."""

import numpy as np
import pytest
import scipy.linalg

from scorelab.metrics import Reference, frechet
from scorelab.metrics.frechet import Moments, gaussian_frechet

RNG = np.random.default_rng(0)


def test_equals_scipy_matrix_square_root():
  x, y = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)), 0.3 + RNG.normal(size=(90, 6))
  c, d = np.cov(x.T), np.cov(y.T)
  expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d))
  np.testing.assert_allclose(frechet(None, x, y), expected.real, rtol=1e-10)
  np.testing.assert_allclose(frechet(None, x, Reference(y)), expected.real, rtol=1e-10)
  images = x.astype(np.float32).reshape(200, 2, 3), y.astype(np.float32).reshape(90, 2, 3)
  np.testing.assert_allclose(frechet(None, *images), expected.real, rtol=1e-5)


def test_commuting_gaussians_in_closed_form():
  """Same axes: each adds (difference of means)^2 + (difference of stds)^2, a flat axis too."""
  axes = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
  stds = np.array([[2.0, 1.0, 1e-6, 0.0], [0.5, 3.0, 1e-3, 0.7]])
  means = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.0, 0.0]])
  a, b = (Moments(mean @ axes, np.diag(std) @ axes) for mean, std in zip(means, stds, strict=True))
  expected = ((means[0] - means[1]) ** 2).sum() + ((stds[0] - stds[1]) ** 2).sum()
  np.testing.assert_allclose(gaussian_frechet(a, b), expected, rtol=1e-12)


def test_fewer_points_than_dimensions():
  """Rank-deficient covariances: shifted points differ by the shift alone, which is far or near."""
  x = RNG.normal(size=(20, 64))
  for shift in (1e-4, 1.0):
    np.testing.assert_allclose(frechet(None, x + shift, x), 64 * shift**2, rtol=1e-5)
  # Orthogonal supports: nothing of the spread is shared, both traces remain.
  y = np.zeros((30, 64))
  x, y[:, :5] = np.pad(RNG.normal(size=(20, 5)), ((0, 0), (5, 54))), RNG.normal(size=(30, 5))
  traces = x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum()
  apart = ((x.mean(0) - y.mean(0)) ** 2).sum()
  np.testing.assert_allclose(frechet(None, x, y), traces + apart, rtol=1e-12)


def test_refusals():
  with pytest.raises(ValueError, match="frechet of 1 and 5 points, must be at least 2 each"):
    frechet(None, np.ones((1, 2)), np.ones((5, 2)))
  with pytest.raises(ValueError, match="dimension 1, must be 2"):
    frechet(None, np.ones((4, 2)), np.ones((5, 1)))
