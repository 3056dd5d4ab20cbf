"""Predictions against the exact mixture's, autodiff and the properties that EDM states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import (
  CONDITIONINGS,
  EDM,
  PARAMETERIZATIONS,
  Parameterization,
  Prediction,
  log_sigma,
  noised,
  signal_level,
  time,
  time_index,
  x0_slope,
)
from scorelab.schedules import Grid, Level, LinearFlow, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = ("x0", "noise", "score", "v", "flow")
PROCESSES = {
  "ve": VarianceExploding(0.02, 10.0, 5.0),
  "vp": VariancePreserving(),
  "flow": LinearFlow(),
}


def mixture():
  """Full covariances and unequal weights, so that nothing is right by symmetry."""
  covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.8]]]
  return GaussianMixture([0.3, 0.7], np.array([[2.0, 1.0], [-1.5, 0.5]]), np.array(covariances))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("process", PROCESSES)
def test_every_view_from_every_kind(process):
  """The mixture computes score and x0 apart; each view is then defined by these two."""

  @jax.jit
  def views(x, level):
    truth = mixture().predict(x, level)
    told = {kind: truth.view(kind) for kind in KINDS}
    preds = {kind: Prediction.of(x, level, kind, **{kind: told[kind]}) for kind in KINDS}
    return told, {kind: {name: p.view(name) for name in KINDS} for kind, p in preds.items()}

  level = PROCESSES[process].at(np.linspace(0.1, 0.9, 7))
  x = np.random.default_rng(0).normal(size=(7, 2)) * 2
  told, views = views(x, level)
  alpha, sigma = np.asarray(level.alpha)[:, None], np.asarray(level.sigma)[:, None]
  # x_t = alpha x0 + sigma eps holds for the means too; and Tweedie's formula.
  np.testing.assert_allclose(alpha * told["x0"] + sigma * told["noise"], x, 1e-11)
  np.testing.assert_allclose((x + sigma**2 * told["score"]) / alpha, told["x0"], 1e-9, 1e-9)
  for kind in KINDS:
    for name in KINDS:
      # Rounding is amplified by powers of sigma / alpha and of 1 / sigma, 1e5 at most.
      np.testing.assert_allclose(views[kind][name], told[name], 1e-9, 1e-9, err_msg=kind + name)


@pytest.mark.parametrize("process", ["vp", "flow"])
def test_velocity_is_the_probability_flow(process, x64):
  """Flow is linear flow's velocity; v is variance-preserving flow's, in the angle."""
  x0, noise = np.random.default_rng(3).normal(size=(2, 5))
  if process == "flow":
    level = LinearFlow().at(0.3)
    rate = LinearFlow().velocity(level, jnp.asarray(x0), jnp.asarray(noise))
    kind = "flow"
  else:
    phi = 0.7  # alpha = cos(phi), sigma = sin(phi): d x / d phi by hand
    level = Level(None, jnp.cos(phi), jnp.sin(phi))
    rate, kind = -np.sin(phi) * x0 + np.cos(phi) * noise, "v"
  x = level.alpha * x0 + level.sigma * noise
  pred = Prediction.of(x, level, "x0", x0=jnp.asarray(x0))
  np.testing.assert_allclose(pred.view(kind), rate, 1e-12)


@pytest.mark.parametrize("batched", [True, False])
def test_score_at_the_data(batched):
  """A score network is defined at sigma = 0: Hyvarinen's level."""
  x, score = jnp.ones((3, 2)), jnp.full((3, 2), -0.7)
  one, zero = (jnp.ones(3), jnp.zeros(3)) if batched else (jnp.ones(()), jnp.zeros(()))
  pred = Prediction.of(x, Level(None, one, zero), "score", score=score)
  np.testing.assert_array_equal(pred.score, score)
  np.testing.assert_array_equal(pred.x0, x)
  np.testing.assert_array_equal(pred.noise, 0 * x)


@pytest.mark.parametrize("kind", ["consistency", "x0"])
def test_of_refuses(kind):
  with pytest.raises(ValueError, match=f"kind = '{kind}' must be among the views given: noise"):
    Prediction.of(jnp.ones(2), Level(None, jnp.ones(()), jnp.ones(())), kind, noise=jnp.ones(2))


