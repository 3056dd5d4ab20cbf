"""Gaussian mixtures against numpyro, scipy, and draws of their own.

Exactness is root-mean-square relative error over points drawn from q_t, as a sampler meets them:
1e-5 in float32 and 1e-10 in float64, some ten times what was measured. Statistical tests allow
4 standard errors, or p > 1e-3, at fixed keys.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats

from scorelab.schedules import Level
from scorelab.targets import TARGETS
from scorelab.targets.marginals import Marginals
from scorelab.targets.mixtures import GaussianMixture, grid25, nine_modes, ring, two_modes_1d


def parameters(kind, dim, k=4, seed=0):
  """Weights, means and covariances, in float32's numbers so that both precisions share them."""
  rng = np.random.default_rng(seed)
  if kind == "isotropic":
    covariances = rng.uniform(0.05, 2, k)
  elif kind == "diagonal":
    covariances = rng.uniform(0.05, 2, (k, dim))
  else:
    a = rng.normal(size=(k, dim, dim))
    covariances = a @ a.swapaxes(1, 2) / dim + 0.05 * np.eye(dim)
  given = rng.uniform(0.2, 1, k), 5 * rng.normal(size=(k, dim)), covariances
  return tuple(a.astype(np.float32) for a in given)


def dense(covariances, dim):
  """[k, d, d] float64, whatever the shape given."""
  c = np.asarray(covariances, float)
  return c if c.ndim == 3 else c.reshape(len(c), -1, 1) * np.eye(dim)


def oracle(given, alpha, sigma):
  """numpyro's law of x_t, to be used in float64."""
  weights, means, covariances = (jnp.asarray(a, float) for a in given)
  dim = means.shape[1]
  return dist.MixtureSameFamily(
    dist.Categorical(probs=weights / weights.sum()),
    dist.MultivariateNormal(alpha * means, alpha**2 * covariances + sigma**2 * jnp.eye(dim)),
  )


def draw(given, n, seed=0):
  """n points [n, d] of a mixture, by numpy."""
  weights, means, covariances = (np.asarray(a, float) for a in given)
  rng, dim = np.random.default_rng(seed), means.shape[1]
  k = rng.choice(len(weights), n, p=weights / weights.sum())
  roots = np.linalg.cholesky(dense(covariances, dim))
  return means[k] + np.einsum("nij,nj->ni", roots[k], rng.normal(size=(n, dim)))


@jax.jit
def oracle_at(given, alpha, sigma, x):
  """Log-density and score at x [levels, n, d], for alpha and sigma [levels]."""

  def at(alpha, sigma, x):
    return jax.vmap(jax.value_and_grad(oracle(given, alpha, sigma).log_prob))(x)

  return jax.vmap(at)(alpha, sigma, x)


@jax.jit
def exact(q, alpha, sigma, x):
  """The same of our mixture, and its prediction: one point at a time, each at a level."""

  def at(alpha, sigma, x):
    return q.perturbed(alpha, sigma).log_prob(x)

  alpha, sigma = (jnp.broadcast_to(a[:, None], x.shape[:2]) for a in (alpha, sigma))
  log_prob, p = jax.vmap(jax.vmap(at))(alpha, sigma, x), q.predict(x, Level(None, alpha, sigma))
  return log_prob, p, q.scale


def rms(error):
  """Root mean square of [levels, ...], by level."""
  return np.sqrt(np.mean(np.square(error), tuple(range(1, np.ndim(error)))))


CASES = [
  *(("isotropic", 1), ("isotropic", 50), ("full", 2), ("full", 50), ("diagonal", 50)),
  pytest.param("isotropic", 2, marks=pytest.mark.e2e),
  pytest.param("full", 1, marks=pytest.mark.e2e),
]


