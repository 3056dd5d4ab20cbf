"""Bounds against Gaussian algebra by NumPy: steps one by one, whole paths, and the limit.

Where a prediction errs by an amount that does not depend on the noise, the terms are
deterministic, and are compared in float64 to rounding.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from scorelab.losses import LEVELS, LOSSES
from scorelab.losses.variational import VARIANCES, bits_per_dim, bound_terms
from scorelab.predictions import Parameterization, Prediction, log_sigma
from scorelab.schedules import (
  GRIDS,
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
)
from scorelab.schedules import SCHEDULES as ALL_SCHEDULES
from scorelab.targets.mixtures import GaussianMixture
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCHEDULES = {
  "ve": VarianceExploding(0.02, 10.0, 5.0),
  "vp": VariancePreserving(),
  "flow": LinearFlow(),
}
CONTEXT = Context(jnp.zeros((), int), {})
NUM_LEVELS = 5
MEAN, VARIANCE = 0.7, 0.6


class Stub(NamedTuple):
  """In place of a parameterization: (params, x, level) -> Prediction."""

  predict: Any
  learned_variance: bool = True

  def bind(self, params, label=None):
    return functools.partial(self.predict, params)


def constant(x, level, value=(0.3, -0.4), fraction=0.3):
  """The same x0 and the same fraction everywhere."""
  x0 = jnp.broadcast_to(jnp.asarray(value), x.shape)
  return Prediction.of(x, level, "x0", x0=x0, variance_fraction=jnp.full(x.shape, fraction))


def midpoints(key, n):
  return (jnp.arange(n) + 0.5) / n


def conditioned(mean, cov, known, value):
  """Mean and covariance of the first coordinates of a Gaussian, given its last `known`."""
  gain = cov[:-known, -known:] @ np.linalg.inv(cov[-known:, -known:])
  return mean[:-known] + gain @ (value - mean[-known:]), (
    cov[:-known, :-known] - gain @ cov[-known:, :-known]
  )


def gaussian_kl(mean, cov, other_mean, other_cov):
  """KL(N(mean, cov) || N(other_mean, other_cov)), nats."""
  gap = other_mean - mean
  trace = np.trace(np.linalg.solve(other_cov, cov))
  logs = np.linalg.slogdet(other_cov)[1] - np.linalg.slogdet(cov)[1]
  return (trace - len(mean) + gap @ np.linalg.solve(other_cov, gap) + logs) / 2


def reverse_step(now, nxt, x_t, x0):
  """(mean, variance) of x_s given x_t and x_0, and of x_t given x_s: by conditioning."""
  (alpha, sigma), (alpha_s, sigma_s) = now, nxt
  a = alpha / alpha_s
  mean, cov = (
    np.array([alpha_s * x0, alpha * x0]),
    np.array([[sigma_s**2, a * sigma_s**2], [a * sigma_s**2, sigma**2]]),
  )
  posterior_mean, posterior_cov = conditioned(mean, cov, 1, np.array([x_t]))
  return posterior_mean[0], posterior_cov[0, 0], sigma**2 - (a * sigma_s) ** 2


def variance_of(kind, posterior, forward, fraction=0.3):
  fraction = {"small": 0.0, "large": 1.0, "learned": fraction}[kind]
  return np.exp(fraction * np.log(forward) + (1 - fraction) * np.log(posterior))


def numbers(grid):
  return list(zip(np.asarray(grid.levels.alpha), np.asarray(grid.levels.sigma), strict=True))


@pytest.mark.parametrize("process", SCHEDULES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_every_term_by_conditioning(process, variance, x64):
  """A network that always says the same: each step's two Gaussians, at any x_t."""
  check_terms(SCHEDULES[process], variance)


QUICK = ("sub_vp", "sigma_power", "linear_betas")


@pytest.mark.parametrize(
  "name",
  [
    *QUICK,
    *(pytest.param(n, marks=pytest.mark.slow) for n in ALL_SCHEDULES if n not in QUICK),
  ],
)
def test_every_term_of_every_schedule(name, x64):
  check_terms(ALL_SCHEDULES[name](), "learned")


