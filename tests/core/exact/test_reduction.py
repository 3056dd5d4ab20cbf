"""Modes in a plane of many dimensions: against draws of the change of variables in all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab import samplers
from scorelab.exact import flow_kl
from scorelab.exact.pushforward import Pushforward
from scorelab.exact.reduction import split_plane
from scorelab.schedules import VariancePreserving, karras
from scorelab.targets import grid25, ring
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


def tilted(dim):
  """Three modes in a plane that is no coordinate plane, away from the origin."""
  rng = np.random.default_rng(0)
  axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
  places = np.array([[0.0, 0.0], [2.0, 0.5], [-1.0, 1.5]]) @ axes[:2] + rng.normal(size=dim)
  return GaussianMixture([0.2, 0.5, 0.3], places, np.full(3, 0.3))


@pytest.mark.e2e
@pytest.mark.parametrize("dim", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_draws_of_the_change_of_variables(dim):
  """E_p[log p(x) - log|det f'(x)| - log target(f(x))] over 40,000 starts, all Jacobians [d, d].

  Within four standard errors, which are a few percent of the value.
  """
  target, grid = tilted(dim), karras(VariancePreserving(), 5)
  found = flow_kl(samplers.heun, target.predict, target, grid)
  std = float(grid.schedule.prior_std(grid[0]))
  x = std * np.asarray(jax.random.normal(jax.random.key(0), (40_000, dim)))
  y, jacobian = Pushforward(samplers.heun, target.predict, grid, dim, {})(x)
  start = -np.sum(x**2, 1) / (2 * std**2) - dim / 2 * np.log(2 * np.pi * std**2)
  logs = start - np.linalg.slogdet(jacobian)[1] - np.asarray(target.log_prob(jnp.asarray(y)))
  sem = logs.std() / len(logs) ** 0.5
  assert found.value == pytest.approx(logs.mean(), abs=4 * sem)
  assert sem < 0.05 * found.value and found.error < 1e-5 * found.value


@pytest.mark.parametrize("dim", [4, 8])
def test_modes_of_grid25_stay_in_a_plane(dim):
  """Distances between modes are kept, and the variances."""
  target = grid25(dim=dim)
  plane, rest = split_plane(target)
  apart, kept = (np.asarray(m[:, None] - m[None]) for m in (target.means, plane.means))
  np.testing.assert_allclose(np.sum(apart**2, -1), np.sum(kept**2, -1), rtol=1e-10, atol=1e-9)
  assert rest.dim == dim - 2
  np.testing.assert_allclose(rest.variances, 1.0)


def test_other_targets_are_refused():
  space = GaussianMixture(np.ones(4), np.eye(4)[:, :3], np.ones(4))
  unequal = GaussianMixture(np.ones(2), np.eye(4)[:2], np.array([1.0, 2.0]))
  for target, reason in ((space, "means in a plane"), (unequal, "one isotropic covariance")):
    with pytest.raises(ValueError, match=reason):
      flow_kl(samplers.heun, target.predict, target, karras(VariancePreserving(), 3))
  with pytest.raises(ValueError, match="for other predictions than its own"):
    flow_kl(samplers.heun, ring().predict, unequal, karras(VariancePreserving(), 3))
