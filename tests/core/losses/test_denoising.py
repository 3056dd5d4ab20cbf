"""Denoising losses: minima in closed form, level distributions against SciPy, weights by hand."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from scorelab.losses import LEVELS, UNIFORMS, WEIGHTINGS, ddpm, denoising, edm, ncsn
from scorelab.predictions import EDM, Parameterization, Prediction, log_sigma, x0_slope
from scorelab.schedules import GRIDS, Level, LinearFlow, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture, nine_modes
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOTEBOOK = VarianceExploding(0.02, 10.0, 5.0)
# A JAX notebook's NCSN. Its training levels: exp(1.2 n - 0.5), n normal, clipped to the ends.
NOTEBOOK_LEVELS = functools.partial(LEVELS["log_normal"], level_mean=-0.5, level_std=1.2)
CONTEXT = Context(jnp.zeros((), int), {})
MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])


class Perturbed(NamedTuple):
  """In place of a parameterization: the exact prediction, plus the parameters."""

  predict: Any
  kind: str

  def bind(self, params, label=None):
    def predict(x, level):
      value = self.predict(x, level).view(self.kind) + params
      return Prediction.of(x, level, self.kind, **{self.kind: value})

    return predict


def gaussian():
  return GaussianMixture([1.0], MEAN[None], COVARIANCE[None])


def over_levels(f):
  """E f(sigma / alpha) over the notebook's levels, whose ends have mass, by quadrature."""
  normal, ends = scipy.stats.norm(-0.5, 1.2), np.log([0.02, 10.0])
  inside, _ = scipy.integrate.quad(lambda u: f(np.exp(u)) * normal.pdf(u), *ends, epsabs=1e-12)
  return inside + f(0.02) * normal.cdf(ends[0]) + f(10.0) * normal.sf(ends[1])


def on_fresh_batches(loss, draw):
  """A function of the parameters: the loss [16] and its gradient [16, ...], on 16 batches.

  NumPy draws the points, `draw(rng) -> [n, d]`: the target's own sampler is not trusted.
  """
  run = jax.jit(jax.value_and_grad(lambda p, key, batch: loss(p, key, batch, CONTEXT)[0]))

  def on_batches(params):
    rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), 16)
    rows = [run(params, key, {"x": draw(rng).astype(np.float32)}) for key in keys]
    return tuple(np.array(column) for column in zip(*rows, strict=True))

  return on_batches


def assert_mean(values, expected):
  """Within 4 standard errors, measured over keys. Gives the standard error."""
  error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
  assert (np.abs(np.mean(values, axis=0) - expected) < 4 * error).all(), (
    np.mean(values, axis=0),
    expected,
    error,
  )
  return error


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [NOTEBOOK, VariancePreserving()], ids=["ve", "vp"])
def test_minimum_for_a_gaussian(schedule):
  """The posterior's variance, v r^2 / (v + r^2) on each axis, over r^2: in any process.

  At the minimum the gradient vanishes; a constant error d of the score adds sigma^2 |d|^2.
  """
  levels = functools.partial(NOTEBOOK_LEVELS, sigma_min=0.02, sigma_max=10.0)
  loss = ncsn(
    Perturbed(gaussian().predict, "score"),
    schedule,
    levels=levels,
    weighting=WEIGHTINGS["sigma_squared"],
    uniforms=UNIFORMS["stratified"],
  )
  minimum = over_levels(lambda r: sum(v / (v + r * r) for v in np.linalg.eigvalsh(COVARIANCE)))
  run = on_fresh_batches(loss, lambda rng: rng.multivariate_normal(MEAN, COVARIANCE, 8192))
  values, gradients = run(jnp.zeros(2))
  assert assert_mean(values, minimum) < 5e-3
  assert_mean(gradients, 0)
  raised, _ = run(jnp.array([0.3, -0.2]))
  if schedule is NOTEBOOK:
    assert_mean(raised - values, over_levels(lambda r: r * r) * 0.13)
  assert (raised > values).all()


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [NOTEBOOK, VariancePreserving()], ids=["ve", "vp"])
def test_denoising_at_one_level_of_a_gaussian(schedule):
  """Least at the exact score, at E |eps / sigma|^2 - E |score|^2; an error d adds |d|^2.

  By eigenvalue v, in units of the data: 1 / r^2 - 1 / (v + r^2), over alpha^2 for the score of x_t.
  """
  loss = denoising(
    Perturbed(gaussian().predict, "score"),
    schedule,
    levels=functools.partial(LEVELS["fixed"], sigma=0.5),
  )
  at = schedule.at_ratio(0.5)
  gaps = [1 / 0.25 - 1 / (v + 0.25) for v in np.linalg.eigvalsh(COVARIANCE)]
  run = on_fresh_batches(loss, lambda rng: rng.multivariate_normal(MEAN, COVARIANCE, 8192))
  values, gradients = run(jnp.zeros(2))
  assert assert_mean(values, sum(gaps) / float(at.alpha) ** 2) < 0.02 * sum(gaps)
  assert_mean(gradients, 0)
  raised, _ = run(jnp.array([0.3, -0.2]))
  assert_mean(raised - values, 0.13)


