"""What a classifier makes of real digits, of none, and of some classes only."""

import jax
import numpy as np
import pytest

from scorelab.metrics import (
  Reference,
  class_accuracy,
  class_count,
  class_imbalance,
  class_probabilities,
  confident_share,
)
from scorelab.targets.digits import digits
from scorelab.targets.mixtures import nine_modes

TARGET = digits()
REFERENCE = Reference(TARGET.splits["test"], TARGET)
TEST = np.asarray(TARGET.splits["test"])


@pytest.mark.e2e
def test_real_digits_are_recognised_and_noise_is_not():
  probabilities = class_probabilities(TEST, TARGET)
  np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)  # float32
  assert (probabilities.argmax(1) == TARGET.labels["test"]).mean() > 0.96
  assert confident_share(None, TEST, REFERENCE) == 1
  assert class_count(None, TEST, REFERENCE) == 10
  noise = np.random.default_rng(0).uniform(-1, 1, TEST.shape)
  averages = (TEST + TEST[np.random.default_rng(0).permutation(len(TEST))]) / 2
  for fakes in (noise, averages, 0 * TEST):
    assert confident_share(None, fakes, REFERENCE) < 0.4
  assert confident_share(None, TEST, REFERENCE, threshold=0.5) == 1


def test_training_points_are_not_judged_by_a_classifier_that_has_seen_them():
  """Of labels that are drawn at random nothing can be learnt: half are right, not all.

  100 coordinates tell 80 points apart, so that a classifier is right about all it has seen.
  """
  rng = np.random.default_rng(0)
  points, classes = rng.normal(size=(160, 100)), rng.integers(0, 2, 160)

  class Labelled:
    def __init__(self):
      self.splits = {"train": points[:80], "test": points[80:]}
      self.labels = {"train": classes[:80], "test": classes[80:]}

  target = Labelled()
  right = class_probabilities(points[:80], target).argmax(1) == classes[:80]
  assert 0.25 < right.mean() < 0.75
  # A point that is not quite one of them is judged by the classifier of all of them.
  near = class_probabilities(points[:80] + 1e-6, target).argmax(1) == classes[:80]
  assert near.all()


def test_class_accuracy_of_real_digits_and_of_modes():
  """Real test digits are what they are, 97 %; asked for others they are not; one mode in nine."""
  labels = TARGET.labels["test"]
  assert class_accuracy(None, TEST, REFERENCE.with_labels(labels)) > 0.96
  assert class_accuracy(None, TEST, REFERENCE.with_labels((labels + 1) % 10)) < 0.03
  modes = nine_modes()
  x, label = (np.asarray(a) for a in modes.sample_with_labels(jax.random.key(0), 300))
  reference = Reference(x, modes)
  assert class_accuracy(None, x, reference.with_labels(label)) == 1
  assert class_accuracy(None, x, reference.with_labels(0 * label)) == (label == 0).mean()
  assert np.isnan(class_accuracy(None, x * np.nan, reference.with_labels(label)))
  assert reference.with_labels(label).cached("name", lambda: 3) == reference.cached(
    "name", lambda: 4
  )
  with pytest.raises(ValueError, match="without labels"):
    class_accuracy(None, x, reference)


def test_missing_classes_are_missed():
  few = TEST[np.isin(TARGET.labels["test"], (0, 1, 4))]
  few = few[class_probabilities(few, TARGET).argmax(1) != 9]
  sure = class_probabilities(few, TARGET).max(1) > 0.9
  assert class_count(None, few[sure], REFERENCE) == 3
  assert class_count(None, few[~sure], REFERENCE) == 0
  half = np.concatenate([few[sure][:20], few[~sure][:5], 0 * few[:15]])
  of_test = (class_probabilities(TEST, TARGET).max(1) > 0.9).mean()
  blank = class_probabilities(0 * few[:1], TARGET).max() > 0.9
  expected = (20 + 15 * blank) / len(half) / of_test
  np.testing.assert_allclose(confident_share(None, jax.numpy.asarray(half), REFERENCE), expected)


def test_imbalance_is_the_largest_factor():
  """Test digits as they are; without a class; and one class three times as often as the others."""
  assert class_imbalance(None, TEST, REFERENCE) == 1
  seen = class_probabilities(TEST, TARGET).argmax(1)
  assert class_imbalance(None, TEST[seen != 4], REFERENCE) == np.inf
  often = np.concatenate([TEST, TEST[seen == 4], TEST[seen == 4]])
  expected = max(3 * len(TEST) / len(often), len(often) / len(TEST))
  np.testing.assert_allclose(class_imbalance(None, often, REFERENCE), expected)


@pytest.mark.parametrize("metric", [confident_share, class_count, class_imbalance])
def test_refuses_what_it_cannot_judge(metric):
  broken = TEST.copy()
  broken[3, 2, 1] = np.nan
  assert np.isnan(metric(None, broken, REFERENCE))
  with pytest.raises(ValueError, match="GaussianMixture has no labelled points"):
    metric(None, np.ones((3, 2)), Reference(target=nine_modes()))
