from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from scorelab.metrics import (
  Reference,
  mode_weight_tv,
  mode_weights,
  off_mode_share,
  within_mode_std,
)
from scorelab.metrics.modes import has_modes, mode_distances, mode_radius
from scorelab.targets.mixtures import GaussianMixture, grid25, nine_modes

WEIGHTS, MEANS = np.array([0.5, 0.25, 0.25]), np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
ISOTROPIC = SimpleNamespace(weights=WEIGHTS, means=MEANS, covariances=np.array([1.0, 4.0, 0.25]))


def test_hand_made_points():
  # 0.9 and 4.1 deviations off mode 0; 1 off mode 1, whose std is 2; 6 off mode 2, whose std is 0.5.
  x = np.array([[0.9, 0.0], [0.0, -4.1], [12.0, 0.0], [0.0, 13.0]])
  np.testing.assert_allclose(mode_weights(x, ISOTROPIC), [0.5, 0.25, 0.25])
  assert mode_weight_tv(None, x, ISOTROPIC) == 0
  assert off_mode_share(None, x, ISOTROPIC) == 0.5
  assert off_mode_share(None, x, ISOTROPIC, num_std=5.0) == 0.25
  # Of the two on-mode points the squared deviations are 0.81 and 1, over two coordinates.
  np.testing.assert_allclose(within_mode_std(None, x, ISOTROPIC), np.sqrt(1.81 / 4), rtol=1e-12)


def test_total_variation():
  x = np.repeat(MEANS[:1], 8, axis=0)
  np.testing.assert_allclose(mode_weight_tv(None, x, ISOTROPIC), 0.5)  # 1/2 (0.5 + 0.25 + 0.25)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_anisotropic_modes_measure_in_their_own_axes(form):
  covariances = np.array([[9.0, 1.0]])
  target = SimpleNamespace(
    weights=np.ones(1),
    means=np.zeros((1, 2)),
    covariances=covariances if form == "diagonal" else np.array([np.diag(covariances[0])]),
  )
  x = np.array([[6.0, 0.0], [0.0, 6.0]])
  np.testing.assert_allclose(mode_distances(x, target)[:, 0], [2.0, 6.0], rtol=1e-12)
  assert off_mode_share(None, x, target) == 0.5


def test_mahalanobis_by_the_inverse():
  rng = np.random.default_rng(0)
  root = rng.normal(size=(3, 3))
  covariance, x = root @ root.T, rng.normal(size=(10, 3))
  target = SimpleNamespace(weights=np.ones(1), means=np.ones((1, 3)), covariances=covariance[None])
  squared = np.einsum("ni,ij,nj->n", x - 1, np.linalg.inv(covariance), x - 1)
  np.testing.assert_allclose(mode_distances(x, target)[:, 0] ** 2, squared, rtol=1e-9)


def test_exact_samples_of_nine_modes():
  """In 2-D: exp(-8) = 0.03 % beyond 4 std, weights and spread right to sampling error."""
  target, n = nine_modes(), 20_000
  x = target.sample(jax.random.key(0), n)
  reference = Reference(x, target)
  w = np.asarray(target.weights)
  expected_tv = np.sqrt(w * (1 - w) / (2 * np.pi * n)).sum()
  assert 0.3 * expected_tv < mode_weight_tv(None, x, reference) < 2.5 * expected_tv
  share = np.exp(-8)
  assert abs(off_mode_share(None, x, reference) - share) < 4 * np.sqrt(share / n)
  assert abs(off_mode_share(None, x, reference, num_std=1.0) - np.exp(-0.5)) < 4 * 0.5 / n**0.5
  # The spread of the root mean square of 2 n normals is 1 / sqrt(4 n).
  assert abs(within_mode_std(None, x, reference) - 1) < 0.0013 + 4 / np.sqrt(4 * n)


