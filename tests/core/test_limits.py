"""Finite limits where a formula divides by 0: pure noise, long steps, batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab import evaluation, losses, samplers, schedules
from scorelab.losses import LEVELS, WEIGHTINGS
from scorelab.predictions import CONDITIONINGS, PARAMETERIZATIONS, Consistency, Prediction, guidance
from scorelab.runs.signals import StopFlag
from scorelab.samplers.ddim import noise_shares
from scorelab.samplers.multistep import shares_by_sde
from scorelab.schedules import Level, VarianceExploding
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Context

KEY = jax.random.key(0)
TARGET = GaussianMixture([0.3, 0.7], [[-4.0, 0.0], [3.0, 1.0]], [0.5, 1.0])
X = jnp.array([[0.5, -1.0], [2.0, 0.3]])
TO_NOISE = {
  "linear_flow": schedules.LinearFlow(),
  "cosine": schedules.Cosine(),
  "cosine_flow": schedules.CosineFlow(),
  "sigmoid": schedules.Sigmoid(),
  "laplace": schedules.Laplace(),
  "zero_snr": schedules.SCHEDULES["linear_betas"](num_levels=8, zero_terminal_snr=True),
}


@jax.jit
def guided(scale, level, x=X):
  def log_prob(x, level):
    return TARGET.log_class_prob(x, level)[..., 1]

  return guidance.classifier(TARGET.predict, log_prob, guidance_scale=scale)(x, level)


@functools.partial(jax.jit, static_argnums=0)
def sampled(sampler, x, levels):
  """Samples at given levels; of the process, the sampler sees them only."""
  return sampler(KEY, x, schedules.Grid(VarianceExploding(), levels, ends_at_data=True))


def numpy_x0(x, alpha, sigma, scale):
  """E[x_0 | x] + scale sigma^2 / alpha grad log P(class 1 | x), by hand, in float64."""
  weights, means, variances = np.array([0.3, 0.7]), np.array([[-4.0, 0], [3.0, 1]]), [0.5, 1.0]
  total = sigma**2 + alpha**2 * np.array(variances)
  gaps = np.asarray(x, float)[:, None] - alpha * means
  logs = np.log(weights) - np.log(total) - (gaps**2).sum(-1) / (2 * total)
  shares = np.exp(logs - logs.max(1, keepdims=True))
  shares /= shares.sum(1, keepdims=True)
  slopes = -gaps / total[:, None]
  push = slopes[:, 1] - (shares[..., None] * slopes).sum(1)
  posterior = means + (alpha * np.array(variances) / total)[:, None] * gaps
  return (shares[..., None] * posterior).sum(1) + scale * sigma**2 / alpha * push


@pytest.mark.parametrize("name", TO_NOISE)
def test_classifier_guidance_at_pure_noise(name):
  """x0 is E[x_0] + scale (E[x_0 | c] - E[x_0]), which float64 approaches as alpha -> 0."""
  level = TO_NOISE[name].at(1.0)
  assert level.alpha == 0
  pred, sigma = guided(3.0, level), float(level.sigma)
  mean = np.array([0.3 * -4 + 0.7 * 3, 0.7])
  limit = mean + 3 * (np.array([3.0, 1.0]) - mean)
  np.testing.assert_allclose(pred.x0, np.tile(limit, (2, 1)), rtol=2e-6)  # float32
  # The error of the limit is of order alpha |x| |m|: 1e-8 here; float64 loses 1e-16 / alpha.
  np.testing.assert_allclose(numpy_x0(X, 1e-8, sigma, 3.0), np.tile(limit, (2, 1)), atol=1e-6)
  np.testing.assert_allclose(pred.noise, X / sigma, rtol=1e-6)  # of no class: the law is N(0, s^2)
  # Another view: at scale 1 guidance is the exact conditional prediction.
  of_class = jax.jit(TARGET.predict_of_class)(X, level, jnp.ones(2, int))
  np.testing.assert_allclose(guided(1.0, level).x0, of_class.x0, rtol=2e-6)


def test_classifier_guidance_next_to_pure_noise():
  """The two branches meet, and with signal nothing has changed: x0 from score in float64."""
  for alpha in (0.3, 1e-2):
    level = Level(None, jnp.asarray(alpha), jnp.asarray(1.0))
    # float32's gradient has an error of 1e-7 of |score|, divided by alpha.
    np.testing.assert_allclose(
      guided(3.0, level).x0, numpy_x0(X, alpha, 1.0, 3.0), atol=3e-6 / alpha
    )
  both = Level(None, jnp.array([0.0, 0.5]), jnp.ones(2))
  apart = [guided(2.0, jax.tree.map(lambda a, i=i: a[i], both), X[i]).x0 for i in (0, 1)]
  np.testing.assert_allclose(guided(2.0, both).x0, jnp.stack(apart), rtol=1e-6)


def guided_ddim(key, x, grid):
  return samplers.ddim(key, lambda x, level: guided(3.0, level, x), x, grid)


@pytest.mark.parametrize("name", TO_NOISE)
def test_guided_samples_from_pure_noise_are_finite(name):
  grid = schedules.uniform(TO_NOISE[name], 6)
  samples = sampled(guided_ddim, X, grid.levels).x
  assert jnp.isfinite(samples).all()
  # Guided towards the mode at (3, 1), of std 1: within six of them.
  assert (np.linalg.norm(samples - np.array([3.0, 1.0]), axis=-1) < 6).all()


def langevin(key, x, grid):
  run = functools.partial(samplers.annealed_langevin, rule="ncsnv2", steps_per_level=20)
  return run(key, TARGET.predict, x, grid)


@pytest.mark.parametrize("name", TO_NOISE)
def test_annealed_langevin_from_pure_noise(name):
  """Each mode is reached; a grid without the level of pure noise gives samples of the same law."""
  grid = schedules.uniform(TO_NOISE[name], 12, t_min=0.1)
  samples = sampled(langevin, grid.prior(KEY, (256, 2)), grid.levels)
  assert samples.nfe == 12 * 20
  assert np.isfinite(samples.x).all()
  # E|x - mean|^2 = 2 * .85 + the modes' spread; the least noisy level adds a little.
  assert 5 < np.var(samples.x, axis=0).sum() < 25


def test_annealed_langevin_refuses_steps_that_diverge():
  """At much noise a step multiplies x / r by 1 - h / r^2: stable below 2, to infinity above."""
  grid = schedules.uniform_log_snr(VarianceExploding(sigma_min=0.005), 12)
  with pytest.raises(ValueError, match=r"step_size = 0.0001 must be below 5e-05, 2 .*'ncsnv2'"):
    samplers.annealed_langevin(KEY, TARGET.predict, X, grid)
  for share, stable in ((0.9, True), (1.2, False)):
    x, step = jnp.ones(2), share * 2 * 0.005**2
    for _ in range(200):
      x = samplers.ula_step(x, -x / 80**2, step * (80 / 0.005) ** 2, jnp.zeros(2))
    assert bool(jnp.abs(x).max() < 1) == stable
  with pytest.raises(ValueError, match="one level of pure noise"):
    samplers.annealed_langevin(
      KEY, TARGET.predict, X, schedules.uniform(schedules.LinearFlow(), 1), step_size=0.1
    )


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["laplace", "sigmoid", "linear_flow"])
def test_euler_in_time_from_pure_noise(name):
  """Finite at every number of steps, and towards the flow of small steps in sigma / alpha."""
  schedule = TO_NOISE[name]
  assert all(jnp.isfinite(rate) for rate in schedule.rates(jnp.ones(())))

  @jax.jit
  def solutions():
    exact = samplers.heun(KEY, TARGET.predict, X, schedules.uniform(schedule, 512)).x
    grids = [schedules.uniform(schedule, n) for n in (16, 256)]
    return exact, [samplers.euler_time(KEY, TARGET.predict, X, grid).x for grid in grids]

  exact, found = solutions()
  errors = [float(np.abs(x - exact).max()) for x in found]
  assert np.isfinite(errors).all()
  assert errors[1] < errors[0]


def test_consistency_at_pure_noise():
  """f = s F, which levels next to pure noise approach."""
  read = Consistency(
    lambda v, u, c, rngs=None: u + 1, CONDITIONINGS["signal_level"], schedule=TO_NOISE["cosine"]
  )
  at = [read.read(X, Level(None, jnp.asarray(a), jnp.asarray(1.0)), X + 1).x0 for a in (0.0, 1e-4)]
  np.testing.assert_allclose(at[0], X + 1)
  np.testing.assert_allclose(at[1], at[0], atol=1e-3)  # of order alpha


def network(view):
  def apply(variables, x, c, rngs=None):
    return variables["params"]["w"] * x + variables["params"]["b"]

  return PARAMETERIZATIONS[view](apply, CONDITIONINGS["signal_level"])


VIEWS = ["noise", "score", "v", "flow", "x0", "edm"]


def weighted_loss(view, weighting, name):
  schedule = TO_NOISE[name]
  options = {"schedule": schedule} if weighting == "likelihood" else {}
  weight = functools.partial(WEIGHTINGS[weighting], **options)
  levels = functools.partial(LEVELS["grid"], num_levels=4)
  return losses.ncsn(network(view), schedule, levels=levels, weighting=weight)


def is_infinite(view, weighting):
  return view in ("noise", "score") and weighting in ("edm", "truncated_snr", "uniform")


@functools.cache
def losses_and_slopes(view, name):
  """Of all weightings with a finite limit, as one program."""

  @jax.jit
  def run(params, batch):
    def value(params, loss):
      return loss(params, KEY, batch, Context(jnp.zeros((), int), {}))[0]

    finite = [weighting for weighting in WEIGHTINGS if not is_infinite(view, weighting)]
    made = {weighting: weighted_loss(view, weighting, name) for weighting in finite}
    return {key: jax.value_and_grad(value)(params, loss) for key, loss in made.items()}

  params = {"w": jnp.float32(0.7), "b": jnp.float32(0.1)}
  return run(params, {"x": jax.random.normal(KEY, (8, 2))})


@pytest.mark.e2e
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["zero_snr", pytest.param("laplace", marks=pytest.mark.e2e)])
def test_losses_at_pure_noise(view, weighting, name):
  """Finite loss and gradient for every weighting and view; refused if the limit is infinite."""
  if is_infinite(view, weighting):
    with pytest.raises(ValueError, match="levels reach pure noise"):
      weighted_loss(view, weighting, name)
    return
  found = losses_and_slopes(view, name)[weighting]
  assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.e2e
@pytest.mark.parametrize("view", ["noise", "score"])
def test_the_weight_at_pure_noise_is_its_limit(view):
  """min_snr is SNR there: the loss is |noise error|^2, and sigma^2 |score error|^2."""
  schedule = TO_NOISE["zero_snr"]
  loss = losses.ncsn(
    network(view),
    schedule,
    levels=lambda schedule, u: schedule.at(jnp.ones_like(u)),
    weighting=WEIGHTINGS["min_snr"],
  )
  batch, params = {"x": jnp.zeros((64, 2))}, {"w": jnp.float32(0.0), "b": jnp.float32(0.0)}
  value, _ = loss(params, KEY, batch, Context(jnp.zeros((), int), {}))
  noise = jax.random.normal(jax.random.split(KEY)[1], (64, 2))  # sigma = 1, and the network says 0
  np.testing.assert_allclose(value, jnp.mean(jnp.sum(noise**2, -1)), rtol=1e-5)


@pytest.mark.parametrize("loss", ["stepwise_kl", "variational_bound"])
def test_bounds_refuse_a_noise_at_pure_noise(loss):
  """A noise leaves x0 open there, and a term of the bound is infinite; an x0 does not."""
  make = functools.partial(losses.LOSSES[loss], schedule=TO_NOISE["linear_flow"], num_levels=4)
  with pytest.raises(ValueError, match="levels reach pure noise"):
    make(network("noise"))
  make(network("x0"))


@pytest.mark.parametrize("ratio", [0.5, 1e-2, 2.5e-4, 1e-6])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5])
def test_noise_shares_keep_their_digits(ratio, eta):
  """Against float64: 1 - renewed^2 loses all digits where r' / r is below 2e-4."""
  schedule = VarianceExploding(sigma_min=1e-5)
  now, nxt = schedule.at_ratio(1.0), schedule.at_ratio(ratio)
  renewed, kept = noise_shares(now, nxt, eta)
  squared = eta**2 * (1 - float(nxt.sigma) ** 2)
  np.testing.assert_allclose(renewed, min(squared, 1) ** 0.5, rtol=3e-7)
  by_hand = (1 - eta) * (1 + eta) + eta**2 * float(nxt.sigma) ** 2
  # Above 1, both terms are of one size near the clip, and their difference has an error of 1e-7.
  np.testing.assert_allclose(kept, max(by_hand, 0) ** 0.5, rtol=1e-6, atol=2e-7 * (eta > 1))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_sde_shares_keep_their_digits(eta):
  grid = schedules.Grid.from_arrays(np.ones(3), [80.0, 0.02, 0.0], process="ve")
  renewed, kept = shares_by_sde(grid, eta)
  np.testing.assert_allclose(kept[0], (0.02 / 80) ** eta, rtol=1e-6)
  np.testing.assert_allclose(renewed**2 + kept**2, 1, rtol=1e-6)


