"""Energy distance of points from a mixture: against quadrature, and against samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from scorelab.exact.energy import (
  energy_from_mixture,
  energy_of_nodes,
  lattice_starts,
  mean_apart,
  mixture_apart,
  rice_mean,
)
from scorelab.metrics import energy_distance
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import ring

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


@pytest.mark.parametrize("shift", [0.0, 0.7, 6.0])
def test_the_mean_length_of_a_shifted_gaussian(shift):
  """E r by the integral of Rice's density's tail: E|s + z| = int P(|s + z| > r) dr, by angles."""
  std = 0.8

  def length(angle, radius):
    return np.hypot(shift + radius * np.cos(angle), radius * np.sin(angle))

  def ring_mean(radius):
    density = radius / std**2 * np.exp(-(radius**2) / (2 * std**2))
    return density * quad(length, 0, np.pi, args=(radius,))[0] / np.pi

  expected = quad(ring_mean, 0, 9 * std, epsabs=1e-11)[0]
  found = rice_mean(jnp.array([shift, 0.0]), jnp.array(std**2))
  assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.e2e
def test_the_distance_is_that_of_samples_without_their_floor():
  """A shifted cloud of 400 against 2e5 samples: within the samples' own part and three errors."""
  target, x = ring(), 0.5 + 2 * np.asarray(lattice_starts(400))
  exact = float(energy_from_mixture(jnp.asarray(x), target))
  found = []
  for key in jax.random.split(jax.random.key(0), 5):
    y = np.asarray(target.sample(key, 20_000))
    floor = float(mixture_apart(target)) / 20_000
    found.append(energy_distance(None, x, y) - floor)
  sem = np.std(found, ddof=1) / np.sqrt(5)
  assert abs(np.mean(found) - exact) < 4 * sem


@pytest.mark.e2e
def test_a_lattice_of_a_gaussian_is_at_no_distance_from_it():
  """Its distance falls faster than the 1 / n of random points, whose mean is E|y - y'| / n."""
  target = GaussianMixture([1.0], np.zeros((1, 2)), [1.0])
  few, many = (
    float(energy_from_mixture(jnp.asarray(lattice_starts(n)), target)) for n in (250, 4000)
  )
  assert 0 < many < few / 16
  assert many < 0.2 * np.sqrt(np.pi) / 4000


@pytest.mark.e2e
def test_weights_are_repetitions():
  x = jnp.asarray(lattice_starts(6))
  weights = jnp.array([2.0, 1, 1, 1, 1, 1]) / 7
  repeated = jnp.concatenate([x[:1], x])
  own = mean_apart(x, weights), energy_from_mixture(x, ring(), weights)
  other = mean_apart(repeated, jnp.full(7, 1 / 7)), energy_from_mixture(repeated, ring())
  np.testing.assert_allclose(own, other, rtol=1e-12)


@pytest.mark.e2e
def test_the_gradient_is_that_of_differences():
  """Also at two points in one place, where the distance between them has a kink."""
  x = jnp.asarray(np.concatenate([lattice_starts(5), lattice_starts(5)[:1]]))
  slope = jax.grad(lambda x: energy_from_mixture(x, ring()))(x)
  shift = jnp.zeros_like(x).at[3].set(jnp.array([0.3, -0.2]))
  ahead, back = (energy_from_mixture(x + h * shift, ring()) for h in (1e-5, -1e-5))
  assert float(jnp.sum(slope * shift)) == pytest.approx(float(ahead - back) / 2e-5, rel=1e-7)
  assert np.isfinite(slope).all()


def _normal_nodes(shift, std, num):
  """Nodes and weights of N(shift, std^2 I) in the plane: a trapezoidal sum over 8 std."""
  line = np.linspace(-8, 8, num)
  nodes = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
  weights = np.exp(-np.sum(nodes**2, axis=-1) / 2)
  return jnp.asarray(shift + std * nodes), jnp.asarray(weights / weights.sum())


def test_two_gaussians_on_nodes():
  """Against Rice's means; and the distance of a law from itself on other nodes is rounding's."""
  x, x_weights = _normal_nodes(np.array([0.5, -0.2]), 0.7, 41)
  y, y_weights = _normal_nodes(np.zeros(2), 1.0, 51)
  shift = jnp.array([0.5, -0.2])
  pairs = ((shift, 0.7**2 + 1), (0 * shift, 2 * 0.7**2), (0 * shift, 2.0))
  mixed, own, other = (float(rice_mean(s, jnp.array(v))) for s, v in pairs)
  found = energy_of_nodes(x, x_weights, y, y_weights, highest=(9 / 0.7, 9.0))
  assert float(found) == pytest.approx(2 * mixed - own - other, rel=1e-9)
  z, z_weights = _normal_nodes(np.zeros(2), 1.0, 43)
  assert float(energy_of_nodes(z, z_weights, y, y_weights, highest=(9.0, 9.0))) < 1e-20


def test_what_is_refused():
  with pytest.raises(ValueError, match="mixture in the plane with round components"):
    energy_from_mixture(jnp.zeros((3, 1)), GaussianMixture([1.0], [[0.0]], [1.0]))
