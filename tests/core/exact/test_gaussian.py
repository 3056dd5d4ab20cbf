"""Distances between Gaussians: against other formulas, and their digits where laws nearly agree."""

import numpy as np
import pytest
import scipy.linalg

from scorelab.exact import GaussianLaw
from scorelab.targets.gaussian_mixture import GaussianMixture


def law(seed, dim=5, rank=None):
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(dim, rank or dim))
  return GaussianLaw.from_covariance(rng.normal(size=dim), root @ root.T)


def textbook_w2(p, q):
  root = scipy.linalg.sqrtm(q.covariance)
  cross = np.trace(scipy.linalg.sqrtm(root @ p.covariance @ root).real)
  traces = np.trace(p.covariance) + np.trace(q.covariance)
  return np.sqrt(np.sum((p.mean - q.mean) ** 2) + traces - 2 * cross)


def textbook_kl(p, q):
  inverse, shift = np.linalg.inv(q.covariance), q.mean - p.mean
  logs = np.linalg.slogdet(q.covariance)[1] - np.linalg.slogdet(p.covariance)[1]
  return (np.trace(inverse @ p.covariance) + shift @ inverse @ shift - len(shift) + logs) / 2


def diagonal(mean, variances):
  return GaussianLaw(np.array(mean, float), np.array(variances, float))


@pytest.mark.parametrize("pair", [(law(0), law(1)), (law(2), diagonal(range(5), [1, 2, 3, 4, 5]))])
def test_the_textbook(pair):
  """In two bases, in either order."""
  for p, q in (pair, pair[::-1]):
    assert p.w2(q) == pytest.approx(textbook_w2(p, q), rel=1e-10)
    assert p.kl(q) == pytest.approx(textbook_kl(p, q), rel=1e-10)


def test_axes_in_common_are_those_of_full_covariances():
  p, q = diagonal([0, 1, 2], [1, 2, 3]), diagonal([1, 1, 0], [2, 0.1, 5])
  turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
  a, b = (
    GaussianLaw.from_covariance(turned @ g.mean, turned @ g.covariance @ turned.T) for g in (p, q)
  )
  assert a.w2(b) == pytest.approx(p.w2(q), rel=1e-12)
  assert a.kl(b) == pytest.approx(p.kl(q), rel=1e-12)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_laws_that_nearly_agree_keep_their_digits(gap):
  """Std s against s (1 + gap), in rotated axes: W2 = gap s, and KL's series in the gap."""
  stds = np.array([0.5, 1.0, 3.0])
  turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
  zero, rounding = np.zeros(3), 1e-15 / gap
  q = GaussianLaw(zero, stds**2, turned)
  p = GaussianLaw(zero, (stds * (1 + gap)) ** 2, turned)
  apart = GaussianLaw(zero, p.variances, turned[:, ::-1].copy()[:, ::-1])
  full = GaussianLaw.from_covariance(zero, p.covariance)
  e = (1 + gap) ** 2 - 1
  divergence = 3 / 2 * (e**2 / 2 - e**3 / 3 + e**4 / 4 - e**5 / 5)
  for other in (p, apart, full):
    assert other.w2(q) == pytest.approx(gap * np.linalg.norm(stds), rel=1e-12 + 40 * rounding)
    assert other.kl(q) == pytest.approx(divergence, rel=1e-11 + 80 * rounding)


def test_singular_laws():
  """A point and a line: W2 is finite, and KL infinite where the other has no width."""
  wide, point = diagonal([0, 0], [4, 1]), diagonal([3, 4], [0, 0])
  assert wide.w2(point) == point.w2(wide) == pytest.approx(30**0.5)
  assert wide.kl(point) == np.inf
  assert point.kl(wide) == np.inf
  lines = law(3, rank=2), law(4, rank=3)
  for p, q in (lines, lines[::-1], (law(5), lines[0])):
    assert p.w2(q) == pytest.approx(textbook_w2(p, q), rel=1e-6)


def test_a_mixture_of_one_component_is_a_law(x64):
  covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
  target = GaussianMixture([2.0], [[1.0, -0.5]], covariance[None])
  np.testing.assert_allclose(GaussianLaw.of(target).covariance, covariance, 1e-14)
  noised = GaussianLaw.of(target).noised(0.5, 2.0)
  np.testing.assert_allclose(noised.covariance, covariance / 4 + 4 * np.eye(2), 1e-14)
  isotropic = GaussianMixture([1.0], np.zeros((1, 3)), [4.0])
  np.testing.assert_array_equal(GaussianLaw.of(isotropic).variances, [4, 4, 4])
  with pytest.raises(
    ValueError, match="<mixture of 2 components> must be a GaussianMixture of one"
  ):
    GaussianLaw.of(GaussianMixture([1.0, 1.0], np.zeros((2, 1)), np.ones(2)))
