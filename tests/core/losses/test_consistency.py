"""Consistency training on a Gaussian, whose probability flow is known: where it rests and leads.

For N(m, s^2 I), variance exploding, the flow takes x at r to m + (x - m) sqrt((s^2 + r_min^2) /
(s^2 + r^2)) at r_min. The family that is trained has a free power p in the place of 1/2; p = 1 is
nearly the posterior mean.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base, consistency_gmm
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_rows
from scorelab.losses import LOSSES
from scorelab.predictions import Consistency, Prediction, log_sigma
from scorelab.samplers import SAMPLERS
from scorelab.schedules import GRIDS, VarianceExploding, VariancePreserving
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEAN, STD = np.array([1.0, -0.5]), 0.8
VE = VarianceExploding(0.02, 20.0, 7.0)
TARGET = GaussianMixture([1.0], [MEAN], [STD**2])


def flow_end(x, ratio, power=0.5):
  """Where the flow ends at r_min; `power` 0.5 is the truth."""
  return MEAN + (x - MEAN) * ((STD**2 + 0.02**2) / (STD**2 + ratio**2)) ** power


@dataclasses.dataclass(frozen=True)
class Family:
  """In place of a parameterization: params is the power."""

  kind: str = "consistency"

  def bind(self, params: Any, label: Any = None) -> Any:
    def predict(x, level):
      end = flow_end(x, level.like(x).sigma, params)
      return Prediction.of(x, level, "consistency", consistency=end)

    return predict


def gradients(intervals, powers):
  """Of the loss at n intervals in each power: [powers, 8], the last of independent estimates."""
  loss = LOSSES["consistency"](
    Family(), VE, min_intervals=intervals, max_intervals=intervals, level_mean=0.0, huber_delta=10.0
  )

  def of(power, key):
    data_key, key = jax.random.split(key)
    return jax.grad(loss, has_aux=True)(power, key, {"x": TARGET.sample(data_key, 5000)}, CONTEXT)

  keys = jax.random.split(jax.random.key(0), 8)
  run = jax.jit(lambda powers: jax.lax.map(lambda p: jax.vmap(of, (None, 0))(p, keys)[0], powers))
  return np.asarray(run(jnp.asarray(powers)))


CONTEXT = Context(jnp.zeros((), int), {})


@pytest.mark.e2e
def test_the_flow_is_a_fixed_point_as_the_grid_refines():
  """The gradient at the truth falls as 1 / n; away from it, it does not."""
  coarse, fine = (gradients(n, [0.4, 0.5, 0.6]) for n in (20, 80))
  error = fine[1].std(ddof=1) / 8**0.5
  coarse, fine = coarse.mean(1), fine.mean(1)
  assert abs(fine[1]) < abs(coarse[1]) / 3 + 3 * error
  assert fine[0] < -10 * abs(fine[1]) < 10 * abs(fine[1]) < fine[2]
  np.testing.assert_allclose(fine[[0, 2]], coarse[[0, 2]], rtol=0.5)


@pytest.mark.e2e
def test_training_finds_the_flow():
  """From the posterior mean's power to the truth's, as the intervals double on the way."""
  loss = LOSSES["consistency"](
    Family(), VE, min_intervals=10, max_intervals=640, double_every=50, level_mean=0.0,
    huber_delta=0.01,
  )  # fmt: skip
  adam = optax.adam(optax.cosine_decay_schedule(0.05, 400))

  def step(state, key):
    power, opt_state, count = state
    data_key, key = jax.random.split(key)
    batch = {"x": TARGET.sample(data_key, 1000)}
    grad, metrics = jax.grad(loss, has_aux=True)(power, key, batch, Context(count, {}))
    updates, opt_state = adam.update(grad, opt_state)
    return (power + updates, opt_state, count + 1), metrics["intervals"]

  start = jnp.asarray(1.0), adam.init(jnp.asarray(1.0)), jnp.zeros((), int)
  run = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 400)))
  (power, _, _), intervals = run()
  np.testing.assert_allclose(power, 0.5, atol=0.02)
  np.testing.assert_array_equal(intervals[::50], [10, 20, 40, 80, 160, 320, 640, 640])


@pytest.mark.parametrize("schedule", [VE, VariancePreserving()], ids=["ve", "vp"])
def test_at_the_least_noise_it_is_the_identity(schedule):
  """Whatever the network says; and there alone."""
  reading = Consistency(lambda v, x, c, rngs=None: 3 + x**2, log_sigma, schedule=schedule)
  predict = jax.jit(reading.bind({}))
  low = np.exp(-float(schedule.log_snr(jnp.asarray(schedule.t_min))))
  x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
  for ratio, same in ((low, True), (low + 0.5, False)):
    level = schedule.at_ratio(ratio)
    found = predict(x, level).x0 - x / level.alpha
    assert (np.abs(found).max() < 1e-5) == same


def test_one_step_and_several_sample_the_law():
  """Renoising the exact flow's ends: the target itself, to its variance at r_min."""
  n = 20_000

  @jax.jit
  def sample():
    drawn = []
    for num_steps, low in ((1, None), (3, 1.0)):
      grid = GRIDS["karras"](VE, num_steps, sigma_min=low)
      start, key = jax.random.split(jax.random.key(num_steps))
      x = grid.prior(start, (n, 2))
      drawn.append(SAMPLERS["renoise"](key, Family().bind(0.5), x, grid))
    return drawn

  for samples, num_steps in zip(sample(), (1, 3), strict=True):
    assert samples.nfe == num_steps
    x = np.asarray(samples.x)
    # The start has neither the data's mean nor its variance: 4 % of one, a thousandth of the other.
    np.testing.assert_allclose(x.mean(0), MEAN, atol=4 * STD / n**0.5 + 0.04)
    np.testing.assert_allclose(x.std(0), STD, rtol=4 / (2 * n) ** 0.5 + 2e-3)


