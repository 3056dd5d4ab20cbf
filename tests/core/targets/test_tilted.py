"""Tilted laws against quadrature, rejection's draws, autodiff and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from scorelab.schedules import VarianceExploding, VariancePreserving
from scorelab.targets import GaussianMixture, ring, two_modes_1d
from scorelab.targets.tilted import Tilted, tilted, tilted_gaussian

pytestmark = pytest.mark.usefixtures("x64")

LINE = functools.partial(two_modes_1d, 2.0)
SCALES = (0.5, 3.0, 10.0)
SKEW = [[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.1], [-0.1, 0.7]]]


def power(target, label, scale, x):
  """p(x)^(1-w) p(x | c)^w by its definition."""
  own = target.of_class(jnp.asarray(label)).log_prob(x)
  return jnp.exp((1 - scale) * target.log_prob(x) + scale * own)


@pytest.mark.e2e
@pytest.mark.parametrize("scale", SCALES)
def test_the_density_is_the_power_normalised(scale):
  """To 1e-6 of SciPy's adaptive quadrature, which the estimated error covers."""
  target = LINE()
  law = tilted(target, 0, scale)
  density = jax.jit(functools.partial(power, target, 0, scale))
  total = scipy.integrate.quad(lambda x: float(density(jnp.array([x]))), -12, 12, epsabs=1e-13)[0]
  x = jnp.linspace(-3, 2, 11)[:, None]
  np.testing.assert_allclose(jnp.exp(law.log_prob(x)) * total / density(x), 1, atol=1e-6)
  assert float(law.error) < 1e-4
  assert abs(jnp.exp(law.log_prob(x))[0] * total / density(x)[0] - 1) <= law.error + 1e-12


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [VarianceExploding(), VariancePreserving()])
@pytest.mark.parametrize("scale", SCALES)
def test_noised_laws_by_quadrature(schedule, scale):
  """log q_t, E[x_0 | x] and the score on the line where q_t > 1e-6, to 1e-5: the nodes' error."""
  law = tilted(LINE(), 0, scale)
  x0 = np.linspace(-8, 8, 8001)
  step = x0[1] - x0[0]
  density = np.exp(law.log_prob(jnp.asarray(x0)[:, None]))
  predict = jax.jit(law.predict)
  for ratio in (0.05, 0.7, 3.0):
    level = schedule.at_ratio(ratio)
    alpha, sigma = float(level.alpha), float(level.sigma)
    x = np.linspace(-8, 8, 201)[:, None]
    joint = density * scipy.stats.norm.pdf(x, alpha * x0, sigma) * step
    q = joint.sum(1)
    seen = q > 1e-6
    mean = joint @ x0 / q
    variance = joint @ x0**2 / q - mean**2
    pred = predict(x, level)
    np.testing.assert_allclose(pred.log_density[seen], np.log(q[seen]), atol=1e-5)
    np.testing.assert_allclose(pred.x0[seen, 0], mean[seen], atol=1e-5)
    np.testing.assert_allclose(pred.x0_variance[seen, 0], variance[seen], atol=1e-5)
    score = (alpha * mean - x[:, 0]) / sigma**2
    np.testing.assert_allclose(pred.score[seen, 0] * sigma, score[seen] * sigma, atol=3e-5)


