"""Implicit losses against Gaussians, the exact mixture score, per-example Jacobians and denoising.

Tolerances of random quantities are 4 standard errors, from the spread over independent keys; of
gradients 5, the same level for the largest of a hundred components.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from scorelab.losses import LEVELS, LOSSES, PROBES, SCORE_WEIGHTINGS, WEIGHTINGS
from scorelab.losses.denoising import ncsn
from scorelab.losses.implicit import hutchinson, hyvarinen, sliced, sliced_fd, sliced_vr
from scorelab.networks.mlp import MLP
from scorelab.predictions import (
  EDM,
  Parameterization,
  Prediction,
  ScaledScore,
  log_sigma,
  unconditional,
)
from scorelab.schedules import Level, LinearFlow, VarianceExploding
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import nine_modes

KEY = jax.random.key(0)
# Compiling is what takes the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VE = VarianceExploding(0.02, 10.0, 5.0)
IMPLICIT = {
  "hyvarinen": hyvarinen,
  "hutchinson": functools.partial(hutchinson, probes="gaussian"),
  "sliced": functools.partial(sliced, num_probes=2),
  "sliced_fd": functools.partial(sliced_fd, probes="sphere"),
}
EXACT = {"scale": 1.0, "field": np.zeros(2)}
# Divergences and axes at once, by event: in turn, in turn with a remainder, all together.
CASES = {
  (3,): (("forward", 1), ("reverse", 2), ("forward", 16)),
  (4, 4, 1): (("forward", 5), ("reverse", 16)),
}


class Truth:
  """For a network: the data's exact score, scaled, with a smooth field added in two dimensions."""

  def __init__(self, target):
    self.target = target

  def field(self, params, x):
    directions = jnp.asarray([[1.0, 0.5], [-0.7, 1.2]])
    return jnp.sin(x @ directions[:, : x.shape[1]].T) @ (params[:, None] * directions[:, ::-1])

  def bind(self, params, label=None, rngs=None):
    def predict(x, level):
      flat = x.reshape(len(x), -1)
      score = params["scale"] * self.target.score(flat)
      if flat.shape[1] == 2:
        score += self.field(params["field"], flat)
      return Prediction.of(x, level, "score", score=score.reshape(x.shape))

    return predict


