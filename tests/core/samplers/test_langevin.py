"""Langevin kernels, annealing and chain diagnostics against closed forms, blackjax and NumPy."""

import functools
import itertools
import math

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from scorelab.predictions import Prediction
from scorelab.samplers import (
  KERNELS,
  KineticState,
  MalaState,
  RecordedNoise,
  annealed_langevin,
  baoab_step,
  ddim_inference,
  effective_sample_size,
  mala,
  mala_step,
  ncsnv2_step_size,
  split_rhat,
  ula,
  underdamped_langevin,
)
from scorelab.schedules import (
  Grid,
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
  uniform,
  uniform_log_snr,
)
from scorelab.targets.mixtures import GaussianMixture, ring

KEY = jax.random.key(0)


def mixture():
  """Of the dtype that the test has set."""
  means, variances = np.array([[-1.0, 0.5], [1.0, 0.0]]), np.array([[0.5, 0.2], [0.3, 0.8]])
  return GaussianMixture([0.6, 0.4], means, variances)


def score(x):
  """Of the double well below: not linear, and cheap to compile."""
  return x - x**3


def log_prob(x):
  return (x**2 / 2 - x**4 / 4).sum(-1)


def kernel(name, score=score, log_prob=log_prob):
  """A kernel of (key, x), its functions filled in: mala takes one more."""
  functions = (score, log_prob) if name == "mala" else (score,)
  return lambda key, x, **options: KERNELS[name](key, *functions, x, **options)


each = pytest.mark.parametrize("name", KERNELS)


def standard_errors(x, mean, covariance):
  """How many standard errors the moments of x [n, d] are from the truth, the worst of them."""
  x = np.asarray(x, float)
  apart = x - mean
  products = apart[:, :, None] * apart[:, None, :]
  return max(
    np.abs((values.mean(0) - truth) / (values.std(0) / len(x) ** 0.5)).max()
    for values, truth in ((x, mean), (products, covariance))
  )


# ULA


def test_ula_has_the_closed_form_bias():
  """On N(0, v I) its variance is v / (1 - h / (2 v)): 11 % and 43 % too large here."""
  v, sizes = 0.5, np.array([0.1, 0.3])

  def run(h):
    return ula(KEY, lambda x: -x / v, jnp.zeros((10_000, 2)), step_size=h, num_steps=60).x

  for h, x in zip(sizes, jax.jit(jax.vmap(run))(sizes), strict=True):
    # What is left of the start at 0 is (1 - h / v)^120 of the variance: below 1e-11.
    assert standard_errors(x, np.zeros(2), v / (1 - h / (2 * v)) * np.eye(2)) < 4
    assert standard_errors(x, np.zeros(2), v * np.eye(2)) > 8


def test_ula_is_blackjaxs_sgld(x64):
  """With full batches: the same chain from the same keys."""
  start, h, num_steps = jnp.array([0.3, -1.0]), 0.05, 20
  theirs = blackjax.sgld(lambda x, _: score(x))

  def step(x, key):
    x = theirs.step(key, x, (), h)
    return x, x

  _, states = jax.lax.scan(step, start, jax.random.split(KEY, num_steps))
  chain = ula(KEY, score, start, step_size=h, num_steps=num_steps)
  np.testing.assert_allclose(chain.path, states, 1e-12)


# MALA


def exactness(num_chains, num_steps, name="mala"):
  """Exact draws on the ring, moved on: the worst moment error, and KS along 20 directions.

  The p-value is the least of the 20 times 20 (Bonferroni).
  """
  target, step_size = ring(), 0.14
  move = kernel(name, target.score, target.log_prob)

  @jax.jit
  def run(key):
    of_start, of_chain = jax.random.split(key)
    start = target.sample(of_start, num_chains)
    return move(of_chain, start, step_size=step_size, num_steps=num_steps, thin=num_steps)

  chain = run(jax.random.key(1))
  moved = np.asarray(chain.x, float)
  weights, means, stds = (np.asarray(a, float) for a in (target.weights, target.means, 8**-0.5))
  angles = np.pi * np.arange(20) / 20
  p_values = []
  for direction in np.stack([np.cos(angles), np.sin(angles)], -1):
    centres = means @ direction
    law = lambda x, c=centres: stats.norm.cdf(x[:, None], c, stds) @ weights  # noqa: E731
    p_values.append(stats.kstest(moved @ direction, law).pvalue)
  error = standard_errors(moved, np.asarray(target.mean), np.asarray(target.covariance))
  return error, 20 * min(p_values), float(np.mean(chain.acceptance))


