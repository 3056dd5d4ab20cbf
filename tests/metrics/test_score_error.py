import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.metrics import mode_score_error, score_error
from scorelab.predictions import Prediction
from scorelab.schedules import Level, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture, nine_modes, two_modes_1d

KEY = jax.random.key(0)


def _scaled(target, factor):
  return lambda x, level: Prediction.of(
    x, level, "score", score=factor * target.predict(x, level).score
  )


@pytest.mark.parametrize("schedule", [VarianceExploding(), VariancePreserving()], ids=["ve", "vp"])
def test_scaled_score(schedule):
  """A score c times too large has relative error (c - 1)^2 whatever the samples."""
  target, levels = nine_modes(), schedule.at(jnp.array([0.2, 0.5, 1.0]))
  run = jax.jit(lambda c: score_error(KEY, target, _scaled(target, c), levels, 50))
  for factor in (0.0, 0.5, 1.0, 1.25):
    absolute, relative = run(factor)
    np.testing.assert_allclose(relative, (factor - 1) ** 2, rtol=1e-6)
    assert absolute.shape == (3,)


def test_absolute_error_of_a_gaussian():
  """For N(0, s^2 I) in d dimensions, sigma^2 E|s*|^2 is d sigma^2 / (alpha^2 s^2 + sigma^2)."""
  d, s, n = 3, 2.0, 20_000
  target = GaussianMixture(jnp.ones(1), jnp.zeros((1, d)), jnp.array([s**2]))
  levels = VariancePreserving().at(jnp.array([0.05, 0.3, 1.0]))
  absolute, _ = score_error(KEY, target, _scaled(target, 0.0), levels, n)
  expected = d * levels.sigma**2 / (levels.alpha**2 * s**2 + levels.sigma**2)
  # |x|^2 / V is chi-squared with d degrees: relative standard error sqrt(2 / (d n)).
  np.testing.assert_allclose(absolute, expected, rtol=4 * np.sqrt(2 / (d * n)))


def test_at_the_data():
  """The scores of two networks may be compared at sigma = 0; the absolute error is 0 there."""
  target = nine_modes()
  levels = Level(jnp.array([0.0, 0.5]), jnp.ones(2), jnp.array([0.0, 1.0]))
  absolute, relative = score_error(KEY, target, _scaled(target, 2.0), levels, 64)
  np.testing.assert_allclose(relative, 1, rtol=1e-6)
  assert absolute[0] == 0 and absolute[1] > 0


def test_refusals():
  target = nine_modes()
  with pytest.raises(ValueError, match="num_samples = 0, must be at least 1"):
    score_error(KEY, target, target.predict, VarianceExploding().at(jnp.ones(1)), 0)
  with pytest.raises(ValueError, match=r"must be \[L\]"):
    score_error(KEY, target, target.predict, VarianceExploding().at(1.0), 8)


def test_mode_score_error_tells_the_modes_apart():
  """A score that is c times the truth right of x = 0: (c - 1)^2 there, and 0 on the left."""
  target = two_modes_1d(separation=20.0)
  level = Level(None, jnp.ones(()), jnp.asarray(0.1))

  def predict(x, level):
    score = target.predict(x, level).score
    return Prediction.of(x, level, "score", score=jnp.where(x > 0, 1.5 * score, score))

  errors = mode_score_error(jax.random.key(0), target, predict, level, 1000)
  np.testing.assert_allclose(errors, [0, 0.25], rtol=1e-5)
