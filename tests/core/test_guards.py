"""What happens at the edges of numbers and sizes: each has a behaviour, and says where."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import flow_moons, ncsn_gmm
from scorelab import evaluation, training
from scorelab.errors import ConfigError, RunError
from scorelab.evaluation.table import format_table
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_metrics, check_rows
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules import GRIDS, VarianceExploding
from scorelab.targets.data_set import split

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small(config=None, **training_options):
  config = config or ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.training.update(num_steps=6, log_every=2, checkpoint_every=2, batch_size=8)
  config.training.update(num_validation=8, **training_options)
  config.evaluation.update(rows=(), metrics=("energy_distance",), score_levels=(1.0,))
  config.evaluation.update(num_keys=1, num_samples=8, num_reference=8, score_samples=8)
  return config


def trained(experiment, path):
  workdir = open_workdir(path, experiment.config, {})
  return training.train(experiment, workdir, StopFlag()), workdir


def poisoned(experiment, monkeypatch, at_step, name="loss"):
  """The experiment's training with NaN for a loss, or a validation, from a step on."""
  own_loss, own_validate = experiment.loss, type(experiment).validate

  def loss(params, key, batch, context):
    value, metrics = own_loss(params, key, batch, context)
    return value + jnp.where(context.step >= at_step, jnp.nan, 0.0), metrics

  def validate(self, params, key, batch, context):
    found = own_validate(self, params, key, batch, context)
    return found | {"val_loss": jnp.where(context.step >= at_step, jnp.inf, found["val_loss"])}

  if name == "loss":
    object.__setattr__(experiment, "loss", loss)
  else:
    monkeypatch.setattr(type(experiment), "validate", validate)
  return experiment


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """Parameters after training without a NaN and without a stop."""
  state, _ = trained(build(small()), tmp_path_factory.mktemp("straight"))
  return jax.tree.leaves(state.params)


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "at_step", "line", "kept"),
  [
    ("loss", 4, "training stopped: loss is nan at step 5", [2, 4]),
    ("loss", 0, "training stopped: loss is nan at step 1", []),
    ("val_loss", 4, "training stopped: val_loss is inf at step 4", [2]),
  ],
)
def test_a_nan_stops_and_the_last_good_checkpoint_stays(
  name, at_step, line, kept, straight, tmp_path, monkeypatch
):
  """The checkpoint before it is whole, and the run goes on from there where the cause is gone."""
  with monkeypatch.context() as patch:
    experiment = poisoned(build(small()), patch, at_step, name)
    with pytest.raises(RunError, match=line) as error:
      trained(experiment, tmp_path / "run")
  assert "\n" not in str(error.value)
  with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
    assert checkpoints.steps() == kept
  again, workdir = trained(build(small()), tmp_path / "run")
  for a, b in zip(jax.tree.leaves(again.params), straight, strict=True):
    np.testing.assert_array_equal(a, b)
  assert [line["step"] for line in read_jsonl(workdir.metrics)] == [2, 4, 6]


@pytest.mark.e2e
def test_a_sampler_that_explodes_is_null_in_the_table(tmp_path):
  """Langevin steps far too long: no number, no exception; what is exact beside it is measured."""
  config = small()
  config.parameterization.name = "exact"
  config.training.num_steps = 0
  config.sampler.update(name="ula", num_steps=200, step_size=1e6, sigma_min=None)
  experiment = build(config)
  workdir = open_workdir(tmp_path, experiment.config, {})
  found = evaluation.evaluate(experiment, {}, workdir, StopFlag())
  numbers = found["rows"][0]["metrics"]["energy_distance"]
  assert numbers["value"] is None and numbers["floor"] is not None
  assert evaluation.read(workdir) == found
  assert "energy_distance" in format_table(found)


def points_config(tmp_path, points, **options):
  np.save(tmp_path / "points.npy", points)
  config = small(flow_moons.get_config("fast"))
  config.target.update(name="points", path=str(tmp_path / "points.npy"), **options)
  config.evaluation.reference = "test"
  return config


@pytest.mark.e2e
def test_points_that_are_all_the_same_train(tmp_path):
  """A batch without variance: the loss is finite; to be standardised, it is refused by name."""
  points = np.full((20, 2), 3.0)
  state, _ = trained(build(points_config(tmp_path, points)), tmp_path / "run")
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  with pytest.raises(ConfigError, match="a coordinate is the same in all training points"):
    build(points_config(tmp_path, points, standardise=True))


def test_a_network_scaled_by_the_data_refuses_data_without_spread(tmp_path):
  """EDM's preconditioning divides by the data's std."""
  config = points_config(tmp_path, np.full((20, 2), 3.0))
  config.parameterization.update(name="edm", conditioning="time")
  with pytest.raises(ConfigError, match=r"data_std is 0.0, the target.s own, and must be above 0"):
    build(config)
  config.parameterization.data_std = 1.0
  build(config)