@pytest.mark.e2e
def test_mala_is_exact():
  """10,000 chains; ULA, at the same step size, is caught by the same tests."""
  error, p_value, acceptance = exactness(10_000, 30)
  assert error < 4
  assert p_value > 0.01
  assert 0.5 < acceptance < 0.9
  _, p_value, acceptance = exactness(10_000, 30, "ula")
  assert p_value < 1e-6
  assert acceptance == 1


@pytest.mark.slow
def test_mala_is_exact_with_50_000_chains():
  error, p_value, _ = exactness(50_000, 100)
  assert error < 4
  assert p_value > 0.01


def test_mala_is_exact_with_any_score():
  """The drift is in the ratio: none at all, or half and biased, costs acceptance only."""
  v = 0.5

  @jax.jit
  def run(slope, key, x):
    log_prob = lambda x: -jnp.sum(x**2, -1) / (2 * v)  # noqa: E731
    options = {"step_size": 0.2, "num_steps": 40}
    return mala(key, lambda x: slope * (0.3 - x / v), log_prob, x, **options)

  x, acceptances = v**0.5 * np.random.default_rng(0).normal(size=(10_000, 2)), []
  x = x.astype(np.float32)
  for slope in (0.0, 0.5, 1.0):
    chain = run(slope, KEY, x)
    assert standard_errors(chain.x, np.zeros(2), v * np.eye(2)) < 4
    acceptances.append(chain.acceptance.mean())
  assert (np.diff(acceptances) > 0.05).all()


def test_mala_is_blackjaxs(x64):
  """From the same keys: states, acceptance probabilities after burn-in, and rejections."""
  start, h, num_steps, burn_in = jnp.array([0.3, -1.0]), 0.4, 50, 10
  theirs = blackjax.mala(log_prob, h)

  def step(state, key):
    state, info = theirs.step(key, state)
    return state, (state.position, info)

  keys = jax.random.split(KEY, num_steps)
  _, (states, infos) = jax.lax.scan(step, theirs.init(start), keys)
  options = {"step_size": h, "num_steps": num_steps, "burn_in": burn_in}
  ours = jax.jit(functools.partial(kernel("mala"), **options))(KEY, start)
  np.testing.assert_allclose(ours.path, states[burn_in:], 1e-10)
  np.testing.assert_allclose(ours.acceptance, infos.acceptance_rate[burn_in:].mean(), 1e-10)
  assert burn_in < infos.is_accepted.sum() < num_steps - 5


def test_mala_acceptance_is_that_of_the_densities(x64):
  """min(1, p(x') q(x | x') / p(x) q(x' | x)) by SciPy's densities; less for larger steps."""
  step = jax.jit(lambda h, *given: mala_step(given[0], score, log_prob, h, *given[1:]))
  rng, means = np.random.default_rng(0), []
  (x, z), uniform_draws = rng.normal(size=(2, 200, 2)), np.full(200, 0.5)
  state = MalaState(x, score(x), log_prob(x))
  for h in (0.01, 0.1, 0.4, 1.0):
    new, acceptance = step(h, state, z, uniform_draws)

    def log_q(to, start, h=h):
      return stats.norm.logpdf(to, start + h * score(start), np.sqrt(2 * h)).sum(-1)

    proposed = x + h * score(x) + np.sqrt(2 * h) * z
    log_ratio = log_prob(proposed) + log_q(x, proposed) - log_prob(x) - log_q(proposed, x)
    truth = np.minimum(1, np.exp(np.asarray(log_ratio)))
    np.testing.assert_allclose(acceptance, truth, 1e-9)
    expected = np.where((truth > 0.5)[:, None], proposed, x)
    np.testing.assert_allclose(new.x, expected, 1e-12)
    np.testing.assert_allclose(new.score, score(expected), 1e-9)
    np.testing.assert_allclose(new.log_prob, log_prob(expected), 1e-9)
    means.append(truth.mean())
  assert (np.diff(means) < -0.02).all()
  assert means[0] > 0.97