@pytest.mark.e2e
@pytest.mark.parametrize("kind, dim", CASES)
def test_predict_is_the_gradient_of_numpyros_density(kind, dim):
  """Score and log-density by autodiff in float64; x0 from them by Tweedie's formula.

  Levels: sigma / alpha from 1e-3 to 1e3, variance-exploding and variance-preserving.
  """
  given, ratio = parameters(kind, dim), np.logspace(-3, 3, 7)
  alpha = np.concatenate([np.ones(7), 1 / np.sqrt(1 + ratio**2)]).astype(np.float32)
  sigma = (alpha * np.tile(ratio, 2)).astype(np.float32)
  full = dense(given[2], dim)
  noisy = [
    (given[0], a * given[1], a**2 * full + s**2 * np.eye(dim))
    for a, s in zip(alpha, sigma, strict=True)
  ]
  x = np.stack([draw(g, 200) for g in noisy]).astype(np.float32)
  with jax.enable_x64(True):
    in_float64 = jax.tree.map(np.float64, ((*given[:2], full), alpha, sigma, x))
    log_prob, score = (np.asarray(a) for a in oracle_at(*in_float64))
  a, s = (np.float64(b)[:, None, None] for b in (alpha, sigma))
  tweedie = (x + s**2 * score) / a
  for dtype, tolerance in [(np.float32, 1e-5), (np.float64, 1e-10)]:
    with jax.enable_x64(dtype is np.float64):
      q = GaussianMixture(*(a.astype(dtype) for a in given))
      ours, p, scale = exact(q, *(b.astype(dtype) for b in (alpha, sigma, x)))
      assert ours.dtype == p.score.dtype == p.x0.dtype == p.x0_variance.dtype == dtype
    assert (rms(np.asarray(ours, float) - log_prob) / rms(log_prob)).max() < tolerance
    assert (rms(np.asarray(p.score, float) - score) / rms(score)).max() < tolerance
    assert (rms(np.asarray(p.x0, float) - tweedie) / float(scale)).max() < tolerance


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_x0_variance_is_the_curvature_of_numpyros_density(kind):
  """Cov[x0 | x_t] = sigma^2 / alpha^2 (I + sigma^2 Hessian): second-order Tweedie, float64."""
  given = parameters(kind, 2)
  ratio = np.geomspace(0.1, 10, 14)
  alpha = np.float32(1 / np.sqrt(1 + ratio**2))
  sigma = np.float32(alpha * ratio)
  x = np.stack([a * draw(given, 200) + s for a, s in zip(alpha, sigma, strict=True)])
  x = x.astype(np.float32)

  @jax.jit
  @jax.vmap
  def curvature(alpha, sigma, x):
    density = oracle((*given[:2], dense(given[2], 2)), alpha, sigma)
    hessian = jax.vmap(jax.hessian(density.log_prob))(x)
    return (sigma / alpha) ** 2 * (1 + sigma**2 * jnp.diagonal(hessian, axis1=1, axis2=2))

  with jax.enable_x64(True):
    expected = np.asarray(curvature(*map(np.float64, (alpha, sigma, x))))
  for dtype, tolerance in [(np.float32, 1e-5), (np.float64, 1e-10)]:
    with jax.enable_x64(dtype is np.float64):
      q = GaussianMixture(*(a.astype(dtype) for a in given))
      variance = exact(q, *(a.astype(dtype) for a in (alpha, sigma, x)))[1].x0_variance
    assert (rms(np.asarray(variance, float) - expected) / rms(expected)).max() < tolerance


@pytest.mark.e2e
def test_posterior_mean_by_importance_sampling():
  """E[x0 | x_t] is the mean of prior draws weighted by the likelihood of x_t."""
  given = parameters("full", 2)
  x0 = draw(given, 200_000)
  alpha, sigma = 0.7, 2.0
  x = np.array([[0.5, -1.0], [3.0, 2.0], [-4.0, 1.0]], np.float32)
  log_likelihood = -((x[:, None] - alpha * x0) ** 2).sum(-1) / (2 * sigma**2)
  w = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
  w /= w.sum(1, keepdims=True)
  mean = w @ x0
  error = np.sqrt(np.einsum("bn,bnd->bd", w**2, (x0 - mean[:, None]) ** 2))
  actual = GaussianMixture(*given).posterior_mean(x, Level(None, alpha, sigma))
  assert (np.abs(actual - mean) < 4 * error).all()
  assert error.max() < 0.1  # the check has power


