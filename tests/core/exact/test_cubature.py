"""Quadrature over the plane: straight and round ridges in closed form, and what has no integral."""

import numpy as np
import pytest
import scipy.integrate
from scipy.special import erf

from scorelab.exact.cubature import Terms, integrate_plane

NORMAL = np.array([0.8, 0.6])
SIDE = (-8.5, 8.5)


def gaussian_density(u, v):
  return np.exp(-(u**2 + v**2) / 2) / (2 * np.pi)


def straight_ridge(width, jump, seen=True):
  """The density times a ridge of a given width and height jump^2 / 8, where a map jumps."""

  def terms(u, v):
    s = (NORMAL[0] * u + NORMAL[1] * v - 0.7) / width
    density, ridge = gaussian_density(u, v), np.exp(-(s**2) / 2)
    path = jump / 2 * erf(s / 2**0.5)
    slope = jump / (2 * np.pi) ** 0.5 * ridge / width * NORMAL[1]
    values = np.stack([density * ridge * jump**2 / 8, density], axis=-1)
    return Terms(values, seen * path[:, None], seen * slope[:, None])

  return terms


def exact_ridge(width, jump):
  """The integral of two Gaussians' product along the normal."""
  square = 1 + width**2
  return jump**2 / 8 * width / square**0.5 * np.exp(-(0.7**2) / (2 * square))


@pytest.mark.parametrize("width", [0.3, 1e-3, 1e-6])
def test_a_straight_ridge_of_any_width(width):
  """To the tolerance, and the error is no smaller than the true one; points grow by logarithms."""
  exact = exact_ridge(width, 20.0)
  found = integrate_plane(straight_ridge(width, 20.0), SIDE, SIDE, rtol=1e-6)
  assert found.value[0] == pytest.approx(exact, rel=1e-6)
  assert abs(found.value[0] - exact) <= found.error <= 1.1e-6 * exact
  assert found.value[1] == pytest.approx(1, abs=1e-12)
  assert found.evaluations < 4e5


def test_a_ridge_between_the_nodes_is_seen_by_the_jump():
  """And would be missed without it."""
  exact = exact_ridge(1e-4, 20.0)
  found, missed = (
    integrate_plane(straight_ridge(1e-4, 20.0, seen), SIDE, SIDE, rtol=0.1)
    for seen in (True, False)
  )
  assert found.value[0] == pytest.approx(exact, rel=0.1)
  assert missed.value[0] < 0.5 * exact


def test_a_round_ridge():
  """Some lines touch it; the integral is one over radii."""
  width = 0.05

  def terms(u, v):
    density, radius = gaussian_density(u, v), np.hypot(u, v)
    values = np.stack([density * np.exp(-(((radius - 2) / width) ** 2) / 2), density], axis=-1)
    return Terms(values, np.zeros((len(u), 1)), np.zeros((len(u), 1)))

  def radial(r):
    return r * np.exp(-(r**2) / 2 - ((r - 2) / width) ** 2 / 2)

  exact = scipy.integrate.quad(radial, 1, 3, points=[2], epsabs=1e-13)[0]
  for rtol in (0.1, 1e-5):
    found = integrate_plane(terms, SIDE, SIDE, rtol=rtol)
    assert found.value[0] == pytest.approx(exact, rel=rtol)
    assert abs(found.value[0] - exact) <= found.error


def test_points_end_at_the_most_and_what_is_no_number_ends_at_once():
  rough = integrate_plane(straight_ridge(1e-3, 20.0), SIDE, SIDE, rtol=1e-12, most=20_000)
  assert 20_000 <= rough.evaluations < 80_000
  assert rough.error > 1e-12 * rough.value[0]

  def infinite(u, v):
    values = np.stack([np.where(u > 0, np.inf, 1.0), gaussian_density(u, v)], axis=-1)
    return Terms(values, np.zeros((len(u), 1)), np.zeros((len(u), 1)))

  found = integrate_plane(infinite, SIDE, SIDE, rtol=0.1)
  assert not np.isfinite(found.error) and found.evaluations < 20_000
