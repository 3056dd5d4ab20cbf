"""Training: chunks, averages, resuming, and what stops it."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ddpm_digits, ncsn_gmm
from scorelab import training
from scorelab.errors import RunError
from scorelab.experiment.build import build
from scorelab.experiment.keys import Stream
from scorelab.predictions import Prediction
from scorelab.runs.files import read_jsonl
from scorelab.runs.sharding import ONE_DEVICE
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.training import pace, progress
from scorelab.training.state import remember
from scorelab.training.step import own_sums
from scorelab.typing import Average, Context
from tests.stopping import StopAfter


def small_config(**training_fields):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1, num_features=8)
  config.training.update(num_steps=12, log_every=2, checkpoint_every=4, batch_size=32)
  config.training.update(num_validation=64, **training_fields)
  return config


@pytest.fixture
def as_for_users():
  """XLA optimises as in a run: for bits that two programs share."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def experiment():
  return build(small_config())


@pytest.fixture(scope="module")
def program(experiment):
  """Compiled once for all runs of the experiment."""
  return training.make_program(experiment, ONE_DEVICE)


@pytest.fixture(scope="module")
def straight(experiment, program, tmp_path_factory):
  """The last state of the uninterrupted run, and its folder."""
  return run(experiment, tmp_path_factory.mktemp("straight"), program=program)


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def run(experiment, path, stop=None, program=None):
  workdir = open_workdir(path, experiment.config, {})
  return training.train(experiment, workdir, stop or StopFlag(), program), workdir


@pytest.mark.e2e
@pytest.mark.usefixtures("as_for_users")
def test_a_chunk_is_its_steps_one_by_one(experiment):
  """A Python loop over jitted steps is the reference: the same bits, however the run is cut."""
  step = jax.jit(functools.partial(training.train_step, experiment))
  expected, losses = training.init_state(experiment), []
  for _ in range(4):
    expected, metrics = step(experiment.root, expected, experiment.data)
    losses.append(metrics["loss"])
  chunk = training.make_chunk(experiment)
  for lengths in ((1, 3), (3, 1)):
    state, chunked = training.init_state(experiment), []
    for length in lengths:
      state, metrics = chunk(state, experiment.data, length=length)
      chunked.append(metrics["loss"])
    assert_same_bits(expected, state)
    np.testing.assert_array_equal(np.concatenate(chunked), np.stack(losses))
    assert int(state.step) == 4


@pytest.mark.e2e
def test_a_chunk_traces_once(experiment, program):
  chunk, sizes = program.chunk, []
  state = training.init_state(experiment)
  for _ in range(3):
    state, _ = chunk(state, experiment.data, length=2)
    sizes.append(chunk.func._cache_size())
  assert len(set(sizes)) == 1


@pytest.mark.e2e
def test_the_loop_makes_no_implicit_transfers(experiment, program):
  """The compiled chunk runs on what is on the device already."""
  chunk = program.chunk
  state, _ = chunk(training.init_state(experiment), experiment.data, length=2)
  with jax.transfer_guard("disallow"):
    chunk(state, experiment.data, length=2)


def test_ema_is_the_recurrence():
  """Against NumPy, in float64: min(decay, (1 + n) / (10 + n)) of the old, the rest of the new."""
  values = np.random.default_rng(0).normal(size=30)
  average, ema = values[0], {"0.9": jnp.asarray(values[0], jnp.float32)}
  for n, value in enumerate(values[1:]):
    decay = min(0.9, (1 + n) / (10 + n))
    average = decay * average + (1 - decay) * value
    moved = jnp.asarray(value, jnp.float32)
    ema = training.update_ema(ema, moved, jnp.asarray(n), {"0.9": 0.9})
  np.testing.assert_allclose(ema["0.9"], average, rtol=1e-5)  # thirty float32 roundings


@pytest.mark.e2e
@pytest.mark.parametrize("questions", [0, 1, 3, 4])
def test_stopped_and_resumed_is_uninterrupted(experiment, program, straight, tmp_path, questions):
  """Parameters, averages, optimiser state and every metrics line, bit for bit."""
  state, straight_dir = straight
  with pytest.raises(Preempted):
    run(experiment, tmp_path, StopAfter(questions), program)
  resumed, resumed_dir = run(experiment, tmp_path, program=program)
  assert_same_bits(state, resumed)
  assert straight_dir.metrics.read_text() == resumed_dir.metrics.read_text()
  assert [line["step"] for line in read_jsonl(straight_dir.metrics)] == [2, 4, 6, 8, 10, 12]


