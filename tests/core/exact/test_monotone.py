"""Distances of many monotone maps at once, against those of one map by adaptive quadrature."""

import numpy as np
import pytest

from scorelab.exact import (
  end_law,
  flow_distances,
  flow_distances_on,
  gaussian_law,
  monotone,
)
from scorelab.samplers import ancestral, dpmpp_2m, dpmpp_3m, heun, lms
from scorelab.schedules import VariancePreserving, karras, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP = VariancePreserving()


def grids(num_steps):
  return [karras(VP, num_steps), uniform_log_snr(VP, num_steps, sigma_min=0.05)]


@pytest.mark.e2e
@pytest.mark.parametrize("start", ["prior", "true"])
def test_distances_are_those_of_one_grid_at_a_time(start, monkeypatch):
  """To 1e-7, ten times the tolerance of either quadrature; and without its help."""
  modes = two_modes_1d(separation=2.0)
  expected = [
    flow_distances(dpmpp_2m, modes.predict, modes, grid, start=start) for grid in grids(6)
  ]
  monkeypatch.setattr(monotone, "flow_distances", None)
  found = flow_distances_on(grids(6), dpmpp_2m, modes.predict, modes, start=start)
  for own, one in zip(found, expected, strict=True):
    assert list(own) == ["kl", "w2"]
    for name, exact in own.items():
      assert exact.value == pytest.approx(one[name].value, rel=1e-7)
      assert abs(exact.value - one[name].value) <= 10 * (exact.error + one[name].error) + 1e-12


@pytest.mark.e2e
def test_more_nodes_are_taken_if_needed(monkeypatch):
  """Two steps of Heun's method, whose images are far out: 1e4 nats."""
  monotone._nodes.cache_clear()
  modes, counts = two_modes_1d(separation=2.0), []
  spaced = monotone._spaced
  monkeypatch.setattr(
    monotone, "_spaced", lambda *args: (counts.append(args[-1]), spaced(*args))[1]
  )
  monkeypatch.setattr(monotone, "flow_distances", None)
  (found,) = flow_distances_on([karras(VP, 2, rho=3.0)], heun, modes.predict, modes, start="true")
  assert counts == [512, 4096]
  one = flow_distances(heun, modes.predict, modes, karras(VP, 2, rho=3.0), start="true")
  assert found["kl"].value == pytest.approx(one["kl"].value, rel=1e-8)


@pytest.mark.e2e
def test_a_map_that_folds_is_left_to_adaptive_quadrature():
  modes, grid = two_modes_1d(separation=2.0), karras(VP, 8, rho=3.0, sigma_min=0.01)
  one = flow_distances(dpmpp_3m, modes.predict, modes, grid, start="true")
  (found,) = flow_distances_on([grid], dpmpp_3m, modes.predict, modes, start="true")
  assert one["kl"].folds == found["kl"].folds == 2
  assert found["kl"] == one["kl"]


def test_a_map_without_error_has_no_distance():
  """On a Gaussian, from the true start, by so many steps that the map is the optimal one."""
  target = GaussianMixture([1.0], [[0.5]], [0.7])
  grid = karras(VP, 400, to_data=False)
  (found,) = flow_distances_on([grid], lms, target.predict, target, start="true")
  assert found["kl"].value < 1e-8
  assert found["kl"].error <= 1e-13


def test_a_small_divergence_keeps_its_digits():
  """Of two Gaussians, less than 1e-8 nats: the closed form."""
  target = GaussianMixture([1.0], [[0.5]], [0.7])
  grid = uniform_log_snr(VP, 64, sigma_min=0.3, sigma_max=3.0, to_data=False)
  (found,) = flow_distances_on([grid], lms, target.predict, target, start="true")
  expected = gaussian_law(lms, target, grid, start="true").kl(end_law(target, grid))
  assert 1e-14 < expected < 1e-8
  assert found["kl"].value == pytest.approx(expected, rel=1e-9)
  assert abs(found["kl"].value - expected) <= found["kl"].error


def test_what_is_refused():
  modes = two_modes_1d()
  with pytest.raises(ValueError, match="sampler = ancestral draws noise"):
    flow_distances_on(grids(4), ancestral, modes.predict, modes)
  with pytest.raises(ValueError, match="grids must be of as many steps"):
    flow_distances_on([*grids(4), *grids(5)], dpmpp_2m, modes.predict, modes)
  plane = GaussianMixture([1.0], np.zeros((1, 2)), [1.0])
  with pytest.raises(ValueError, match="target of dimension 2 must be of dimension 1"):
    flow_distances_on(grids(4), dpmpp_2m, plane.predict, plane)
