"""The KL bound of a grid: against laws, the paths' own covariances, and another quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from scorelab.exact import GaussianLaw, end_law, gaussian_law, grid_kl_bound
from scorelab.samplers import RecordedNoise, ancestral
from scorelab.schedules import VarianceExploding, VariancePreserving, karras, uniform_log_snr
from scorelab.targets import two_modes_1d
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP, VE = VariancePreserving(), VarianceExploding(0.05, 20.0)
GAUSSIAN = GaussianMixture([1.0], np.full((1, 8), 0.2), (np.arange(1, 9) ** -1.5)[None])


def line():
  return GaussianMixture([0.3, 0.7], [[-1.0], [1.5]], [0.04, 0.5])


@pytest.mark.e2e
@pytest.mark.parametrize("num_steps", [4, 16, 64])
def test_it_bounds_the_divergence_of_the_law(num_steps):
  """KL(data || samples) of ancestral sampling at the last noisy level, on a Gaussian."""
  grid = karras(VP, num_steps, to_data=False)
  exact = end_law(GAUSSIAN, grid).kl(gaussian_law(ancestral, GAUSSIAN, grid))
  bound = grid_kl_bound(GAUSSIAN, grid)
  assert bound.prior < exact < bound.value


def test_it_is_the_divergence_of_the_paths():
  """KL of two Gaussians of a path's points: the sampler's by its Jacobian, the truth's by hand.

  On one Gaussian the divergence of the points at the levels is that of the whole paths.
  """
  target = GaussianMixture([1.0], [[0.0]], [[0.6]])
  grid = karras(VP, 4, sigma_max=5.0, sigma_min=0.3, to_data=False)
  std = VP.prior_std(grid[0])

  def path(normals):
    x = std * normals[:1]
    noise = RecordedNoise(normals[1:, None])
    return jnp.concatenate([x, ancestral(noise, target.predict, x, grid).path[:, 0]])

  jacobian = np.asarray(jax.jacfwd(path)(jnp.zeros(5)))
  alpha, sigma = np.asarray(grid.levels.alpha), np.asarray(grid.levels.sigma)
  ratio = sigma / alpha  # x_t / alpha of a noisier level adds independent noise to a cleaner one's
  true = np.outer(alpha, alpha) * (0.6 + np.minimum.outer(ratio, ratio) ** 2)
  sampled = GaussianLaw.from_covariance(np.zeros(5), jacobian @ jacobian.T)
  exact = GaussianLaw.from_covariance(np.zeros(5), true).kl(sampled)
  assert grid_kl_bound(target, grid).value == pytest.approx(exact, rel=1e-8)


def mmse(snr, weights, means, stds):
  """E Var(x_0 | x_0 + eps / sqrt(snr)) by SciPy, the variance from the posterior's moments."""
  total = np.hypot(stds, snr**-0.5)

  def term(x):
    joint = weights * norm.pdf(x, means, total)
    gain = stds**2 / total**2
    own = means + gain * (x - means)
    first, second = (np.sum(joint * v) / np.sum(joint) for v in (own, own**2 + gain / snr))
    return np.sum(joint) * (second - first**2)

  reach = max(np.abs(means)) + 9 * max(total)
  points = (*means, *(means - total), *(means + total))
  return quad(term, -reach, reach, points=points, epsabs=1e-12, epsrel=1e-11, limit=400)[0]


@pytest.mark.e2e
def test_a_mixture_by_another_quadrature():
  """Steps and prior to 1e-8 of SciPy's: over x for the MMSE, over the SNR, over x for the prior."""
  numbers = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.sqrt([0.04, 0.5])
  grid = uniform_log_snr(VE, 3, sigma_max=3.0)
  found = grid_kl_bound(line(), grid)
  snr = np.asarray((grid.levels.alpha / grid.levels.sigma) ** 2)[:-1]
  for step, low, high in zip(found.steps, snr[:-1], snr[1:], strict=True):
    lost = quad(mmse, low, high, args=numbers, epsabs=1e-10, epsrel=1e-10)[0]
    expected = ((high - low) * mmse(low, *numbers) - lost) / 2
    assert step == pytest.approx(expected, rel=1e-8)
  std, total = float(VE.prior_std(grid[0])), np.hypot(numbers[2], 3.0)

  def term(x):
    density = np.sum(numbers[0] * norm.pdf(x, numbers[1], total))
    return density * (np.log(density) - norm.logpdf(x, scale=std))

  assert found.prior == pytest.approx(quad(term, -30, 30, epsabs=1e-12, epsrel=1e-12)[0], abs=1e-9)
  assert found.value == pytest.approx(found.prior + found.steps.sum(), rel=1e-12)
  assert found.error < 1e-8


@pytest.mark.parametrize("target", [lambda: GAUSSIAN, line], ids=["Gaussian", "mixture"])
def test_a_level_more_lowers_one_step_and_no_other(target):
  target, levels = target(), np.linspace(-3.0, 3.0, 5)
  whole = VE.grid_at(VE.at_log_snr(levels), to_data=False)
  finer = VE.grid_at(VE.at_log_snr(np.insert(levels, 3, 0.9)), to_data=False)
  whole, finer = grid_kl_bound(target, whole), grid_kl_bound(target, finer)
  np.testing.assert_allclose(np.delete(finer.steps, [2, 3]), np.delete(whole.steps, 2), rtol=1e-8)
  assert 0 < finer.steps[2] + finer.steps[3] < whole.steps[2]
  assert finer.prior == pytest.approx(whole.prior, rel=1e-9)


def test_many_steps_leave_the_prior():
  """The steps' sum falls as 1 / N: doubling N halves it, to 1 % at 1000 steps."""
  few, many = (grid_kl_bound(GAUSSIAN, karras(VE, n)) for n in (1000, 2000))
  assert few.prior == pytest.approx(many.prior, rel=1e-9)
  assert few.steps.sum() / many.steps.sum() == pytest.approx(2, rel=1e-2)


@pytest.mark.e2e
def test_more_dimensions_add_up():
  """A turned product of the line's modes and Gaussians, in the plane and, by its modes, in 4-D."""
  grid, modes = karras(VE, 5), two_modes_1d(separation=3.0)
  narrow = GaussianMixture([1.0], [[0.4]], modes.covariances[:1])
  parts = grid_kl_bound(modes, grid), grid_kl_bound(narrow, grid)
  for dim, full in ((2, True), (4, False)):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    means = np.concatenate([modes.means, np.full((2, dim - 1), 0.4)], axis=1) @ turn.T
    variance = float(modes.covariances[0])
    widths = np.tile(variance * np.eye(dim), (2, 1, 1)) if full else np.full(2, variance)
    found = grid_kl_bound(GaussianMixture(modes.weights, means, widths), grid)
    expected = parts[0].value + (dim - 1) * parts[1].value
    assert found.value == pytest.approx(expected, rel=1e-7, abs=2 * found.error)
    np.testing.assert_allclose(found.steps, parts[0].steps + (dim - 1) * parts[1].steps, rtol=1e-6)


def test_what_is_refused():
  grid = karras(VE, 4)
  with pytest.raises(ValueError, match="target = <int> must be a GaussianMixture"):
    grid_kl_bound(3, grid)
  with pytest.raises(ValueError, match="grid: 1 noisy levels must be at least 2"):
    grid_kl_bound(line(), karras(VE, 1))
  apart = GaussianMixture([0.5, 0.5], np.eye(3)[:2], [1.0, 2.0])
  with pytest.raises(ValueError, match="components of one isotropic covariance"):
    grid_kl_bound(apart, grid)
