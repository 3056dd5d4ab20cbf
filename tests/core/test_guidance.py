"""Guidance of exact scores, against the gradients of the densities that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import EDM, Prediction, log_sigma
from scorelab.predictions.guidance import (
  GUIDANCES,
  Sources,
  autoguidance,
  classifier,
  classifier_free,
  extrapolated,
)
from scorelab.samplers import SAMPLERS
from scorelab.schedules import LinearFlow, VarianceExploding, VariancePreserving, karras
from scorelab.targets import truth_of
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import ring, two_modes_1d
from scorelab.targets.tilted import tilted

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEANS = np.array([[-2.0, 0.0], [1.0, 1.5], [2.0, -1.0]])
FULL = np.array([np.diag([0.3, 0.5]), [[0.6, 0.2], [0.2, 0.4]], np.diag([0.8, 0.2])])
WEIGHTS = [0.2, 0.5, 0.3]
TARGET = GaussianMixture(WEIGHTS, MEANS, FULL)
SCHEDULES = {"ve": VarianceExploding(), "vp": VariancePreserving(), "flow": LinearFlow()}
X = np.random.default_rng(0).normal(0, 2, (6, 2)).astype(np.float32)
LABEL = jnp.array([0, 1, 2, 0, 1, 2])


def bind(label, target=TARGET):
  return truth_of(target).bind(None, label)


def both_log_probs(level):
  """log q_t(x) and log P(c | x) = log w_c + log q_t(x | c) - log q_t(x), of one point."""
  target = GaussianMixture(WEIGHTS, MEANS, FULL)
  noisy = target.perturbed(level.alpha, level.sigma)

  def of(x, label):
    alone = GaussianMixture(
      jnp.ones(1), noisy.means[label][None], level.alpha**2 * jnp.asarray(FULL)[label][None]
      + level.sigma**2 * jnp.eye(2)[None]
    )  # fmt: skip
    total = noisy.log_prob(x)
    return total, target.log_weights[label] + alone.log_prob(x) - total

  return of


@pytest.mark.e2e
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guided_scores_are_gradients(name, scale, x64):
  """Of log q_t(x) + scale log P(c | x), by autodiff of the densities; both ways to guide, any view.

  To rounding in float64. At 0 and 1 they are the unconditional and the conditional score.
  """
  level = jax.tree.map(jnp.asarray, SCHEDULES[name].at_ratio(0.7))
  of, target = both_log_probs(level), GaussianMixture(WEIGHTS, MEANS, FULL)

  @jax.jit
  def run(x):
    def log_density(x, label):
      total, posterior = of(x, label)
      return total + scale * posterior

    def log_prob(x, level):
      return jnp.take_along_axis(target.log_class_prob(x, level), LABEL[:, None], 1)[:, 0]

    free = classifier_free(lambda c: bind(c, target), LABEL, 3, guidance_scale=scale)(x, level)
    pushed = classifier(target.predict, log_prob, guidance_scale=scale)(x, level)
    return jax.vmap(jax.grad(log_density))(x, LABEL), free, pushed

  expected, *found = run(X.astype(float))
  for pred in found:
    np.testing.assert_allclose(pred.score, expected, rtol=1e-9, atol=1e-10)
    # x = alpha x0 + sigma noise holds for the pair that solvers see.
    rebuilt = level.alpha * pred.x0 + level.sigma * pred.noise
    np.testing.assert_allclose(rebuilt, X, rtol=1e-9, atol=1e-10)


def test_autoguidance_is_a_ratio_of_densities(x64):
  """The score of p^scale / p_weak^(scale - 1), by autodiff, where the weak law is a wider one."""
  target, weak = GaussianMixture(WEIGHTS, MEANS, FULL), GaussianMixture(WEIGHTS, MEANS, 2 * FULL)
  level = jax.tree.map(jnp.asarray, SCHEDULES["vp"].at_ratio(0.5))

  @jax.jit
  def run(x):
    def log_density(x):
      strong, other = (t.perturbed(level.alpha, level.sigma).log_prob(x) for t in (target, weak))
      return 2.5 * strong - 1.5 * other

    guided = autoguidance(target.predict, weak.predict, guidance_scale=2.5)
    return jax.vmap(jax.grad(log_density))(x), guided(x, level).score

  expected, found = run(X.astype(float))
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.e2e
@pytest.mark.parametrize("ratio", [0.3, 0.5, 2.0, 3.0])
def test_outside_the_interval_it_is_the_strong_one(ratio):
  """Low is left out and high is in; inside it is the guided one, also level by level."""
  schedule = SCHEDULES["ve"]
  level = schedule.at_ratio(ratio)
  given = {"guidance_scale": 4.0, "guidance_low": 0.5, "guidance_high": 2.0}

  @jax.jit
  def run(x):
    many = schedule.at_ratio(jnp.full(6, ratio))
    limited = classifier_free(bind, LABEL, 3, guidance_rescale=0.5, **given)
    whole = classifier_free(bind, LABEL, 3, guidance_rescale=0.5, guidance_scale=4.0)
    return limited(x, level).x0, limited(x, many).x0, whole(x, level).x0, bind(LABEL)(x, level).x0

  limited, many, whole, strong = run(X)
  inside = 0.5 < ratio <= 2.0
  np.testing.assert_allclose(limited, whole if inside else strong, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(many, limited, rtol=1e-5, atol=1e-5)
  assert np.abs(whole - strong).max() > 0.1


@pytest.mark.e2e
def test_a_scale_that_falls_with_the_noise():
  """At `half` the scale is in the middle between 1 and the given one, also level by level."""
  schedule = SCHEDULES["ve"]
  for ratio, scale in ((2.0, 2.5), (6.0, 1.3), (1e-4, 4.0)):  # 1 + 3 / (1 + (ratio / 2)^2)
    falling = classifier_free(bind, LABEL, 3, guidance_scale=4.0, guidance_half=2.0)
    constant = classifier_free(bind, LABEL, 3, guidance_scale=scale)
    for level in (schedule.at_ratio(ratio), schedule.at_ratio(jnp.full(6, ratio))):
      np.testing.assert_allclose(falling(X, level).x0, constant(X, level).x0, 1e-5, 1e-5)
      assert np.isnan(falling(X, level).correction).all()  # weights by score need one scale
  noise = SCHEDULES["flow"].at(1.0)
  np.testing.assert_allclose(falling(X, noise).x0, bind(LABEL)(X, noise).x0, 1e-5, 1e-5)
  limited = classifier_free(bind, LABEL, 3, guidance_scale=4.0, guidance_high=2.0)
  assert np.isnan(limited(X, schedule.at_ratio(1.0)).correction).all()


def test_rescaling_gives_back_the_strong_spread():
  """At 1 each guided image has the strong one's std over its pixels, at 0.5 the mean of both."""
  rng = np.random.default_rng(1)
  strong, weak, x = (jnp.asarray(rng.normal(size=(3, 4, 4, 1)), jnp.float32) for _ in range(3))
  level = SCHEDULES["vp"].at_ratio(1.0)

  def pair(x, level):
    return tuple(Prediction.of(x, level, "x0", x0=a) for a in (strong, weak))

  def std(rescale):
    options = {"guidance_scale": 5.0, "guidance_rescale": rescale, "event_ndim": 3}
    return np.asarray(extrapolated(pair, **options)(x, level).x0).std((1, 2, 3))

  wanted, plain = np.asarray(strong).std((1, 2, 3)), std(0.0)
  assert (plain > 2 * wanted).all()
  np.testing.assert_allclose(std(1.0), wanted, rtol=1e-5)
  np.testing.assert_allclose(std(0.5), (wanted + plain) / 2, rtol=1e-5)