def check_terms(schedule, variance):
  grid = GRIDS["uniform"](schedule, NUM_LEVELS)
  x0, said = np.array([[1.0, -0.5], [0.2, 2.0]]), np.array([0.3, -0.4])

  @jax.jit
  def run(x0):
    return bound_terms(jax.random.key(0), constant, x0, grid, variance=variance)

  found, at = run(x0), numbers(grid)
  steps = np.zeros((NUM_LEVELS - 1, 2))
  for i in range(NUM_LEVELS - 1):
    for point, coordinate in np.ndindex(2, 2):
      mean, posterior, forward = reverse_step(at[i], at[i + 1], 0.37, x0[point, coordinate])
      model, _, _ = reverse_step(at[i], at[i + 1], 0.37, said[coordinate])
      model_variance = variance_of(variance, posterior, forward)
      steps[i, point] += gaussian_kl(
        np.array([mean]), np.array([[posterior]]), np.array([model]), np.array([[model_variance]])
      )
  np.testing.assert_allclose(found.steps, steps, 1e-8)
  (alpha, sigma), (last_alpha, last_sigma) = at[0], at[NUM_LEVELS - 1]
  prior_variance = np.eye(2) * (sigma**2 if schedule.process == "ve" else 1)
  expected = [gaussian_kl(alpha * x, np.eye(2) * sigma**2, np.zeros(2), prior_variance) for x in x0]
  np.testing.assert_allclose(found.prior, expected, 1e-9, 1e-12)
  decoder = -scipy.stats.norm.logpdf(x0, said, last_sigma / last_alpha).sum(1)
  np.testing.assert_allclose(found.decoder, decoder, 1e-9)
  np.testing.assert_allclose(found.total, found.prior + steps.sum(0) + decoder, 1e-9)


def test_the_data_a_single_point():
  """The exact reverse of a point mass is q itself: free, but for a wrong variance."""

  @jax.jit
  def run(x0):
    grid = GRIDS["uniform"](SCHEDULES["vp"], NUM_LEVELS)
    return [
      bound_terms(jax.random.key(0), constant, x0, grid, variance=kind).steps
      for kind in ("small", "large")
    ]

  small, large = run(jnp.array([[0.3, -0.4]]))
  np.testing.assert_array_equal(small, np.zeros((NUM_LEVELS - 1, 1)))
  assert (large > 0).all()


# A Gaussian target, N(MEAN, VARIANCE), whose E[x_0 | x_t] is affine.


def posterior_of_data(alpha, sigma, x_t):
  """Mean and variance of x_0 given x_t."""
  total = alpha**2 * VARIANCE + sigma**2
  cov = np.array([[VARIANCE, alpha * VARIANCE], [alpha * VARIANCE, total]])
  mean, cov = conditioned(np.array([MEAN, alpha * MEAN]), cov, 1, np.array([x_t]))
  return mean[0], cov[0, 0]


def true_fraction(now, nxt):
  """f of the variance of x_s given x_t alone."""
  weight = reverse_step(now, nxt, 0.0, 1.0)[0]
  _, posterior, forward = reverse_step(now, nxt, 0.0, 0.0)
  true = posterior + weight**2 * posterior_of_data(*now, 0.0)[1]
  return np.log(true / posterior) / np.log(forward / posterior)


def expected_bound(grid, variance):
  """H(x_0) + KL between the paths (x_T, ..., x_0) of the data noised and of the chain."""
  at = numbers(grid)
  means, variances = [], []
  for alpha, sigma in at:
    means.append(alpha * MEAN)
    variances.append(alpha**2 * VARIANCE + sigma**2)
  size = len(at)
  cov = np.empty((size, size))
  for i, j in np.ndindex(size, size):
    noisy, clean = min(i, j), max(i, j)
    cov[i, j] = at[noisy][0] / at[clean][0] * variances[clean]
  # The chain: x = shift + matrix @ independent normals.
  start = at[0][1] if grid.schedule.process == "ve" else 1.0
  shift, matrix = np.zeros(size), np.zeros((size, size))
  matrix[0, 0] = start
  for i in range(size - 1):
    x0_shift = posterior_of_data(*at[i], 0.0)[0]
    x0_slope = posterior_of_data(*at[i], 1.0)[0] - x0_shift
    if i < size - 2:
      of_x0, posterior, forward = reverse_step(at[i], at[i + 1], 0.0, 1.0)
      of_x = reverse_step(at[i], at[i + 1], 1.0, 0.0)[0]
      std = variance_of(variance, posterior, forward, true_fraction(at[i], at[i + 1])) ** 0.5
    else:
      of_x, of_x0, std = 0.0, 1.0, at[i][1] / at[i][0]
    shift[i + 1] = (of_x + of_x0 * x0_slope) * shift[i] + of_x0 * x0_shift
    matrix[i + 1] = (of_x + of_x0 * x0_slope) * matrix[i]
    matrix[i + 1, i + 1] = std
  entropy = np.log(2 * np.pi * np.e * VARIANCE) / 2
  return entropy + gaussian_kl(np.array(means), cov, shift, matrix @ matrix.T)