@pytest.mark.e2e
def test_noised_law_in_the_plane_with_axes_of_its_own():
  """Against the trapezoidal rule over the plane, on skew components; the score is a gradient."""
  target = GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], SKEW)
  law, level = tilted(target, 1, 2.5), VariancePreserving().at_ratio(0.6)
  axis = np.linspace(-7, 7, 141)
  nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
  weights = np.exp(law.log_prob(nodes)) * (axis[1] - axis[0]) ** 2
  assert weights.sum() == pytest.approx(1, abs=1e-7)
  x = np.random.default_rng(0).normal(0, 1, (5, 2))
  apart = (x[:, None] - float(level.alpha) * nodes) / float(level.sigma)
  joint = weights * np.exp(-np.sum(apart**2, -1) / 2) / (2 * np.pi * float(level.sigma) ** 2)
  pred = jax.jit(law.predict)(x, level)
  np.testing.assert_allclose(jnp.exp(pred.log_density), joint.sum(1), rtol=1e-6)
  np.testing.assert_allclose(pred.x0, joint @ nodes / joint.sum(1)[:, None], atol=1e-6)
  gradient = jax.vmap(jax.grad(lambda x: law.predict(x, level).log_density))(x)
  np.testing.assert_allclose(pred.score, gradient, atol=1e-6)
  np.testing.assert_allclose(law.score(x), jax.vmap(jax.grad(law.log_prob))(x), atol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_draws_are_exact(scale):
  """Kolmogorov and Smirnov's test on the line; in the plane means and variances, 4 errors."""
  law = tilted(LINE(), 0, scale)
  x = np.linspace(-10, 10, 20001)
  mass = np.cumsum(np.exp(law.log_prob(jnp.asarray(x)[:, None]))) * (x[1] - x[0])
  draws = np.asarray(jax.jit(law.sample, static_argnums=1)(jax.random.key(0), 20_000))[:, 0]
  assert scipy.stats.kstest(draws, lambda at: np.interp(at, x, mass)).pvalue > 1e-3
  plane = tilted(ring(8, std=0.8), 2, scale)
  draws = np.asarray(jax.jit(plane.sample, static_argnums=1)(jax.random.key(1), 20_000))
  error = np.sqrt(np.asarray(plane.variance) / 20_000)
  assert (abs(draws.mean(0) - plane.mean) < 4 * error).all()
  kurtosis = np.mean((draws - draws.mean(0)) ** 4, 0) / draws.var(0) ** 2
  spread = np.asarray(plane.variance) * np.sqrt((kurtosis - 1) / 20_000)
  assert (abs(draws.var(0) - plane.variance) < 4 * spread).all()


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0, 5.0])
def test_gaussians_in_closed_form(scale):
  """N(0, 1) from N(0, 2): variance 2 / (1 + w)."""
  one, two = (GaussianMixture([1.0], [[0.0]], [v]) for v in (1.0, 2.0))
  law = tilted_gaussian(one, two, scale)
  assert float(law.variance[0]) == pytest.approx(2 / (1 + scale), rel=1e-12)


def test_skew_gaussians_are_powers():
  """In the plane, with means of their own: the log-density differs from the power's by log Z."""
  laws = [GaussianMixture([1.0], [m], [c]) for m, c in zip([[1.0, 0.0], [0, 0]], SKEW, strict=True)]
  law = tilted_gaussian(laws[0], laws[1], 1.3)
  x = np.random.default_rng(0).normal(0, 1, (6, 2))
  apart = law.log_prob(x) - 1.3 * laws[0].log_prob(x) + 0.3 * laws[1].log_prob(x)
  np.testing.assert_allclose(apart, apart[0], atol=1e-9)


@pytest.mark.e2e
def test_scales_0_and_1_are_mixtures():
  target, x = LINE(), jnp.linspace(-3, 3, 5)[:, None]
  np.testing.assert_allclose(tilted(target, 0, 0.0).log_prob(x), target.log_prob(x))
  own = tilted(target, 1, 1.0)
  np.testing.assert_allclose(own.log_prob(x), target.of_class(jnp.asarray(1)).log_prob(x))
  for scale in (1e-6, 1 - 1e-6, 1 + 1e-6):
    near = tilted(target, 0, scale)
    assert isinstance(near, Tilted)
    np.testing.assert_allclose(
      near.log_prob(x), jnp.log(power(target, 0, round(scale), x)), atol=2e-4
    )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((LINE, 2, 2.0), "label = 2 must be a component"),
    ((LINE, 0, -1.0), "scale = -1.0 must be at least 0"),
    ((lambda: GaussianMixture([1, 1], np.zeros((2, 3)), [1, 2.0]), 0, 2.0), "dimension 3"),
    ((lambda: GaussianMixture([1, 99], np.zeros((2, 1)), [1, 1.0]), 0, 9.0), "draws that are kept"),
  ],
)
def test_refusals(arguments, message):
  make, label, scale = arguments
  with pytest.raises(ValueError, match=message):
    tilted(make(), label, scale)


def test_gaussians_that_cannot_be_normalised_are_refused():
  one, two = (GaussianMixture([1.0], [[0.0]], [v]) for v in (1.0, 2.0))
  with pytest.raises(ValueError, match="positive definite"):
    tilted_gaussian(two, one, 3.0)
  with pytest.raises(ValueError, match="conditional has 2 components"):
    tilted_gaussian(LINE(), one, 1.0)
