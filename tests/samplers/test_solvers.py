"""What every sampler promises: its order, its marginals, its count of calls, and one compilation."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Parameterization, Prediction, log_sigma
from scorelab.samplers import (
  SAMPLERS,
  annealed_langevin,
  churned,
  ddim,
  ddim_step,
  dpmpp_2m,
  euler,
  heun,
  ula_step,
)
from scorelab.schedules import (
  Grid,
  Level,
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
  uniform,
)
from scorelab.targets.mixtures import GaussianMixture

VE, VP, FLOW = VarianceExploding(0.02, 10.0, 5.0), VariancePreserving(), LinearFlow()
MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
KEY = jax.random.key(0)
each = pytest.mark.parametrize("name", SAMPLERS)


def gaussian():
  return GaussianMixture([1.0], MEAN[None], COVARIANCE[None])


def shrink(x, level):
  """A cheap prediction, right for no data but smooth, and defined at alpha = 0."""
  return Prediction.of(x, level, "x0", x0=jnp.tanh(x) / (1 + level.sigma))


def levels_of(ranges, num_steps):
  """Levels of grids of several processes, stacked: a sampler vmapped over them compiles once."""
  grids = [uniform(s, num_steps, t_max=a, t_min=b, to_data=False) for s, a, b in ranges]
  return jax.tree.map(lambda *fields: jnp.stack(fields), *(grid.levels for grid in grids))


# Order of convergence

FINITE = [(VE, 0.9, 0.3), (VP, 1.0, 0.1), (FLOW, 0.9, 0.1)]
FROM_PURE_NOISE = (FLOW, 1.0, 0.1)


def solution(noise, level):
  """The probability flow of N(m, C): each point keeps its place in standard units.

  Along C's axes, of variance v, x - alpha m grows as sqrt(alpha^2 v + sigma^2).
  """
  v, axes = np.linalg.eigh(COVARIANCE)
  return level.alpha * MEAN + noise @ axes * np.sqrt(level.alpha**2 * v + level.sigma**2) @ axes.T


def errors(sampler, num_steps):
  """Root mean squared error at the last level, for FINITE and FROM_PURE_NOISE."""
  noise = np.random.default_rng(0).normal(size=(16, 2))
  levels = levels_of([*FINITE, FROM_PURE_NOISE], num_steps)
  ends = [jax.tree.map(lambda a, i=i: np.asarray(a)[:, i], levels) for i in (0, -1)]
  start, end = (np.stack([solution(noise, Level(*row)) for row in zip(*e)]) for e in ends)  # noqa: B905

  @jax.jit
  @jax.vmap
  def run(x, levels):
    # Of the process, samplers see only the grid; its schedule is for churn.
    return sampler(KEY, gaussian().predict, x, Grid(VE, levels, ends_at_data=False)).x

  return np.sqrt(np.mean((run(start, levels) - end) ** 2, axis=(1, 2)))


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order, x64):
  """32 and 64 steps: the error is halved `order` times, for every process."""
  coarse, fine = errors(sampler, 32), errors(sampler, 64)
  measured = np.log2(coarse / fine)
  np.testing.assert_allclose(measured[:-1], order, atol=0.2)
  # From sigma / alpha = infinity the first steps are long however many there are: second order but
  # for a logarithm, which takes 0.2 to 0.4 off the measured one.
  assert measured[-1] > order - 0.5
  assert fine.max() < (0.02 if order == 1 else 1.5e-3)


# Marginals


def moments_agree(x, target):
  """Mean and covariance of x [n, d] within 4 standard errors of the target's."""
  x = np.asarray(x, float)
  apart = x - np.asarray(target.mean)
  products = apart[:, :, None] * apart[:, None, :]
  for values, truth in ((x, target.mean), (products, target.covariance)):
    error = np.abs(values.mean(0) - truth) / (values.std(0) / len(x) ** 0.5)
    assert error.max() < 4, error


