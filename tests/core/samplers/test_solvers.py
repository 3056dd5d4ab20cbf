"""What samplers promise: their order, their marginals, their count of calls, one compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import EDM, Prediction, signal_level
from scorelab.samplers import (
  SAMPLERS,
  annealed_langevin,
  churned,
  ddim,
  ddim_step,
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

pytestmark = pytest.mark.usefixtures("quick_compilation")

VE, VP, FLOW = VarianceExploding(0.02, 10.0, 5.0), VariancePreserving(), LinearFlow()
MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
KEY = jax.random.key(0)
# One of each function, the first: the others are other libraries' names for it.
NAMES = list({sampler: name for name, sampler in reversed(SAMPLERS.items())}.values())
NAMES.remove("consistency")  # of predictions of another kind: tests/core/losses/test_consistency.py
NAMES.remove("feynman_kac")  # moves particles of each sample: test_feynman_kac.py
STOCHASTIC = [
  *("ancestral", "annealed_langevin", "dpm_solver_2_ancestral", "dpmpp_2m_sde"),
  *("dpmpp_2s_ancestral", "dpmpp_3m_sde", "dpmpp_sde", "euler_maruyama"),
  *("predictor_corrector", "renoise"),
]
DETERMINISTIC = [name for name in NAMES if name not in STOCHASTIC]
each = pytest.mark.parametrize("name", NAMES)


VARIANCES, AXES = np.linalg.eigh(COVARIANCE)


def gaussian():
  return GaussianMixture([1.0], MEAN[None], COVARIANCE[None])


def exact(x, level):
  """E[x0 | x] of N(m, C), along C's axes: what `gaussian().predict` is, in few operations."""
  mean, variances, axes = (a.astype(x.dtype) for a in (MEAN, VARIANCES, AXES))
  gains = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
  x0 = mean + (x - level.alpha * mean) @ axes * gains @ axes.T
  spread = level.sigma**2 * variances / (level.alpha**2 * variances + level.sigma**2)
  return Prediction.of(
    x, level, "x0", x0=x0, x0_variance=jnp.broadcast_to(axes**2 @ spread, x.shape)
  )