def gaussian():
  return GaussianMixture([1.0], np.array([[MEAN]]), np.array([VARIANCE]))


def told(grid):
  """The exact prediction, and the fraction of the true reverse step at each level of the grid."""
  at = numbers(grid)
  fractions = np.array([true_fraction(*pair) for pair in itertools.pairwise(at[:-1])])
  log_snrs = np.array([np.log(a / s) for a, s in at[:-2]])

  def predict(params, x, level):
    exact = gaussian().predict(x, level)
    x0 = exact.x0 + params["x0"]
    f = jnp.interp(level.log_snr, log_snrs, fractions) + params["fraction"]
    f = jnp.broadcast_to(level._replace(alpha=f).like(x).alpha, x.shape)
    return Prediction.of(x, level, "x0", x0=x0, variance_fraction=f)

  return Stub(predict)


EXACT = {"x0": 0.0, "fraction": 0.0}


@pytest.mark.parametrize("process", ["vp", pytest.param("ve", marks=pytest.mark.e2e)])
def test_the_sum_is_the_bound_of_the_whole_chain(process, x64):
  """E bound = H(x_0) + KL(paths): no step is looked at alone. With each step's true variance too.

  Within 4 standard errors over 40,000 points, below 0.05 nats.
  """
  grid = GRIDS["uniform_log_snr"](SCHEDULES[process], NUM_LEVELS, sigma_max=8.0, sigma_min=0.05)
  x0 = np.random.default_rng(0).normal(MEAN, VARIANCE**0.5, (40_000, 1))

  @jax.jit
  def run(x0):
    predict = told(grid).bind(EXACT)
    return {
      kind: bound_terms(jax.random.key(1), predict, x0, grid, variance=kind).total
      for kind in VARIANCES
    }

  found = run(x0)
  for kind in VARIANCES:
    assert assert_mean(np.asarray(found[kind]), expected_bound(grid, kind)) < 0.05


def assert_mean(values, expected, rounding=0.0):
  """Within 4 standard errors of the rows of `values`. Gives the standard error."""
  error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
  mean = np.mean(values, axis=0)
  assert (np.abs(mean - expected) < 4 * error + rounding).all(), (mean, expected, error)
  return error


def test_true_variances_leave_no_gap(x64):
  """The chain of the true reverse steps: the bound is -log p at every point, but for the ends.

  The prior is wrong by 5e-5 in alpha^2 and the decoder's variance by r^2 / v = 2e-4 of itself.
  """
  grid = GRIDS["uniform_log_snr"](SCHEDULES["vp"], 8)
  points = np.array([-0.5, 0.7, 2.5])

  @jax.jit
  def run(x0):
    return bound_terms(
      jax.random.key(1), told(grid).bind(EXACT), x0, grid, variance="learned"
    ).total

  found = np.asarray(run(np.tile(points, 20_000)[:, None])).reshape(-1, 3)
  truth = -scipy.stats.norm.logpdf(points, MEAN, VARIANCE**0.5)
  assert (assert_mean(found, truth, rounding=1e-3) < 0.015).all()


# The losses.


@pytest.mark.parametrize("variance", VARIANCES)
def test_losses_are_the_terms(variance, x64):
  """One point for each term, all alike: the sum, or the mean over the steps."""
  x0, schedule = np.tile([[1.0, -0.5]], (NUM_LEVELS, 1)), SCHEDULES["vp"]
  stub = Stub(lambda params, x, level: constant(x, level))
  own = {"num_levels": NUM_LEVELS, "uniforms": midpoints}

  @jax.jit
  def run():
    key, batch = jax.random.key(0), {"x": jnp.asarray(x0)}
    grid = GRIDS["uniform"](schedule, NUM_LEVELS)
    terms = bound_terms(key, constant, batch["x"][:1], grid, variance=variance)
    bound = LOSSES["variational_bound"](stub, schedule, variance=variance, **own)
    steps = LOSSES["stepwise_kl"](stub, schedule, variance=variance, **own)
    hybrid = LOSSES["hybrid"](stub, schedule, bound_weight=0.5, **own)
    one_less = {"x": batch["x"][1:]}
    return (
      terms,
      bound(None, key, batch, CONTEXT),
      steps(None, key, one_less, CONTEXT),
      hybrid(None, key, batch, CONTEXT),
    )

  terms, (bound, metrics), (steps, _), (hybrid, parts) = run()
  np.testing.assert_allclose(bound, terms.total[0], 1e-10)
  np.testing.assert_allclose(metrics["bits_per_dim"] * np.log(4), bound, 1e-10)
  np.testing.assert_allclose(metrics["prior"], terms.prior[0], 1e-10)
  np.testing.assert_allclose(steps, terms.steps.mean(), 1e-10)
  np.testing.assert_allclose(hybrid, parts["simple"] + parts["bound"] / 2, 1e-10)
  if variance == "learned":
    np.testing.assert_allclose(parts["bound"], bound - metrics["prior"], 1e-10)