@pytest.mark.e2e
def test_one_call_of_a_network_for_both_labels():
  """A network is called once, on twice the batch; a batch is its points, one level or many."""
  calls = []

  def apply(variables, u, c, label, rngs=None):
    calls.append(u.shape)
    return u * (1 + label[:, None]) + c[:, None]

  network = EDM(apply, log_sigma, data_std=2.0)
  schedule = SCHEDULES["vp"]

  def guided(x, label, ratio):
    options = {"guidance_scale": 2.0, "guidance_rescale": 0.0}
    told = classifier_free(lambda c: network.bind({}, c), label, 3, **options)
    return told(x, schedule.at_ratio(ratio)).x0

  together = guided(X, LABEL, 0.8)
  assert calls == [(12, 2)]
  many = guided(X, LABEL, jnp.full(6, 0.8))
  alone = jax.vmap(lambda x, label: guided(x, label, 0.8))(X, LABEL)
  np.testing.assert_allclose(many, together, rtol=1e-6)
  np.testing.assert_allclose(alone, together, rtol=1e-6)


@pytest.mark.e2e
def test_the_true_scores_guided_stay_with_their_class():
  """Scale 1 is the component's own law, mean and covariance to 4 standard errors; 3 is purer.

  The scale is traced: one program for both.
  """
  n, grid = 4000, karras(VarianceExploding(0.01, 40.0, 7.0), 24)
  label = jnp.full(n, 1)

  @jax.jit
  def run(scale):
    predict = classifier_free(bind, label, 3, guidance_scale=scale)
    start, key = jax.random.split(jax.random.key(0))
    return SAMPLERS["dpmpp_2m"](key, predict, grid.prior(start, (n, 2)), grid).x

  plain, guided = np.asarray(run(1.0)), np.asarray(run(3.0))
  assert run._cache_size() == 1
  np.testing.assert_allclose(plain.mean(0), MEANS[1], atol=4 * (0.6 / n) ** 0.5 + 0.01)
  np.testing.assert_allclose(np.cov(plain.T), FULL[1], atol=4 * 0.6 * (2 / n) ** 0.5 + 0.01)
  sure = [np.asarray(TARGET.responsibilities(jnp.asarray(x)))[:, 1].mean() for x in (plain, guided)]
  assert sure[0] + 0.01 < sure[1] < 1


