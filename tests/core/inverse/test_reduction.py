"""Problems in the subspace of the modes and of A's rows: the same posterior, the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.inverse import POSTERIOR_SAMPLERS, POSTERIORS, observed, reduced, tmpd
from scorelab.samplers import ancestral
from scorelab.schedules import VarianceExploding, karras
from scorelab.targets import GaussianMixture, grid25


def problem(d=20, m=3, noise_std=0.3):
  target = grid25(d)
  a = np.random.default_rng(0).normal(size=(m, d)) / d**0.5
  return target, observed(jax.random.key(0), a, target.sample(jax.random.key(1), 1)[0], noise_std)


@pytest.mark.e2e
def test_densities_are_products(x64):
  """log p(x | y) is that of z plus that of N(0, I) outside, at points that `embed` makes."""
  target, seen = problem()
  few = reduced(target, seen)
  assert few.basis.shape == (20, 5)
  np.testing.assert_allclose(few.basis.T @ few.basis, np.eye(5), atol=1e-12)
  rng = np.random.default_rng(1)
  z, rest = 20 * rng.normal(size=(4, 5)), rng.normal(size=(4, 20))
  x = few.embed(z, rest)
  np.testing.assert_allclose(x @ few.basis, z, atol=1e-10)
  outside = rest - rest @ few.basis @ few.basis.T
  rests = -(outside**2).sum(1) / 2 - 15 / 2 * np.log(2 * np.pi)
  log_p = target.given(seen).log_prob(jnp.asarray(x))
  there = few.target.given(few.observation).log_prob(jnp.asarray(z))
  np.testing.assert_allclose(log_p, there + rests, rtol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dps", "pigdm", "tmpd", "ddnm"])
def test_predictions_commute_with_the_embedding(name, x64):
  """A conditional x0 in all dimensions is the embedded one, and the prior's outside."""
  target, seen = problem()
  few = reduced(target, seen)
  rng = np.random.default_rng(2)
  z, rest = 5 * rng.normal(size=(3, 5)), rng.normal(size=(3, 20))
  level = VarianceExploding().at_ratio(3.0)
  whole = POSTERIORS[name](target.predict, seen)(jnp.asarray(few.embed(z, rest)), level).x0
  part = POSTERIORS[name](few.target.predict, few.observation)(jnp.asarray(z), level).x0
  np.testing.assert_allclose(whole, few.embed(part, rest / (1 + level.sigma**2)), atol=1e-8)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "name, options",
  [
    ("mcgdiff", {"particles": 8}),
    pytest.param(
      *("tds", {"particles": 8, "twist": tmpd, "data_std": 1.0}), marks=pytest.mark.slow
    ),
    ("ddrm", {}),
    ("repaint", {"repeats": 2}),
  ],
)
def test_samples_have_the_same_law(name, options):
  """Means and variances along the subspace's axes and outside, within 5 standard errors."""
  target, seen = problem(8, 2)
  few = reduced(target, seen)
  grid, n = karras(VarianceExploding(sigma_max=100.0), 30), 2000
  run = POSTERIOR_SAMPLERS[name]

  def sample(key, target, seen):
    x = grid.prior(jax.random.key(key), (n, target.dim))
    return run(jax.random.key(key + 1), target.predict, x, grid, seen, **options).x

  alone = GaussianMixture([1.0], [[0.0]], [1.0])
  none = observed(jax.random.key(0), np.zeros((1, 1)), jnp.zeros(1), 1.0)
  whole, part, rest = sample(0, target, seen), sample(2, few.target, few.observation), None
  rest = sample(4, alone, none)
  inside = np.asarray(whole) @ few.basis
  outside = np.asarray(whole) - inside @ few.basis.T
  np.testing.assert_allclose(
    (outside**2).sum(1).mean(), 4 * np.var(rest), atol=5 * 4 * (2 / n) ** 0.5
  )
  for moment in (lambda a: a, lambda a: a**2):
    here, there = moment(inside), moment(np.asarray(part))
    error = np.sqrt((here.var(0) + there.var(0)) / n)
    assert (np.abs(here.mean(0) - there.mean(0)) < 5 * error).all()


def test_other_covariances_are_refused():
  seen = problem()[1]
  target = GaussianMixture([1.0, 1.0], np.zeros((2, 20)), [1.0, 2.0])
  with pytest.raises(ValueError, match="one isotropic covariance"):
    reduced(target, seen)


@pytest.mark.e2e
def test_a_sampler_runs_on_a_reduced_problem():
  few = reduced(*problem(800, 1))
  grid = karras(VarianceExploding(sigma_max=2000.0), 10)
  x = grid.prior(jax.random.key(0), (5, 3))
  samples = ancestral(jax.random.key(1), tmpd(few.target.predict, few.observation), x, grid)
  assert few.embed(samples.x, np.zeros((5, 800))).shape == (5, 800)