def on_fresh_batches(loss, params, num_keys=32):
  """Values [keys] and gradients of a loss on batches drawn by NumPy."""
  run = jax.jit(jax.value_and_grad(lambda p, key, x: loss(p, key, {"x": x}, CONTEXT)[0]))
  rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), num_keys)
  rows = [run(params, key, rng.normal(MEAN, VARIANCE**0.5, (2048, 1))) for key in keys]
  return jax.tree.map(lambda *a: np.array(a), *rows)


@pytest.mark.parametrize(
  "name", ["stepwise_kl", "hybrid", pytest.param("variational_bound", marks=pytest.mark.e2e)]
)
def test_least_at_the_true_mean_and_variance(name, x64):
  """Gradients vanish there, and any other mean or variance is worse."""
  schedule, own = SCHEDULES["vp"], {"num_levels": 8, "spacing": "uniform_log_snr"}
  if name != "hybrid":
    own["variance"] = "learned"
  loss = LOSSES[name](told(GRIDS["uniform_log_snr"](schedule, 8)), schedule, **own)
  values, gradients = on_fresh_batches(loss, EXACT)
  for gradient in gradients.values():
    assert_mean(gradient, 0)
  for changed in ({"x0": 0.1}, {"fraction": 0.2}, {"fraction": -0.2}):
    raised, _ = on_fresh_batches(loss, EXACT | changed)
    assert np.mean(raised - values) > 4 * np.std(raised - values) / len(values) ** 0.5


def test_hybrid_learns_the_mean_from_the_simple_part_only(x64):
  schedule = SCHEDULES["vp"]
  stub = told(GRIDS["uniform"](schedule, 8))

  def gradients(bound_weight):
    loss = LOSSES["hybrid"](stub, schedule, num_levels=8, bound_weight=bound_weight)
    off = {"x0": 0.2, "fraction": 0.1}
    return jax.tree.map(lambda a: a[0], on_fresh_batches(loss, off, 1)[1])

  alone, both = gradients(0.0), gradients(1.0)
  assert alone["x0"] == both["x0"] != 0
  assert alone["fraction"] == 0 != both["fraction"]


# Infinitely many steps. Here x0 errs by sqrt(Var[x_0 | x_t]): deterministic, the truth's size.


def off_by_the_posterior_std(params, x, level):
  ratio = (level.sigma / level.alpha) ** 2
  std = level._replace(alpha=jnp.sqrt(VARIANCE * ratio / (VARIANCE + ratio))).like(x).alpha
  return Prediction.of(x, level, "x0", x0=jnp.zeros_like(x) + std)


def diffusion_integral(high, low):
  """(1/2) int v / (1 + v SNR) dSNR between ratios sigma / alpha: half a log."""
  return np.log((1 + VARIANCE / low**2) / (1 + VARIANCE / high**2)) / 2