DIRECTIONS = np.array([[1.0, 0.0], [0.6, -0.8], [0.0, 1.0]])
cdf, partial_mean = jax.jit(Marginals.cdf), jax.jit(Marginals.partial_mean)
marginal = jax.jit(GaussianMixture.marginal)
quantile = jax.jit(lambda q, directions, u: q.marginal(directions).quantile(u))
predict = jax.jit(GaussianMixture.predict)
sample_posterior = jax.jit(GaussianMixture.sample_posterior)
sample = jax.jit(GaussianMixture.sample_with_components, static_argnums=2)


@jax.jit
def moments(q):
  """The properties of a mixture; jitted, since a test's time is the compiler's."""
  names = ("weights", "covariances", "mean", "variance", "covariance", "scale", "bounds")
  return {name: getattr(q, name) for name in names}


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_sample_posterior_restores_the_joint_law(kind):
  """(x0', x_t) with x0' drawn given x_t has the law of (x0, x_t); each x has a level of its own."""
  given, n = parameters(kind, 2), 10_000
  ratio = np.exp(np.linspace(-2, 2, n))[:, None]
  alpha = 1 / np.sqrt(1 + ratio**2)
  x0, other = draw(given, n, seed=0), draw(given, n, seed=1)
  z = np.random.default_rng(2).normal(size=(2, n, 2))
  x, y = alpha * (x0 + ratio * z[0]), alpha * (other + ratio * z[1])
  level = Level(None, *(jnp.float32(a[:, 0]) for a in (alpha, alpha * ratio)))
  drawn = np.asarray(sample_posterior(GaussianMixture(*given), jax.random.key(0), x, level))
  # Fresh pairs (other, y) against (drawn, x), in the coordinates and in what ties them.
  for view in [
    lambda a, b: a[:, 0],
    lambda a, b: a[:, 1],
    lambda a, b: a[:, 0] - b[:, 0],
    lambda a, b: a[:, 1] * b[:, 1],
    lambda a, b: (a * b).sum(1),
  ]:
    assert scipy.stats.ks_2samp(view(drawn, x), view(other, y)).pvalue > 1e-3


def test_sample_posterior_has_the_predicted_moments():
  q, n = GaussianMixture(*parameters("full", 2)), 10_000
  x, level = jnp.array([1.0, -2.0]), Level(None, jnp.float32(0.8), jnp.float32(3.0))
  draws = sample_posterior(q, jax.random.key(4), jnp.tile(x, (n, 1)), level)
  draws, p = np.asarray(draws), predict(q, x, level)
  squares = (draws - p.x0) ** 2
  assert (np.abs(draws.mean(0) - p.x0) < 4 * draws.std(0) / n**0.5).all()
  assert (np.abs(squares.mean(0) - p.x0_variance) < 4 * squares.std(0) / n**0.5).all()
  posterior = moments(jax.jit(GaussianMixture.posterior)(q, x, level))
  np.testing.assert_allclose(posterior["mean"], p.x0, rtol=1e-5)
  np.testing.assert_allclose(posterior["variance"], p.x0_variance, rtol=1e-5)
  assert max(posterior["weights"]) < 0.9  # several components have a say


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_samples_follow_the_density(kind):
  given, n = parameters(kind, 3), 10_000
  q = GaussianMixture(*given)
  x, component = (np.asarray(a) for a in sample(q, jax.random.key(0), n))
  share = np.bincount(component, minlength=4) / n
  q = jax.tree.map(np.asarray, moments(q))
  weights = q["weights"]
  np.testing.assert_allclose(weights, given[0] / given[0].sum(), rtol=1e-6)
  assert (np.abs(share - weights) < 4 * np.sqrt(weights * (1 - weights) / n)).all()
  for k in range(4):
    part = np.float64(x)[component == k]
    whitened = np.linalg.solve(np.linalg.cholesky(dense(given[2], 3)[k]), (part - given[1][k]).T)
    assert scipy.stats.kstest(whitened.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(whitened) - np.eye(3)).max() < 4 / len(part) ** 0.5
  # The moments of the whole, by their definitions.
  assert (np.abs(x.mean(0) - q["mean"]) < 4 * x.std(0) / n**0.5).all()
  apart = x - q["mean"]
  products = apart[:, :, None] * apart[:, None, :]
  assert (np.abs(products.mean(0) - q["covariance"]) < 4 * products.std(0) / n**0.5).all()
  diagonal = np.diag(q["covariance"])
  np.testing.assert_allclose(q["variance"], diagonal, rtol=1e-5)
  np.testing.assert_allclose(q["scale"], np.sqrt(diagonal.mean()), rtol=1e-5)
  np.testing.assert_allclose(q["covariances"], given[2], atol=1e-5)
  low, high = q["bounds"]
  assert ((low < x) & (x < high)).mean() > 0.999