def test_mala_never_leaves_the_support():
  """A density of 0, or NaN, beyond 1: no chain goes there, and nothing becomes NaN."""

  @jax.jit
  def run(outside):
    def log_prob(x):
      return jnp.where(jnp.abs(x).max(-1) < 1, 0.0, outside)

    def score(x):
      return jnp.where(jnp.abs(x) < 1, 0.0, jnp.nan)

    return mala(KEY, score, log_prob, jnp.zeros((100, 2)), step_size=0.3, num_steps=50)

  for outside in (-jnp.inf, jnp.nan):
    chain = run(outside)
    assert (np.abs(chain.path) < 1).all()
    assert 0.05 < chain.acceptance.mean() < 0.8


def test_chain_axes_follow_from_log_prob():
  """Images: each is accepted or rejected as a whole. And a wrong shape is refused."""
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
  log_prob = lambda x: -jnp.sum(x**2, (-3, -2, -1)) / 2  # noqa: E731
  run = functools.partial(mala, KEY, jnp.negative, step_size=0.25, num_steps=8)
  chain = jax.jit(lambda x: run(log_prob, x))(x)
  assert chain.acceptance.shape == (2, 3)
  moved = np.diff(chain.path, axis=0, prepend=x[None]) != 0
  whole = moved.reshape(8, 6, 16)
  assert (whole.all(-1) | ~whole.any(-1)).all()
  assert 0 < whole.mean() < 1
  with pytest.raises(ValueError, match="log_prob has shape"):
    run(lambda x: log_prob(x)[..., None, None], x[:, 0])


# Underdamped Langevin dynamics


def test_baoab_step_is_its_five_flows(x64):
  """The paper's sub-steps one by one, in NumPy."""
  x, v, z = np.random.default_rng(0).normal(size=(3, 5, 2))
  dt, friction = 0.3, 0.7
  state = baoab_step(KineticState(x, v, score(x)), score, dt, friction, z)
  v = v + dt / 2 * score(x)
  x = x + dt / 2 * v
  v = math.exp(-friction * dt) * v + math.sqrt(1 - math.exp(-2 * friction * dt)) * z
  x = x + dt / 2 * v
  v = v + dt / 2 * score(x)
  np.testing.assert_allclose(state.x, x, 1e-12)
  np.testing.assert_allclose(state.velocity, v, 1e-12)
  np.testing.assert_allclose(state.score, score(x), 1e-12)


@pytest.mark.parametrize("friction", [0.1, 1.0, 20.0])
def test_baoab_is_exact_in_x_for_a_gaussian(friction, x64):
  """The step is linear, so its stationary covariance solves a Lyapunov equation: v for x exactly.

  The velocity's is 1 - dt^2 / (4 v) (Leimkuhler and Matthews 2013), and the two are independent.
  """
  v, dt = 0.5, 0.6

  def step(state, z):
    x, velocity = state
    now = KineticState(x, velocity, -x / v)
    nxt = baoab_step(now, lambda x: -x / v, dt, friction, z)
    return jnp.stack([nxt.x, nxt.velocity])

  matrix, noise = jax.jacobian(step, (0, 1))(jnp.zeros(2), jnp.zeros(()))
  stationary = linalg.solve_discrete_lyapunov(np.asarray(matrix), np.outer(noise, noise))
  np.testing.assert_allclose(stationary, np.diag([v, 1 - dt**2 / (4 * v)]), 1e-9, 1e-12)