def network(event_ndim=1):
  """A predict function that is right for no data but smooth, and defined at alpha = 0."""

  def apply(variables, x, c, rngs=None):
    mixed = x + jnp.roll(x, 1, axis=1)  # so that coordinates, or rows of pixels, are coupled
    return jnp.sin(2 * mixed + c.reshape(c.shape + (1,) * event_ndim))

  return EDM(apply, signal_level, event_ndim=event_ndim).bind(None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def levels_of(ranges, places):
  """Levels of several processes, stacked: a sampler vmapped over them compiles once.

  They are at the `places` of each range of t, from 0 at its start to 1 at its end.
  """
  levels = [s.at(a + (b - a) * jnp.asarray(places)) for s, a, b in ranges]
  return jax.tree.map(lambda *fields: jnp.stack(fields), *levels)


# Order of convergence

FINITE = ((VE, 0.9, 0.3), (VP, 1.0, 0.1), (FLOW, 0.9, 0.1))
FROM_PURE_NOISE = (FLOW, 1.0, 0.1)


def solution(noise, level):
  """The probability flow of N(m, C): each point keeps its place in standard units.

  Along C's axes, of variance v, x - alpha m grows as sqrt(alpha^2 v + sigma^2).
  """
  widths = np.sqrt(level.alpha**2 * VARIANCES + level.sigma**2)
  return level.alpha * MEAN + noise @ AXES * widths @ AXES.T


def errors(sampler, num_steps, started=False):
  """Root mean squared error at the last level, for FINITE and FROM_PURE_NOISE.

  With `started`, the first two steps are short, of widths N^-2 and N^(-4/3): a method of order 3
  that has but one value to go by at the first, and two at the second, then errs by N^-4 on each.
  """
  noise = np.random.default_rng(0).normal(size=(16, 2))
  places = np.arange(num_steps + 1) / num_steps
  if started:
    places = np.sort(np.append(places, [num_steps**-2.0, num_steps ** (-4 / 3)]))
  levels = levels_of((*FINITE, FROM_PURE_NOISE), tuple(places))
  ends = [jax.tree.map(lambda a, i=i: np.asarray(a)[:, i], levels) for i in (0, -1)]
  start, end = (np.stack([solution(noise, Level(*row)) for row in zip(*e)]) for e in ends)  # noqa: B905

  @jax.jit
  @jax.vmap
  def run(x, levels):
    # Of the process, samplers see only the grid; its schedule is for churn and middle levels.
    return sampler(KEY, exact, x, Grid(VE, levels, ends_at_data=False)).x

  return np.sqrt(np.mean((run(start, levels) - end) ** 2, axis=(1, 2)))


@pytest.mark.parametrize(
  ("name", "order", "options"),
  [
    ("ddim", 1, {}),
    ("euler", 1, {}),
    ("heun", 2, {}),
    ("dpmpp_singlestep", 2, {"order": 2}),
    ("dpmpp_singlestep", 3, {"order": 3}),
    ("dpm_solver_2", 2, {}),
    ("dpmpp_2s", 2, {}),
    ("dpmpp_2m", 2, {}),
    ("lms", 2, {"order": 2}),
    ("deis", 2, {"order": 2}),
    ("ipndm", 2, {"order": 2}),
    ("plms", 2, {}),
    ("unipc", 2, {"order": 1}),
    # In r, the midpoint method's error of third order vanishes on Gaussians.
    ("midpoint", 3, {}),
    ("rk4", 4, {}),
  ],
)
def test_order_of_convergence(name, order, options, x64):
  """48 and 96 steps: the error is halved `order` times, for every process."""
  sampler = functools.partial(SAMPLERS[name], **options)
  coarse, fine = errors(sampler, 48), errors(sampler, 96)
  measured = np.log2(coarse / fine)
  np.testing.assert_allclose(measured[:-1], order, atol=0.2)
  # From sigma / alpha = infinity the first steps are long however many there are: second order but
  # for a logarithm, which takes 0.2 to 0.4 off the measured one.
  assert measured[-1] > min(order, 2) - 0.5
  assert fine.max() < (0.02 if order == 1 else 2e-3)


@pytest.mark.parametrize(
  ("name", "order", "options"),
  [
    ("lms", 3, {"order": 3}),
    ("deis", 3, {"order": 3}),
    ("dpmpp_3m", 3, {}),
    ("dpmpp_3m", 2, {"curvature": 0.5}),
    ("unipc", 3, {"order": 2, "lower_order_final": False}),
  ],
)
def test_order_of_convergence_once_started(name, order, options, x64):
  """Of a multistep method, whose first steps are of first and second order.

  At curvature 0.5 the three-step solver is the other libraries': of second order.
  """
  sampler = functools.partial(SAMPLERS[name], **options)
  coarse, fine = (errors(sampler, n, started=True)[:-1] for n in (128, 256))
  np.testing.assert_allclose(np.log2(coarse / fine), order, atol=0.2)
  assert fine.max() < 1e-4


# Marginals


def moments_agree(x, target):
  """Mean and covariance of x [n, d] within 4 standard errors of the target's."""
  x = np.asarray(x, float)
  apart = x - np.asarray(target.mean)
  products = apart[:, :, None] * apart[:, None, :]
  for values, truth in ((x, target.mean), (products, target.covariance)):
    error = np.abs(values.mean(0) - truth) / (values.std(0) / len(x) ** 0.5)
    assert error.max() < 4, error


@pytest.mark.e2e
def test_ddim_keeps_the_marginals():
  """The exact score, started from the true law: every process, every eta, in many steps."""
  target = GaussianMixture(
    [0.5, 0.3, 0.2], np.array([[-2.0, 1.0], [1.5, 2.0], [0.5, -2.0]]), np.array([0.3, 0.8, 0.5])
  )
  ranges = (VE, 1.0, 0.2), (VP, 0.9, 0.05), (FLOW, 0.95, 0.05)
  etas = jnp.array([0.0, 0.3, 1.0])

  def run(levels, key, eta):
    first, noise, sample = jax.random.split(key, 3)
    start = target.sample(first, 2000)
    x = levels.alpha[0] * start + levels.sigma[0] * jax.random.normal(noise, start.shape)
    return ddim(sample, target.predict, x, Grid(VE, levels, ends_at_data=False), eta=eta).x

  levels = levels_of(ranges, tuple(np.linspace(0, 1, 161)))
  over_etas = jax.vmap(run, (None, 0, 0))
  samples = jax.jit(jax.vmap(over_etas, (0, None, None)))(levels, jax.random.split(KEY, 3), etas)
  for i in range(len(ranges)):
    for x in samples[i]:
      moments_agree(x, target.perturbed(levels.alpha[i, -1], levels.sigma[i, -1]))


def test_annealed_langevin_samples_a_gaussian():
  """From a start far off, by many small steps: the law at the least noisy level."""
  grid = uniform(VarianceExploding(0.3, 3.0, 5.0), 4)
  options = {"steps_per_level": 200, "step_size": 0.01}
  sampler = functools.partial(annealed_langevin, KEY, exact, **options)
  samples = jax.jit(sampler)(jnp.full((1000, 2), 5.0), grid)
  moments_agree(samples.x, gaussian().perturbed(1.0, 0.3))
  assert int(samples.nfe) == 800


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


# Processes

WINDOW = {"churn": 2.0, "s_tmin": 0.7, "s_tmax": 3.0, "s_noise": 1.1}


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("ancestral", {"variance": "optimal"}),
    ("annealed_langevin", {"step_size": 1e-3, "steps_per_level": 2}),
    ("ddim", {"eta": 0.5}),
    ("dpmpp_2m", {}),
    ("euler", WINDOW),
    ("heun", WINDOW),
    ("renoise", {}),
  ],
)
def test_all_processes_are_one_rescaled(name, options, x64):
  """x / alpha on a VP grid follows the same path as x on the VE grid of its sigma / alpha.

  With the same noise; ranges of churn and step sizes are those of the VE form too.
  """
  vp = uniform(VP, 4, t_max=0.6, t_min=0.1, to_data=False)
  ratios = vp.levels.sigma / vp.levels.alpha
  ve = Grid(VE, Level(VE.time(-jnp.log(ratios)), jnp.ones(5), ratios), ends_at_data=False)

  @jax.jit
  def path(y, grid):
    samples = SAMPLERS[name](KEY, exact, grid[0].alpha * y, grid, **options)
    levels = grid.levels.alpha[-len(samples.path) :]
    return samples.path / levels[:, None, None]

  y = np.random.default_rng(0).normal(size=(3, 2)) * 2
  np.testing.assert_allclose(path(y, vp), path(y, ve), 1e-9)
  # The range would churn other steps if it were one of sigma.
  assert vp.levels.sigma[0] < 3 < ratios[0]
  assert vp.levels.sigma[3] < 0.7 < ratios[3]


