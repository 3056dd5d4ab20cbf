"""Piecewise polynomials against the functions that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import flow_distances
from scorelab.exact.interpolation import Interpolated
from scorelab.exact.line import LineMixture
from scorelab.samplers import ZeroNoise, dpmpp_3m
from scorelab.schedules import VariancePreserving, karras
from scorelab.targets.mixtures import two_modes_1d

WIDTH = 1e-4


def steep(x):
  """A line with a step of width 1e-4, and its derivative."""
  z = (x - 0.3) / WIDTH
  return x + np.tanh(z), 1 + 1 / (WIDTH * np.cosh(np.clip(z, -300, 300)) ** 2)


def test_values_derivatives_and_inverses():
  found = Interpolated.of(steep, -9.0, 9.0)
  x = np.concatenate([np.linspace(-9, 9, 1001), 0.3 + WIDTH * np.linspace(-5, 5, 101)])
  y, slope = found(x[:, None])
  np.testing.assert_allclose(y[:, 0], steep(x)[0], rtol=0, atol=1e-11)
  np.testing.assert_allclose(slope[:, 0, 0], steep(x)[1], rtol=1e-9)
  back = found.inverse(steep(x)[0], np.full_like(x, -9.0), np.full_like(x, 9.0))
  np.testing.assert_allclose(back, x, rtol=0, atol=2e-11)  # 1e-12 of the interval, as documented


def test_inverses_of_a_falling_map_and_beyond_its_ends():
  found = Interpolated.of(lambda x: (-np.exp(x), -np.exp(x)), 0.0, 1.0)
  y = np.array([-2.0, -0.5, -9.0])
  np.testing.assert_allclose(
    found.inverse(y, np.zeros(3), np.ones(3)), [np.log(2), 0, 1], rtol=0, atol=1e-9
  )


def test_cells_are_as_narrow_as_a_fold():
  found = Interpolated.of(steep, -9.0, 9.0)
  assert np.diff(found.cells).min() < WIDTH


def test_a_jump_is_refused():
  assert Interpolated.of(lambda x: (np.sign(x - 0.3) + x, np.ones_like(x)), -9.0, 9.0) is None


@pytest.mark.e2e
@pytest.mark.usefixtures("quick_compilation", "x64")
def test_a_fold_narrower_than_a_cell_by_bins():
  """Eight steps of dpmpp_3m on two modes. KL of masses in bins is less, by less with more bins."""
  modes, grid = (
    two_modes_1d(separation=2.0),
    karras(VariancePreserving(), 8, sigma_min=0.01, rho=3.0),
  )
  found = flow_distances(dpmpp_3m, modes.predict, modes, grid, start="true")["kl"]
  assert found.folds == 2 and found.error < 1e-8 * found.value
  first = LineMixture.of(modes.perturbed(grid[0].alpha, grid[0].sigma))
  x = np.linspace(*first.ends, 400_001)
  run = jax.jit(lambda x: dpmpp_3m(ZeroNoise(), modes.predict, x, grid).x)
  y = np.asarray(run(jnp.asarray((x[1:] + x[:-1]) / 2)[:, None]))[:, 0]
  mass = np.diff(first.mass(x)[0])
  gaps = []
  for count in (1000, 4000):
    edges = np.linspace(y.min(), y.max(), count + 1)
    own = np.histogram(y, edges, weights=mass)[0]
    left, right = LineMixture.of(modes).mass(edges)
    true = np.where(left[1:] < 0.5, np.diff(left), -np.diff(right))
    kept = own > 0
    gaps.append(found.value - np.sum(own[kept] * np.log(own[kept] / true[kept])))
  assert 0 < gaps[1] < gaps[0] < 0.01 * found.value
  assert gaps[1] < 0.003 * found.value
