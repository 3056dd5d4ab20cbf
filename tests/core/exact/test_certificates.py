"""KL of the data from the probability flow: of the exact score, and of another Gaussian's."""

import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import GaussianLaw, flow_certificate
from scorelab.schedules import VarianceExploding, uniform_log_snr
from scorelab.targets import two_modes_1d
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

GRID = uniform_log_snr(VarianceExploding(0.02, 10.0), 96, to_data=False)


@pytest.mark.e2e
def test_the_exact_score_keeps_the_priors_divergence():
  """The flow is a bijection that carries q_T to q_t: KL is that of the prior at every level."""
  target = two_modes_1d(separation=4.0)
  top, *below = flow_certificate(target.predict, target, GRID, (0, 48, 96))
  for found in below:
    assert found.value == pytest.approx(top.value, abs=3 * found.error + 1e-9 * top.value)
    assert found.error < 1e-2 * found.value


@pytest.mark.e2e
@pytest.mark.parametrize("dim", [1, 2])
def test_the_score_of_another_gaussian(dim):
  """Its flow from N(0, s^2) stretches the start by the noised stds' ratio: two Gaussians."""
  target = GaussianMixture([1.0], np.full((1, dim), 0.5), [0.8])
  wrong = GaussianMixture([1.0], np.zeros((1, dim)), [1.2])
  std = float(GRID.schedule.prior_std(GRID[0]))
  at = (0, 48, 96)
  for index, found in zip(at, flow_certificate(wrong.predict, target, GRID, at), strict=True):
    level = GRID[index]
    ratio = (1.2 + level.sigma**2) / (1.2 + GRID[0].sigma ** 2)
    model = GaussianLaw(np.zeros(dim), np.full(dim, float(std**2 * ratio)))
    expected = GaussianLaw.of(target).noised(1.0, float(level.sigma)).kl(model)
    assert found.value == pytest.approx(expected, rel=1e-6)


def test_other_targets_are_refused():
  wide = GaussianMixture([1.0], jnp.zeros((1, 3)), [1.0])
  with pytest.raises(ValueError, match="of dimension 1 or 2"):
    flow_certificate(wide.predict, wide, GRID, (0,))