@pytest.mark.e2e
def test_chunks_by_seconds_have_the_bits_of_chunks_by_steps(tmp_path, monkeypatch):
  """However a run is cut, and where it is stopped between two lines of metrics.jsonl."""
  experiment = build(small_config(log_every=4))
  program = training.make_program(experiment, ONE_DEVICE)
  whole, straight = run(experiment, tmp_path / "whole", program=program)
  monkeypatch.setattr(pace, "CHUNK_SECONDS", 0.0)
  lengths = []
  dispatched = pace.Pace.dispatched
  monkeypatch.setattr(
    pace.Pace, "dispatched", lambda self, n: (lengths.append(n), dispatched(self, n))
  )
  for questions in (0, 1, 4, 6):
    lengths.clear()
    folder = tmp_path / str(questions)
    with pytest.raises(Preempted):
      run(experiment, folder, StopAfter(questions), program)
    assert (sum(lengths) % 4 == 0) == (questions in (0, 4))
    cut, resumed = run(experiment, folder, program=program)
    assert sum(lengths) == 12 and set(lengths) <= {1, 2, 4}
    assert_same_bits(whole, cut)
    assert straight.metrics.read_text() == resumed.metrics.read_text()
    assert [line["step"] for line in read_jsonl(resumed.metrics)] == [4, 8, 12]


@pytest.mark.e2e
def test_lines_after_the_checkpoint_are_written_again(experiment, program, straight, tmp_path):
  """A kill leaves lines later than the newest checkpoint, the last one torn."""
  with pytest.raises(Preempted):
    run(experiment, tmp_path, StopAfter(1), program)
  killed = tmp_path / "metrics.jsonl"
  killed.write_text(killed.read_text() + '{"step": 6, "loss": 7.0}\n{"step": 8, "lo')
  run(experiment, tmp_path, program=program)
  assert killed.read_text() == straight[1].metrics.read_text()


@pytest.mark.e2e
def test_the_damaged_newest_checkpoint_is_passed_over(experiment, program, straight, tmp_path):
  shutil.copytree(straight[1].path, tmp_path / "damaged")
  newest = sorted((tmp_path / "damaged" / "checkpoints").iterdir())[-1]
  for file in newest.rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  resumed, _ = run(experiment, tmp_path / "damaged", program=program)
  assert_same_bits(straight[0], resumed)