@pytest.mark.e2e
def test_duplicates_are_points_like_others(tmp_path):
  points = np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 10, axis=0)
  config = points_config(tmp_path, points)
  config.evaluation.metrics = ("energy_distance", "precision", "memorised_share", "wasserstein")
  experiment = build(config)
  check_metrics(experiment)
  trained(experiment, tmp_path / "run")


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"schedule.sigma_min": 80.0, "schedule.sigma_max": 0.02}, "sigma_min = 80.0 and sigma_max"),
    (
      {"schedule.sigma_min": 1.0, "schedule.sigma_max": 1.0},
      "1.0 must satisfy sigma_min < sigma_max",
    ),
    (
      {"sampler.sigma_min": 9.0, "sampler.sigma_max": 0.1},
      "sampler: sigma_min = 9.0 and sigma_max = 0.1",
    ),
    ({"loss.sigma_min": 9.0, "loss.sigma_max": 0.1}, "loss: sigma_min = 9.0 and sigma_max = 0.1"),
  ],
)
def test_limits_the_wrong_way_round_are_refused(changes, line):
  config = small()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(line)):
    build(config)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_the_smallest_grids(num_steps):
  for name in ("uniform", "karras", "uniform_log_snr", "timesteps", "quadratic", "spectral"):
    grid = GRIDS[name](VarianceExploding(), num_steps)
    assert grid.num_steps == num_steps and grid.ends_at_data
    assert np.isfinite(grid.levels.sigma).all()


ONE = {"evaluation.num_samples": 1, "evaluation.num_reference": 1}


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("metric", "line"),
  [
    ("energy_distance", None),
    ("sliced_wasserstein", None),
    ("mode_weight_tv", None),
    ("frechet", "frechet of 1 and 1 points, must be at least 2 each"),
    ("kernel_distance", "'kernel_distance': "),
    ("precision", "num_neighbours = 3 of 1 samples"),
    ("energy_distance:unbiased=True", "'energy_distance:unbiased=True': "),
    ("sliced_wasserstein:p=3", "p = 3, must be 1 or 2"),
  ],
)
def test_one_sample(metric, line, tmp_path):
  """It is measured, or refused before anything is trained."""
  config = small()
  config.update_from_flattened_dict(ONE)
  config.evaluation.metrics = (metric,)
  experiment = build(config)
  if line is not None:
    with pytest.raises(ConfigError, match=re.escape(line)):
      check_metrics(experiment)
    return
  check_metrics(experiment)
  params = experiment.init_params(experiment.root)
  workdir = open_workdir(tmp_path, experiment.config, {})
  found = evaluation.evaluate(experiment, params, workdir, StopFlag())
  assert np.isfinite(found["rows"][0]["metrics"][metric]["value"])


def test_more_points_than_the_exact_distance_takes():
  config = small()
  config.evaluation.update(metrics=("wasserstein",), num_reference=10_000)
  with pytest.raises(ConfigError, match="'wasserstein': 10000 points are more than 5000"):
    check_metrics(build(config))


@pytest.mark.e2e
@pytest.mark.parametrize("dim", [1, 1000])
def test_dimensions(dim, tmp_path):
  """From a file to a table."""
  points = np.random.default_rng(0).normal(size=(40, dim))
  config = points_config(tmp_path, points)
  config.evaluation.update(metrics=("energy_distance", "sliced_wasserstein", "frechet"))
  experiment = build(config)
  check_rows(experiment)
  check_metrics(experiment)
  state, workdir = trained(experiment, tmp_path / "run")
  found = evaluation.evaluate(experiment, state.params, workdir, StopFlag())
  values = found["rows"][0]["metrics"].values()
  assert all(np.isfinite(numbers["value"]) for numbers in values)


@pytest.mark.e2e
def test_a_batch_larger_than_the_data_draws_again(tmp_path):
  """With replacement: every point of the batch is one of the few."""
  points = np.random.default_rng(0).normal(size=(10, 2))
  config = points_config(tmp_path, points)
  config.training.batch_size = 64
  experiment = build(config)
  batch = experiment.draw_batch(jax.random.key(0), experiment.data)["x"]
  known = {tuple(point) for point in np.asarray(experiment.data["x"]).tolist()}
  assert batch.shape == (64, 2) and {tuple(point) for point in batch.tolist()} <= known
  trained(experiment, tmp_path / "run")


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"training.num_validation": 2 * 10**9, "training.validation_repeats": 1000}, "num_validation"),
    ({"target.num_train": 2 * 10**9, "target.name": "grid25", "target.dim": 1000}, "num_train = 2"),
    ({"training.batch_size": 2 * 10**9, "target.name": "grid25", "target.dim": 1000}, "batch_size"),
    ({"network.width": 10**6}, "network: training it takes"),
    ({"network.depth": 10**6}, "network.depth = 1000000, must be from 1 to 1000"),
    ({"sampler.num_steps": 10**9}, "sampler.num_steps = 1000000000, must be from 1 to 1000000"),
  ],
)
def test_what_is_larger_than_the_machine_is_refused_before_it_is_made(changes, line):
  config = small()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=re.escape(line)):
    build(config)


def test_the_fewest_points(tmp_path):
  """Two to train on are the fewest."""
  target = split(np.arange(8.0).reshape(4, 2), validation_fraction=0.25, test_fraction=0.25)
  assert len(target.train) == 2
  with pytest.raises(ValueError, match="3 points are too few"):
    split(np.arange(6.0).reshape(3, 2), validation_fraction=0.25, test_fraction=0.25)