@pytest.mark.e2e
def test_denoising_optimum_of_the_notebook():
  """At sigma = 1 on the nine modes: the notebook says 0.181.

  Five stds from the next mode each is alone, of variance v = 0.1: 2 (1 - 1 / (1 + v)).
  """
  loss = denoising(Perturbed(nine_modes().predict, "score"), NOTEBOOK)
  values, _ = on_fresh_batches(loss, draw_nine_modes)(jnp.zeros(2))
  assert assert_mean(values, 2 - 2 / 1.1) < 5e-4


def draw_nine_modes(rng):
  """65,536 points [n, 2] by NumPy."""
  weights, means = np.asarray(nine_modes().weights, float), np.asarray(nine_modes().means)
  modes = rng.choice(9, 65_536, p=weights / weights.sum())
  return means[modes] + rng.normal(0, 0.1**0.5, (65_536, 2))


@pytest.mark.e2e
def test_minimum_for_the_notebook():
  """0.8151 by quadrature over the plane and the levels; the notebook's own estimate is 0.8126."""
  loss = ncsn(
    Perturbed(nine_modes().predict, "score"),
    NOTEBOOK,
    levels=NOTEBOOK_LEVELS,
    weighting=WEIGHTINGS["sigma_squared"],
    levels_per_point=2,
  )
  values, _ = on_fresh_batches(loss, draw_nine_modes)(jnp.zeros(2))
  assert assert_mean(values, 0.815081) < 1.5e-3


def test_every_view_has_the_same_loss(x64):
  """Computed in the network's own view, weighted on x0: the view changes rounding only."""
  batch = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)))}

  @jax.jit
  def losses():
    return {
      kind: ncsn(
        Perturbed(gaussian().predict, kind),
        VariancePreserving(),
        levels=LEVELS["uniform_time"],
        weighting=WEIGHTINGS["min_snr"],
      )(0.0, jax.random.key(1), batch, CONTEXT)[0]
      for kind in ("x0", "noise", "score", "v", "flow")
    }

  values = losses()
  np.testing.assert_allclose(list(values.values()), values["x0"], 1e-9)


@pytest.mark.parametrize("name", ["noise", "v", "edm"])
def test_loss_of_a_network_that_says_nothing(name):
  """With each one's published weighting: the mean square of what it should say, 1 a coordinate.

  The noise has unit variance (DDPM); so have v for data of unit variance (Salimans and Ho 2022)
  and the output that EDM asks for.
  """
  std = 0.5 if name == "edm" else 1.0

  def silent(variables, x, c, rngs=None):
    return jnp.zeros_like(x) + variables["params"]

  parameterization, weighting = {
    "noise": (Parameterization(silent, log_sigma, "noise"), WEIGHTINGS["snr"]),
    "v": (Parameterization(silent, log_sigma, "v"), WEIGHTINGS["edm"]),  # SNR + 1
    "edm": (
      EDM(silent, log_sigma, data_std=std),
      functools.partial(WEIGHTINGS["edm"], data_std=std),
    ),
  }[name]
  levels = functools.partial(LEVELS["log_uniform"], sigma_min=0.1, sigma_max=10.0)
  loss = ncsn(parameterization, VariancePreserving(), levels=levels, weighting=weighting)
  values, _ = on_fresh_batches(loss, lambda rng: rng.normal(0, std, (1024, 3)))(jnp.zeros(()))
  assert_mean(values, 3)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ddpm", "edm"])