@functools.partial(jit, static_argnums=0)
def mapped(function, keys):
  return jax.lax.map(function, keys, batch_size=len(keys) // 40 if len(keys) > 1000 else None)


def over_keys(function, num_keys):
  """What function(key) returns for each of the keys, stacked."""
  return jax.tree.map(np.asarray, mapped(function, jax.random.split(KEY, num_keys)))


def mean_and_error(values):
  return values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5


def assert_mean(values, expected, rounding=0.0, errors=4):
  mean, error = mean_and_error(values)
  np.testing.assert_array_less(abs(mean - expected), errors * error + rounding)


def small_network(dim=3, seed=0):
  network = MLP(widths=(8,), norms=(False,), activation="tanh")
  params = jit(network.init)(jax.random.key(seed), np.ones((1, dim)), np.ones(1))["params"]
  return network, params


class TestAtTheExactScore:
  @pytest.mark.e2e
  @pytest.mark.parametrize("event", [(1,), (2,), (50,), (2, 2, 3)], ids=str)
  def test_a_gaussian_gives_the_closed_form(self, event):
    """E [div s + |s|^2 / 2] = -d / v + d / (2 v) for N(0, v I)."""
    size, variance = int(np.prod(event)), 0.7
    truth = Truth(GaussianMixture([1.0], np.zeros((1, size)), [variance]))
    losses = {name: make(truth, VE, levels=LEVELS["data"]) for name, make in IMPLICIT.items()}

    def values(key):
      data_key, key = jax.random.split(key)
      x = jax.random.normal(data_key, (512, *event)) * variance**0.5
      found = {name: loss(EXACT, key, {"x": x}, None) for name, loss in losses.items()}
      return jax.tree.map(lambda a: a / size, found)

    for value, metrics in over_keys(values, 64).values():
      assert mean_and_error(value)[1] < 0.02 / variance
      assert_mean(value, -1 / (2 * variance))
      assert_mean(metrics["divergence"], -1 / variance, rounding=1e-5)
      assert_mean(metrics["half_square_norm"], 1 / (2 * variance))
      np.testing.assert_allclose(
        value, metrics["divergence"] + metrics["half_square_norm"], atol=1e-5
      )

  @pytest.mark.e2e
  def test_nine_modes(self):
    """-d / (2 v) = -10, the modes being 31 std apart; -9.99 is published, of one sample.

    One point has a std of 10, so a sample of 10,000 has a standard error of 0.1.
    """
    target = nine_modes()
    loss = hyvarinen(Truth(target), VE, levels=LEVELS["data"])
    values = over_keys(lambda key: loss(EXACT, key, {"x": target.sample(key, 10_000)}, None)[0], 50)
    np.testing.assert_allclose(values.std(), 0.1, rtol=0.4)  # 4 standard errors of 50
    assert_mean(values, -10)
    assert_mean(values, -9.99)

  @pytest.mark.e2e
  def test_every_perturbation_raises_the_loss_by_half_its_square(self):
    """L(s) - L(s*) = E |s - s*|^2 / 2, on the same points and probes."""
    covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.8]]]
    target = GaussianMixture([0.3, 0.7], np.array([[1.0, 1.0], [-1.0, 0.5]]), np.array(covariances))
    truth, level = Truth(target), Level(None, jnp.ones(()), jnp.zeros(()))
    losses = {name: make(truth, VE, levels=LEVELS["data"]) for name, make in IMPLICIT.items()}
    params = {
      "scale": jnp.asarray([1.0, 0.8, 1.2, 1.0, 1.0, 0.9]),
      "field": jnp.asarray([[0.0, 0.0]] * 3 + [[0.4, 0.0], [0.0, -0.4], [0.3, 0.3]]),
    }

    def values(key):
      data_key, key = jax.random.split(key)
      x = target.sample(data_key, 2048)

      def one(params):
        score = truth.bind(params)(x, level).score
        return score, {name: f(params, key, {"x": x}, None)[0] for name, f in losses.items()}

      scores, values = jax.vmap(one)(params)
      half = jnp.mean(jnp.sum((scores[1:] - scores[0]) ** 2, axis=-1), axis=1) / 2
      return half, jax.tree.map(lambda a: a[1:] - a[0], values)

    half, rises = over_keys(values, 64)
    assert half.mean(0).min() > 0.01
    for rise in rises.values():
      mean, error = mean_and_error(rise)
      assert (mean > 4 * error).all()
      assert_mean(rise - half, 0, rounding=1e-4)  # eps^2 of sliced_fd


class TestDerivatives:
  """The exact divergence against per-example Jacobians, in float64."""

  class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, c):
      h = jnp.tanh(nn.Conv(3, (3, 3))(x) + c[:, None, None, None])
      return nn.Conv(x.shape[-1], (3, 3))(h)

  @pytest.mark.e2e
  @pytest.mark.usefixtures("x64")
  @pytest.mark.parametrize("event", CASES, ids=str)
  def test_both_modes_are_the_trace(self, event):
    image = len(event) == 3
    network = self.Conv() if image else small_network()[0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, *event)))
    params = jit(network.init)(jax.random.key(1), x, jnp.zeros(5))["params"]
    params = jax.tree.map(lambda a: a.astype(float), params)
    score = Parameterization(network.apply, unconditional, "score", event_ndim=len(event))

    def reference(params):
      def alone(x):
        return network.apply({"params": params}, x[None], jnp.zeros(1))[0]

      jacobians = jax.vmap(jax.jacfwd(alone))(x).reshape(5, x[0].size, -1)
      squares = jnp.sum(jax.vmap(alone)(x) ** 2, axis=range(1, x.ndim))
      return jnp.mean(jnp.trace(jacobians, axis1=1, axis2=2) + squares / 2)

    expected = jit(jax.value_and_grad(reference))(params)
    for divergence, max_unrolled in CASES[event]:
      loss = hyvarinen(
        score, VE, levels=LEVELS["data"], divergence=divergence, max_unrolled=max_unrolled
      )
      found = jit(jax.value_and_grad(lambda p, f=loss: f(p, KEY, {"x": x}, None)[0]))(params)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-10, 1e-13), found, expected)

  @pytest.mark.e2e
  def test_memory_does_not_grow_with_the_dimension(self):
    network, params = small_network(dim=64)
    score = Parameterization(network.apply, unconditional, "score")

    def temporary_bytes(max_unrolled):
      loss = hyvarinen(score, VE, levels=LEVELS["data"], max_unrolled=max_unrolled)
      grad = jax.jit(jax.grad(lambda params, x: loss(params, KEY, {"x": x}, None)[0]))
      return grad.lower(params, jnp.ones((64, 64))).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(2) < temporary_bytes(64) / 8

  @pytest.mark.usefixtures("x64")
  def test_finite_differences_are_second_order(self):
    network, params = small_network()
    params = jax.tree.map(lambda a: a.astype(float), params)
    score = Parameterization(network.apply, unconditional, "score")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)))

    @jit
    def terms(eps):
      make = sliced if eps is None else functools.partial(sliced_fd, eps=eps)
      return make(score, VE, levels=LEVELS["data"], num_probes=2)(params, KEY, {"x": x}, None)[1]

    steps = (0.05, 0.025, 0.0125)
    exact, approximate = terms(None), [terms(eps) for eps in steps]
    for name in exact:
      errors = np.array([abs(found[name] - exact[name]) for found in approximate])
      np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 2, atol=0.01)