def test_a_long_step_keeps_its_noise():
  """From 80 to 0.02 at eta = 1: 2.5e-4 of the noise, where it once was 3.5e-4."""
  now, nxt = (VarianceExploding().at_ratio(r) for r in (80.0, 0.02))
  pred = Prediction.of(jnp.ones(1), now, "x0", x0=jnp.zeros(1), noise=jnp.ones(1))
  moved = samplers.ddim_step(pred, now, nxt, jnp.zeros(1), 1.0)
  np.testing.assert_allclose(moved / 0.02, 0.02 / 80, rtol=1e-5)


@pytest.mark.e2e
def test_the_last_batch_is_filled_with_real_rows():
  """A sampler that averages over its batch sees points of the set alone, and each one once more."""
  seen = []

  def sample(params, keys, starts, labels, weak):
    seen.append(np.asarray(starts[0]))
    return starts + jnp.mean(starts, axis=1, keepdims=True), jnp.ones((), int)

  starts = 5.0 + jnp.arange(10.0).reshape(1, 10, 1)
  labels = jnp.arange(10).reshape(1, 10)
  args = (sample, {}, jax.random.split(KEY, 1), starts, 4, StopFlag(), labels, {})
  x, _ = evaluation.sample_in_batches(*args)
  assert x.shape == (1, 10, 1)
  np.testing.assert_array_equal(seen[2][:, 0], [13, 14, 5, 6])
  np.testing.assert_allclose(x[0, 8:, 0], [13 + 9.5, 14 + 9.5])
