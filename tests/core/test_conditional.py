"""Networks that are told the class, from a config to the table of metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, cond_digits, cond_gmm, ncsn_gmm
from scorelab import evaluation, training
from scorelab.errors import ConfigError
from scorelab.evaluation.table import format_table
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_rows
from scorelab.networks import MLP, ResidualMLP
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.targets import truth_of
from scorelab.targets.digits import digits
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import nine_modes

pytestmark = pytest.mark.usefixtures("quick_compilation")


def config_of(module=cond_gmm, **fields):
  config = module.get_config("fast")
  if module is cond_gmm:
    config.network.update(width=16, depth=1, num_features=8)
  config.evaluation.update(num_keys=2, num_samples=100, num_reference=200, num_projections=10)
  config.evaluation.update(score_samples=64, score_levels=(0.1, 5.0), **fields)
  return config


@pytest.mark.e2e
def test_labelled_draws_are_the_draws_and_their_classes():
  """Of modes far apart the likeliest is the label; of digits the picture is one of that digit."""
  target = nine_modes()
  x, label = target.sample_with_labels(jax.random.key(0), 200)
  np.testing.assert_array_equal(x, target.sample(jax.random.key(0), 200))
  np.testing.assert_array_equal(target.responsibilities(x).argmax(-1), label)
  asked = jnp.arange(90) % 9
  drawn = target.sample_of_class(jax.random.key(1), asked)
  np.testing.assert_array_equal(target.responsibilities(drawn).argmax(-1), asked)
  images = digits()
  known = {image.tobytes(): y for image, y in zip(
    np.asarray(images.splits["train"]), images.labels["train"], strict=True
  )}  # fmt: skip
  x, label = images.sample_with_labels(jax.random.key(0), 50)
  np.testing.assert_array_equal(x, images.sample(jax.random.key(0), 50))
  asked = jnp.arange(200) % 10
  drawn = images.sample_of_class(jax.random.key(1), asked)
  for points, labels in ((x, label), (drawn, asked)):
    assert [known[image.tobytes()] for image in np.asarray(points)] == labels.tolist()
  assert len({image.tobytes() for image in np.asarray(drawn)}) > 150  # not one of each


@pytest.mark.e2e
def test_a_class_of_a_mixture_is_its_component():
  """A law of one component, made apart, says the same at every level; label k is the mixture."""
  covariances = np.array([np.eye(2), [[0.5, 0.1], [0.1, 0.3]]])
  means = np.array([[0.0, 1.0], [2.0, -1.0]])
  target = GaussianMixture([0.3, 0.7], means, covariances)
  level = ncsn_gmm_schedule().at_ratio(jnp.array([0.1, 1.0, 5.0]))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)

  @jax.jit
  def run(x):
    told = truth_of(target).bind(None, jnp.array([0, 1, 1]))(x, level)
    none = truth_of(target).bind(None, jnp.array([2, 2, 2]))(x, level)
    alone = [GaussianMixture([1.0], means[i : i + 1], covariances[i : i + 1]) for i in (0, 1)]
    return told, none, [law.predict(x, level) for law in alone], target.predict(x, level)

  told, none, alone, whole = run(x)
  for name in ("score", "x0", "x0_variance", "log_density"):
    expected = np.stack([np.asarray(getattr(alone[c], name))[i] for i, c in enumerate((0, 1, 1))])
    np.testing.assert_allclose(getattr(told, name), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(getattr(none, name), getattr(whole, name), rtol=1e-4, atol=1e-5)


def ncsn_gmm_schedule():
  return build(config_of()).schedule


@pytest.mark.e2e
@pytest.mark.parametrize("network", [MLP((16,), (False,)), ResidualMLP(16, 1, num_features=4)])
def test_perceptrons_hear_the_label(network):
  """Of its own point alone; none, and the label num_classes, are the same; 0 classes take none."""
  told = network.clone(num_classes=3)
  x, c, label = jnp.ones((4, 2)), jnp.zeros(4), jnp.array([0, 1, 2, 3])
  shapes = jax.eval_shape(told.init, jax.random.key(0), x, c)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
  out = np.asarray(told.apply(variables, x, c, label))
  assert len(np.unique(out.round(4), axis=0)) == 4
  np.testing.assert_allclose(told.apply(variables, x, c)[0], out[3], rtol=1e-5)
  with pytest.raises(ValueError, match="a label is given to a network of num_classes = 0"):
    jax.eval_shape(network.init, jax.random.key(0), x, c, label)
  names = jax.eval_shape(network.init, jax.random.key(0), x, c)["params"].keys()
  assert "label" in shapes["params"] and "label" not in names


@pytest.mark.e2e
def test_labels_are_dropped_in_training_and_kept_in_validation():
  """A tenth of them, to 4 standard errors; the network's own dropout is off, so not twice."""
  config = config_of()
  config.training.batch_size = 4000
  experiment = build(config)
  label = np.asarray(experiment.draw_batch(jax.random.key(0), {})["label"])
  assert abs((label == 9).mean() - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
  assert experiment.label_dropout == 0.1
  held_out = experiment.validation
  found = experiment.target.responsibilities(held_out["x"]).argmax(-1)
  np.testing.assert_array_equal(found, held_out["label"])


@pytest.mark.e2e
def test_an_unconditional_config_draws_what_it_drew():
  """The same points from the same keys, and no labels anywhere."""
  experiment = build(config_of(ncsn_gmm))
  batch = experiment.draw_batch(jax.random.key(3), {})
  assert batch.keys() == experiment.validation.keys() == {"x"}
  np.testing.assert_array_equal(batch["x"], experiment.target.sample(jax.random.key(3), 128))


def test_own_points_keep_their_labels():
  """Splits of digits, each with its labels, repeated together."""
  config = config_of(cond_digits)
  config.network.update(widths=(8,), norms=(False,))
  config.training.validation_repeats = 2
  experiment = build(config)
  labels = experiment.target.labels
  np.testing.assert_array_equal(experiment.data["label"], labels["train"])
  np.testing.assert_array_equal(experiment.validation["label"], np.tile(labels["validation"], 2))
  batch = experiment.draw_batch(jax.random.key(0), experiment.data)
  assert batch["x"].shape[0] == batch["label"].shape[0] == 128


@pytest.mark.e2e
def test_the_truth_in_the_network_s_place_is_of_each_class(tmp_path):
  """Every row: nothing is learned, the classes are those asked for, and calls are counted."""
  config = config_of(
    rows=(
      "dpmpp_2m:12:guidance=classifier:guidance_scale=1.0",
      "heun:6:guidance=classifier_free:guidance_scale=2.0:guidance_low=0.1:guidance_high=5.0",
      "dpmpp_2m:12:guidance=autoguidance:guidance_scale=2.0:guidance_weak=0.999",
    ),
    metrics=("class_accuracy", "mode_weight_tv"),
  )
  config.sampler.num_steps = 12
  experiment = build(config)
  experiment = dataclasses.replace(experiment, parameterization=truth_of(experiment.target))
  workdir = open_workdir(tmp_path, experiment.config, {})
  result = evaluation.evaluate(experiment, {}, workdir, StopFlag(), {0.999: {}})
  assert result["protocol"]["labels"] == "data"
  assert [row["nfe"] for row in result["rows"]] == [12, 12, 11, 12]
  assert [row.get("network_calls") for row in result["rows"]] == [None, None, 22, 24]
  for row in result["rows"]:
    accuracy = row["metrics"]["class_accuracy"]
    assert accuracy["learning"] == 0
    assert accuracy["floor"] > 0.99  # modes are 30 std apart
    assert accuracy["value"] > 0.97
  first, classifier, _, autoguided = (row["metrics"]["class_accuracy"] for row in result["rows"])
  # The classifier's gradient at scale 1, and a model guided by itself, are the conditional score.
  np.testing.assert_allclose(classifier["value"], first["value"], atol=0.02)
  np.testing.assert_allclose(autoguided["value"], first["value"], atol=0.02)
  np.testing.assert_array_equal(result["score_error"]["relative"], 0)
  assert "22" in format_table(result)
  with np.load(workdir.samples) as arrays:
    assert arrays["labels"].shape == (100,)


@pytest.mark.e2e
@pytest.mark.parametrize("asked", ["uniform", "3"])
def test_other_labels_than_the_data_s(asked):
  experiment = build(config_of(labels=asked, rows=()))
  sets = evaluation.draw_sets(experiment, experiment.init_params(jax.random.key(0)), StopFlag())
  counts = np.bincount(sets["labels"].ravel(), minlength=9)
  if asked == "3":
    assert counts[3] == counts.sum() == 200
  else:
    assert counts.min() > 5  # of 200: the lightest mode has 3 by its own share
  assert sets["rows"][0]["true_start"].shape == (2, 100, 2)


@pytest.mark.e2e
def test_weaker_models_are_found(tmp_path):
  """The parameters themselves, an average, an earlier checkpoint: each what training had."""
  config = config_of(
    rows=tuple(
      f"dpmpp_2m:2:guidance=autoguidance:guidance_scale=2.0:guidance_weak={weak}"
      for weak in (0, 0.9, 20)
    ),
  )
  config.optimizer.ema_decays = (0.9, 0.99)
  config.training.update(num_steps=40, keep_every=20)
  experiment = build(config)
  check_rows(experiment)
  workdir = open_workdir(tmp_path, experiment.config, {})
  state = training.train(experiment, workdir, StopFlag())
  weak = training.weaker_params(experiment, workdir, state)
  assert weak.keys() == {0, 0.9, 20}

  def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))

  assert same(weak[0], state.params) and same(weak[0.9], state.ema["0.9"])
  assert not same(weak[20], state.ema["0.99"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"network": {"num_classes": 4}}, "num_classes = 4, and target.name = 'nine_modes' has 9"),
    ({"target": {"name": "moons"}}, "'moons' has no classes"),
    ({"sampler": {"guidance": "clasifier"}}, "did you mean 'classifier'"),
    ({"sampler": {"guidance_scale": 2.0}}, "guidance_scale = 2.0 is not an option of dpmpp_2m on"),
    ({"sampler": {"guidance_rescale": 1.5}}, "must be in"),
    (
      {"network": {"label_dropout": 0.0}, "sampler": {"guidance": "classifier_free"}},
      "label_dropout > 0",
    ),
    ({"sampler": {"guidance": "autoguidance"}}, "'autoguidance' needs one"),
    (
      {"sampler": {"guidance": "autoguidance", "guidance_weak": 0.5}},
      r"guidance_weak = 0.5 must be 0, the parameters themselves, one of",
    ),
    ({"evaluation": {"labels": "9"}}, "evaluation.labels = '9' is not a choice"),
    (
      {"network": {"num_classes": None}, "evaluation": {"metrics": ("class_accuracy",)}},
      "class_accuracy' needs a network of classes",
    ),
    ({"network": {"num_classes": None}, "evaluation": {"labels": "data"}}, "needs a network of"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message):
  config = base.variant(base.get_config(), "fast")
  config.network.update(num_classes=9, label_dropout=0.1)
  config.evaluation.metrics = ("energy_distance",)
  for section, fields in changes.items():
    if section == "network" and fields.get("num_classes", 0) is None:
      config.network.label_dropout = None
    config[section].update(fields)
  with pytest.raises(ConfigError, match=message):
    build(config)


def test_guidance_of_a_classifier_needs_one():
  config = config_of(cond_digits, rows=("dpmpp_2m:2:guidance=classifier",))
  config.sampler.guidance_rescale = None
  with pytest.raises(ConfigError, match="'digits' has none: use 'classifier_free'"):
    build(config)
