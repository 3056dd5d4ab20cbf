"""Grids found by descent on exact distances, against every stock grid by the exact engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scorelab.exact import (
  find_grid,
  flow_distances_on,
  gaussian_law,
  gaussian_laws_on,
  grid_kl_bound,
)
from scorelab.exact.energy import energy_from_mixture, lattice_starts
from scorelab.exact.grid_search import to_log_snrs, to_widths
from scorelab.samplers import ZeroNoise, ancestral, dpmpp_2m, euler, ipndm
from scorelab.schedules import (
  VarianceExploding,
  VariancePreserving,
  given_log_snrs,
  karras,
  quadratic,
  spectral,
  uniform_log_snr,
)
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import ring, two_modes_1d
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


@pytest.mark.e2e
def test_the_value_of_a_steep_map():
  """From a start far wider than the modes: to 1e-5 of the quadrature with error control.

  A descent on too few nodes ends where they are wrong: by 15 % with 512.
  """
  ve, target = VarianceExploding(0.02, 80.0, 7.0), two_modes_1d()
  begin = log_snrs_of(uniform_log_snr(ve, 6, sigma_min=0.2))
  found = find_grid(dpmpp_2m, target, ve, begin)
  (value,) = of_flows([given_log_snrs(ve, 6, log_snrs=found.log_snrs)], dpmpp_2m, target, "kl")
  assert found.value == pytest.approx(value, rel=1e-5)
  assert value < found.begin / 5


def test_widths_go_to_log_snrs_and_back():
  log_snrs = jnp.array([-4.0, -2.0, -1.95, 0.0, 3.0])
  found = to_log_snrs(log_snrs[0], to_widths(log_snrs))
  np.testing.assert_allclose(found, log_snrs, rtol=1e-12)


@pytest.mark.e2e
def test_two_steps_have_one_best_level():
  """Euler in two steps on one Gaussian: a scalar search by SciPy over its exact law's W2."""
  target, ve = GaussianMixture([1.0], [[0.5, -1.0]], [0.8**2]), VarianceExploding(0.02, 20.0, 7.0)
  first = -np.log(20.0)

  def w2(second):
    grid = given_log_snrs(ve, 2, log_snrs=(first, second))
    return gaussian_law(euler, target, grid).w2(target)

  best = minimize_scalar(w2, bounds=(first + 0.1, 3.0), method="bounded", options={"xatol": 1e-7})
  found = find_grid(euler, target, ve, np.array([first, first + 4.0]), distance="w2")
  assert found.value == pytest.approx(best.fun, rel=1e-9)
  assert found.log_snrs[1] == pytest.approx(best.x, abs=1e-3)


@pytest.mark.e2e
@pytest.mark.parametrize("num_steps", [32, 128])
def test_the_fitted_grid_has_the_least_bound(num_steps):
  """On a Gaussian the formula `spectral` is within 2 % of the grid that the descent finds."""
  target, ve = GaussianMixture([1.0], np.zeros((1, 3)), [[4.0, 0.5, 0.01]]), VarianceExploding()
  fitted = spectral(ve, num_steps, variances=(4.0, 0.5, 0.01), sigma_min=0.05)
  begin = log_snrs_of(uniform_log_snr(ve, num_steps, sigma_min=0.05))
  found = find_grid(euler, target, ve, begin, distance="bound", start="true", iterations=1000)
  value = grid_kl_bound(target, given_log_snrs(ve, num_steps, log_snrs=found.log_snrs)).steps.sum()
  assert found.value == pytest.approx(value, rel=1e-9)
  assert found.log_snrs[-1] == pytest.approx(begin[-1], abs=1e-12)
  assert found.value <= grid_kl_bound(target, fitted).steps.sum() < 1.02 * found.value
  assert found.value < 0.8 * found.begin


@pytest.mark.e2e
@pytest.mark.parametrize("dim", [1, 2])
def test_the_bound_of_a_mixture_descends(dim):
  """To the value of `grid_kl_bound` on the grid found, prior included, below every stock grid's."""
  ve = VarianceExploding(0.1, 20.0)
  target = two_modes_1d() if dim == 1 else ring(num_modes=3)
  stock = [grid(ve, 6) for grid in (uniform_log_snr, karras, quadratic)]
  values = [grid_kl_bound(target, grid).value for grid in stock]
  begin = log_snrs_of(stock[int(np.argmin(values))])
  found = find_grid(euler, target, ve, begin, distance="bound")
  value = grid_kl_bound(target, given_log_snrs(ve, 6, log_snrs=found.log_snrs)).value
  assert found.value == pytest.approx(value, rel=1e-4)
  assert value < 0.9 * min(values)


@pytest.mark.e2e
def test_the_energy_distance_in_the_plane():
  """Better on a finer lattice of other starts too; the distance is there to 10 % or 5e-5."""
  ve, target = VarianceExploding(0.02, 80.0, 7.0), ring()
  begin = log_snrs_of(karras(ve, 5, sigma_min=0.4))
  found = find_grid(dpmpp_2m, target, ve, begin, distance="energy", iterations=15)
  starts = 80.0 * jnp.asarray(lattice_starts(7001))

  def energy(log_snrs):
    grid = given_log_snrs(ve, 5, log_snrs=log_snrs)
    ends = jax.jit(dpmpp_2m, static_argnums=1)(ZeroNoise(), target.predict, starts, grid).x
    return float(energy_from_mixture(ends, target))

  assert found.begin == pytest.approx(energy(begin), rel=0.1, abs=5e-5)
  assert found.value == pytest.approx(energy(found.log_snrs), rel=0.1, abs=5e-5)
  assert found.value < found.begin / 2


def test_what_is_refused():
  begin = np.linspace(-4.0, 2.0, 4)
  modes = two_modes_1d(separation=2.0)
  with pytest.raises(ValueError, match="distance = 'w1' must be one of kl, w2, bound, energy"):
    find_grid(dpmpp_2m, modes, VP, begin, distance="w1")
  with pytest.raises(ValueError, match="ancestral draws noise"):
    find_grid(ancestral, modes, VP, begin)
  plane = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0])
  with pytest.raises(ValueError, match="target of dimension 2 must be a Gaussian, or of dimension"):
    find_grid(dpmpp_2m, plane, VP, begin)
  with pytest.raises(ValueError, match="start = 'true' must be 'prior' for the distance 'energy'"):
    find_grid(dpmpp_2m, plane, VP, begin, distance="energy", start="true")
  with pytest.raises(ValueError, match="ancestral draws noise"):
    find_grid(ancestral, plane, VP, begin, distance="energy")
  with pytest.raises(ValueError, match="target must be a mixture in the plane with round"):
    find_grid(dpmpp_2m, modes, VP, begin, distance="energy")
  cube = GaussianMixture([0.5, 0.5], np.eye(3)[:2], [1.0, 1.0])
  with pytest.raises(ValueError, match="target of dimension 3 must be a Gaussian, or of dimension"):
    find_grid(dpmpp_2m, cube, VP, begin, distance="bound")