def test_noised_knows_x0_and_noise():
  level = VariancePreserving().at(np.linspace(0.2, 0.9, 4))
  x0 = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 1)), jnp.float32)
  x, truth = noised(jax.random.key(1), x0, level)
  np.testing.assert_array_equal(truth.x0, x0)
  at = level.like(x)
  np.testing.assert_allclose(at.alpha * truth.x0 + at.sigma * truth.noise, x, 1e-6)
  # Unit variance, which x has not: 36 numbers, 4 standard errors.
  assert abs(np.var(truth.noise) - 1) < 4 * (2 / 36) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_x0_slope_is_the_derivative_of_the_x0_view(kind, x64):
  def x0(value, level):
    return Prediction.of(jnp.asarray(1.3), level, kind, **{kind: value}).x0

  for schedule in PROCESSES.values():
    level = schedule.at(np.array([0.05, 0.4, 0.95]))
    slopes = jax.jit(jax.vmap(jax.grad(x0)))(jnp.array([-1.0, 0.2, 3.0]), level)
    np.testing.assert_allclose(x0_slope(kind, level), np.abs(slopes), 1e-12)


class TestEDM:
  def test_noise_is_x_less_alpha_x0_over_sigma(self, x64):
    edm = EDM(lambda *_: None, log_sigma, data_std=0.5)
    rng = np.random.default_rng(0)
    for schedule in PROCESSES.values():
      level = schedule.at(np.linspace(0.05, 0.95, 6))
      x, output = jnp.asarray(rng.normal(size=(2, 6, 2)))
      pred = edm.read(x, level, output)
      at = level.like(x)
      np.testing.assert_allclose(pred.noise, (x - at.alpha * pred.x0) / at.sigma, 1e-9, 1e-10)

  def test_noise_keeps_float32s_digits(self):
    """At sigma = 1e-3 the noise view is good to 1e-6, where the difference has lost four digits."""
    x, output = np.random.default_rng(0).normal(size=(2, 1000, 2)).astype(np.float32)

    def read():
      level = Level(None, jnp.ones(()), jnp.asarray(np.float32(1e-3)))
      return EDM(lambda *_: None, log_sigma, data_std=0.5).read(jnp.asarray(x), level, output)

    single = read()
    with jax.enable_x64(True):
      level = Level(None, jnp.ones(()), jnp.asarray(np.float32(1e-3), float))
      double = EDM(lambda *_: None, log_sigma, data_std=0.5).read(
        jnp.asarray(x, float), level, jnp.asarray(output, float)
      )
      exact = np.asarray(double.noise)
    scale = np.sqrt(np.mean(exact**2))
    assert np.abs(single.noise - exact).max() < 1e-6 * scale
    naive = (x - np.asarray(single.x0)) / np.float32(1e-3)
    assert np.abs(naive - exact).max() > 1e-5 * scale

  @pytest.mark.parametrize("process", PROCESSES)
  def test_the_network_sees_and_gives_unit_variance(self, process):
    """Karras et al. 2022, B.6: their two requirements, at every level, for every process.

    The target of the output F is what gives x0: x0 is linear in F, so F is found from two reads.
    """
    s, n = 0.7, 20_000
    edm = EDM(lambda *_: None, log_sigma, data_std=s)

    @jax.jit
    def variances(key, t):
      level = PROCESSES[process].at(t)
      # Any data of this std will do: not a Gaussian.
      x0 = s * jax.random.rademacher(key, (n,)).astype(jnp.float32)
      x, _ = noised(jax.random.fold_in(key, 1), x0, level)
      at_0, at_1 = (edm.read(x, level, jnp.full_like(x, value)).x0 for value in (0.0, 1.0))
      target = (x0 - at_0) / (at_1 - at_0)
      return jnp.var(edm.scale_input(x, level)), jnp.mean(target**2)

    seen, given = jax.vmap(variances, (None, 0))(jax.random.key(0), jnp.linspace(0.1, 0.9, 5))
    # 4 standard errors of a Gaussian's variance, an upper bound for these flatter laws.
    np.testing.assert_allclose(seen, 1, atol=4 * (2 / n) ** 0.5)
    np.testing.assert_allclose(given, 1, atol=4 * (2 / n) ** 0.5)

  def test_a_zero_network_is_the_best_linear_denoiser(self):
    """At F = 0: Wiener's filter, alpha s^2 / (alpha^2 s^2 + sigma^2) x."""
    level = Level(None, jnp.asarray(0.8), jnp.asarray(0.6))
    pred = EDM(lambda *_: None, log_sigma, data_std=2.0).read(jnp.ones(2), level, jnp.zeros(2))
    np.testing.assert_allclose(pred.x0, 0.8 * 4 / (0.64 * 4 + 0.36), 1e-6)