def test_ddim_keeps_the_marginals():
  """The exact score, started from the true law: every process, every eta. 256 steps for the limit."""
  target = GaussianMixture(
    [0.5, 0.3, 0.2], np.array([[-2.0, 1.0], [1.5, 2.0], [0.5, -2.0]]), np.array([0.3, 0.8, 0.5])
  )
  ranges = [(VE, 1.0, 0.2), (VP, 0.9, 0.05), (FLOW, 0.95, 0.05)]
  etas = jnp.array([0.0, 0.3, 1.0])

  def run(levels, key, eta):
    first, noise, sample = jax.random.split(key, 3)
    start = target.sample(first, 4000)
    x = levels.alpha[0] * start + levels.sigma[0] * jax.random.normal(noise, start.shape)
    return ddim(sample, target.predict, x, Grid(VE, levels, ends_at_data=False), eta=eta).x

  levels = levels_of(ranges, 256)
  over_etas = jax.vmap(run, (None, 0, 0))
  samples = jax.jit(jax.vmap(over_etas, (0, None, None)))(levels, jax.random.split(KEY, 3), etas)
  for i in range(len(ranges)):
    for x in samples[i]:
      moments_agree(x, target.perturbed(levels.alpha[i, -1], levels.sigma[i, -1]))


def test_annealed_langevin_samples_a_gaussian():
  """From a start far off, by many small steps: the law at the least noisy level."""
  grid = uniform(VarianceExploding(0.3, 3.0, 5.0), 4)
  options = {"steps_per_level": 300, "step_size": 0.01}
  sampler = functools.partial(annealed_langevin, KEY, gaussian().predict, **options)
  samples = jax.jit(sampler)(jnp.full((1000, 2), 5.0), grid)
  moments_agree(samples.x, gaussian().perturbed(1.0, 0.3))
  assert int(samples.nfe) == 1200


def test_annealed_langevin_step_sizes(x64):
  """Song and Ermon 2019, algorithm 1, line 4: eps (sigma_i / sigma_L)^2.

  A score of one moves a point by h a step more than a score of zero with the same noise.
  """

  def moved(score):
    def predict(x, level):
      return Prediction.of(x, level, "score", score=jnp.full_like(x, score))

    options = {"steps_per_level": 3, "step_size": 0.5}
    return annealed_langevin(KEY, predict, jnp.zeros(2), grid, **options).path

  grid = Grid.from_arrays([1, 1, 1, 1], [8, 4, 2, 0], process="ve")
  steps = np.diff(moved(1.0) - moved(0.0), axis=0, prepend=0) / 3
  np.testing.assert_allclose(steps, np.array([[16, 16], [4, 4], [1, 1]]) * 0.5, 1e-12)


def test_langevin_step_keeps_its_stationary_variance(x64):
  """For N(0, v), x (1 - h / v) + sqrt(2 h) z has variance v / (1 - h / (2 v)) for ever."""
  v, h, x, z = 0.5, 0.1, jnp.asarray(2.0), jnp.asarray(-1.0)
  gain = jax.grad(lambda x: ula_step(x, -x / v, h, z))(x)
  noise = jax.grad(lambda z: ula_step(x, -x / v, h, z))(z)
  stationary = v / (1 - h / (2 * v))
  np.testing.assert_allclose(gain**2 * stationary + noise**2, stationary, 1e-12)


# Counts, shapes and keys


@each
@pytest.mark.parametrize("to_data", [True, False])
def test_nfe_counts_calls(name, to_data):
  calls = 0

  def predict(x, level):
    nonlocal calls
    calls += 1
    return shrink(x, level)

  grid = uniform(VP, 3, to_data=to_data)
  with jax.disable_jit():
    samples = SAMPLERS[name](KEY, predict, jnp.ones(2), grid)
  assert samples.nfe == calls
  assert samples.network_calls is None
  levels = 3 if to_data else 4
  expected = {"heun": 6 - to_data, "annealed_langevin": 5 * levels}
  assert calls == expected.get(name, 3)
  assert samples.path.shape == (levels if name == "annealed_langevin" else 3, 2)
  np.testing.assert_array_equal(samples.path[-1], samples.x)


def test_annealed_langevin_denoises_by_one_call_more():
  grid = uniform(VE, 3)
  noisy, clean = (annealed_langevin(KEY, shrink, jnp.ones(2), grid, denoise=d) for d in (0, 1))
  assert clean.nfe == noisy.nfe + 1 == 16
  assert clean.path.shape == (4, 2)
  np.testing.assert_allclose(clean.x, shrink(noisy.x, grid[2]).x0, 1e-6)
  np.testing.assert_array_equal(clean.path[:-1], noisy.path)