def test_consistency_sampling_is_exact_from_the_start_on():
  """At a large r_min, 2, by the exact function: the law at r_min, whichever the steps.

  Started from the exact law of its level. Renoising adds all of the noise of each level to points
  that have r_min's, and its last variance is larger: by 0.8 on 4.6 here. To 4 standard errors.
  """
  n, schedule = 40_000, VarianceExploding(2.0, 20.0, 7.0)
  end = STD**2 + 4.0

  def predict(x, level):
    ratio = level.like(x).sigma
    y = MEAN + (x - MEAN) * jnp.sqrt(end / (STD**2 + ratio**2))
    return Prediction.of(x, level, "consistency", consistency=y)

  @jax.jit
  def sample(key):
    drawn = {}
    for name in ("consistency", "renoise"):
      grid = GRIDS["karras"](schedule, 4, sigma_min=2.5)
      start, walk = jax.random.split(key)
      x = MEAN + jnp.sqrt(STD**2 + 20.0**2) * jax.random.normal(start, (n, 2))
      drawn[name] = SAMPLERS[name](walk, predict, x, grid)
    return drawn

  drawn = sample(jax.random.key(0))
  assert drawn["consistency"].nfe == 4
  for i in range(4):
    # The levels between are N(m, s^2 + r^2) too, and the last step gives the end itself.
    ratio = float(GRIDS["karras"](schedule, 4, sigma_min=2.5)[i + 1].sigma)
    variance = STD**2 + max(ratio, 2.0) ** 2
    x = np.asarray(drawn["consistency"].path[i])
    np.testing.assert_allclose(x.mean(0), MEAN, atol=4 * (variance / n) ** 0.5)
    np.testing.assert_allclose(x.var(0), variance, rtol=4 * (2 / n) ** 0.5)
  assert (np.asarray(drawn["renoise"].x).var(0) > end * 1.1).all()


def test_consistency_sampling_refuses_what_it_cannot_take():
  grid = GRIDS["karras"](VE, 2, sigma_min=1.0)
  x = jnp.ones((3, 2))
  with pytest.raises(ValueError, match="kind 'consistency', not 'score'"):
    SAMPLERS["consistency"](jax.random.key(0), TARGET.predict, x, grid)
  open_grid = GRIDS["karras"](VE, 2, sigma_min=1.0, to_data=False)
  with pytest.raises(ValueError, match="ends at the data"):
    SAMPLERS["consistency"](jax.random.key(0), Family().bind(0.5), x, open_grid)


def test_a_config_may_sample_so():
  """Nothing exact stands in a consistency network's place; another network is refused."""
  config = consistency_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.sampler.update(name="consistency", num_steps=2)
  config.evaluation.rows = ()
  check_rows(build(config))
  config.parameterization.name, config.loss = "edm", base.get_config().loss
  with pytest.raises(ConfigError, match="consistency: consistency sampling needs predictions"):
    check_rows(build(config))


def test_it_has_no_score():
  """The end of a path is no posterior mean: what follows from one is refused by name."""
  pred = Family().bind(0.5)(jnp.ones((2, 2)), VE.at_ratio(1.0))
  for view in ("noise", "score", "v", "flow"):
    with pytest.raises(ValueError, match="'consistency' is no posterior mean"):
      pred.view(view)


class Straight:
  """f = p r in two coordinates, whatever x: it differs by |p| sqrt(2) for each unit of r."""

  kind = "consistency"

  def bind(self, params, label=None):
    del label

    def predict(x, level):
      ratio = (level.sigma / level.alpha)[:, None] * jnp.ones_like(x)
      return Prediction.of(x, level, "consistency", consistency=params * ratio)

    return predict


@pytest.mark.e2e
def test_a_difference_counts_by_its_slope_and_teaches_the_noisier_level_alone():
  """With distances in the place of squares, the loss is |p| sqrt(2) at every level and grid.

  The gradient is sqrt(2) r / (r - r') where the cleaner r' is held: it grows as intervals halve,
  which they do at every multiple of `double_every` and not before.
  """
  loss = LOSSES["consistency"](
    Straight(), VE, min_intervals=8, max_intervals=32, double_every=10, huber_delta=1e-7
  )
  batch, key = {"x": jnp.zeros((512, 2))}, jax.random.key(0)
  found = {}
  for step in (0, 9, 10, 19, 20, 100):
    context = Context(jnp.asarray(step), {})
    (value, metrics), slope = jax.value_and_grad(loss, has_aux=True)(
      jnp.asarray(3.0), key, batch, context
    )
    assert value == pytest.approx(3 * 2**0.5, rel=1e-3)
    found[step] = float(metrics["intervals"]), float(slope)
  intervals, slopes = zip(*found.values(), strict=True)
  assert intervals == (8, 8, 16, 16, 32, 32)
  assert slopes[0] > 1.3 * 2**0.5 and slopes[2] > 1.6 * slopes[0] and slopes[4] > 1.6 * slopes[2]