def test_finite_at_the_ends():
  """Pure noise and the least noise, with every option: numbers, and gradients in the scale."""
  schedule = SCHEDULES["flow"]
  for level in (schedule.at(1.0), schedule.at_ratio(1e-3)):

    def total(scale, level=level):
      given = {"guidance_scale": scale, "guidance_low": 0.1, "guidance_rescale": 0.7}
      return jnp.sum(classifier_free(bind, LABEL, 3, **given)(X, level).x0)

    assert np.isfinite(jax.jit(jax.value_and_grad(total))(2.0)).all()


@pytest.mark.e2e
def test_what_is_known_of_a_guided_prediction(x64):
  """Its score is the gradient of its log-density; a rescale leaves neither density nor variance."""
  level = jax.tree.map(jnp.asarray, SCHEDULES["ve"].at_ratio(1.0))
  target = GaussianMixture(WEIGHTS, MEANS, FULL)

  def guided(x, **options):
    return classifier_free(lambda c: bind(c, target), LABEL, 3, guidance_scale=2.0, **options)(
      x, level
    )

  x = X.astype(float)
  gradient = jax.grad(lambda x: jnp.sum(guided(x).log_density))(x)
  np.testing.assert_allclose(guided(x).score, gradient, rtol=1e-9, atol=1e-10)
  rescaled = guided(x, guidance_rescale=0.5)
  assert rescaled.x0_variance is None and rescaled.log_density is None
  assert bool(jnp.isnan(rescaled.correction).all())


@pytest.mark.e2e
@pytest.mark.parametrize("target", [two_modes_1d(2.0), ring(8, std=0.8)], ids=["line", "plane"])
def test_tilted_guidance_is_the_tilted_laws_score(target, x64):
  """By two derivations: nodes on a class's posterior, and on the tilted law's base.

  x0 at draws of the noised tilted law; the error falls with the nodes, to .02 at 17.
  """
  target, scale, schedule = (
    jax.tree.map(lambda a: jnp.asarray(a, float), target),
    3.0,
    SCHEDULES["vp"],
  )
  law = tilted(target, 0, scale)
  sources = Sources(
    lambda label: truth_of(target).bind(None, label),
    jnp.zeros(50, int),
    None,
    target.num_classes,
    target.log_class_prob,
  )

  def guide(x, level, nodes):
    options = {"guidance_scale": scale, "guidance_nodes": nodes}
    return GUIDANCES["tilted"].make(sources, **options)(x, level)

  errors = {}
  for ratio in (0.1, 0.7, 5.0):
    level = schedule.at_ratio(ratio)
    draws, noise = (jax.random.key(i) for i in (0, 1))
    x = level.alpha * law.sample(draws, 50) + level.sigma * jax.random.normal(noise, (50, law.dim))
    truth = law.predict(x, level)
    for nodes in (1, 5, 17):
      pred = guide(x, level, nodes)
      errors[ratio, nodes] = float(jnp.max(jnp.abs(pred.x0 - truth.x0)))
      rebuilt = level.alpha * pred.x0 + level.sigma * pred.noise
      np.testing.assert_allclose(rebuilt, x, rtol=1e-9, atol=1e-9)
    assert errors[ratio, 17] < errors[ratio, 5] < errors[ratio, 1]
    assert errors[ratio, 17] < 0.02
  data = schedule.at_ratio(0.0)
  np.testing.assert_allclose(guide(x, data, 5).score, law.score(x), rtol=1e-9, atol=1e-9)


@pytest.mark.e2e
def test_tilted_guidance_refusals():
  wide = GaussianMixture([1, 1], np.zeros((2, 20)), [1.0, 2.0])
  sources = Sources(
    lambda label: truth_of(wide).bind(None, label), jnp.zeros(3, int), None, 2, wide.log_class_prob
  )
  predict = GUIDANCES["tilted"].make(sources, guidance_scale=2.0, guidance_nodes=9)
  with pytest.raises(ValueError, match=r"guidance_nodes = 9 makes 9\^20 nodes"):
    predict(jnp.zeros((3, 20)), SCHEDULES["vp"].at_ratio(1.0))
  with pytest.raises(ValueError, match=r"guidance_scale = 0\.5 must be at least 1"):
    GUIDANCES["tilted"].make(sources, guidance_scale=0.5)