def test_perturbed_is_the_law_of_noisy_draws():
  given, n, alpha, sigma = parameters("full", 2), 10_000, 0.6, 1.3
  x = alpha * draw(given, n) + sigma * np.random.default_rng(1).normal(size=(n, 2))
  law = marginal(GaussianMixture(*given).perturbed(alpha, sigma), np.float32(DIRECTIONS))
  u = np.asarray(cdf(law, jnp.float32(x @ DIRECTIONS.T)))
  assert min(scipy.stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3


def test_responsibilities_recover_the_component():
  """Among the points that are given to a component with confidence p, a share p comes from it."""
  q = ring(std=1.0)
  x, component = sample(q, jax.random.key(0), 10_000)
  r = np.asarray(jax.jit(GaussianMixture.responsibilities)(q, x))
  np.testing.assert_allclose(r.sum(1), 1, rtol=1e-5)
  right, p = np.asarray(component) == r.argmax(1), r.max(1)
  for some in (p < 0.7, p > 0.7):
    error = right[some].mean() - p[some].mean()
    assert abs(error) < 4 * np.sqrt((p * (1 - p))[some].mean() / some.sum())


def line(given, direction):
  """Weights, means and stds of the mixture along a direction, in numpy."""
  weights, means, covariances = (np.asarray(a, float) for a in given)
  variances = np.einsum("i,kij,j->k", direction, dense(covariances, 2), direction)
  return weights / weights.sum(), means @ direction, np.sqrt(variances)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_marginals_are_scipys(kind):
  given = parameters(kind, 2)
  with jax.enable_x64(True):
    law = marginal(GaussianMixture(*(a.astype(float) for a in given)), DIRECTIONS)
    x = np.random.default_rng(0).normal(size=(5, 3)) * 6
    mean, second_moment = (np.asarray(a) for a in (law.mean, law.second_moment))
    np.testing.assert_allclose(partial_mean(law, np.full((5, 3), np.inf))[0], mean, 1e-12)
    below, partial = (np.asarray(f(law, x)) for f in (cdf, partial_mean))
    for i, direction in enumerate(DIRECTIONS):
      w, m, s = line(given, direction)
      np.testing.assert_allclose(below[:, i], scipy.stats.norm.cdf(x[:, i, None], m, s) @ w, 1e-12)
      np.testing.assert_allclose(mean[i], w @ m, rtol=1e-12)
      np.testing.assert_allclose(second_moment[i], w @ (m**2 + s**2), rtol=1e-12)
      low = (m - 12 * s).min()
      for j in range(5):
        area, _ = scipy.integrate.quad(
          lambda t, w=w, m=m, s=s: t * (scipy.stats.norm.pdf(t, m, s) @ w),
          low,
          x[j, i],
          points=np.sort(m)[np.sort(m) < x[j, i]],
          limit=200,
        )
        np.testing.assert_allclose(partial[j, i], area, atol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "target", [nine_modes, pytest.param(grid25, marks=pytest.mark.e2e)], ids=lambda f: f.__name__
)
def test_quantile_inverts_the_cdf(target):
  """By scipy's cdf; x itself to 1e-10 in float64, and in float32 to what its parameters hold."""
  u = np.concatenate([[1e-6, 1e-3], (np.arange(100) + 0.5) / 100, [1 - 1e-3]]).astype(np.float32)
  found = {}
  for dtype, tolerance in [(np.float32, 4e-6), (np.float64, 1e-14)]:
    with jax.enable_x64(dtype is np.float64):
      q, directions = target(), DIRECTIONS.astype(dtype)
      given = moments(q)["weights"], q.means, q.variances[:, 0]
      x = np.asarray(quantile(q, directions, u.astype(dtype)))
    assert x.shape == (103, 3) and x.dtype == dtype
    assert (np.diff(x, axis=0) > 0).all()
    found[dtype] = x.astype(float)
    for i, direction in enumerate(DIRECTIONS):
      w, m, s = line(given, direction)
      z = (found[dtype][:, i, None] - m) / s
      # Float32's tolerance is density times the rounding of x: 0.2 at 10, 4 eps.
      np.testing.assert_allclose(scipy.stats.norm.cdf(z) @ w, u, atol=tolerance)
      density = (scipy.stats.norm.pdf(z) / s) @ w
      if dtype is np.float64:
        with jax.enable_x64(True):
          back = np.asarray(quantile(q, directions, scipy.stats.norm.cdf(z) @ w))[:, i]
        assert (np.abs(back - x[:, i])[density > 1e-3] < 1e-10).all()
        error = np.abs(found[np.float32] - x)[:, i] * np.minimum(density, 1)
        assert (error / (1 + np.abs(x[:, i]))).max() < 1e-6


def test_quantiles_are_those_of_a_large_sample():
  q, n, u = nine_modes(), 100_000, np.array([0.05, 0.3, 0.6, 0.9], np.float32)
  x = draw((np.exp(q.log_weights), q.means, q.variances[:, 0]), n) @ DIRECTIONS.T
  found = np.asarray(quantile(q, np.float32(DIRECTIONS), u))
  below = (x[None] <= found[:, None]).mean(1)
  assert (np.abs(below - u[:, None]) < 4 * np.sqrt(u * (1 - u) / n)[:, None]).all()


def test_quantile_at_the_ends_and_in_the_far_tail():
  found = quantile(two_modes_1d(), np.ones((1, 1)), np.float32([0, 1e-30, np.nan, 1]))
  # The left mode alone holds the tail: 1/3 of N(-2, 1/4).
  expected = [-np.inf, scipy.stats.norm.ppf(3e-30, -2, 0.5), np.nan, np.inf]
  np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_the_ends_of_a_process():
  """sigma = 0 is the data itself, alpha = 0 knows nothing of it."""
  q, x = GaussianMixture(*parameters("full", 2)), np.float32(draw(parameters("full", 2), 5))
  p = predict(q, x, Level(None, 0.5, 0.0))
  np.testing.assert_allclose(p.x0, 2 * x, rtol=1e-5)
  np.testing.assert_allclose(p.x0_variance, 0, atol=1e-9)
  p = predict(q, x, Level(None, 1.0, 0.0))
  np.testing.assert_allclose(p.score, jax.jit(GaussianMixture.score)(q, x), rtol=1e-5)
  p = predict(q, x, Level(None, 0.0, 1.0))
  np.testing.assert_allclose(p.x0, np.tile(moments(q)["mean"], (5, 1)), rtol=1e-5)
  np.testing.assert_allclose(p.x0_variance, np.tile(moments(q)["variance"], (5, 1)), rtol=1e-5)
  np.testing.assert_allclose(p.score, -x, rtol=1e-6)


def test_a_batch_of_levels_is_each_of_them():
  q, x = GaussianMixture(*parameters("full", 2)), np.float32(draw(parameters("full", 2), 6))
  alpha, sigma = np.float32([1, 0.9, 0.5, 0.1, 0, 1]), np.float32([0, 0.1, 2, 5, 10, 1e3])
  batch = predict(q, x, Level(None, alpha, sigma))
  grid = predict(q, x.reshape(3, 2, 2), Level(None, alpha.reshape(3, 2), sigma.reshape(3, 2)))
  for view in ("score", "x0", "x0_variance", "noise"):
    together = np.asarray(getattr(batch, view))
    apart = [getattr(predict(q, x[i], Level(None, alpha[i], sigma[i])), view) for i in range(6)]
    np.testing.assert_allclose(together, np.stack(apart), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.reshape(getattr(grid, view), (6, 2)), together, 1e-4, 1e-6)


@pytest.mark.e2e
def test_extremes_stay_finite_and_right():
  """float32: weights of 1e-300 and 0, sigma 1e-8, points at 1e6."""
  score, log_prob = jax.jit(GaussianMixture.score), jax.jit(GaussianMixture.log_prob)
  means = np.float32([[0, 0], [100, 0], [0, 20]])
  q = GaussianMixture([1.0, 1e-300, 0.0], means, [0.1, 1.0, 0.1])
  np.testing.assert_allclose(q.log_weights, [0, np.log(1e-300), -np.inf])
  # Near the mode of weight 1e-300 it alone counts; near the one of weight 0, the others do.
  np.testing.assert_allclose(score(q, means[1] + 1), [-1, -1], rtol=1e-5)
  np.testing.assert_allclose(score(q, means[2] + 1), [-10, -210], rtol=1e-5)
  assert (sample(q, jax.random.key(0), 1000)[1] == 0).all()

  # Far away the widest component rules: score (m - x) / v, x0 = m + (c / v) (x - m).
  q = GaussianMixture([1.0, 1.0, 0.0], means, [0.1, 1.0, 5.0])
  x = np.float32([[1e6, 0], [-1e6, 1e6], [1e6, 3]])
  for sigma in (0.0, 1e-8, 1.0, 10.0):
    p = predict(q, x, Level(None, 1.0, sigma))
    np.testing.assert_allclose(p.score, (means[1] - x) / (1 + sigma**2), rtol=1e-5)
    np.testing.assert_allclose(p.x0, means[1] + (x - means[1]) / (1 + sigma**2), rtol=1e-5)
    assert np.isfinite(log_prob(q, x)).all() and (p.x0_variance >= 0).all()

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def gradient(q, x, sigma):
    p = q.predict(x, Level(None, 1.0, sigma))
    return jnp.sum(p.x0 + p.x0_variance + p.score) + jnp.sum(q.log_prob(x))

  for x, sigma in [(means, 1e-8), (means + 1, 0.0), (1e4 * means, 1.0), (means, 1e3)]:
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(q, x, sigma)))

  @jax.jit
  @jax.grad
  def to_weights(weights):
    return GaussianMixture(weights, means, np.ones(3)).log_prob(means).sum()

  assert np.isfinite(to_weights(np.float32([1, 0, 2]))).all()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_numbers_can_be_traced_and_vmapped(kind):
  weights, means, covariances = given = parameters(kind, 2)
  q, x = GaussianMixture(*given), np.float32(draw(given, 6))
  log_prob = jax.jit(GaussianMixture.log_prob)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0, None))
  def traced(weights, means, covariances):
    return GaussianMixture(weights, means, covariances)

  shifted = traced(weights, np.stack([means, means + 1]), covariances)
  both = jax.jit(jax.vmap(lambda q: q.log_prob(x)))(shifted)
  np.testing.assert_allclose(both[0], log_prob(q, x), rtol=1e-5)
  np.testing.assert_allclose(both[1], log_prob(q, x - 1), rtol=1e-5)
  by_level = jax.jit(jax.vmap(lambda s: q.perturbed(1.0, s).log_prob(x)))(np.float32([0.1, 10]))
  np.testing.assert_allclose(by_level[1], log_prob(q.perturbed(1.0, 10.0), x), rtol=1e-5)

  # Gradients with respect to the parameters are numpyro's.
  def ours(*given):
    return GaussianMixture(*given).log_prob(x).sum()

  def numpyros(weights, means, covariances):
    c = covariances if kind == "full" else covariances[:, None, None] * jnp.eye(2)
    return oracle((weights, means, c), 1.0, 0.0).log_prob(x).sum()

  def symmetric(g):  # only symmetric changes of a covariance matter
    return (g + g.swapaxes(1, 2)) / 2 if g.ndim == 3 else g

  pairs = zip(*(jax.jit(jax.grad(f, (0, 1, 2)))(*given) for f in (ours, numpyros)), strict=True)
  for actual, expected in pairs:
    np.testing.assert_allclose(symmetric(actual), symmetric(expected), rtol=1e-3, atol=1e-3)


