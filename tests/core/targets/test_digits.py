"""The digits: against scikit-learn's own copy, and what a split and dequantisation promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import sbgm_digits_published, vp_digits
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.metrics import frechet
from scorelab.targets.digits import digits
from scorelab.typing import Context

PLAIN, NOISY = digits(), digits(dequantise=True)


def test_every_digit_is_in_one_split():
  images, labels = load_digits(return_X_y=True)
  parts = [np.asarray(x).reshape(-1, 64) * 8 + 8 for x in PLAIN.splits.values()]
  assert [len(part) for part in parts] == [1212, 135, 450]
  together = np.concatenate(
    [np.c_[x, y] for x, y in zip(parts, PLAIN.labels.values(), strict=True)]
  )
  expected = np.c_[images, labels]
  np.testing.assert_array_equal(*(a[np.lexsort(a.T)] for a in (together, expected)))
  for name, y in PLAIN.labels.items():  # every class has its share, to one digit
    assert np.abs(np.bincount(y) - np.bincount(labels) * len(y) / 1797).max() < 1.01, name
  np.testing.assert_array_equal(PLAIN.splits["test"], digits(validation_share=0.3).splits["test"])


def test_training_digits_are_near_test_digits_in_frechet_distance():
  """Three quarters against a quarter: 0.35 in units of [-1, 1], more for fewer test digits."""
  train = np.concatenate([PLAIN.splits[name] for name in ("train", "validation")])
  test = np.asarray(PLAIN.splits["test"])
  distances = [frechet(None, train, test[:n]) for n in (100, 200, 450)]
  np.testing.assert_allclose(distances[-1], 0.35, atol=0.01)
  assert distances[0] > 2 * distances[2] and distances[1] > 1.5 * distances[2]


def test_noise_fills_each_bin_and_no_more():
  """Rounding takes it off again; its variance is bin_width^2 / 12; draws are training images."""
  x = NOISY.splits["train"]
  noise = np.asarray(NOISY.dequantise(jax.random.key(0), x)) - x
  assert np.abs(noise).max() <= 1 / 16
  np.testing.assert_allclose(noise.var() * 12 * 64, 1, atol=0.02)  # 77,568 draws: 4 standard errors
  np.testing.assert_allclose(noise.mean(), 0, atol=6e-4)
  np.testing.assert_allclose(NOISY.scale**2 - PLAIN.scale**2, 1 / 64 / 12, rtol=1e-3)
  np.testing.assert_allclose(PLAIN.scale, np.sqrt(np.asarray(x).var(0).mean()), rtol=1e-5)
  raw = digits(scaling="none", dequantise=True)
  assert raw.bin_width == 8 * NOISY.bin_width
  np.testing.assert_array_equal(raw.splits["test"], 8 * (NOISY.splits["test"] + 1))
  drawn = np.asarray(NOISY.sample(jax.random.key(1), 50)).reshape(50, 64)
  known = {tuple(row) for row in np.asarray(x).reshape(-1, 64)}
  assert {tuple(row) for row in drawn} <= known and len({tuple(row) for row in drawn}) > 40


def test_training_sees_noise_and_validation_levels_of_its_own():
  """Batches differ from every image; held-out digits are shown 20 times, with noise each time."""
  experiment = build(vp_digits.get_config("fast"))
  shown = np.asarray(experiment.validation["x"]).reshape(20, 135, 64)
  lattice = np.asarray(NOISY.splits["validation"]).reshape(135, 64)
  np.testing.assert_array_equal(np.round(shown * 8) / 8, np.broadcast_to(lattice, shown.shape))
  assert (np.abs(shown[0] - shown[1]) > 0).mean() > 0.999
  batch = np.asarray(experiment.draw_batch(jax.random.key(0), experiment.data)["x"])
  assert batch.shape[1:] == (8, 8, 1)
  assert (np.round(batch * 8) / 8 != batch).mean() > 0.999


@pytest.mark.e2e
def test_validation_loss_is_the_tutorials_proxy():
  """Its proxy of the likelihood, of a score of 0: half the sum of sigma^2 over T = 20 times.

  val_loss sums over 64 pixels and averages over times. The noise is in 135 * 20 * 64 squares: 4
  standard errors are 2 %; the tutorial's equidistant times sum to 0.1 % more than their mean.
  """
  experiment = build(sbgm_digits_published.get_config("fast"))
  params = jax.tree.map(jnp.zeros_like, experiment.init_params(jax.random.key(0)))
  context = Context(jnp.zeros((), int), {})
  found = experiment.validate(params, jax.random.key(1), experiment.validation, context)
  times = np.linspace(1e-5, 1, 20)
  proxy = np.sum((1.01 ** (2 * times) - 1) / (2 * np.log(1.01))) / 2
  np.testing.assert_allclose(float(found["val_loss"]) / 64 * 20 / 2, proxy, rtol=0.02)


def test_scalings():
  """The tutorial's 2 x / 17 - 1 ends at 15 / 17; the 17 bins above its values end at 1."""
  x = digits(scaling="bins")
  values = np.unique(x.splits["test"])
  np.testing.assert_allclose([values[0], values[-1], values[-1] + x.spacing], [-1, 15 / 17, 1])
  np.testing.assert_allclose(np.diff(values), x.spacing, rtol=1e-5)
  with pytest.raises(ValueError, match="scaling = 'half' must be one of bins, ends, none"):
    digits(scaling="half")


def test_refusals():
  with pytest.raises(ValueError, match=r"validation_share = 0.999 of 1347 digits is 1346"):
    digits(validation_share=0.999)
  config = vp_digits.get_config("fast")
  config.evaluation.metrics = ("mode_weight_tv",)
  with pytest.raises(
    ConfigError, match=r"needs modes of some width.*allowed: class_accuracy, class_count, .*conf"
  ):
    build(config)