class TestBind:
  """One network, however its points come: the network always sees one batch axis."""

  @staticmethod
  def apply(variables, x, c, label, rngs=None):
    assert x.ndim == 2
    assert c.shape == label.shape == x.shape[:1]
    shift = jnp.where(label == 2, 1.0, -1.0)[:, None]
    return jnp.sin(variables["params"] * x + c[:, None]) + shift

  # The others need a schedule: their tests are their own.
  @pytest.mark.parametrize(
    "name", sorted(PARAMETERIZATIONS.keys() - {"consistency", "reverse_step"})
  )
  def test_shapes_change_nothing(self, name):
    parameterization = PARAMETERIZATIONS[name](self.apply, log_sigma)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    labels = jnp.asarray([[0, 2, 1], [2, 2, 0]])
    t = jnp.asarray(rng.uniform(0.1, 0.9, (2, 3)), jnp.float32)
    schedule = VariancePreserving()

    @jax.jit
    def x0(x, labels, t):
      return parameterization.bind(2.0, labels)(x, schedule.at(t)).x0

    together = x0(x, labels, t)
    flat = x0(x.reshape(6, 4), labels.reshape(6), t.reshape(6))
    np.testing.assert_allclose(flat.reshape(2, 3, 4), together, 1e-5, 1e-6)
    one_level = x0(x, labels, t[1, 2])
    alone = x0(x[1, 2], labels[1, 2], t[1, 2])
    np.testing.assert_allclose(alone, together[1, 2], 1e-5, 1e-6)
    np.testing.assert_allclose(alone, one_level[1, 2], 1e-5, 1e-6)
    other = x0(x[1, 2], jnp.asarray(2), t[1, 2])
    assert not np.allclose(alone, other)

  def test_images_and_dropout_keys(self):
    def apply(variables, x, c, rngs=None):
      assert x.shape == (3, 4, 4, 1)
      assert rngs["dropout"] is key
      return x + c[:, None, None, None]

    key = jax.random.key(0)
    image = Parameterization(apply, signal_level, "v", event_ndim=3)
    level = Level(None, jnp.asarray(0.6), jnp.asarray(0.8))
    pred = image.bind(None, rngs={"dropout": key})(jnp.ones((3, 4, 4, 1)), level)
    np.testing.assert_allclose(pred.v, 1.36, 1e-6)


def test_conditionings():
  level = Level(jnp.asarray(0.25), jnp.asarray(0.5), jnp.asarray(2.0))
  assert {"log_sigma", "signal_level", "time", "time_index"} <= set(CONDITIONINGS)
  np.testing.assert_allclose(log_sigma(level), np.log(4) / 4, 1e-6)
  np.testing.assert_allclose(signal_level(level), 0.25)
  np.testing.assert_allclose(time(level), 0.25)
  # Step i of 1000 sits at (i + 1) / 1000, and of 40 at (i + 1) / 40.
  np.testing.assert_allclose(time_index(level), 249)
  np.testing.assert_allclose(time_index(level, num_train_steps=40), 9)
  with pytest.raises(ValueError, match="this level has no time"):
    time_index(Grid.from_arrays([1, 1], [1, 0], process="ve")[0])


@pytest.mark.e2e
def test_a_learned_variance_is_the_second_half_of_the_channels():
  """Of an image's last axis; the first half is read as ever. -1 and 1 are the range's ends."""

  def apply(variables, x, c, rngs=None):
    return jnp.concatenate([3 * x, jnp.sign(x)], axis=-1)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 3, 2)), jnp.float32)
  level = VariancePreserving().at(jnp.full(5, 0.5))
  for cls in (Parameterization, EDM):
    pred = cls(apply, log_sigma, "x0", event_ndim=3, learned_variance=True).bind({})(x, level)
    plain = cls(lambda *a, **k: 3 * a[1], log_sigma, "x0", event_ndim=3).bind({})(x, level)
    np.testing.assert_allclose(pred.x0, plain.x0, 1e-5, 1e-6)
    np.testing.assert_array_equal(pred.variance_fraction, x > 0)
    assert plain.variance_fraction is None
