from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scorelab.metrics import (
  Reference,
  mode_weight_tv,
  mode_weights,
  off_mode_share,
  within_mode_std,
)
from scorelab.metrics.modes import mode_distances
from scorelab.targets.mixtures import GaussianMixture, nine_modes

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


def test_too_tight_samples_read_below_one():
  target = GaussianMixture(WEIGHTS, MEANS, np.array([0.1, 0.1, 0.1]))
  rng = np.random.default_rng(0)
  x = MEANS[rng.integers(3, size=5000)] + 0.5 * np.sqrt(0.1) * rng.normal(size=(5000, 2))
  np.testing.assert_allclose(within_mode_std(None, x, target), 0.5, rtol=0.03)


def test_no_sample_on_mode_has_no_spread():
  assert np.isnan(within_mode_std(None, np.full((3, 2), 100.0), ISOTROPIC))


def test_refusals():
  with pytest.raises(ValueError, match="x has points of dimension 3, must be 2"):
    mode_weights(np.zeros((4, 3)), ISOTROPIC)
  with pytest.raises(ValueError, match="mode metrics need weights, means and covariances"):
    off_mode_share(None, np.zeros((4, 2)), Reference(np.zeros((4, 2))))