class TestProbes:
  """The mean over probes is the exact loss, and its gradient."""

  @pytest.mark.e2e
  def test_means(self):
    network, params = small_network()
    score = Parameterization(network.apply, unconditional, "score")
    batch = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}

    def value_and_grad(loss, key):
      found = jax.value_and_grad(lambda params: loss(params, key, batch, None)[0])(params)
      return ravel_pytree(found)[0]

    exact = jit(lambda: value_and_grad(hyvarinen(score, VE, levels=LEVELS["data"]), KEY))()
    cases = [(hutchinson, probes) for probes in PROBES]
    for make, probes in [*cases, (sliced, "gaussian"), (sliced, "rademacher")]:
      loss = make(score, VE, levels=LEVELS["data"], probes=probes, num_probes=3)
      found = over_keys(lambda key, loss=loss: value_and_grad(loss, key), 4000)
      assert_mean(found, exact, rounding=1e-5, errors=5)

  @pytest.mark.e2e
  @pytest.mark.parametrize("probes", PROBES)
  def test_variance(self, probes):
    """Of v^T A v at a linear score: closed forms, over the number of probes."""
    a = np.array([[1.0, 0.5, 0.0], [-0.2, 2.0, 1.0], [0.3, 0.0, -1.0]])
    s = (a + a.T) / 2
    squares, diagonal, trace = np.sum(s**2), np.sum(np.diag(s) ** 2), np.trace(s)
    expected = {
      "gaussian": 2 * squares,
      "rademacher": 2 * (squares - diagonal),
      "sphere": 2 * 3 / 5 * (squares - trace**2 / 3),
    }[probes]
    linear = Parameterization(lambda _, x, c, rngs: x @ a.T, unconditional, "score")
    for num_probes in (1, 4) if probes == "gaussian" else (1,):
      loss = hutchinson(linear, VE, levels=LEVELS["data"], probes=probes, num_probes=num_probes)
      values = over_keys(
        lambda key, loss=loss: loss(None, key, {"x": jnp.ones((1, 3))}, None)[1]["divergence"],
        20_000,
      )
      assert_mean(values, trace)
      assert_mean((values - values.mean()) ** 2, expected / num_probes)

  def test_errors(self):
    with pytest.raises(
      ValueError, match="probes = 'cube' must be one of gaussian, rademacher, sph"
    ):
      sliced(None, VE, levels=LEVELS["data"], probes="cube")
    with pytest.raises(ValueError, match="num_probes = 0 must be at least 1"):
      hutchinson(None, VE, levels=LEVELS["data"], num_probes=0)
    with pytest.raises(ValueError, match="divergence = 'exact' must be one of forward, reverse"):
      hyvarinen(None, VE, levels=LEVELS["data"], divergence="exact")