@pytest.mark.e2e
def test_a_nan_stops_the_run_and_says_where(tmp_path):
  config = small_config()
  config.optimizer.update(learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
  experiment = build(config)
  with pytest.raises(RunError, match=r"training stopped: \w+ is (nan|inf) at step \d+"):
    run(experiment, tmp_path)
  for line in read_jsonl(tmp_path / "metrics.jsonl"):
    assert np.isfinite(line["loss"])


def test_check_finite_names_the_first_bad_step():
  good = np.ones(5)
  bad = np.array([1, 1, np.inf, np.nan, 1])
  metrics = {"loss": good, "grad_norm": bad, "param_norm": good}
  with pytest.raises(RunError, match="grad_norm is inf at step 8"):
    progress.check_finite(metrics, 10)


@pytest.mark.e2e
def test_training_learns(tmp_path):
  """The loss falls well below that of a network that says nothing (F = 0)."""
  config = small_config()
  config.training.update(num_steps=400, log_every=100, checkpoint_every=400, batch_size=256)
  experiment = build(config)
  state, workdir = run(experiment, tmp_path)
  lines = read_jsonl(workdir.metrics)
  context_key = experiment.key(Stream.VALIDATION, 0)
  first = training.init_state(experiment).params
  untrained = float(experiment.loss(first, context_key, experiment.validation, None)[0])
  assert lines[-1]["val_loss"] < 0.85 * untrained
  assert lines[-1]["loss"] < lines[0]["loss"]
  assert len(lines[-1]["band_loss"]) == 8
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_an_xla_without_the_option_is_not_given_it(monkeypatch):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError("No such compile option")

  own_sums.cache_clear()
  monkeypatch.setattr(jax, "jit", refuse)
  assert own_sums() == {}
  own_sums.cache_clear()


def test_summary_pools_bands_and_leaves_empty_ones_out():
  total = np.array([[2.0, 0.0], [4.0, 0.0]])
  count = np.array([[1.0, 0.0], [3.0, 0.0]])
  line = progress.summarise(
    {
      "loss": np.array([1.0, 3.0]),
      "band_loss": Average(total, count),
    }
  )
  assert line == {"loss": 2.0, "band_loss": [1.5, None]}
  json.dumps(line, allow_nan=False)


@pytest.mark.e2e
def test_eval_needs_a_finished_training(experiment, program, tmp_path):
  workdir = open_workdir(tmp_path, experiment.config, {})
  with pytest.raises(RunError, match="no checkpoint"):
    training.restore_trained(experiment, workdir)
  with pytest.raises(Preempted):
    run(experiment, tmp_path, StopAfter(1), program)
  with pytest.raises(RunError, match="step 4 of 12"):
    training.restore_trained(experiment, workdir)


def test_a_validation_as_good_as_the_best_is_no_better():
  """A plateau is waited for: of equal validations the first one counts."""
  extra = {"best": jnp.asarray(jnp.inf), "waited": jnp.zeros((), jnp.int32)}
  state = training.TrainState(jnp.zeros((), jnp.int32), {}, {}, (), extra)
  found = []
  for value in (2.0, 1.0, 1.0, 1.5, 1.0, 0.5):
    state = remember(state, value)
    found.append((float(state.extra["best"]), int(state.extra["waited"])))
  assert found == [(2, 0), (1, 0), (1, 1), (1, 2), (1, 3), (0.5, 0)]


@pytest.mark.e2e
def test_early_stopping_keeps_the_best(tmp_path, monkeypatch):
  """Of made-up validations the least is at step 8; stopping and resuming does not change that."""
  losses = {4: 3.0, 8: 1.0, 12: 2.0, 16: 1.5, 20: 0.0}
  config = small_config(num_steps=40, patience=2)
  config.evaluation.checkpoint = "best"
  experiment = build(config)

  def validate(self, params, key, batch, context):
    step = context.step
    return {"val_loss": sum(jnp.where(step == s, loss, 0.0) for s, loss in losses.items())}

  monkeypatch.setattr(type(experiment), "validate", validate)
  program = training.make_program(experiment, ONE_DEVICE)
  straight, workdir = run(experiment, tmp_path / "straight", program=program)
  assert int(straight.step) == 16
  assert int(training.restore_trained(experiment, workdir).step) == 8
  with pytest.raises(Preempted):
    run(experiment, tmp_path / "stopped", StopAfter(5), program)
  resumed, _ = run(experiment, tmp_path / "stopped", program=program)
  assert_same_bits(straight, resumed)
  again, _ = run(experiment, tmp_path / "straight", program=program)  # nothing is left to do
  assert_same_bits(straight, again)
  last = dataclasses.replace(
    experiment, evaluation=dataclasses.replace(experiment.evaluation, checkpoint="last")
  )
  assert int(training.restore_trained(last, workdir).step) == 16


@pytest.mark.e2e
def test_the_monitored_number_is_the_score_error(experiment):
  """The truth in the network's place has none; half the score has a relative error of 1/4."""
  levels = experiment.loss_levels((jnp.arange(8) + 0.5) / 8)
  np.testing.assert_allclose(jnp.diff(levels.log_snr), jnp.diff(levels.log_snr)[0], rtol=1e-4)

  class Scaled:
    def __init__(self, factor):
      self.factor = factor

    def bind(self, params, label=None):
      def predict(x, level):
        score = self.factor * experiment.target.predict(x, level).score
        return Prediction.of(x, level, "score", score=score)

      return predict

  for factor, error in ((1.0, 0.0), (0.5, 0.25)):
    scaled = dataclasses.replace(experiment, parameterization=Scaled(factor))
    params = training.init_state(experiment).params
    context = Context(jnp.zeros((), int), {})
    found = jax.jit(scaled.validate)(params, experiment.root, experiment.validation, context)
    np.testing.assert_allclose(found["score_error"], error, atol=1e-6)


def test_fixed_training_sets_are_drawn_from():
  config = small_config()
  config.target.num_train = 5
  experiment = build(config)
  batch = experiment.draw_batch(jax.random.key(0), experiment.data)
  train = {tuple(point) for point in np.asarray(experiment.data["x"])}
  assert {tuple(point) for point in np.asarray(batch["x"])} <= train


@pytest.mark.slow
def test_convolutions_take_a_dispatch_a_step_on_a_cpu(monkeypatch):
  """And end where a scan does, to rounding: 1e-4 of what three steps have moved."""
  config = ddpm_digits.get_config("fast")
  config.network.update(dim_mults=(1,), attention=("none",))
  experiment = build(config)
  state, data = training.init_state(experiment), experiment.data
  scanned, looped = [], []
  for path, backend in ((scanned, "tpu"), (looped, "cpu")):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    path.extend(training.make_chunk(experiment)(jax.tree.map(jnp.copy, state), data, length=3))
  assert looped[1]["loss"].shape == (3,)
  np.testing.assert_allclose(looped[1]["loss"], scanned[1]["loss"], rtol=1e-4)
  moved = [np.abs(a - b).max() for a, b in zip(*map(leaves_of, (looped[0], state)), strict=True)]
  apart = zip(*map(leaves_of, (looped[0], scanned[0])), strict=True)
  assert max(np.abs(a - b).max() for a, b in apart) < 1e-4 * max(moved)


def leaves_of(state):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