def test_named_losses_of_a_network_that_says_nothing(name):
  """Theirs is the mean square of what the network should say, 1 a coordinate, at their own levels.

  Uniform in t, and log(sigma / alpha) normal: of either, half are below the median.
  """
  shown = []

  def silent(variables, x, c, rngs=None):
    return jnp.zeros_like(x) + variables["params"]

  def told(level):
    shown.append(level)
    return jnp.zeros_like(level.sigma)

  loss, median = {
    "ddpm": (ddpm(Parameterization(silent, told, "noise"), VariancePreserving()), None),
    "edm": (edm(EDM(silent, told), NOTEBOOK), np.exp(-1.2)),
  }[name]
  values, _ = on_fresh_batches(loss, lambda rng: rng.normal(0, 1, (1024, 3)))(jnp.zeros(()))
  assert_mean(values, 3)
  shown.clear()
  loss(jnp.zeros(()), jax.random.key(0), {"x": jnp.zeros((1000, 1))}, CONTEXT)
  below = shown[0].t < 0.5005 if median is None else shown[0].sigma < median
  assert jnp.sum(below) == 500


NORMS = {
  "l2": lambda e: e**2,
  "l1": abs,
  # SciPy's is e^2 / 2 within delta as well.
  "huber": lambda e: scipy.special.huber(0.7, e),
}