def test_keys_are_consumed_once():
  q = two_modes_1d()
  with jax.debug_key_reuse(True):
    x, _ = sample(q, jax.random.key(0), 4)
    sample_posterior(q, jax.random.key(1), x, Level(None, 1.0, 1.0))
    used = jax.random.key(2)
    sample(q, used, 4)
    with pytest.raises(jax.errors.KeyReuseError):  # the check is on
      sample(q, used, 4)


@pytest.mark.parametrize(
  "given, message",
  [
    (([1.0], np.zeros((2, 2)), np.ones(2)), r"weights \(1,\)"),
    (([1.0, 1.0], np.zeros(2), np.ones(2)), r"means \(2,\)"),
    (([1.0, 1.0], np.zeros((2, 3)), np.ones((2, 2))), r"covariances \(2, 2\)"),
    (([1.0, -1.0], np.zeros((2, 3)), np.ones(2)), "weights must be"),
    (([0.0, 0.0], np.zeros((2, 3)), np.ones(2)), "weights must be"),
    (([1.0, 1.0], np.zeros((2, 3)), [1.0, -1.0]), "positive semi-definite"),
    (([1.0], np.zeros((1, 2)), [[[1.0, 3.0], [3.0, 1.0]]]), "positive semi-definite"),
    (([1.0], np.zeros((1, 2)), [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
  ],
)
def test_bad_parameters_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    GaussianMixture(*given)


@pytest.mark.parametrize("name", ["nine_modes", "ring", "grid25", "two_modes_1d"])
def test_named_mixtures_are_registered(name):
  q = TARGETS[name]()
  low, high = (np.asarray(a) for a in moments(q)["bounds"])
  assert ((low < q.means) & (q.means < high)).all()


def test_named_mixtures_are_the_published_ones():
  # The notebook's modes and weights, by the frequencies of the nearest mode.
  modes = [(x, y) for y in (-10, 0, 10) for x in (-10, 0, 10)]
  x = np.asarray(sample(nine_modes(), jax.random.key(0), 20_000)[0])
  nearest = ((x[:, None] - np.array(modes)) ** 2).sum(-1).argmin(1)
  share = np.bincount(nearest, minlength=9) / len(x)
  published = np.array([99, 138, 125, 114, 91, 119, 15, 157, 142]) / 1000
  assert (np.abs(share - published) < 5e-4 + 4 * np.sqrt(published / len(x))).all()
  np.testing.assert_allclose((x - np.array(modes)[nearest]).var(0), 0.1, rtol=0.04)  # 4 errors

  np.testing.assert_allclose(np.linalg.norm(ring().means, axis=1), 8**0.5, rtol=1e-6)
  assert ring(num_modes=5).means.shape == (5, 2)
  tiled = np.asarray(grid25(dim=8).means)
  assert tiled.shape == (25, 8) and len(np.unique(tiled[:, :2], axis=0)) == 25
  np.testing.assert_array_equal(tiled, np.tile(tiled[:, :2], 4))
  assert set(np.unique(tiled)) == {-16, -8, 0, 8, 16}
  with pytest.raises(ValueError, match="dim = 3 must be even"):
    grid25(dim=3)
