"""Grids found by descent on exact distances, against every stock grid by the exact engines."""

import numpy as np
import pytest

from scorelab.exact import find_grid, flow_distances_on, gaussian_laws_on
from scorelab.samplers import ancestral, dpmpp_2m, ipndm
from scorelab.schedules import VariancePreserving, given_log_snrs
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d
from scripts.stock_grids import make_all, spacings

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP = VariancePreserving()
SPACINGS = spacings((0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5))


def log_snrs_of(grid):
  return np.log(grid.levels.alpha[:-1] / grid.levels.sigma[:-1])


def of_laws(grids, sampler, target, distance):
  laws = gaussian_laws_on(grids, sampler, target)
  return [getattr(own["prior"], distance)(target) for own in laws]


def of_flows(grids, sampler, target, distance):
  found = flow_distances_on(grids, sampler, target.predict, target)
  return [own[distance].value for own in found]


@pytest.mark.e2e
@pytest.mark.parametrize("distance", ["kl", "w2"])
@pytest.mark.parametrize("name", ["dpmpp_2m on a Gaussian", "ancestral on a Gaussian", "ipndm"])
def test_found_grids_beat_all_stock_grids(name, distance):
  """Six steps, by less than any of 37 stock grids; the distance is the exact engine's."""
  if name == "ipndm":
    sampler, target, measure = ipndm, two_modes_1d(separation=2.0), of_flows
  else:
    sampler = dpmpp_2m if name.startswith("dpmpp_2m") else ancestral
    variances = np.arange(1, 9) ** -1.5
    target, measure = GaussianMixture([1.0], np.full((1, 8), 0.2), variances[None]), of_laws
  stock = make_all(SPACINGS, VP, 6)
  values = measure(stock, sampler, target, distance)
  begin = log_snrs_of(stock[int(np.argmin(values))])
  found = find_grid(sampler, target, VP, begin, distance=distance)
  (value,) = measure([given_log_snrs(VP, 6, log_snrs=found.log_snrs)], sampler, target, distance)
  assert found.value == pytest.approx(value, rel=1e-7)
  assert found.begin == pytest.approx(min(values), rel=1e-4)  # steps are at least 0.01 wide
  assert value < 0.9 * min(values)


def test_what_is_refused():
  begin = np.linspace(-4.0, 2.0, 4)
  modes = two_modes_1d(separation=2.0)
  with pytest.raises(ValueError, match="distance = 'w1' must be one of kl, w2"):
    find_grid(dpmpp_2m, modes, VP, begin, distance="w1")
  with pytest.raises(ValueError, match="ancestral draws noise"):
    find_grid(ancestral, modes, VP, begin)
  plane = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0])
  with pytest.raises(ValueError, match="target of dimension 2 must be a Gaussian, or of dimension"):
    find_grid(dpmpp_2m, plane, VP, begin)