@each
def test_one_step(name):
  """N = 1 onto the data: what the prediction says x0 is; Langevin stays noisy."""
  grid = uniform(VE, 1)
  samples = SAMPLERS[name](KEY, shrink, jnp.full((2,), 7.0), grid)
  assert samples.path.shape == (1, 2)
  if name != "annealed_langevin":
    np.testing.assert_allclose(samples.x, shrink(jnp.full((2,), 7.0), grid[0]).x0, 1e-6)


@each
def test_compiles_once_uses_keys_once_and_promotes_no_rank(name):
  """A second call with other numbers and options does not retrace."""
  option = {"ddim": "eta", "annealed_langevin": "step_size"}.get(name, "churn")
  takes = option in inspect.signature(SAMPLERS[name]).parameters

  @jax.jit
  def run(key, x, grid, value):
    return SAMPLERS[name](key, shrink, x, grid, **({option: value} if takes else {})).x

  with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
    a = run(KEY, jnp.ones((4, 2)), uniform(VarianceExploding(0.02, jnp.asarray(10.0)), 5), 0.1)
    b = run(
      jax.random.key(1),
      jnp.zeros((4, 2)),
      uniform(VarianceExploding(0.02, jnp.asarray(9.0)), 5),
      0.2,
    )
  assert run._cache_size() == 1
  assert a.dtype == jnp.float32
  assert not np.allclose(a, b)


@pytest.mark.parametrize(
  ("name", "option", "values"),
  [
    ("ddim", "eta", [0.0, 0.4, 1.0]),
    ("euler", "churn", [0.0, 1.0, 40.0]),
    ("heun", "churn", [0.0, 1.0, 40.0]),
    ("heun", "s_tmax", [0.5, 2.0, 80.0]),
    ("annealed_langevin", "step_size", [1e-5, 1e-4, 1e-3]),
  ],
)
def test_vmapped_over_keys_and_options_is_a_loop(name, option, values):
  grid, x = uniform(VP, 4), jnp.asarray([0.3, -1.0])
  fixed = {"churn": 2.0} if option == "s_tmax" else {}

  @jax.jit
  def run(key, value):
    return SAMPLERS[name](key, shrink, x, grid, **fixed, **{option: value}).x

  keys = jax.random.split(KEY, len(values))
  together = jax.vmap(run)(keys, jnp.asarray(values))
  alone = [run(key, value) for key, value in zip(keys, values, strict=True)]
  np.testing.assert_allclose(together, alone, 1e-5, 1e-6)
  assert len(np.unique(np.asarray(together)[:, 0])) == len(values)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "euler", "heun"])
def test_images_one_by_one_or_together(name):
  """Deterministic samplers know no batch: [b, h, w, c] is b times [h, w, c], and vmap the same."""

  def apply(variables, x, c, rngs=None):
    blurred = (x + jnp.roll(x, 1, axis=1) + jnp.roll(x, 1, axis=2)) / 3
    return jnp.tanh(blurred * variables["params"] + c[:, None, None, None])

  predict = Parameterization(apply, log_sigma, "x0", event_ndim=3).bind(0.9)
  grid = uniform(VP, 4)
  x = jax.random.normal(KEY, (3, 4, 4, 2))

  @jax.jit
  def run(x):
    return SAMPLERS[name](KEY, predict, x, grid).x

  together = run(x)
  np.testing.assert_allclose(together[1], run(x[1]), 1e-5, 1e-6)
  np.testing.assert_allclose(together, jax.vmap(run)(x), 1e-5, 1e-6)
  assert together.std() > 0.1


# Ends and gradients


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "euler", "heun"])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_from_pure_noise(name, num_steps):
  """Linear flow from t = 1, alpha = 0: finite, and with churn too; gradients with it."""
  target, grid = gaussian(), uniform(FLOW, num_steps)
  options = {"churn": 10.0} if name in ("euler", "heun") else {}

  @jax.jit
  def run(x):
    samples = SAMPLERS[name](KEY, target.predict, x, grid, **options)
    return jnp.sum(samples.x), samples.path

  slope, path = jax.grad(run, has_aux=True)(grid.prior(KEY, (6, 2)))
  assert np.isfinite(path).all()
  assert np.isfinite(slope).all()
  if num_steps == 1:
    np.testing.assert_allclose(path[-1], np.broadcast_to(MEAN, (6, 2)), 1e-5, 1e-6)