# Counts, shapes and keys


TWO_CALLS = [
  *("dpm_solver_2_ancestral", "dpmpp_2s", "dpmpp_2s_ancestral", "dpmpp_sde"),
  *("dpm_solver_2", "heun", "midpoint"),
]


@pytest.mark.e2e
@each
@pytest.mark.parametrize("to_data", [True, False])
def test_nfe_counts_calls(name, to_data):
  calls = 0

  def predict(x, level):
    nonlocal calls
    calls += 1
    return Prediction.of(x, level, "x0", x0=x / 2)

  grid = uniform(VP, 2, to_data=to_data)
  options = {"steps_per_level": 2} if name == "annealed_langevin" else {}
  with jax.disable_jit():
    samples = SAMPLERS[name](KEY, predict, jnp.ones(2), grid, **options)
  assert samples.nfe == calls
  assert samples.network_calls is None
  levels = 2 if to_data else 3
  stated = dict.fromkeys(NAMES, 2) | dict.fromkeys(TWO_CALLS, 4 - to_data)
  stated |= {"annealed_langevin": 2 * levels, "plms": 3, "predictor_corrector": 4}
  assert calls == (stated | {"rk4": 8 - 3 * to_data})[name]
  assert samples.path.shape == (levels if name == "annealed_langevin" else 2, 2)
  np.testing.assert_array_equal(samples.path[-1], samples.x)


