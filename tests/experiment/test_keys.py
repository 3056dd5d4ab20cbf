"""Random keys: none is consumed twice, and each purpose of a run has its own, at every step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import training
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.experiment.build import build
from scorelab.experiment.keys import Stream
from scorelab.losses import LOSSES, PROBES, UNIFORMS
from scorelab.losses.probes import averaging
from scorelab.metrics import class_score_error, mode_score_error, score_error
from scorelab.predictions import PARAMETERIZATIONS, Exact, log_sigma, noised
from scorelab.runs.sharding import ONE_DEVICE
from scorelab.runs.signals import StopFlag
from scorelab.samplers.ddim import ddim_inference
from scorelab.schedules import VarianceExploding, VariancePreserving, uniform
from scorelab.schedules.sde import forward_path
from scorelab.targets import TARGETS
from scorelab.targets.mixtures import nine_modes
from scorelab.typing import Context

VP = VariancePreserving()
LEVELS = VP.at(jnp.array([0.2, 0.7]))


def network(variables, x, c, *label, rngs=None):
  """Twice the channels where the variance is learned."""
  del c, label, rngs
  return variables["params"] * jnp.concatenate([x, x], -1) / 4


def loss_of(name):
  learned = name == "hybrid"
  kind = "consistency" if name == "consistency" else "noise"
  options = {"schedule": VP} if kind == "consistency" else {"learned_variance": learned}

  def apply(*given, rngs=None):
    output = network(*given, rngs=rngs)
    return output if learned else output[..., :2]

  return LOSSES[name](PARAMETERIZATIONS[kind](apply, log_sigma, **options), VP)


@pytest.mark.e2e
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_consumes_no_key_twice(name):
  loss, batch = loss_of(name), {"x": jnp.ones((8, 2))}
  context = Context(jnp.zeros((), int), {})
  with jax.debug_key_reuse(True):
    value, _ = jax.jit(loss)(jnp.ones(()), jax.random.key(0), batch, context)
  assert value.shape == ()


@pytest.mark.e2e
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_consumes_no_key_twice(name):
  options = {"digits": {"dequantise": True}, "patches": {"dequantise": True, "stride": 32}}
  target = TARGETS[name](**options.get(name, {}))
  keys = iter(jax.random.split(jax.random.key(0), 4))
  with jax.debug_key_reuse(True):
    x = jax.jit(target.sample, static_argnums=1)(next(keys), 8)
    if hasattr(target, "dequantise"):
      target.dequantise(next(keys), x)
    if hasattr(target, "num_classes"):
      jax.jit(target.sample_with_labels, static_argnums=1)(next(keys), 8)
      jax.jit(target.sample_of_class)(next(keys), jnp.arange(3))
  assert jnp.isfinite(x).all()


@pytest.mark.e2e
def test_what_draws_consumes_no_key_twice():
  """Levels, probes, paths, and the errors of scores."""
  target, x = nine_modes(), jnp.ones((6, 2))
  calls = {
    **{name: functools.partial(draw, n=6) for name, draw in UNIFORMS.items()},
    **{name: functools.partial(averaging(name, 3), lambda v: v.sum(1), x=x) for name in PROBES},
    "forward_path": lambda key: forward_path(key, VP, x, jnp.array([0.1, 0.5, 0.9]))[0],
    "ddim_inference": lambda key: ddim_inference(key, x, uniform(VP, 3), eta=1.0),
    "noised": lambda key: noised(key, x, VP.at(0.5))[0],
    "score_error": lambda key: score_error(key, target, target.predict, LEVELS, 4)[0],
    "mode_score_error": lambda key: mode_score_error(key, target, target.predict, VP.at(0.5), 4),
    "class_score_error": lambda key: class_score_error(
      key, target, lambda label: target.predict, LEVELS, 4
    )[0],
  }
  for name, call in calls.items():
    with jax.debug_key_reuse(True):
      jax.block_until_ready(jax.jit(call)(jax.random.key(0)))
    assert call is not None, name


@pytest.mark.e2e
def test_steps_and_levels_draw_noise_of_their_own():
  """What a repeated key would correlate: increments of a path, probes, errors of one level twice.

  The sums of n independent increments of variance v dt have variance n v dt; of one, n^2 v dt.
  """
  schedule = VarianceExploding(0.01, 10.0, rho=1.0)
  times = jnp.linspace(0.0, 1.0, 41)
  end, path = forward_path(jax.random.key(0), schedule, jnp.zeros(4000), times)
  # sigma(t)^2 - sigma(0)^2, the sum of increments g^2 dt, is 100 up to Euler's 1 / 40.
  assert np.var(end) == pytest.approx(100, rel=0.12)
  steps = np.diff(path, axis=0)
  assert abs(np.corrcoef(steps[10], steps[11])[0, 1]) < 4.5 / 4000**0.5
  mean = averaging("gaussian", 64)(lambda v: v[:, 0] ** 2, jax.random.key(1), jnp.ones((500, 2)))
  assert np.var(mean) == pytest.approx(2 / 64, rel=0.3)  # of the mean of 64 chi^2_1
  twice = jax.tree.map(lambda a: jnp.stack([a, a]), VP.at(0.5))
  found = score_error(jax.random.key(2), nine_modes(), Exact(wrong).predict, twice, 50)
  assert found.absolute[0] != found.absolute[1]


def wrong(x, level):
  pred = nine_modes().predict(x, level)
  return dataclasses.replace(pred, views={"score": 0.5 * pred.score, "x0": pred.x0})


class Recorder:
  """Remembers keys by purpose, from within compiled programs too."""

  def __init__(self):
    self.keys = {}

  def note(self, purpose, key):
    def keep(data):
      self.keys.setdefault(purpose, []).append(tuple(np.asarray(data).tolist()))

    jax.debug.callback(keep, jax.random.key_data(key))

  def all(self):
    jax.effects_barrier()
    return self.keys


class Noting:
  """Points at 0, drawn and changed as a data set's are; what each key is for is noted."""

  event_shape = (2,)
  scale = 1.0

  def __init__(self, recorder):
    self._note = recorder.note

  def sample(self, key, n):
    self._note("draw", key)
    return jnp.zeros((n, 2))

  def augment(self, key, x):
    self._note("augment", key)
    return x

  def dequantise(self, key, x):
    self._note("dequantise", key)
    return x