class TestLevels:
  @pytest.mark.e2e
  @pytest.mark.parametrize(("schedule", "make"), [(VE, hyvarinen), (LinearFlow(), sliced)])
  def test_noise_conditional_is_half_of_denoising(self, schedule, make):
    """Vincent 2011: twice the loss and the denoising loss differ by a constant of no network.

    So they rise equally from one network to another, and their gradients agree.
    """
    network, ours = small_network(dim=2)
    theirs = small_network(dim=2, seed=1)[1]
    target = GaussianMixture([0.3, 0.7], np.array([[1.0, 1.0], [-1.0, 0.5]]), [0.3, 0.5])
    edm = EDM(network.apply, log_sigma)
    levels = functools.partial(LEVELS["log_uniform"], sigma_min=0.2, sigma_max=5.0)
    implicit = make(edm, schedule, levels=levels, score_weighting=SCORE_WEIGHTINGS["sigma_squared"])
    denoising = ncsn(edm, schedule, levels=levels, weighting=WEIGHTINGS["sigma_squared"])

    def both(params, key):
      data_key, key = jax.random.split(key)
      batch = {"x": target.sample(data_key, 2048)}
      twice = 2 * implicit(params, key, batch, None)[0]
      denoised = denoising(params, key, batch, None)[0]
      return twice - denoised, denoised

    def values(key):
      (gap, denoised), grads = jax.vmap(jax.value_and_grad(both, has_aux=True), (0, None))(
        jax.tree.map(lambda *a: jnp.stack(a), ours, theirs), key
      )
      return gap[1] - gap[0], denoised[1] - denoised[0], ravel_pytree(grads)[0]

    gap, rise, grads = over_keys(values, 100)
    mean, error = mean_and_error(rise)
    assert abs(mean) > 20 * error  # the networks do differ
    assert_mean(gap, 0)
    assert_mean(grads, 0, rounding=1e-6, errors=5)

  def test_score_weighting(self):
    network, params = small_network(dim=2)
    edm, x = EDM(network.apply, log_sigma), jnp.ones((8, 2))
    levels = functools.partial(LEVELS["fixed"], sigma=0.5)
    for make in (hutchinson, sliced_fd):
      losses = [
        make(edm, VE, levels=levels, score_weighting=SCORE_WEIGHTINGS[name])
        for name in ("uniform", "sigma_squared")
      ]
      both = jit(lambda x, losses=losses: [f(params, KEY, {"x": x}, None)[0] for f in losses])
      one, quarter = both(x)
      np.testing.assert_allclose(quarter, one / 4, 1e-5)

  @pytest.mark.parametrize("schedule", [VE, LinearFlow()], ids=["ve", "flow"])
  def test_level_distributions(self, schedule):
    u = jnp.linspace(0, 1, 5)
    data = LEVELS["data"](schedule, u)
    np.testing.assert_array_equal(np.stack(data), np.stack([np.zeros(5), np.ones(5), np.zeros(5)]))
    fixed = LEVELS["fixed"](schedule, u, sigma=0.3)
    np.testing.assert_allclose(fixed.sigma / fixed.alpha, np.full(5, 0.3), 1e-5)
    again = schedule.at(fixed.t)
    np.testing.assert_allclose(fixed.sigma, again.sigma, 1e-4)
    np.testing.assert_allclose(fixed.alpha, again.alpha, 1e-5)

  def test_labels_reach_the_network(self):
    """-x / label, its own variance: each point contributes -d / label + |x|^2 / (2 label^2)."""

    def apply(variables, x, c, label, rngs):
      return -x / label[:, None]

    score = Parameterization(apply, unconditional, "score")
    batch = {"x": jnp.asarray([[1.0, 2.0], [3.0, 0.0]]), "label": jnp.asarray([1.0, 2.0])}
    loss = jit(lambda: hyvarinen(score, VE, levels=LEVELS["data"])(None, KEY, batch, None)[0])()
    np.testing.assert_allclose(loss, ((-2 + 5 / 2) + (-2 / 2 + 9 / 8)) / 2, 1e-6)


@pytest.mark.parametrize("schedule", [VE, LinearFlow()], ids=["ve", "flow"])
def test_scaled_score_of_minus_the_point_is_a_gaussian(schedule):
  """F(x) = -x is the score of N(0, data_std^2 I) at every level, the data among them."""
  target = GaussianMixture([1.0], np.zeros((1, 3)), [4.0])
  score = ScaledScore(lambda _, x, c, rngs: -x, unconditional, data_std=2.0)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
  level = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]),
    schedule.at(jnp.asarray([0.2, 0.5, 0.8])),
    LEVELS["data"](schedule, jnp.zeros(1)),
  )
  found, expected = jit(lambda: (score.bind({})(x, level), target.predict(x, level)))()
  np.testing.assert_allclose(found.score, expected.score, 1e-5, 1e-6)
  np.testing.assert_allclose(found.x0, expected.x0, 1e-4, 1e-5)


def test_registry():
  assert LOSSES["sliced_vr"] is sliced_vr is hutchinson
  for name in ("hyvarinen", "hutchinson", "sliced", "sliced_fd"):
    assert (
      inspect.signature(LOSSES[name]).parameters["levels"].kind is inspect.Parameter.KEYWORD_ONLY
    )