def test_annealed_langevin_denoises_by_one_call_more():
  grid, x = uniform(VE, 3), jnp.ones(2)
  noisy, clean = (annealed_langevin(KEY, network(), x, grid, denoise=d) for d in (False, True))
  assert clean.nfe == noisy.nfe + 1 == 16
  assert clean.path.shape == (4, 2)
  np.testing.assert_allclose(clean.x, network()(noisy.x, grid[2]).x0, 1e-5)
  np.testing.assert_array_equal(clean.path[:-1], noisy.path)


_ETAS = [{"eta": eta} for eta in (0.0, 0.4, 1.0)]
OPTIONS = {
  "annealed_langevin": [{"step_size": h} for h in (1e-5, 1e-4, 1e-3)],
  **dict.fromkeys(("ddim", "dpm_solver_2_ancestral", "dpmpp_2m_sde", "dpmpp_2s_ancestral"), _ETAS),
  **dict.fromkeys(("dpmpp_sde", "euler_maruyama"), _ETAS),
  "dpm_solver_2": [{"churn": churn} for churn in (0.0, 1.0, 40.0)],
  "dpmpp_3m": [{"curvature": share} for share in (0.0, 0.5, 1.0)],
  "dpmpp_3m_sde": [{"eta": eta, "curvature": 0.5, "s_noise": 1.1} for eta in (0.0, 0.4, 1.0)],
  "predictor_corrector": [{"snr": snr} for snr in (0.05, 0.16, 0.3)],
  "euler": [{"churn": c, "s_tmax": 30.0, "s_noise": 1.1} for c in (0.0, 1.0, 40.0)],
  "heun": [{"churn": 2.0, "s_tmin": low, "s_tmax": 1.0} for low in (0.1, 0.5, 0.9)],
}


@pytest.mark.e2e
@each
def test_compiles_once_and_vmaps(name, x64):
  """Calls with other keys, points, levels and options do not retrace, and vmapped are the same.

  No key is used twice, and no rank is promoted.
  """

  @jax.jit
  def run(key, x, sigma_max, options):
    grid = uniform(VarianceExploding(0.02, sigma_max), 4)
    return SAMPLERS[name](key, network(), x, grid, **options).x

  x, sigma_max = np.random.default_rng(0).normal(size=(3, 2)), np.array([5.0, 9.0, 20.0])
  options = OPTIONS.get(name, [{}, {}, {}])
  with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
    rows = zip(jax.random.split(jax.random.key(0), 3), x, sigma_max, options, strict=True)
    alone = [run(*row) for row in rows]
  assert run._cache_size() == 1
  stacked = jax.tree.map(lambda *values: jnp.stack(values), *options)
  together = jax.vmap(run)(jax.random.split(jax.random.key(0), 3), x, sigma_max, stacked)
  np.testing.assert_allclose(together, alone, 1e-9)


TOGETHER = ("ddim", "dpmpp_singlestep", "heun", "lms", "unipc")
OTHERS = [pytest.param(n, marks=pytest.mark.e2e) for n in DETERMINISTIC if n not in TOGETHER]


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*TOGETHER, *OTHERS])
def test_images_one_by_one_or_together(name, x64):
  """Deterministic samplers know no batch: [b, h, w, c] is [h, w, c] b times."""

  @jax.jit
  def run(x):
    return SAMPLERS[name](KEY, network(event_ndim=3), x, uniform(VP, 3)).x

  x = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
  together, apart = run(x), jax.vmap(run)(x)
  np.testing.assert_allclose(together, apart, 1e-9)
  assert np.std(apart) > 0.1


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["unipc", "lms", "deis", "ipndm"])
def test_fewer_steps_than_the_order(name, x64):
  """A grid too short for an order gives the highest that it has room for."""
  x = jnp.asarray([[0.3, -1.0], [2.0, 0.1]])
  for num_steps in (1, 2):
    grid = uniform(VP, num_steps)
    few, fewer = jax.jit(
      lambda x, grid: [SAMPLERS[name](KEY, network(), x, grid, order=n).x for n in (3, 2)]
    )(x, grid)
    np.testing.assert_allclose(few, fewer, 1e-12)
    assert np.isfinite(few).all()