@pytest.mark.parametrize("d", [1, 2, 8, 80, 800])
def test_radius_is_scipys_chi_quantile(d):
  """The probability beyond it is the 2-D rule's, exp(-num_std^2 / 2), and in 2-D it is num_std."""
  for num_std in (1.0, 4.0):
    np.testing.assert_allclose(
      mode_radius(d, num_std), stats.chi(d).isf(np.exp(-(num_std**2) / 2)), rtol=1e-9
    )
  assert mode_radius(2, 3.3) == 3.3


@pytest.mark.e2e
@pytest.mark.parametrize("d", [1, 2, 8, 80, 800])
@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)], ids=str)
def test_exact_samples_are_on_their_modes(d, stds):
  """Off mode exp(-8) within 4 standard errors, weights within theirs, spread 1 within 1 %.

  By NumPy's normals. Modes of unlike sizes too: in 80 dimensions a sample of the tight mode is
  fewer deviations away from the wide mode's mean than from its own.
  """
  n, rng = {1: 200_000, 2: 200_000, 8: 50_000, 80: 20_000, 800: 4000}[d], np.random.default_rng(d)
  weights, means = np.array([0.2, 0.3, 0.5]), np.zeros((3, d))
  means[:, 0] = 0, 20, 60
  modes = rng.choice(3, n, p=weights)
  x = means[modes] + np.array(stds)[modes, None] * rng.normal(size=(n, d))
  target = SimpleNamespace(weights=weights, means=means, covariances=np.array(stds) ** 2)
  np.testing.assert_array_equal(mode_weights(x, target), np.bincount(modes) / n)
  share, error = np.exp(-8), np.sqrt(np.exp(-8) / n)
  found = off_mode_share(None, x, target)
  assert found < share + 4 * error
  if stds[0] == stds[2]:  # else the tight modes' few are within the wide mode
    assert found > share - 4 * error
  # 0.23 % off by the cut, and the standard error of a root mean square of n d normals.
  assert abs(within_mode_std(None, x, target) - 1) < 0.0024 + 4 / np.sqrt(2 * n * d) < 0.01


def test_samples_of_the_25_modes_in_80_dimensions():
  """At a radius of 4 all of them were off mode, and the spread was nan."""
  target = grid25(80)
  x = target.sample(jax.random.key(0), 5000)
  assert off_mode_share(None, x, target) <= 0.0015
  np.testing.assert_allclose(within_mode_std(None, x, target), 1, atol=0.01)


def test_a_mode_without_weight_and_width_has_no_samples():
  target = GaussianMixture([0.5, 0.5, 0.0], [[0.0, 0.0], [9.0, 0.0], [1.0, 1.0]], [1.0, 1.0, 0.0])
  assert has_modes(target) and not has_modes(GaussianMixture([1.0], [[0.0, 0.0]], [0.0]))
  x = np.array([[1.0, 1.0], [9.0, 1.0]])
  np.testing.assert_array_equal(mode_weights(x, target), [0.5, 0.5, 0])
  np.testing.assert_allclose(within_mode_std(None, x, target), np.sqrt(3 / 4))


def test_too_tight_samples_read_below_one():
  target = GaussianMixture(WEIGHTS, MEANS, np.array([0.1, 0.1, 0.1]))
  rng = np.random.default_rng(0)
  x = MEANS[rng.integers(3, size=5000)] + 0.5 * np.sqrt(0.1) * rng.normal(size=(5000, 2))
  np.testing.assert_allclose(within_mode_std(None, x, target), 0.5, rtol=0.03)


def test_no_sample_on_mode_has_no_spread():
  assert np.isnan(within_mode_std(None, np.full((3, 2), 100.0), ISOTROPIC))


def test_refusals():
  with pytest.raises(ValueError, match=r"num_std = 0\.0 in \(0, 37\]"):
    off_mode_share(None, np.zeros((4, 2)), ISOTROPIC, num_std=0.0)
  with pytest.raises(ValueError, match="x has points of dimension 3, must be 2"):
    mode_weights(np.zeros((4, 3)), ISOTROPIC)
  with pytest.raises(ValueError, match="mode metrics need weights, means and covariances"):
    off_mode_share(None, np.zeros((4, 2)), Reference(np.zeros((4, 2))))