@pytest.mark.e2e
@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_the_noise(norm, x64):
  """The sum over coordinates of the noise's error, by NumPy, whatever the network's view."""
  batch = {"x": np.random.default_rng(0).normal(size=(64, 2)) + 2}

  @jax.jit
  def run(key):
    shown = []
    options = {"norm": norm, "huber_delta": 0.7}
    ddpm(Recorder(None, "x0"), VariancePreserving(), **options)(shown, key, batch, CONTEXT)
    return shown, {
      kind: ddpm(Perturbed(says_one, kind), VariancePreserving(), **options)(
        0.0, key, batch, CONTEXT
      )[0]
      for kind in ("x0", "noise", "score", "v", "flow")
    }

  def says_one(x, level):
    return Prediction.of(x, level, "noise", noise=jnp.ones_like(x))

  ((x, level),), found = run(jax.random.key(1))
  noise = (x - level.alpha[:, None] * batch["x"]) / level.sigma[:, None]
  expected = np.mean(np.sum(NORMS[norm](np.asarray(noise) - 1), axis=1))
  np.testing.assert_allclose(list(found.values()), expected, 1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_least_at_the_truth_of_a_gaussian(norm):
  """Mean and median of a Gaussian posterior are one."""
  loss = ddpm(Perturbed(gaussian().predict, "noise"), VariancePreserving(), norm=norm)
  run = on_fresh_batches(loss, lambda rng: rng.multivariate_normal(MEAN, COVARIANCE, 8192))
  values, gradients = run(jnp.zeros(2))
  assert_mean(gradients, 0)
  raised, _ = run(jnp.array([0.3, -0.2]))
  assert (raised > values).all()


def test_l1_learns_the_median(x64):
  """Points at 0, and one in four at 1: so much noise tells nothing, the median of x_0 is 0."""
  batch = {"x": np.tile([0.0, 0.0, 0.0, 1.0], 1000)[:, None]}

  @jax.jit
  def losses(x0s):
    def says(x0):
      def predict(x, level):
        return Prediction.of(x, level, "x0", x0=jnp.full_like(x, x0))

      return Perturbed(predict, "x0")

    levels = functools.partial(LEVELS["fixed"], sigma=100.0)
    return [
      [
        ddpm(says(x0), NOTEBOOK, levels=levels, norm=norm)(0.0, jax.random.key(0), batch, CONTEXT)[
          0
        ]
        for x0 in x0s
      ]
      for norm in ("l1", "l2")
    ]

  candidates = np.array([0.0, 0.25, 0.5])
  median, mean = losses(candidates)
  assert (candidates[np.argmin(median)], candidates[np.argmin(mean)]) == (0, 0.25)


def test_unknown_norm():
  with pytest.raises(ValueError, match="norm = 'l3' must be one of huber, l1, l2"):
    ddpm(None, NOTEBOOK, norm="l3")


class Recorder(Perturbed):
  """Keeps the levels and the points that the loss shows to the network."""

  def bind(self, params, label=None):
    def predict(x, level):
      params.append((x, level))
      return Prediction.of(x, level, "x0", x0=jnp.ones_like(x))

    return predict


def test_levels_per_point_are_far_apart():
  """Each point gets one level of each third of the distribution."""
  loss = ncsn(
    Recorder(None, "x0"),
    VarianceExploding(1e-6, 1.0, 1.0),
    levels=LEVELS["uniform_time"],
    weighting=WEIGHTINGS["uniform"],
    uniforms=UNIFORMS["stratified"],
    levels_per_point=3,
  )

  @jax.jit
  def run(key):
    shown = []
    loss(shown, key, {"x": 100.0 * jnp.arange(10)[:, None]}, CONTEXT)
    return shown

  ((x, level),) = run(jax.random.key(0))
  np.testing.assert_array_equal(np.round(x / 100), np.tile(np.arange(10), 3)[:, None])
  np.testing.assert_array_equal(np.floor(level.t * 3), np.repeat(np.arange(3), 10))


@pytest.mark.parametrize(
  ("schedule", "ratios"),
  [(NOTEBOOK, [0.02, 0.03, 0.5, 9.0, 10.0]), (LinearFlow(), [0.001001, 0.0014, 1.1, 500, 1e9])],
  ids=["ve", "flow"],
)
def test_bands_of_the_loss(schedule, ratios):
  """By hand: eighths of the range of log(sigma / alpha), the noisiest last; pure noise is there."""
  log_ratios = jnp.log(jnp.asarray(ratios))
  loss = ncsn(
    Perturbed(gaussian().predict, "x0"),
    schedule,
    levels=lambda schedule, u: schedule.at_log_snr(-log_ratios),
    weighting=WEIGHTINGS["uniform"],
  )
  batch = {"x": jnp.zeros((5, 2))}
  value, metrics = jax.jit(loss)(0.0, jax.random.key(0), batch, CONTEXT)
  bands = metrics["band_loss"]
  np.testing.assert_array_equal(bands.count, [2, 0, 0, 0, 1, 0, 0, 2])
  np.testing.assert_allclose(jnp.sum(bands.total) / 5, value, 1e-5)


# Level distributions

WIDE = VarianceExploding(1e-6, 1e6)


@pytest.mark.parametrize(
  ("name", "options", "law"),
  [
    ("log_normal", {}, scipy.stats.norm(-1.2, 1.2)),  # EDM's published P_mean and P_std
    ("log_normal", {"level_mean": -0.5, "level_std": 2.0}, scipy.stats.norm(-0.5, 2.0)),
    ("log_uniform", {}, scipy.stats.uniform(np.log(1e-6), np.log(1e12))),
    (
      "log_uniform",
      {"sigma_min": 0.1, "sigma_max": 5.0},
      scipy.stats.uniform(np.log(0.1), np.log(50)),
    ),
  ],
)
def test_laws_of_the_log_ratio(name, options, law, x64):
  u = np.linspace(0.001, 0.999, 50)
  for schedule in (WIDE, VariancePreserving(), LinearFlow()):
    if schedule is not WIDE and not options:
      continue  # the others have ends of their own
    level = jax.jit(functools.partial(LEVELS[name], **options))(schedule, u)
    low, high = (-schedule.at(t).log_snr for t in (schedule.t_min, schedule.t_max))
    expected = law.ppf(u) if "sigma_min" in options else np.clip(law.ppf(u), low, high)
    np.testing.assert_allclose(jnp.log(level.sigma / level.alpha), expected, 1e-9, 1e-9)


@pytest.mark.e2e
def test_levels_drawn(x64):
  """Kolmogorov and Smirnov's test of 5000 draws; all of it is in the range it should be in."""

  @jax.jit
  def draw(key):
    u = UNIFORMS["independent"](key, 5000)
    level = LEVELS["uniform_time"](VariancePreserving(), u, t_max=0.5)
    return jnp.log(LEVELS["log_normal"](WIDE, u).sigma), level.t

  normal, t = draw(jax.random.key(0))
  assert scipy.stats.kstest(normal, scipy.stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3
  assert scipy.stats.kstest(t, scipy.stats.uniform(0.001, 0.499).cdf).pvalue > 1e-3
  assert LEVELS["uniform_time"](LinearFlow(), jnp.array([0.0])).t == 1e-3
  clipped = NOTEBOOK_LEVELS(NOTEBOOK, jnp.array([0.0, 1e-9, 1.0]))
  np.testing.assert_allclose(clipped.sigma, [0.02, 0.02, 10.0], 1e-9)
  # Linear flow's own ends are t = 0.001 and 0.999: the log-SNR of pure noise is infinite.
  ends = LEVELS["log_uniform"](LinearFlow(), jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(ends.sigma / ends.alpha, [1 / 999, 999], 1e-9)


@pytest.mark.parametrize("spacing", sorted(GRIDS.keys() - {"timesteps", "given"}))  # of any process
def test_grid_levels(spacing):
  """Each noisy level of the sampling grid, as often as the others; never the data."""

  @jax.jit
  def run(u):
    levels = LEVELS["grid"](NOTEBOOK, u, num_levels=10, spacing=spacing)
    return levels.sigma, GRIDS[spacing](NOTEBOOK, 10).levels.sigma

  drawn, sigma = run(np.append((np.arange(30) + 0.5) / 30, 1))
  np.testing.assert_array_equal(drawn, [*np.repeat(sigma[:-1], 3), sigma[-2]])


@pytest.mark.parametrize("name", UNIFORMS)
def test_uniforms_are_uniform(name):
  """Whatever ties them together, each alone is uniform; tied, they average better."""
  n = 20
  draw = jax.jit(jax.vmap(lambda key: UNIFORMS[name](key, n)))
  u = np.asarray(draw(jax.random.split(jax.random.key(0), 500)))
  assert u.shape == (500, n)
  assert (u >= 0).all()
  assert (u <= 1).all()
  if name == "shared":
    np.testing.assert_array_equal(u, np.broadcast_to(u[:, :1], u.shape))
  else:
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
  # One of a call, at a random place, is independent from call to call.
  one = u[np.arange(500), np.random.default_rng(0).integers(0, n, 500)]
  assert scipy.stats.kstest(one, "uniform").pvalue > 1e-3
  cells = np.sort(np.floor(u * n), axis=1)
  if name in ("stratified", "shifted"):
    np.testing.assert_array_equal(cells, np.broadcast_to(np.arange(n), cells.shape))
  if name == "antithetic":
    np.testing.assert_allclose(np.sort(u, 1) + np.sort(u, 1)[:, ::-1], 1, atol=1e-6)
  # The variance of a mean of e^u, times n over that of e^u; worked out: 1, .0324, 1.1 / n^2, ..
  ratio = np.var(np.exp(u).mean(1)) * n / np.var(np.exp(u))
  expected = {"independent": 1, "antithetic": 0.0324, "stratified": 1.1 / n**2, "shifted": 1 / n}
  expected["shared"] = n
  np.testing.assert_allclose(ratio, expected[name], 0.25)  # 4 standard errors of a variance


# Weightings


def level(alpha, sigma):
  return Level(None, jnp.asarray(alpha), jnp.asarray(sigma))


def test_weightings_by_hand():
  """Karras et al. 2022, table 1, lambda(sigma) at sigma_data 0.5; Hang et al. 2023, gamma 5."""
  edm = functools.partial(WEIGHTINGS["edm"], data_std=0.5)
  for sigma, published in ((1.0, 5.0), (2.0, 4.25), (0.5, 8.0), (0.02, 2504.0)):
    np.testing.assert_allclose(edm(level(1.0, sigma)), published, 1e-6)
  # alpha_bar = 0.9 and 0.5: SNR 9 and 1.
  high, low = level(0.9**0.5, 0.1**0.5), level(0.5**0.5, 0.5**0.5)
  weights = [[float(WEIGHTINGS[name](at)) for at in (high, low)] for name in ("snr", "min_snr")]
  np.testing.assert_allclose(weights, [[9, 1], [5, 1]], 1e-5)
  assert WEIGHTINGS["min_snr"](high, gamma=2.0) == 2
  assert WEIGHTINGS["uniform"](high) == 1


def test_weightings_in_other_views():
  """What a weight on |x0 error|^2 is on the errors that the papers state."""
  for alpha, sigma in itertools.product((0.3, 1.0), (0.1, 4.0)):
    at = level(alpha, sigma)
    snr = WEIGHTINGS["snr"](at)
    # Ho et al. 2020, eq. 14: the noise's error unweighted; Song and Ermon 2019: sigma^2, score's.
    np.testing.assert_allclose(snr * x0_slope("noise", at) ** 2, 1, 1e-5)
    np.testing.assert_allclose(
      WEIGHTINGS["sigma_squared"](at) * x0_slope("score", at) ** 2, sigma**2, 1e-5
    )
  # Salimans and Ho 2022, section 4: v's error unweighted is SNR + 1, variance preserving.
  np.testing.assert_allclose(1 / x0_slope("v", level(0.6, 0.8)) ** 2, 0.36 / 0.64 + 1, 1e-5)


def test_published_weightings_by_hand():
  """Choi et al. 2022, eq. 8: on the noise's error 1 / (1 + SNR); Salimans and Ho: max(SNR, 1)."""
  high, low = level(0.9**0.5, 0.1**0.5), level(0.2**0.5, 0.8**0.5)  # SNR 9 and 1 / 4
  weights = [
    [float(WEIGHTINGS[name](at)) for at in (high, low)] for name in ("p2", "truncated_snr")
  ]
  np.testing.assert_allclose(weights, [[0.9, 0.2], [9, 1]], 1e-5)
  np.testing.assert_allclose(WEIGHTINGS["p2"](high, gamma=0.5, snr_offset=7.0), 9 / 4, 1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("schedule", "rate"),
  [
    (VariancePreserving(0.1, 20.0), lambda t: 0.1 + 19.9 * t),  # beta(t)
    (VarianceExploding(0.5, 4.5, 1.0), lambda t: 8 * (0.5 + 4 * t)),  # d (0.5 + 4 t)^2 / dt
  ],
  ids=["vp", "ve"],
)
def test_likelihood_weighting(schedule, rate, x64):
  """g(t)^2 of the score's error, in closed form; its integral is `snr`'s, twice over log-SNR."""
  t = np.linspace(0.05, 1, 7)
  likelihood = functools.partial(WEIGHTINGS["likelihood"], schedule=schedule)
  at = schedule.at(t)
  np.testing.assert_allclose(likelihood(at) * x0_slope("score", at) ** 2, rate(t), 1e-9)
  t = np.linspace(0.05, 1, 20_001)
  of_time = scipy.integrate.trapezoid(likelihood(schedule.at(t)), t)
  log_snr = schedule.log_snr(t)
  of_log_snr = -scipy.integrate.trapezoid(WEIGHTINGS["snr"](schedule.at(t)), log_snr)
  np.testing.assert_allclose(of_time, 2 * of_log_snr, 1e-4)