def test_underdamped_langevin_samples_a_gaussian():
  """From a start of the wrong law, at a step where ULA of the same reach is 57 % too wide."""
  v, dt = 0.5, 0.85

  def run(key, x):
    score = lambda x: -x / v  # noqa: E731
    return underdamped_langevin(key, score, x, step_size=dt, friction=2 / v**0.5, num_steps=60).x

  x = jax.jit(run)(KEY, jnp.full((10_000, 2), 3.0))
  assert standard_errors(x, np.zeros(2), v * np.eye(2)) < 4


def test_underdamped_langevin_at_infinite_friction(x64):
  """The Leimkuhler-Matthews method: x + h score + sqrt(2 h) (z_last + z) / 2 with h = dt^2 / 2.

  The first step starts from a velocity without a half kick, and has half of the drift.
  """
  dt, rng = 0.3, np.random.default_rng(0)
  velocity, z = rng.normal(size=(1, 2)), rng.normal(size=(6, 2))
  options = {"step_size": dt, "friction": jnp.inf, "num_steps": 6}
  x = np.array([0.3, -1.0])
  path = underdamped_langevin(RecordedNoise((velocity, z)), score, x, **options).path
  last = velocity[0] - dt / 2 * score(x)
  for i in range(6):
    x, last = x + dt**2 / 2 * score(x) + dt * (last + z[i]) / 2, z[i]
    np.testing.assert_allclose(path[i], x, 1e-12)


# What all kernels promise


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["mala", "ula"])
def test_burn_in_and_thinning_pick_states_of_the_long_path(name, x64):
  run = functools.partial(kernel(name), KEY, jnp.ones((3, 2)), step_size=0.3, num_steps=12)
  full, some = (jax.jit(functools.partial(run, **o))() for o in ({}, {"burn_in": 3, "thin": 3}))
  assert full.path.shape == (12, 3, 2)
  np.testing.assert_allclose(some.path, full.path[5::3], 1e-12)
  for chain in (full, some):
    np.testing.assert_array_equal(chain.path[-1], chain.x)
    assert chain.acceptance.shape == ((3,) if name == "mala" else ())
    assert name == "mala" or chain.acceptance == 1
  for wrong in ({"thin": 5}, {"burn_in": 12}):
    with pytest.raises(ValueError, match=r"num_steps = 12, burn_in = .* and thin = "):
      run(**wrong)


@each
def test_nfe_counts_calls_of_score(name):
  calls = {score: 0, log_prob: 0}

  def counted(function):
    def count():
      calls[function] += 1

    def call(x):
      jax.debug.callback(count)
      return function(x)

    return call

  options = {"step_size": 0.1, "num_steps": 5, "burn_in": 1, "thin": 2}
  moves = functools.partial(kernel(name, counted(score), counted(log_prob)), **options)
  chain = jax.jit(moves)(KEY, jnp.ones(2))
  jax.effects_barrier()
  assert chain.nfe == calls[score] == 5 + (name != "ula")
  assert calls[log_prob] == (6 if name == "mala" else 0)
  assert chain.path.shape == (2, 2)


@pytest.mark.e2e
@each
def test_compiles_once_and_vmaps(name, x64):
  """Other keys, starts and step sizes do not retrace, and vmapped they are the same.

  No key is used twice, and no rank is promoted.
  """

  @jax.jit
  def run(key, x, step_size):
    return kernel(name)(key, x, step_size=step_size, num_steps=6)

  keys, sizes = jax.random.split(KEY, 3), np.array([0.05, 0.2, 0.5])
  x = np.random.default_rng(0).normal(size=(3, 4, 2))
  with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
    alone = [run(*row) for row in zip(keys, x, sizes, strict=True)]
  assert run._cache_size() == 1
  together = jax.vmap(run)(keys, x, sizes)
  for ours, theirs in zip(together, zip(*alone, strict=True), strict=True):
    np.testing.assert_allclose(ours, theirs, 1e-10)


