"""Distances in a network's features: they see what the network was trained to tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from configs import base
from scorelab.experiment import build
from scorelab.metrics import FEATURES, Reference, frechet, in_features, kernel_distance
from scorelab.metrics.features import batched
from scorelab.options import ConfigError
from scorelab.pretrained.features import exported_features
from scorelab.targets.digits import digits

DIGITS = digits()
TRAIN, TEST = (np.asarray(DIGITS.splits[name]) for name in ("train", "test"))
REFERENCE = Reference(TEST, DIGITS)


def first_class(features):
  """The share of test digits whose nearest class mean of training features is right."""
  labels = DIGITS.labels["train"]
  means = np.stack([features(TRAIN)[labels == i].mean(0) for i in range(10)])
  distances = ((features(TEST)[:, None] - means) ** 2).sum(-1)
  return (distances.argmin(1) == DIGITS.labels["test"]).mean()


def test_the_classifier_tells_digits_apart():
  """In its features class means are enough for 94 % and more; in pixels for less than 93 %."""
  assert first_class(FEATURES["classifier"](DIGITS)) > 0.94
  assert first_class(lambda x: x.reshape(len(x), -1)) < 0.93


@pytest.mark.parametrize("metric", [frechet, kernel_distance])
def test_unseen_digits_are_near_and_a_missing_class_is_far(metric):
  measured = in_features(metric, "classifier", FEATURES["classifier"])
  real = measured(None, TRAIN, REFERENCE)
  noise = np.random.default_rng(0).normal(TEST.mean(), TEST.std(), TEST.shape)
  fewer = TRAIN[DIGITS.labels["train"] < 7]
  assert real < measured(None, fewer, REFERENCE) / 3
  assert real < measured(None, noise, REFERENCE) / 3
  noise[3, 2, 1] = np.nan
  assert np.isnan(measured(None, noise, REFERENCE))


def test_batches_are_the_whole_and_a_reference_is_computed_once():
  calls = []

  def apply(x):
    calls.append(len(x))
    return x.reshape(len(x), -1)[:, :5]

  extract = batched(apply, 100)
  np.testing.assert_array_equal(extract(TEST), TEST.reshape(-1, 64)[:, :5])
  assert calls == [100] * 5
  measured, reference = in_features(frechet, "five", lambda _: extract), Reference(TEST, DIGITS)
  for _ in range(2):
    expected = frechet(None, TRAIN.reshape(-1, 64)[:, :5], TEST.reshape(-1, 64)[:, :5])
    np.testing.assert_allclose(measured(None, TRAIN, reference), expected, rtol=1e-6)
  assert len(calls) == 5 + 5 + 2 * 13


def test_a_network_in_a_file(tmp_path):
  """Pixels' halves as features: what was exported is what comes back, for any number of images."""
  n = export.symbolic_shape("n")[0]
  images = jax.ShapeDtypeStruct((n, 8, 8, 1), jnp.float32)
  program = export.export(jax.jit(lambda x: x.reshape(x.shape[0], 64)[:, 32:]))(images)
  file = tmp_path / "half.jaxexport"
  file.write_bytes(program.serialize())
  np.testing.assert_array_equal(exported_features(str(file))(TEST), TEST.reshape(-1, 64)[:, 32:])
  config = config_of(f"frechet:features={file}")
  (measured,) = build(config).evaluation.metrics.values()
  expected = frechet(None, TRAIN.reshape(-1, 64)[:, 32:], TEST.reshape(-1, 64)[:, 32:])
  np.testing.assert_allclose(measured(None, TRAIN, REFERENCE), expected, rtol=1e-6)
  file.write_bytes(b"no program")
  with pytest.raises(ConfigError, match=r"is no program of jax\.export"):
    build(config)


def config_of(metric, target="digits"):
  config = base.variant(base.get_config(), "fast")
  config.target.name = target
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update(metrics=(metric,), rows=())
  return config


@pytest.mark.parametrize(
  ("metric", "target", "message"),
  [
    ("frechet:features=clasifier", "digits", "did you mean 'classifier'"),
    ("frechet:features=nothing.jaxexport", "digits", "there is no such file"),
    ("frechet:features=classifier", "patches", "needs labelled images"),
    ("frechet:features=rotations", "moons", "needs training images"),
    ("class_count:features=classifier", "digits", "features are for metrics of points"),
  ],
)
def test_refusals(metric, target, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(config_of(metric, target))
  assert "\n" not in str(error.value)
