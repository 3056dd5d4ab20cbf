"""Distances in a network's features: they see what the network was trained to tell apart."""

import numpy as np
import pytest

from configs import base
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.metrics import FEATURES, Reference, frechet, in_features, kernel_distance
from scorelab.metrics.features import batched
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


def half(x):
  return x.reshape(len(x), 64)[:, 32:]


def test_a_network_that_is_given(tmp_path, monkeypatch):
  """Half of the pixels as features, by a function in a module of one's own."""
  (tmp_path / "my_features.py").write_text("def half(x):\n  return x.reshape(-1, 64)[:, 32:]\n")
  monkeypatch.syspath_prepend(tmp_path)
  (measured,) = build(config_of("frechet:features=my_features.half")).evaluation.metrics.values()
  np.testing.assert_allclose(
    measured(None, TRAIN, REFERENCE), frechet(None, half(TRAIN), half(TEST)), rtol=1e-6
  )


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
    ("frechet:features=nothing.of_mine", "digits", "there is no module 'nothing'"),
    ("frechet:features=classifier", "patches", "needs labelled images"),
    ("frechet:features=rotations", "moons", "needs training images"),
    ("class_count:features=classifier", "digits", "features are for metrics of points"),
  ],
)
def test_refusals(metric, target, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(config_of(metric, target))
  assert "\n" not in str(error.value)
