"""Grids by gradient descent: against finite differences, and a case whose best grid is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.samplers import dpmpp_2m, euler
from scorelab.schedules import GRIDS, VarianceExploding, VariancePreserving, given_log_snrs
from scorelab.schedules.grid_search import distance, optimise_grid, to_log_snrs, to_widths
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation")
VE = VarianceExploding(0.02, 20.0, 7.0)
TARGET = GaussianMixture([1.0], [[0.5, -1.0]], [0.8**2])


def flow_end(x, sigma):
  """Where the exact flow of one Gaussian ends, at sigma = 0."""
  mean = np.array([0.5, -1.0])
  return mean + (x - mean) * 0.8 / np.sqrt(0.8**2 + sigma**2)


def test_widths_go_to_log_snrs_and_back(x64):
  log_snrs = jnp.array([-4.0, -2.0, -1.95, 0.0, 3.0])
  found = to_log_snrs(log_snrs[0], to_widths(log_snrs))
  np.testing.assert_allclose(found, log_snrs, rtol=1e-12)


def test_given_log_snrs_are_the_grid_s():
  for schedule in (VE, VariancePreserving()):
    grid = GRIDS["uniform"](schedule, 5)
    again = given_log_snrs(schedule, 5, log_snrs=grid.levels.log_snr[:-1])
    for a, b in zip(jax.tree.leaves(grid.levels), jax.tree.leaves(again.levels), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # of float32, through the inverse
  with pytest.raises(ValueError, match="log_snrs = 5 numbers must be 4"):
    given_log_snrs(VE, 4, log_snrs=(0.0, 1.0, 2.0, 3.0, 4.0))


@pytest.mark.e2e
def test_gradients_through_the_scan_are_finite_differences(x64):
  """Central differences of step 1e-5 in float64: to 1e-6 relative."""
  x = 20.0 * jax.random.normal(jax.random.key(0), (50, 2), float)
  ends = jnp.asarray(flow_end(np.asarray(x), 20.0))
  target = GaussianMixture([1.0], [[0.5, -1.0]], [0.8**2])

  @jax.jit
  def loss(free):
    grid = given_log_snrs(VE, 5, log_snrs=to_log_snrs(jnp.asarray(-np.log(20.0)), free))
    return distance(dpmpp_2m(jax.random.key(0), target.predict, x, grid).x, ends, 0.5)

  free = jnp.array([0.5, 1.0, 1.5, 0.7])
  h = 1e-5
  expected = [(loss(free.at[i].add(h)) - loss(free.at[i].add(-h))) / (2 * h) for i in range(4)]
  np.testing.assert_allclose(jax.jit(jax.grad(loss))(free), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.e2e
def test_it_finds_the_best_level_of_two_steps():
  """Euler in two steps on one Gaussian: one free level, whose best place a scan of 400 tells.

  To half a step of that scan and the stop of the descent, 0.02 in log-SNR.
  """
  x = 20.0 * jax.random.normal(jax.random.key(1), (500, 2))
  ends = jnp.asarray(flow_end(np.asarray(x), 20.0), jnp.float32)
  first = jnp.asarray(-np.log(20.0), jnp.float32)

  @jax.jit
  def scan():
    def at(second):
      grid = given_log_snrs(VE, 2, log_snrs=jnp.stack([first, second]))
      return distance(euler(jax.random.key(0), TARGET.predict, x, grid).x, ends, 1.0)

    seconds = jnp.linspace(-2.9, 3.0, 400)
    return seconds, jax.lax.map(at, seconds)

  @jax.jit
  def descend():
    return optimise_grid(
      jax.random.key(2), TARGET.predict, euler, VE, jnp.stack([first, first + 4.0]), x, ends,
      scale=1.0, iterations=200, batch_size=500, learning_rate=0.1,
    )  # fmt: skip

  seconds, losses = scan()
  found = descend()
  best = float(seconds[losses.argmin()])
  np.testing.assert_allclose(found.log_snrs[1], best, atol=0.03)
  assert found.losses.shape == (200,) and found.log_snrs[0] == first


def test_sizes_of_the_distance():
  """Half the square over the scale where it is small; the distance less the scale where large."""
  x = jnp.zeros((1, 2))
  near, far = (float(distance(x, x + d, 1.0)) for d in (1e-2, 1e3))
  np.testing.assert_allclose(near, 1e-4, rtol=1e-2)  # |d|^2 = 2e-4
  np.testing.assert_allclose(far, 2**0.5 * 1e3 - 1, rtol=1e-5)
  assert functools.reduce(max, [near, far]) == far