def test_steps_of_a_batch_are_those_of_its_chains(x64):
  """The same noise, one chain at a time under vmap."""
  rng = np.random.default_rng(0)
  (x, v, z), u = rng.normal(size=(3, 50, 2)), rng.uniform(size=50)

  def both(x, v, z, u):
    return (
      mala_step(MalaState(x, score(x), log_prob(x)), score, log_prob, 0.5, z, u),
      baoab_step(KineticState(x, v, score(x)), score, 0.5, 1.0, z),
    )

  batch, chains = jax.jit(lambda *a: (both(*a), jax.vmap(both)(*a)))(x, v, z, u)
  for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(chains), strict=True):
    np.testing.assert_allclose(a, b, 1e-10)


# Annealed Langevin dynamics


@pytest.mark.parametrize("schedule", [VarianceExploding(0.3, 3.0), VariancePreserving()])
def test_annealed_langevin_is_the_hand_loop(schedule, x64):
  """Song and Ermon 2019, algorithm 1, in x: there the step is alpha^2 h."""
  target, grid = mixture(), uniform(schedule, 3, t_max=0.6, t_min=0.3)
  start, options = np.array([1.0, -2.0]), {"steps_per_level": 2, "step_size": 0.1}
  draws = np.random.default_rng(0).normal(size=(6, 2))
  noise = RecordedNoise(draws)
  sampler = functools.partial(annealed_langevin, noise, target.predict, denoise=True, **options)
  samples = jax.jit(sampler)(start, grid)

  x, last_alpha, states = start, float(grid.levels.alpha[0]), []
  score = jax.jit(lambda x, alpha, sigma: target.perturbed(alpha, sigma).score(x))
  alphas, sigmas = np.asarray(grid.levels.alpha)[:-1], np.asarray(grid.levels.sigma)[:-1]
  for alpha, sigma, of_level in zip(alphas, sigmas, draws.reshape(3, 2, 2), strict=True):
    h = 0.1 * (sigma / alpha * alphas[-1] / sigmas[-1]) ** 2 * alpha**2
    x = x * alpha / last_alpha  # y = x / alpha goes on from level to level
    for z in of_level:
      x = x + h * np.asarray(score(x, alpha, sigma)) + math.sqrt(2 * h) * z
    last_alpha = alpha
    states.append(x)
  np.testing.assert_allclose(samples.path[:-1], states, 1e-9)
  np.testing.assert_allclose(samples.x, (x + sigma**2 * score(x, alpha, sigma)) / alpha, 1e-9)


@pytest.mark.e2e
def test_annealed_langevin_finds_the_weights():
  """Unequal modes 13 of their stds apart, from noise alone, by the NCSNv2 rule, denoised."""
  weights = np.array([0.15, 0.25, 0.6])
  target = GaussianMixture(weights, np.array([[-4.0, 0], [4.0, 0], [0, 5.0]]), np.full(3, 0.09))
  options = {"steps_per_level": 20, "rule": "ncsnv2", "denoise": True}

  @jax.jit
  def run(key):
    grid = uniform_log_snr(VarianceExploding(0.05, 20.0), 24)
    of_prior, of_chain = jax.random.split(key)
    x = grid.prior(of_prior, (4000, 2))
    return annealed_langevin(of_chain, target.predict, x, grid, **options)

  x = np.asarray(run(KEY).x)
  distances = np.linalg.norm(x[:, None] - np.asarray(target.means), axis=-1)
  found = np.bincount(distances.argmin(1), minlength=3) / len(x)
  assert np.abs(found - weights).sum() / 2 < 0.05
  assert (distances.min(1) < 5 * 0.3).mean() > 0.995


@pytest.mark.parametrize(
  ("sigma_max", "num_levels", "steps_per_level", "published"),
  [(50, 232, 5, 6.2e-6), (90, 500, 5, 3.3e-6), (190, 1086, 3, 1.8e-6), (348, 2311, 3, 9e-7)],
  ids=["cifar10", "celeba", "tower", "ffhq"],
)
def test_ncsnv2_step_size_is_the_published_one(sigma_max, num_levels, steps_per_level, published):
  """`step_lr` of github.com/ermongroup/ncsnv2/configs, which has two digits, or one."""
  sigmas = np.geomspace(sigma_max, 0.01, num_levels)
  ours = float(ncsnv2_step_size(sigmas, steps_per_level))
  assert float(f"{ours:.{0 if published < 1e-6 else 1}e}") == published


