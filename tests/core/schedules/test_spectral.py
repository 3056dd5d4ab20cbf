"""The grid fitted to the data's variances: levels by SciPy, and its bound against stock grids."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from scorelab.exact import grid_kl_bound
from scorelab.schedules import (
  GRIDS,
  VarianceExploding,
  VariancePreserving,
  karras,
  spectral,
)
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VE, VP = VarianceExploding(0.02, 80.0, 7.0), VariancePreserving()
SPECTRA = {"one": (1.0,), "power": tuple(np.arange(1, 65) ** -1.5), "two": (4.0, 1e-3)}


def snr_of(grid):
  return np.asarray((grid.levels.alpha / grid.levels.sigma) ** 2)[: grid.num_steps]


def test_one_variance_is_uniform_in_the_log_of_signal_and_noise():
  """Equal steps in log(1 + s v), by its closed form: to 1e-4 of a step."""
  passed = np.log1p(0.3 * snr_of(spectral(VP, 12, variances=0.3, sigma_max=50.0, sigma_min=0.01)))
  np.testing.assert_allclose(passed, np.linspace(passed[0], passed[-1], 12), atol=1e-4)
  assert passed[-1] == pytest.approx(np.log1p(0.3e4), rel=1e-6)


@pytest.mark.parametrize("name", ["power", "two"])
def test_levels_pass_equal_increments(name):
  """Of the root of |mmse'|, integrated over the SNR by SciPy: to 1e-3 of a step."""
  variances = np.array(SPECTRA[name])

  def root(log_snr):
    snr = np.exp(log_snr)
    return snr * np.sqrt(np.sum((variances / (1 + snr * variances)) ** 2))

  logs = np.log(snr_of(spectral(VE, 10, variances=SPECTRA[name])))
  steps = [quad(root, a, b, epsrel=1e-9)[0] for a, b in itertools.pairwise(logs)]
  np.testing.assert_allclose(steps, np.mean(steps), rtol=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("schedule", [VE, VP], ids=["VE", "VP"])
def test_its_bound_is_below_that_of_stock_grids(name, schedule):
  """With the same ends, by a third or more at 8, 32 and 128 steps."""
  target = GaussianMixture([1.0], np.zeros((1, len(SPECTRA[name]))), [SPECTRA[name]])
  stock = [GRIDS[kind] for kind in ("uniform", "quadratic", "karras", "uniform_log_snr")]

  def bound(grid):
    return grid_kl_bound(target, grid).steps.sum()

  for num_steps in (8, 32, 128):
    own = bound(spectral(schedule, num_steps, variances=SPECTRA[name]))
    others = [bound(grid(schedule, num_steps)) for grid in stock]
    others += [bound(karras(schedule, num_steps, rho=rho)) for rho in (3.0, 5.0, 10.0)]
    assert own < min(others) / 1.5


def test_what_is_refused():
  with pytest.raises(ValueError, match="variances holds -1, and must be at least 0"):
    spectral(VE, 4, variances=(1.0, -1.0))
  for variances in ((0.0, 0.0), ()):
    with pytest.raises(ValueError, match=r"variances = .* must have one above 0"):
      spectral(VE, 4, variances=variances)
