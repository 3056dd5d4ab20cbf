"""Exact laws of guided samplers: what classifier-free guidance samples, against closed forms.

p(x | c) = N(0, 1) and p(x) = N(0, 2), variance-exploding from infinite noise. With dx / x of the
guided flow and d Var of the guided reverse SDE integrated by hand,

    tilted law 2 / (1 + w)      flow 2^(1 - w)      reverse SDE (2 - 2^(2 - 2 w)) / (2 w - 1)
"""

import numpy as np
import pytest

from scorelab.exact import GaussianLaw, affine_law, gaussian_law
from scorelab.predictions.guidance import extrapolated
from scorelab.samplers import ancestral, ddim, rk4
from scorelab.schedules import VarianceExploding, uniform_log_snr
from scorelab.targets import GaussianMixture
from scorelab.targets.tilted import tilted_gaussian

pytestmark = pytest.mark.usefixtures("x64")

NOISE = 1e4  # of the start: what is left of the data is 1e-8
SCALES = (1.0, 2.0, 3.0, 5.0)
SOME = [5.0, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1.0, 2.0, 3.0))]


def guided(scale):
  strong, weak = (GaussianMixture([1.0], [[0.0]], [v]) for v in (1.0, 2.0))
  return extrapolated(
    lambda x, level: (strong.predict(x, level), weak.predict(x, level)), guidance_scale=scale
  )


def variance(sampler, scale, num_steps, **options):
  grid = uniform_log_snr(VarianceExploding(1e-4, NOISE), num_steps)
  start = GaussianLaw(np.zeros(1), np.array([NOISE**2]))
  return float(affine_law(sampler, guided(scale), start, grid, **options).variances[0])


def extrapolated_to_no_step(values):
  """Romberg's table of a method of first order, at steps halved each time."""
  values = np.array(values)
  for order in range(1, len(values)):
    values = values[1:] + (values[1:] - values[:-1]) / (2**order - 1)
  return values[0]


@pytest.mark.e2e
@pytest.mark.parametrize("scale", SOME)
def test_the_guided_flow(scale):
  """By 512 steps of RK4, to 1e-6."""
  assert variance(rk4, scale, 512) == pytest.approx(2 ** (1 - scale), rel=1e-6)


@pytest.mark.e2e
@pytest.mark.parametrize("scale", SOME)
def test_the_guided_reverse_sde(scale):
  """By DDIM at eta = 1, 256 to 4096 steps extrapolated, to 1e-6."""
  steps = [256 * 2**i for i in range(5)]
  found = extrapolated_to_no_step([variance(ddim, scale, n, eta=1.0) for n in steps])
  assert found == pytest.approx((2 - 2 ** (2 - 2 * scale)) / (2 * scale - 1), rel=1e-6)


def test_no_scale_but_1_samples_the_tilted_law():
  for scale in SCALES:
    one, two = (GaussianMixture([1.0], [[0.0]], [v]) for v in (1.0, 2.0))
    tilted = float(tilted_gaussian(one, two, scale).variance[0])
    assert tilted == pytest.approx(2 / (1 + scale), rel=1e-12)
    assert (2 ** (1 - scale) == pytest.approx(tilted)) is (scale == 1)


@pytest.mark.e2e
def test_an_exact_prediction_gives_the_gaussian_law():
  """In the plane, along axes of its own; also if a sampler reads each coordinate's variance."""
  target = GaussianMixture([1.0], [[1.0, -0.5]], [[[1.0, 0.6], [0.6, 0.8]]])
  grid = uniform_log_snr(VarianceExploding(0.02, 80.0), 6)
  for options in ({}, {"variance": "optimal"}):
    expected = gaussian_law(ancestral, target, grid, **options)
    start = GaussianLaw(np.zeros(2), np.full(2, 80.0**2))
    found = affine_law(ancestral, target.predict, start, grid, **options)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-7)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-7, atol=1e-9)


def test_a_mixture_is_refused():
  grid = uniform_log_snr(VarianceExploding(0.02, 80.0), 4)
  two = GaussianMixture([1, 1], [[-1.0], [1.0]], [0.1, 0.1])
  with pytest.raises(ValueError, match="not affine"):
    affine_law(ddim, two.predict, GaussianLaw(np.zeros(1), np.array([6400.0])), grid)