def noting(recorder, **training_fields):
  """An experiment of which every draw is noted."""
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.training.update(batch_size=8, num_validation=8, **training_fields)
  config.evaluation.rows = ()
  experiment = build(config)

  def loss(purpose, params, key, batch, context):
    del batch, context
    recorder.note(purpose, key)
    return sum(jnp.sum(p) for p in jax.tree.leaves(params)), {}

  def init_params(key):
    recorder.note("init", key)
    return {"w": jnp.zeros(2)}

  return dataclasses.replace(
    experiment,
    target=Noting(recorder),
    init_params=init_params,
    loss=functools.partial(loss, "loss"),
    validation_loss=functools.partial(loss, "validation"),
  )


@pytest.mark.e2e
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_training_has_a_key_for_each_purpose_step_and_part(accumulate):
  """Validation's noise alone is the same every time. No key is the root, or evaluation's."""
  recorder = Recorder()
  experiment = noting(recorder, accumulate=accumulate)
  state = training.init_state(experiment)
  step = jax.jit(functools.partial(training.train_step, experiment))
  validate, held_out = training.make_validate(experiment, ONE_DEVICE)
  for _ in range(3):
    state, _ = step(experiment.root, state, {})
    validate(state.params, held_out, Context(state.step, state.ema))
  keys = recorder.all()
  counts = {"draw": 3, "augment": 3, "dequantise": 3, "loss": 3 * accumulate, "init": 1}
  assert {name: len(found) for name, found in keys.items()} == counts | {"validation": 3}
  assert len(set(keys.pop("validation"))) == 1
  used = [key for found in keys.values() for key in found]
  assert len(set(used)) == len(used)
  others = [experiment.root, experiment.key(Stream.EVALUATION, 0)]
  assert not {tuple(jax.random.key_data(key).tolist()) for key in others} & set(used)


@pytest.mark.e2e
def test_a_run_of_another_seed_has_other_keys_at_every_step():
  recorder = Recorder()
  experiment = noting(recorder)
  for seed in range(3):
    here = dataclasses.replace(experiment, config=experiment.config | {"seed": seed})
    state = training.init_state(here)
    for _ in range(2):
      state, _ = training.train_step(here, here.root, state, {})
  keys = [key for found in recorder.all().values() for key in found]
  assert len(set(keys)) == len(keys) == 3 * (1 + 2 * 4)


@pytest.mark.e2e
def test_a_likelihood_has_a_key_for_points_noise_flow_and_chain(monkeypatch):
  recorder = Recorder()
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update(
    likelihood_points=4, likelihood_num_steps=2, likelihood_bound_steps=2,
    likelihood_divergence="hutchinson",
  )  # fmt: skip
  experiment = build(config)
  experiment = dataclasses.replace(experiment, parameterization=Exact(nine_modes().predict))
  places = {"held_out": 1, "noised": 0, "_flow": 0, "bound_terms": 0}
  for name, place in places.items():
    function = getattr(likelihood_evaluation, name)

    def noted(*given, name=name, place=place, function=function, **options):
      recorder.note(name, given[place])
      return function(*given, **options)

    monkeypatch.setattr(likelihood_evaluation, name, noted)
  likelihood_evaluation.measure_likelihood(
    experiment, {}, experiment.evaluation.likelihood, StopFlag()
  )
  keys = recorder.all()
  assert {name: len(found) for name, found in keys.items()} == dict.fromkeys(places, 1)
  assert len({found[0] for found in keys.values()}) == 4