# Ends and gradients


@pytest.mark.e2e
@pytest.mark.parametrize("name", [n for n in NAMES if n != "annealed_langevin"])
def test_from_pure_noise(name):
  """Linear flow from t = 1, alpha = 0: finite, churn and all; in one step it gives the mean."""
  options = {"churn": 10.0} if name in ("euler", "heun") else {}
  one_step = name in DETERMINISTIC and name not in ("euler", "lms", "ipndm")

  @functools.partial(jax.jit, static_argnums=1)
  def run(x, num_steps):
    grid = uniform(FLOW, num_steps)
    return SAMPLERS[name](KEY, exact, x, grid, **options).path

  x = jax.random.normal(KEY, (6, 2))
  path = run(x, 5)
  assert np.isfinite(path).all()
  assert np.ptp(path[-1], axis=0).min() > 0.1
  if one_step:
    np.testing.assert_allclose(run(x, 1), np.broadcast_to(MEAN, (1, 6, 2)), 1e-5, 1e-6)


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


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_gradients_through_ddim(schedule, x64):
  """With respect to eta, against differences, also where it is 0 or 1; onto the data."""

  @jax.jit
  @jax.vmap
  @jax.value_and_grad
  def total(eta):
    x = jnp.asarray([0.3, -1.0])
    return jnp.sum(ddim(KEY, network(), x, uniform(schedule, 4), eta=eta).x ** 2)

  h = 1e-6
  values, slopes = total((jnp.array([[-h], [0], [h]]) + jnp.array([0, 0.5, 1])).ravel())
  values, slopes = values.reshape(3, 3), slopes.reshape(3, 3)[1]
  differences = (values[2] - values[0]) / (2 * h)
  # From pure noise, at eta = 1, the true slope is infinite; ours is finite.
  compared = slice(2) if schedule is FLOW else slice(3)
  np.testing.assert_allclose(slopes[compared], differences[compared], 1e-4)
  assert np.isfinite(slopes).all()


@pytest.mark.e2e
def test_gradients_through_heun(x64):
  """With respect to the start and the churn, against differences; finite at churn = 0."""

  @jax.jit
  @jax.vmap
  @functools.partial(jax.value_and_grad, argnums=(0, 1))
  def total(shift, churn):
    x = jnp.asarray([0.3, -1.0]) + shift
    return jnp.sum(heun(KEY, network(), x, uniform(VP, 3), churn=churn).x ** 2)

  h = 1e-6
  values, slopes = total(h * jnp.array([0, 0, -1, 1, 0, 0]), jnp.array([0, 1, 1, 1, 1 - h, 1 + h]))
  differences = (values[3] - values[2]) / (2 * h), (values[5] - values[4]) / (2 * h)
  np.testing.assert_allclose([slope[1] for slope in slopes], differences, 1e-5)
  assert np.isfinite(slopes).all()


def test_eta_is_clipped(x64):
  """However large, no more noise is renewed than there is; none from equal levels."""
  now, nxt, z = VP.at(0.6), VP.at(0.5), jnp.asarray([1.0, -2.0])
  pred = network()(jnp.asarray([0.3, -1.0]), now)
  fresh = nxt.alpha * pred.x0 + nxt.sigma * z
  np.testing.assert_allclose(ddim_step(pred, now, nxt, z, 50.0), fresh, 1e-12)
  np.testing.assert_allclose(ddim_step(pred, now, now, z, 1.0), pred.x, 1e-12)
