"""Distances in a network's features: they see what the network was trained to tell apart."""

from typing import ClassVar

import numpy as np
import pytest

from configs import base
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.metrics import FEATURES, Reference, frechet, in_features, kernel_distance, recall
from scorelab.metrics.features import batched, held_out_splits
from scorelab.targets.data_set import DataSet
from scorelab.targets.digits import digits

DIGITS = digits()
TRAIN, TEST = (np.asarray(DIGITS.splits[name]) for name in ("train", "test"))
REFERENCE = Reference(TEST, DIGITS)


def first_class(features):
  """The share of training digits whose nearest class mean of test features is right."""
  labels = DIGITS.labels["test"]
  means = np.stack([features(TEST)[labels == i].mean(0) for i in range(10)])
  distances = ((features(TRAIN)[:, None] - means) ** 2).sum(-1)
  return (distances.argmin(1) == DIGITS.labels["train"]).mean()


@pytest.mark.e2e  # it trains a network of features on the digits
@pytest.mark.usefixtures("full_optimisation")
def test_the_classifier_tells_digits_apart():
  """Of digits that it has not seen: class means in pixels err on 11 %, in its features on 6 %."""
  in_pixels = first_class(lambda x: x.reshape(len(x), -1))
  assert 1 - first_class(FEATURES["classifier"](DIGITS)) < 0.7 * (1 - in_pixels)
  assert in_pixels < 0.9


@pytest.mark.e2e  # it trains a network of features on the digits
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


class Noise(DataSet):
  """Images of noise with random labels: whatever is learned of them is learned by heart."""

  labels: ClassVar = {
    name: np.random.default_rng(1).integers(0, 2, 300) for name in ("train", "test")
  }


@pytest.mark.e2e  # it trains a network of features on the digits
@pytest.mark.usefixtures("full_optimisation")
def test_floors_are_of_images_that_the_network_has_not_seen():
  """Recall of training images, as floors have it, against ten sets of new images of the same law.

  A network trained on these training images gives 0.63 where new images have 0.86 +- 0.02 (std).
  """
  rng = np.random.default_rng(0)
  train, test, *new = rng.normal(size=(12, 300, 8, 8, 1)).astype(np.float32)

  def errors_of_floor(target):
    measured, reference = in_features(recall, "c", FEATURES["classifier"]), Reference(test, target)
    exact = [measured(None, x, reference) for x in new]
    return (measured(None, train, reference) - np.mean(exact)) / np.std(exact, ddof=1)

  assert abs(errors_of_floor(Noise(train, test=test))) < 3
  assert errors_of_floor(Noise(test, test=train)) < -6  # trained on `train` instead


def test_the_network_learns_from_splits_without_a_floor():
  assert held_out_splits(DIGITS) == ("validation", "test")
  assert held_out_splits(Noise(TRAIN, validation=TEST, test=TEST)) == ("test",)  # has labels
  assert held_out_splits(DataSet(TRAIN, test=TEST)) == ("test",)
  # Exact samples are then draws from the training images, which are the law.
  assert held_out_splits(DataSet(TRAIN, validation=TEST)) == ("train",)


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
