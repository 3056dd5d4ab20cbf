"""Log-likelihoods by the probability flow, with exact scores, against densities in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.likelihood.flow import METHODS, STATUSES, adaptive_log_likelihood, log_likelihood
from scorelab.predictions import EDM, Prediction, signal_level
from scorelab.schedules import (
  LinearFlow,
  SubVP,
  VarianceExploding,
  VariancePreserving,
  uniform,
  uniform_log_snr,
)
from scorelab.targets.mixtures import GaussianMixture, nine_modes

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SCHEDULES = {  # with their priors' stds; the flow's grid begins at pure noise, alpha = 0
  "ve_1": (VarianceExploding(0.002, 1.0), 1.0),
  "ve_10": (VarianceExploding(0.002, 10.0), 10.0),
  "ve_80": (VarianceExploding(0.002, 80.0), 80.0),
  "vp": (VariancePreserving(), 1.0),
  "sub_vp": (SubVP(), 1.0),
  "flow": (LinearFlow(), 1.0),
}


@functools.partial(jax.jit, static_argnums=0, static_argnames=("method", "num_steps"))
def run(make_target, x, schedule, *, method="rk4", num_steps=32):
  grid = uniform(schedule, num_steps)
  return log_likelihood(KEY, make_target().predict, x, grid, method=method), grid


def gaussian():
  return GaussianMixture([1.0], np.zeros((1, 2)), np.array([0.25]))


def normal(x, variance):
  """Log-density of N(0, variance I_d) at x [n, d]."""
  return -(np.sum(x**2, 1) / variance + x.shape[1] * np.log(2 * np.pi * variance)) / 2


@pytest.mark.e2e
@pytest.mark.parametrize("name", SCHEDULES)
def test_of_a_gaussian(name, x64):
  """At every point, and in the mean, which four points on a circle of radius E |x|^2 have exactly.

  The flow multiplies x by a number, so that where the prior is not the law at the noisiest level
  the miss at x is log prior - log p_T at that multiple, in the mean -KL. RK4's own error in 31
  steps is 2e-5 here.
  """
  schedule, prior_std = SCHEDULES[name]
  grid = uniform(schedule, 32)
  clean, noisy = (float(0.25 * g.alpha**2 + g.sigma**2) for g in (grid[-2], grid[0]))
  x = np.sqrt(2 * clean) * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
  result, _ = run(gaussian, x, schedule)
  end = x * np.sqrt(noisy / clean)
  np.testing.assert_allclose(result.z, end, 1e-4, 1e-9)
  miss = normal(end, prior_std**2) - normal(end, noisy)
  np.testing.assert_allclose(result.log_prob, normal(x, clean) + miss, atol=1e-4)
  ratio = noisy / prior_std**2
  kl = ratio - 1 - np.log(ratio)
  mean = -np.log(2 * np.pi * clean) - 1
  np.testing.assert_allclose(np.mean(result.log_prob), mean - kl, atol=1e-4)
  assert kl < 1e-4 or name == "ve_1"
  if name in ("ve_10", "ve_80"):  # whose last noisy level is the data, to 1e-5
    assert np.mean(result.log_prob) == pytest.approx(-1.4516, abs=1e-3)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "name",
  [
    "flow",
    *(pytest.param(n, marks=pytest.mark.e2e) for n in ("ve_80", "vp")),
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("ve_10", "sub_vp")),
  ],
)
def test_of_nine_modes(name, x64):
  """At every point, on modes and in their tails, but for the prior, and in the mean with it.

  Not half-way between modes, where log p is -100 and no such steps follow the flow.
  """
  schedule, prior_std = SCHEDULES[name]
  target, (first, second) = nine_modes(), jax.random.split(KEY)
  level = uniform(schedule, 128)[-2]
  x = level.alpha * target.sample(first, 40)
  x = x + level.sigma * jax.random.normal(second, x.shape)
  x = jnp.concatenate([x, level.alpha * jnp.array([[0.7, 0.3], [-9.5, 10.6], [10.9, 0.0]])])
  result, grid = run(nine_modes, x, schedule, num_steps=128)
  truth = target.perturbed(level.alpha, level.sigma).log_prob(x)
  noisy = target.perturbed(grid[0].alpha, grid[0].sigma)
  prior_miss = normal(np.asarray(result.z), prior_std**2) - noisy.log_prob(result.z)
  error = np.asarray(result.log_prob - truth)
  np.testing.assert_allclose(error, prior_miss, atol=1e-3)
  if name != "ve_10":
    # The prior's KL is below 1e-4; of a mean over 40 its misses leave 4 / 40^0.5 their std.
    assert abs(np.mean(error[:40])) < 1e-3 + 4 * np.std(prior_miss[:40]) / 40**0.5


@pytest.mark.e2e
@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("rk4", 4)])
def test_order_of_convergence(method, order, x64):
  """16 and 32 steps, correlated coordinates, against the flow in closed form."""
  mean, covariance = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
  target, schedule = GaussianMixture([1.0], mean[None], covariance[None]), VariancePreserving()
  x = np.random.default_rng(0).normal(size=(16, 2)) + mean

  @functools.partial(jax.jit, static_argnums=0)
  def errors(num_steps):
    grid = uniform_log_snr(schedule, num_steps, sigma_max=20.0, sigma_min=0.05, to_data=False)
    result = log_likelihood(KEY, target.predict, x, grid, method=method)
    return result, grid[-1], grid[0]

  measured = []
  for num_steps in (16, 32):
    result, start, end = errors(num_steps)
    v, axes = np.linalg.eigh(covariance)
    stretch = np.sqrt((end.alpha**2 * v + end.sigma**2) / (start.alpha**2 * v + start.sigma**2))
    z = end.alpha * mean + (x - start.alpha * mean) @ axes * stretch @ axes.T
    error = result.log_prob - normal(z, 1.0) - np.sum(np.log(stretch))
    measured.append(np.sqrt(np.mean(error**2)))
  assert np.log2(measured[0] / measured[1]) == pytest.approx(order, abs=0.25)


def network(event_ndim=1):
  """A predict function that is right for no data but smooth, with a full Jacobian."""

  def apply(variables, x, c, rngs=None):
    mixed = x + jnp.roll(x, 1, axis=1)
    return jnp.sin(2 * mixed + c.reshape(c.shape + (1,) * event_ndim))

  return EDM(apply, signal_level, event_ndim=event_ndim).bind(None)


@pytest.mark.e2e
@pytest.mark.parametrize("probes", ["rademacher", "gaussian", "sphere"])
def test_hutchinson_is_unbiased(probes, x64):
  """Over 400 keys: the mean within 4 standard errors of the exact one, the flow the same.

  Two probes halve the variance, but for a ratio of sample variances with a std of 0.1.
  """
  grid = uniform(VariancePreserving(), 4)
  x = np.random.default_rng(0).normal(size=(2, 3))
  exact = jax.jit(lambda: log_likelihood(KEY, network(), x, grid, method="heun"))()

  @functools.partial(jax.jit, static_argnums=0)
  def estimates(num_probes):
    def one(key):
      options = {"divergence": "hutchinson", "probes": probes, "num_probes": num_probes}
      return log_likelihood(key, network(), x, grid, method="heun", **options)[:2]

    return jax.vmap(one)(jax.random.split(KEY, 400))

  single, z = estimates(1)
  np.testing.assert_allclose(z, np.broadcast_to(exact.z, z.shape), 1e-9)
  error = np.abs(np.mean(single, 0) - exact.log_prob) / (np.std(single, 0) / 20)
  assert error.max() < 4
  ratio = np.var(estimates(2)[0], 0) / np.var(single, 0)
  np.testing.assert_allclose(ratio, 0.5, atol=0.2)


@pytest.mark.e2e
def test_images(x64):
  """[b, h, w, c] of independent N(0, 0.25) pixels: the sum over the pixels in closed form.

  No example mixes with another, and 32 axes are more than are unrolled.
  """
  schedule = VariancePreserving()
  grid = uniform_log_snr(schedule, 32, sigma_max=100.0, sigma_min=0.01, to_data=False)

  def predict(x, level):
    at = level.like(x)
    total = 0.25 * at.alpha**2 + at.sigma**2
    return Prediction.of(x, level, "score", score=-x / total, x0=0.25 * at.alpha / total * x)

  run = jax.jit(lambda x: log_likelihood(KEY, predict, x, grid))
  x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)) / 2
  clean = float(0.25 * grid[-1].alpha ** 2 + grid[-1].sigma ** 2)
  # 32 pixels, each with RK4's error of 2e-5; the prior's own miss is 4e-5 a pixel.
  np.testing.assert_allclose(run(x).log_prob, normal(x.reshape(3, -1), clean), atol=3e-3)
  assert run(x).z.shape == x.shape

  few = uniform(schedule, 2)
  log_prob = jax.jit(lambda x: log_likelihood(KEY, network(3), x, few, method="heun").log_prob)
  both, alone = log_prob(x[:2]), [log_prob(x[i : i + 1]) for i in (0, 1)]
  np.testing.assert_allclose(both, np.concatenate(alone), 1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_nfe_counts_calls(method, to_data, divergence):
  calls = 0

  def predict(x, level):
    nonlocal calls
    calls += 1
    return Prediction.of(x, level, "x0", x0=x / 2)

  grid = uniform(VariancePreserving(), 3, to_data=to_data)
  with jax.disable_jit():
    result = log_likelihood(
      KEY, predict, jnp.ones((1, 2)), grid, method=method, divergence=divergence, num_probes=2
    )
  assert result.nfe == calls == (2 if to_data else 3) * {"heun": 2, "rk4": 4}[method]


def test_traces_once():
  """Other keys, points, levels and scales do not retrace; no key is used twice."""

  @jax.jit
  def run(key, x, sigma_max, data_std):
    grid = uniform(VarianceExploding(0.02, sigma_max), 3)
    options = {"divergence": "hutchinson", "num_probes": 2, "data_std": data_std}
    return log_likelihood(key, network(), x, grid, **options).log_prob

  with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
    for key, x, sigma_max, data_std in zip(
      jax.random.split(KEY, 2), np.eye(2, dtype=np.float32), (5.0, 9.0), (0.5, 1.0), strict=True
    ):
      assert np.isfinite(run(key, x[None], sigma_max, data_std)).all()
  assert run._cache_size() == 1


class TestAdaptive:
  @pytest.mark.e2e
  def test_is_rk4_in_fine_steps(self, x64):
    """Of a network, to RK4's own error in 200 steps; all the same at each of three points."""
    grid = uniform(VariancePreserving(), 200)
    x = np.random.default_rng(0).normal(size=(3, 3))
    fine = jax.jit(lambda x: log_likelihood(KEY, network(), x, grid))(x)
    found = jax.jit(
      lambda x: adaptive_log_likelihood(KEY, network(), x, grid, rtol=1e-8, atol=1e-8)
    )(x)
    np.testing.assert_allclose(found.log_prob, fine.log_prob, atol=2e-6)
    np.testing.assert_allclose(found.z, fine.z, 1e-6)
    assert [STATUSES[i] for i in found.status] == ["solved"] * 3

  @pytest.mark.e2e
  @pytest.mark.parametrize(
    "name", ["flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ve_10", "vp"))]
  )
  def test_the_error_falls_with_the_tolerance(self, name, x64):
    """N(0, 0.25 I) in closed form, from 3 std out too, within 20 tolerances of it.

    The flow begins at pure noise, alpha = 0, where there is such a level.
    """
    schedule, prior_std = SCHEDULES[name]
    x = np.array([[0.3, -0.1], [1.5, 0.0]])

    @jax.jit
    def run(x, tol):
      grid = uniform(schedule, 2)
      result = adaptive_log_likelihood(
        KEY, gaussian().predict, x, grid, rtol=tol, atol=tol, data_std=2.0
      )
      return result, grid[-2], grid[0]

    errors, calls = [], []
    for tol in (1e-3, 1e-5, 1e-7):
      result, start, end = run(x, tol)
      clean, noisy = (float(0.25 * at.alpha**2 + at.sigma**2) for at in (start, end))
      z = x * np.sqrt(noisy / clean)
      miss = normal(z, prior_std**2) - normal(z, noisy)
      errors.append(np.abs(result.log_prob - normal(x, clean) - miss).max())
      calls.append(np.asarray(result.nfe))
      assert errors[-1] < 20 * tol
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert (calls[0] < calls[1]).all() and (calls[1] < calls[2]).all()
    assert (calls[2] < 9 * calls[0]).all()

  @pytest.mark.e2e
  def test_hutchinson_with_probes_for_each_point(self, x64):
    """400 copies of a point, each with probes of its own: in the mean within 4 standard errors."""
    grid, x = uniform(VariancePreserving(), 2), np.array([0.4, -1.0, 0.3])
    options = {"rtol": 1e-5, "atol": 1e-5}
    fine = uniform(VariancePreserving(), 50)
    exact = jax.jit(lambda x: log_likelihood(KEY, network(), x, fine).log_prob[0])(x[None])

    @jax.jit
    def run(key, x):
      own = options | {"divergence": "hutchinson", "num_probes": 2}
      return adaptive_log_likelihood(key, network(), x, grid, **own)

    with jax.debug_key_reuse(True):
      found = run(jax.random.key(1), np.tile(x, (400, 1)))
    values = np.asarray(found.log_prob)
    assert abs(values.mean() - exact) < 4 * values.std() / 20
    assert values.std() > 0.01
    # The path of a point does not depend on its probes.
    np.testing.assert_allclose(found.z, np.broadcast_to(found.z[0], found.z.shape), 1e-3, 1e-4)

  @pytest.mark.e2e
  def test_a_point_that_fails_is_told_and_stays_alone(self):
    """Of data N(0, I) no point moves: where predictions are nan beyond 2, that is where it is."""
    target = GaussianMixture([1.0], np.zeros((1, 2)), np.ones(1))

    def predict(x, level):
      exact = target.predict(x, level)
      x0 = jnp.where(jnp.abs(x) > 2, jnp.nan, exact.x0)
      return Prediction.of(x, level, "x0", x0=x0)

    x = np.array([[0.5, 1.0], [0.0, 3.0], [-1.5, 0.2]], np.float32)
    grid = uniform(VariancePreserving(), 2)
    found = jax.jit(lambda x: adaptive_log_likelihood(KEY, predict, x, grid))(x)
    np.testing.assert_array_equal(found.status, [0, 2, 0])
    assert np.isnan(found.log_prob[1]) and np.isnan(found.z[1]).all()
    np.testing.assert_allclose(found.log_prob[::2], normal(x[::2], 1.0), 1e-3)

  @pytest.mark.e2e
  def test_nfe_counts_calls_and_steps_have_a_cap(self):
    calls = []

    def predict(x, level):
      jax.debug.callback(calls.append, level.sigma)
      return Prediction.of(x, level, "x0", x0=jnp.sin(x))

    @jax.jit
    def run(x):
      return adaptive_log_likelihood(KEY, predict, x, grid, max_steps=5)

    grid = uniform(VariancePreserving(), 2)
    found = jax.block_until_ready(run(jnp.ones((1, 2))))
    jax.effects_barrier()
    assert found.nfe.tolist() == [1 + 6 * 5] == [len(calls)]
    assert STATUSES[found.status[0]] == "too many steps"
    assert np.isnan(found.log_prob).all()


def test_errors():
  grid, x = uniform(VariancePreserving(), 2), jnp.ones((1, 2))
  for options in (
    {"method": "euler"},
    {"divergence": "skilling"},
    {"divergence": "hutchinson", "probes": "uniform"},
  ):
    with pytest.raises(ValueError, match="must be"):
      log_likelihood(KEY, network(), x, grid, **options)
    if "method" not in options:
      with pytest.raises(ValueError, match="must be"):
        adaptive_log_likelihood(KEY, network(), x, grid, **options)
