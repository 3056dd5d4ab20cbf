"""Flow matching: minima in closed form, and couplings against SciPy, brute force and sorting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from scorelab.losses import LOSSES, flow_matching
from scorelab.losses.flow_matching import optimal_transport
from scorelab.predictions import Prediction
from scorelab.schedules import LinearFlow, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONTEXT = Context(jnp.zeros((), int), {})
MEAN, VARIANCE = 0.7, 0.3


class Stub:
  """In place of a parameterization: a flow (x, level) -> [n, 1], plus the parameters."""

  def __init__(self, flow, kind="flow"):
    self.flow, self.kind = flow, kind

  def bind(self, params, label=None):
    def predict(x, level):
      pred = Prediction.of(x, level, "flow", flow=self.flow(x, level) + params)
      return Prediction.of(x, level, self.kind, **{self.kind: pred.view(self.kind)})

    return predict


def true_flow(x, level):
  target = GaussianMixture([1.0], np.array([[MEAN]]), np.array([VARIANCE]))
  return target.predict(x, level).flow


def on_fresh_batches(loss, params, size=2048, num_keys=32):
  run = jax.jit(jax.value_and_grad(lambda p, key, x: loss(p, key, {"x": x}, CONTEXT)[0]))
  rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), num_keys)
  rows = [run(params, key, rng.normal(MEAN, VARIANCE**0.5, (size, 1))) for key in keys]
  return tuple(np.array(column) for column in zip(*rows, strict=True))


def assert_mean(values, expected):
  """Within 4 standard errors. Gives the standard error."""
  error = np.std(values, ddof=1) / len(values) ** 0.5
  assert abs(np.mean(values) - expected) < 4 * error, (np.mean(values), expected, error)
  return error


def test_minimum_for_a_gaussian(x64):
  """Var(eps - x_0 | x_t) = 1 + v - (s - a v)^2 / (a^2 v + s^2), on average over t.

  The gradient vanishes at the true flow, and a constant error d adds d^2.
  """

  def conditional(t):
    a, s = 1 - t, t
    return 1 + VARIANCE - (s - a * VARIANCE) ** 2 / (a**2 * VARIANCE + s**2)

  minimum, _ = scipy.integrate.quad(conditional, 1e-3, 1)
  loss = flow_matching(Stub(true_flow), LinearFlow())
  values, gradients = on_fresh_batches(loss, 0.0)
  assert assert_mean(values, minimum / (1 - 1e-3)) < 0.01
  assert_mean(gradients, 0)
  raised, _ = on_fresh_batches(loss, 0.3)
  assert_mean(raised - values, 0.09)


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [LinearFlow(), VariancePreserving()], ids=["flow", "vp"])
def test_every_view_has_the_same_loss(schedule, x64):
  """The error of the flow, whatever the network gives; two kinds of rounding."""
  batch = {"x": np.random.default_rng(0).normal(size=(64, 1))}

  @jax.jit
  def losses():
    return [
      flow_matching(Stub(true_flow, kind), schedule)(0.3, jax.random.key(1), batch, CONTEXT)[0]
      for kind in ("flow", "x0", "noise", "score", "v")
    ]

  values = losses()
  np.testing.assert_allclose(values, values[0], 1e-9)


def test_assignment_by_brute_force():
  """All 720 orders of six points of an image each."""
  rng = np.random.default_rng(0)
  x0, noise = rng.normal(size=(2, 6, 2, 2, 1)).astype(np.float32)
  found = np.asarray(jax.jit(optimal_transport)(x0, noise))

  def cost(other):
    return np.sum((x0 - other) ** 2)

  orders = itertools.permutations(range(6))
  np.testing.assert_allclose(cost(found), min(cost(noise[list(o)]) for o in orders), 1e-6)
  np.testing.assert_array_equal(np.sort(found.ravel()), np.sort(noise.ravel()))


def test_assignment_is_scipy_s():
  rng = np.random.default_rng(1)
  x0, noise = rng.normal(size=(2, 200, 3)).astype(np.float32)
  x0 = 2 * x0 + 5  # neither a shift nor a scale changes who goes with whom
  squares = np.sum((x0[:, None].astype(float) - noise) ** 2, axis=-1)
  _, order = scipy.optimize.linear_sum_assignment(squares)
  found = jax.jit(optimal_transport)(x0, noise)
  np.testing.assert_array_equal(found, noise[order])
  several = jax.vmap(optimal_transport)(np.stack([x0, -x0]), np.stack([noise, noise]))
  np.testing.assert_array_equal(several[0], found)
  assert (np.asarray(several[1]) != found).any()


@pytest.mark.e2e
def test_optimal_transport_straightens_the_paths(x64):
  """On a line the coupling is monotone: N(0, 1) to N(m, v) is x_0 = m + sqrt(v) eps.

  So eps - x_0 is a function of x_t, and its error falls to 0 with the batch. On independent pairs
  no network errs less than 0.5, the minimum of the test above.
  """
  root = VARIANCE**0.5

  def straight(x, level):
    at = level.like(x)
    eps = (x - at.alpha * MEAN) / (at.alpha * root + at.sigma)
    return (1 - root) * eps - MEAN

  losses = {}
  for size in (64, 512):
    loss = flow_matching(Stub(straight), LinearFlow(), coupling="optimal_transport")
    values, gradients = on_fresh_batches(loss, 0.0, size)
    losses[size] = values.mean()
    assert_mean(gradients, 0)
  assert losses[512] < losses[64] / 4 < 0.02
  independent, _ = on_fresh_batches(flow_matching(Stub(straight), LinearFlow()), 0.0)
  assert independent.mean() > 0.5


def test_errors():
  assert LOSSES["flow_matching"] is flow_matching
  with pytest.raises(ValueError, match="coupling = 'ot' must be one of independent, optimal_trans"):
    flow_matching(None, LinearFlow(), coupling="ot")