def annealed_variance(step_size, sigmas, steps_per_level):
  """Of data at 0, the variance over sigma_i^2 after each level, by ULA's recursion."""
  variance, ratios = sigmas[0] ** 2, []
  for sigma in sigmas:
    h = step_size * (sigma / sigmas[-1]) ** 2
    for _ in range(steps_per_level):
      variance = (1 - h / sigma**2) ** 2 * variance + 2 * h
    ratios.append(variance / sigma**2)
  return np.array(ratios)


@pytest.mark.parametrize("steps_per_level", [1, 5])
def test_ncsnv2_step_size_keeps_the_variance(steps_per_level, x64):
  """One level on from N(0, gamma^2), no other step size comes closer to N(0, 1)."""
  choose = jax.jit(ncsnv2_step_size, static_argnums=1)

  def ratio(h, gamma):
    variance = gamma**2
    for _ in range(steps_per_level):
      variance = (1 - h) ** 2 * variance + 2 * h
    return variance

  for gamma in (1.02, 1.3, 2.0):
    sigmas = np.array([gamma, 1.0])
    best = float(choose(sigmas, steps_per_level))
    others = ratio(np.linspace(1e-4, 1, 20_001), gamma)
    assert ratio(best, gamma) <= others.min() + 1e-12
    assert 1 < ratio(best, gamma) < gamma**2
    np.testing.assert_allclose(choose(7 * sigmas, steps_per_level), 49 * best, 1e-9)
  # Levels closer together than the widest gap change nothing.
  np.testing.assert_allclose(choose(np.array([2.01, 2.0, 1.0]), steps_per_level), best, 1e-9)


def test_ncsnv2_rule_in_simulation():
  """Chains from N(0, sigma_1^2) for data at 0: the variance is followed down through the levels."""

  def predict(x, level):
    return Prediction.of(x, level, "x0", x0=jnp.zeros_like(x))

  @jax.jit
  def run(key):
    grid = uniform_log_snr(VarianceExploding(0.1, 2.0), 30, to_data=False)
    of_prior, of_chain = jax.random.split(key)
    x = grid.prior(of_prior, (20_000,))
    options = {"steps_per_level": 5, "rule": "ncsnv2"}
    return annealed_langevin(of_chain, predict, x, grid, **options).path, grid.levels.sigma

  path, sigmas = (np.asarray(a, float) for a in run(KEY))
  measured = path.var(1) / sigmas**2
  expected = annealed_variance(float(ncsnv2_step_size(sigmas, 5)), sigmas, 5)
  np.testing.assert_allclose(measured, expected, rtol=4 * (2 / 20_000) ** 0.5)
  assert (np.abs(measured - 1) < 0.3).all()
  # The published step size is far too small for these levels: the chains cannot follow.
  assert annealed_variance(1e-4, sigmas, 5)[-1] > 4


def test_annealed_langevin_refuses_what_makes_no_rule():
  run = functools.partial(annealed_langevin, KEY, mixture().predict, jnp.ones(2))
  grid = uniform(VarianceExploding(), 2)
  with pytest.raises(ValueError, match="rule = 'best' must be"):
    run(grid, rule="best")
  with pytest.raises(ValueError, match="leave step_size unset"):
    run(grid, rule="ncsnv2", step_size=0.1)
  with pytest.raises(ValueError, match="two levels or more"):
    run(Grid.from_arrays([1, 1], [1, 0], process="ve"), rule="ncsnv2")
  with pytest.raises(ValueError, match="must decrease"):
    ncsnv2_step_size(np.array([1.0, 2.0]), 5)


# DDIM's inference process