@pytest.mark.e2e
def test_the_limit_of_many_steps(x64):
  """Twice the steps, half the distance to the integral: a chain's sum is Riemann's, first order."""
  batch, key = {"x": jnp.zeros((1, 1))}, jax.random.key(0)
  ends = {"sigma_max": 8.0, "sigma_min": 0.05}
  limit = diffusion_integral(8.0, 0.05)
  for schedule in SCHEDULES.values():

    @jax.jit
    def run(schedule=schedule):
      def steps(num_levels):
        grid = GRIDS["uniform_log_snr"](schedule, num_levels, **ends)
        predict = functools.partial(off_by_the_posterior_std, None)
        return jnp.sum(bound_terms(key, predict, batch["x"], grid, variance="small").steps)

      continuous = LOSSES["continuous_bound"](
        Stub(off_by_the_posterior_std),
        schedule,
        levels=functools.partial(LEVELS["log_uniform"], **ends),
        uniforms=midpoints,
      )
      many = {"x": jnp.zeros((2000, 1))}
      value, metrics = continuous(None, key, many, CONTEXT)
      return [steps(n) for n in (128, 256, 512)], value - metrics["prior"] - metrics["decoder"]

    discrete, continuous = run()
    np.testing.assert_allclose(continuous, limit, 1e-6)  # midpoint rule of 2000
    errors = np.array(discrete) - limit
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2, atol=0.05)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["log_uniform", "uniform_time", "log_normal"])
def test_levels_change_no_integral(name, x64):
  """Reweighted to the same integral between their ends; the rest by SciPy and algebra.

  log_normal has jumps at its ends, of a cell of u each: 4e-4 nats.
  """
  schedule = SCHEDULES["vp"]
  stub = Stub(off_by_the_posterior_std)
  loss = LOSSES["continuous_bound"](stub, schedule, levels=LEVELS[name], uniforms=midpoints)
  x0 = np.zeros((200_000, 1))
  value, metrics = jax.jit(loss)(None, jax.random.key(0), {"x": x0}, CONTEXT)
  clean, noisy = schedule.at(schedule.t_min), schedule.at(1.0)
  low, high = (float(at.sigma / at.alpha) for at in (clean, noisy))
  prior = gaussian_kl(
    np.zeros(1),
    np.eye(1) * float(noisy.sigma) ** 2,
    np.zeros(1),
    np.eye(1),
  )
  decoder = scipy.stats.norm(0, low).entropy()
  np.testing.assert_allclose(metrics["prior"], prior, 1e-9, 1e-12)
  np.testing.assert_allclose(metrics["decoder"], decoder, 1e-9)
  np.testing.assert_allclose(value, prior + decoder + diffusion_integral(high, low), atol=5e-4)


@pytest.mark.e2e
def test_continuous_bound_of_a_gaussian(x64):
  """With the truth it is -log p on average, but for the ends; any other mean is worse."""
  schedule = SCHEDULES["vp"]
  loss = LOSSES["continuous_bound"](told(GRIDS["uniform"](schedule, 8)), schedule)
  values, gradients = on_fresh_batches(loss, EXACT)
  entropy = scipy.stats.norm(MEAN, VARIANCE**0.5).entropy()
  assert assert_mean(values, entropy, rounding=1e-3) < 0.03
  assert_mean(gradients["x0"], 0)
  raised, _ = on_fresh_batches(loss, EXACT | {"x0": 0.1})
  assert (raised > values).all()


# What is refused, and networks that give a variance.


@pytest.mark.e2e
def test_errors():
  schedule, silent = SCHEDULES["vp"], Parameterization(lambda *a, **k: None, log_sigma, "x0")
  for name in ("stepwise_kl", "variational_bound"):
    with pytest.raises(ValueError, match="variance = 'big' must be one of small, large, learned"):
      LOSSES[name](silent, schedule, variance="big")
    with pytest.raises(ValueError, match=r"'learned' needs a network with .*learned_variance"):
      LOSSES[name](silent, schedule, variance="learned")
  with pytest.raises(ValueError, match="'learned' needs"):
    LOSSES["hybrid"](silent, schedule)
  with pytest.raises(ValueError, match="num_levels = 1 must be at least 2"):
    LOSSES["stepwise_kl"](silent, schedule, num_levels=1)
  for name in ("fixed", "data", "grid"):
    with pytest.raises(ValueError, match="levels must have a density"):
      LOSSES["continuous_bound"](silent, schedule, levels=LEVELS[name])
  with pytest.raises(ValueError, match="ends at the data"):
    grid = GRIDS["uniform"](schedule, 3, to_data=False)
    bound_terms(jax.random.key(0), constant, jnp.zeros((1, 2)), grid)


def test_bits_per_dim():
  """A fair coin for each of three coordinates is one bit each; of 256 values in [-1, 1], 8 bits."""
  np.testing.assert_allclose(bits_per_dim(jnp.asarray(3 * np.log(2)), 3), 1, 1e-6)
  np.testing.assert_allclose(bits_per_dim(jnp.full(3, np.log(2) * 5), 5, bin_width=2 / 256), 8)


def test_bits_per_dim_of_a_lattice_are_a_bound():
  """Density 2 u on [0, 1] in 4 bins of probabilities 1/16, 3/16, 5/16, 7/16: a little above."""
  u = (np.arange(4000) + 0.5) / 4000
  p = np.array([1, 3, 5, 7]) / 16
  # Within a bin the dequantisation is uniform.
  each = bits_per_dim(-np.log(2 * u), 1, bin_width=0.25).reshape(4, 1000).mean(1)
  assert 0 < np.sum(p * each) + np.sum(p * np.log2(p)) < 0.05