def test_churn_leaves_the_rest_alone():
  """gamma = 0 changes nothing to the bit, and pure noise cannot be noisier."""
  x, z = jnp.asarray([0.3, -2.0]), jnp.ones(2)
  for level, gamma in ((VP.at(0.37), 0.0), (FLOW.at(1.0), 0.3)):
    y, same = churned(x, level, z, gamma, schedule=VP)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(same.sigma, level.sigma)


@pytest.mark.parametrize("schedule", [VE, VP, FLOW], ids=["ve", "vp", "flow"])
def test_churn_reaches_the_law_of_the_noisier_level(schedule, x64):
  """Of a point mass at 2: mean alpha' 2 and std sigma' at the ratio (1 + gamma) times larger."""
  now = schedule.at(0.4)

  def run(eps, z):
    return churned(now.alpha * 2 + now.sigma * eps, now, z, 0.25, schedule=schedule)

  zero = jnp.zeros(())
  mean, noisier = run(zero, zero)
  np.testing.assert_allclose(noisier.sigma / noisier.alpha, 1.25 * now.sigma / now.alpha, 1e-12)
  np.testing.assert_allclose(noisier, schedule.at(noisier.t), 1e-9)
  np.testing.assert_allclose(mean, noisier.alpha * 2, 1e-12)
  slopes = [jax.grad(lambda *noise: run(*noise)[0], i)(zero, zero) for i in (0, 1)]
  np.testing.assert_allclose(np.hypot(*slopes), noisier.sigma, 1e-12)


def test_gradients_with_respect_to_eta(x64):
  """Finite at 0, at 1 and with the data at the end; equal to differences, one-sided at 0."""
  grid = uniform(VP, 5)

  @jax.jit
  def total(eta):
    return jnp.sum(ddim(KEY, shrink, jnp.asarray([0.3, -1.0]), grid, eta=eta).x ** 2)

  slope = jax.jit(jax.grad(total))
  for eta, offsets in ((0.0, [0, 1, 2]), (0.5, [-1, 0, 1]), (1.0, [0, -1, -2])):
    h = 1e-4
    a, b, c = (total(eta + k * h) for k in offsets)
    centred = (c - a) / (2 * h)
    forward = (-3 * a + 4 * b - c) / (2 * h) * (1 if offsets[1] > 0 else -1)
    np.testing.assert_allclose(slope(eta), centred if eta == 0.5 else forward, 1e-5)


def test_gradients_through_heun(x64):
  """With respect to the start and the churn, against differences; finite at churn = 0."""
  grid = uniform(VP, 4)

  @jax.jit
  def total(shift, churn):
    return jnp.sum(heun(KEY, shrink, jnp.asarray([0.3, -1.0]) + shift, grid, churn=churn).x ** 2)

  slopes = jax.jit(jax.grad(total, (0, 1)))
  h = 1e-5
  differences = [
    (total(h, 1.0) - total(-h, 1.0)) / (2 * h),
    (total(0.0, 1 + h) - total(0.0, 1 - h)) / (2 * h),
  ]
  np.testing.assert_allclose(slopes(0.0, 1.0), differences, 1e-6)
  assert np.isfinite(slopes(0.0, 0.0)).all()


def test_eta_is_clipped(x64):
  """However large, no more noise is renewed than there is; none from equal levels."""
  now, nxt, z = VP.at(0.6), VP.at(0.5), jnp.asarray([1.0, -2.0])
  pred = shrink(jnp.asarray([0.3, -1.0]), now)
  fresh = nxt.alpha * pred.x0 + nxt.sigma * z
  np.testing.assert_allclose(ddim_step(pred, now, nxt, z, 50.0), fresh, 1e-12)
  np.testing.assert_allclose(ddim_step(pred, now, now, z, 1.0), pred.x, 1e-12)