def test_ddim_inference_keeps_the_marginals_given_x0():
  """N(alpha x0, sigma^2) at every level, every eta, each process: moments and KS."""
  x0, num_levels = jnp.full(4000, 0.7), 6
  schedules = (VarianceExploding(0.02, 10.0, 5.0), VariancePreserving(), LinearFlow())
  run = jax.jit(lambda key, grid, eta: ddim_inference(key, x0, grid, eta=eta))
  grids = [uniform(schedule, num_levels) for schedule in schedules]
  worst, lowest = 0.0, 1.0
  for grid in grids:
    for eta in (0.0, 0.1, 1.0):
      path = np.asarray(run(jax.random.fold_in(KEY, int(10 * eta)), grid, eta), float)
      assert path.shape == (num_levels + 1, 4000)
      np.testing.assert_allclose(path[-1], 0.7, 1e-6)
      for i in range(num_levels):
        alpha, sigma = float(grid[i].alpha), float(grid[i].sigma)
        noise = (path[i] - alpha * 0.7) / sigma
        worst = max(worst, standard_errors(noise[:, None], np.zeros(1), np.eye(1)))
        lowest = min(lowest, stats.kstest(noise, "norm").pvalue)
  assert worst < 4
  assert lowest * len(schedules) * 3 * num_levels > 0.01


def test_ddim_inference_renews_noise_by_eta():
  """Successive noises correlate by sqrt(1 - eta^2 (1 - (r' / r)^2)): eq. 16 in noise units."""
  grid = uniform(VariancePreserving(), 4)
  ratios = np.asarray(grid.levels.sigma / grid.levels.alpha, float)
  run = jax.jit(lambda eta: ddim_inference(KEY, jnp.zeros(20_000), grid, eta=eta))
  for eta in (0.0, 0.5, 1.0):
    path = np.asarray(run(eta), float)[:-1]
    measured = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(path)]
    kept = np.sqrt(1 - eta**2 * (1 - (ratios[1:-1] / ratios[:-2]) ** 2))
    np.testing.assert_allclose(measured, kept, atol=4 / 20_000**0.5)


# Diagnostics


def test_diagnostics_of_independent_draws():
  path = np.random.default_rng(0).normal(size=(1000, 8, 2, 3))
  ess, rhat = effective_sample_size(path), split_rhat(path)
  assert ess.shape == rhat.shape == (2, 3)
  assert ess.dtype == rhat.dtype == np.float64
  np.testing.assert_allclose(ess, 8000, rtol=0.1)
  np.testing.assert_allclose(rhat, 1, atol=0.005)
  # Far from 0, where float32 has few digits left of a variance.
  far = (1000 + path).astype(np.float32)
  np.testing.assert_allclose(effective_sample_size(far), ess, rtol=1e-2)
  np.testing.assert_allclose(split_rhat(jnp.asarray(far)), rhat, rtol=1e-4)


def test_effective_sample_size_of_an_autoregression():
  """x' = rho x + sqrt(1 - rho^2) z is worth n (1 - rho) / (1 + rho) draws: ULA on a Gaussian."""
  v, h = 1.0, 0.2
  run = functools.partial(ula, KEY, jnp.negative, step_size=h, num_steps=4000)
  path = jax.jit(run)(np.zeros((20, 1), np.float32)).path
  rho = 1 - h / v
  np.testing.assert_allclose(effective_sample_size(path), 80_000 * (1 - rho) / (1 + rho), rtol=0.1)


def test_diagnostics_of_chains_that_do_not_mix():
  """Two modes that no chain leaves: R-hat is large, and the effective sample size the chains'."""
  start = np.repeat(np.float32([[-10.0], [10.0]]), 4, axis=0)
  run = functools.partial(ula, KEY, lambda x: 10 * (10 * jnp.sign(x) - x))
  path = jax.jit(functools.partial(run, step_size=0.05, num_steps=200))(start).path
  assert split_rhat(path)[0] > 10
  assert effective_sample_size(path)[0] < 20
  apart = np.broadcast_to(np.arange(4.0)[:, None], (10, 4, 1))
  assert split_rhat(apart) == np.inf
  assert np.isnan(split_rhat(np.ones((10, 4, 1))))
  for wrong in (np.ones(10), np.ones((3, 4, 1)), np.ones((10, 0))):
    with pytest.raises(ValueError, match="must be"):
      split_rhat(wrong)
