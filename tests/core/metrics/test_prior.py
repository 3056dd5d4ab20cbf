"""The divergence of noised data from the prior, against SciPy, quadrature and closed forms."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from scorelab.metrics.prior import Moments, least_ratio, prior_divergence
from scorelab.schedules import (
  GaussianChannel,
  LinearFlow,
  SubVP,
  VarianceExploding,
  VariancePreserving,
)

MEAN = np.array([1.5, -0.5, 2.0])
ROOT = np.random.default_rng(0).normal(size=(3, 3))
COVARIANCE = ROOT @ ROOT.T
EXACT = Moments(float(MEAN @ MEAN), np.linalg.eigvalsh(COVARIANCE), 3)
LEVELS = [(1.0, 4.0, 4.0), (0.2, (1 - 0.04) ** 0.5, 1.0), (0.3, 0.7, 1.0), (0.5, 1.0, 1.0)]


@pytest.mark.e2e
@pytest.mark.parametrize(("alpha", "sigma", "std"), LEVELS)
def test_is_the_divergence_of_gaussians(alpha, sigma, std):
  """By a million draws of SciPy's densities: within 5 standard errors; the formula has none."""
  noised = stats.multivariate_normal(alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * np.eye(3))
  prior = stats.multivariate_normal(np.zeros(3), std**2 * np.eye(3))
  x = noised.rvs(1_000_000, random_state=1)
  ratio = noised.logpdf(x) - prior.logpdf(x)
  error = ratio.std() / 1e3
  assert abs(prior_divergence(EXACT, alpha, sigma, std) - ratio.mean()) < 5 * error


def test_one_dimension_by_quadrature():
  alpha, sigma = 0.6, 0.8
  noised, prior = stats.norm(alpha * 1.2, math.hypot(alpha * 0.5, sigma)), stats.norm(0, 1)
  expected, _ = integrate.quad(
    lambda x: noised.pdf(x) * (noised.logpdf(x) - prior.logpdf(x)), -12, 12, epsabs=1e-12
  )
  found = prior_divergence(Moments(1.44, np.array([0.25]), 1), alpha, sigma, 1.0)
  assert found == pytest.approx(expected, rel=1e-9)


def test_limits():
  assert prior_divergence(EXACT, 0.0, 1.0, 1.0) == 0
  far = prior_divergence(EXACT, 1.0, 1e6, 1e6)
  # |m|^2 / 2 sigma^2, and sum of squared variances / 4 sigma^4, which is 1e-12 of it
  assert far == pytest.approx(MEAN @ MEAN / 2e12, rel=1e-6)


@pytest.mark.parametrize("shape", [(4000, 3), (300, 20, 30), (1000, 600)])
def test_moments_of_points(shape):
  """As NumPy's covariance gives them, also where there are more coordinates than points."""
  points = np.random.default_rng(1).normal(size=shape) * 0.5 + 0.3
  moments = Moments.of(points.astype(np.float32))
  flat = points.reshape(len(points), -1)
  flat = flat[:: math.ceil(len(flat) / 512)] if flat.shape[1] > 512 else flat
  covariance = np.cov(flat.T, bias=True)
  sigma = 3.0
  sign, log_det = np.linalg.slogdet(covariance / sigma**2 + np.eye(flat.shape[1]))
  mean = flat.mean(0)
  expected = (np.trace(covariance) / sigma**2 - log_det + mean @ mean / sigma**2) / 2
  assert sign == 1 and moments.dim == flat.shape[1]
  assert prior_divergence(moments, 1.0, sigma, sigma) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("process", ["ve", "vp", "flow", "channel", "sub_vp"])
def test_the_least_ratio_costs_what_is_allowed(process):
  schedules = (VarianceExploding, VariancePreserving, LinearFlow, GaussianChannel, SubVP)
  (schedule,) = (make() for make in schedules if make.process == process)
  ratio = least_ratio(EXACT, schedule, 0.1)
  norm = {
    "ve": 1 / ratio,
    "vp": math.hypot(1 / ratio, 1),
    "flow": 1 / ratio + 1,
    "channel": 1.0,
    "sub_vp": (1 + math.sqrt(1 + 4 / ratio**2)) / 2,  # alpha^2 + sigma = 1
  }[process]
  alpha, sigma = 1 / ratio / norm, 1 / norm
  cost = prior_divergence(EXACT, alpha, sigma, sigma if process == "ve" else 1.0)
  assert cost == pytest.approx(0.1, rel=1e-4)  # float32 levels
