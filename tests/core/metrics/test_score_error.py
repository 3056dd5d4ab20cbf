import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scorelab.metrics import mode_score_error, score_error
from scorelab.predictions import Prediction
from scorelab.schedules import Level, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture, nine_modes, two_modes_1d

KEY = jax.random.key(0)


def _scaled(target, factor):
  return lambda x, level: Prediction.of(
    x, level, "score", score=factor * target.predict(x, level).score
  )


@pytest.mark.e2e
@pytest.mark.parametrize("schedule", [VarianceExploding(), VariancePreserving()], ids=["ve", "vp"])
def test_scaled_score(schedule):
  """A score c times too large has relative error (c - 1)^2 whatever the samples."""
  target, levels = nine_modes(), schedule.at(jnp.array([0.2, 0.5, 1.0]))
  run = jax.jit(lambda c: score_error(KEY, target, _scaled(target, c), levels, 50))
  for factor in (0.0, 0.5, 1.0, 1.25):
    found = run(factor)
    np.testing.assert_allclose(found.relative, (factor - 1) ** 2, rtol=1e-6)
    np.testing.assert_allclose(found.relative_sem, 0, atol=1e-6)  # the same at every draw
    assert found.absolute.shape == (3,)


@pytest.mark.e2e
def test_absolute_error_of_a_gaussian():
  """For N(0, s^2 I) in d dimensions, sigma^2 E|s*|^2 is d sigma^2 / (alpha^2 s^2 + sigma^2)."""
  d, s, n = 3, 2.0, 20_000
  target = GaussianMixture(jnp.ones(1), jnp.zeros((1, d)), jnp.array([s**2]))
  levels = VariancePreserving().at(jnp.array([0.05, 0.3, 1.0]))
  found = score_error(KEY, target, _scaled(target, 0.0), levels, n)
  expected = d * levels.sigma**2 / (levels.alpha**2 * s**2 + levels.sigma**2)
  # |x|^2 / V is chi-squared with d degrees: relative standard error sqrt(2 / (d n)), and at most
  # that of half as many draws where the others are of more noise.
  np.testing.assert_allclose(found.absolute, expected, rtol=4 * np.sqrt(4 / (d * n)))
  assert (found.absolute_sem / expected < 1.1 * np.sqrt(4 / (d * n))).all()
  plain = score_error(KEY, target, _scaled(target, 0.0), levels, n, spread=1.0)
  np.testing.assert_allclose(plain.absolute_sem / expected, np.sqrt(2 / (d * n)), rtol=0.1)


def test_at_the_data():
  """The scores of two networks may be compared at sigma = 0; the absolute error is 0 there."""
  target = nine_modes()
  levels = Level(jnp.array([0.0, 0.5]), jnp.ones(2), jnp.array([0.0, 1.0]))
  absolute, relative, *_ = score_error(KEY, target, _scaled(target, 2.0), levels, 64)
  np.testing.assert_allclose(relative, 1, rtol=1e-6)
  assert absolute[0] == 0 and absolute[1] > 0


@pytest.fixture(scope="module")
def tail_errors():
  """500 estimates each of a score that is wrong beyond 4 std of N(0, 1) alone, with their errors.

  The score is -x / 2 there and -x elsewhere, so that the relative error is 1/4 E[x^2; |x| > 4].
  """
  target = GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([0.75]))
  level = Level(None, jnp.ones(()), jnp.asarray(0.5))

  def predict(x, level):
    return Prediction.of(x, level, "score", score=jnp.where(jnp.abs(x) > 4, -x / 2, -x))

  def at(spread):
    levels = jax.tree.map(lambda a: a[None], level)

    def one(key):
      found = score_error(key, target, predict, levels, 512, spread=spread)
      by_mode = mode_score_error(key, target, predict, level, 512, spread=spread)
      return (found.relative[0], found.relative_sem[0]), (by_mode[0][0], by_mode[1][0])

    return jax.lax.map(one, jax.random.split(KEY, 500))

  truth = 0.5 * (4 * stats.norm.pdf(4) + stats.norm.sf(4))
  return truth, jax.jit(at, static_argnums=0)(6.0), jax.jit(at, static_argnums=0)(1.0)


@pytest.mark.e2e
@pytest.mark.parametrize("of_modes", [0, 1], ids=["whole", "by mode"])
def test_rare_errors_are_found_and_the_standard_error_covers(tail_errors, of_modes):
  """4e-5 of the law's mass has all of the error: few sets of 512 plain draws have a point there.

  Wider draws find it every time; the mean is right, two standard errors hold 95 % of the
  estimates, and they are at least ten times as close.
  """
  truth, wide, plain = tail_errors
  (values, sems), (rough, rough_sems) = wide[of_modes], plain[of_modes]
  assert abs(values.mean() - truth) < 4 * values.std() / 500**0.5
  assert 0.91 < (abs(values - truth) < 2 * sems).mean() <= 0.99
  np.testing.assert_allclose(np.sqrt((sems**2).mean()), values.std(), rtol=0.15)
  assert values.std() < 0.1 * rough.std()
  assert (rough_sems == 0).mean() > 0.9  # nothing seen


def test_the_standard_error_is_that_of_a_ratio():
  """By the spread of 400 estimates of a relative error whose numerator and denominator vary."""
  target = two_modes_1d()
  levels = Level(None, jnp.ones(1), jnp.full(1, 0.5))

  def predict(x, level):
    score = target.predict(x, level).score
    return Prediction.of(x, level, "score", score=score + 0.3 * jnp.sin(x))

  @jax.jit
  def run(keys):
    return jax.lax.map(lambda k: score_error(k, target, predict, levels, 400), keys)

  found = run(jax.random.split(KEY, 400))
  for value, sem in ((found.relative, found.relative_sem), (found.absolute, found.absolute_sem)):
    # The spread of 400 numbers is known to 1 / sqrt(800) = 3.5 %.
    np.testing.assert_allclose(sem.mean(), value.std(), rtol=0.14)


def test_a_truth_without_density_is_measured_by_plain_draws():
  target = nine_modes()

  class Without:
    def sample(self, key, n):
      return target.sample(key, n)

    def predict(self, x, level):
      return dataclasses.replace(target.predict(x, level), log_density=None)

  levels = Level(None, jnp.ones(1), jnp.ones(1))
  found = score_error(KEY, Without(), _scaled(target, 0.9), levels, 64)
  plain = score_error(KEY, target, _scaled(target, 0.9), levels, 64, spread=1.0)
  np.testing.assert_allclose(found.absolute, plain.absolute, rtol=1e-6)


def test_refusals():
  target = nine_modes()
  levels = VarianceExploding().at(jnp.ones(1))
  with pytest.raises(ValueError, match="num_samples = 0 must be at least 1"):
    score_error(KEY, target, target.predict, levels, 0)
  with pytest.raises(ValueError, match=r"spread = 0\.5 must be at least 1"):
    score_error(KEY, target, target.predict, levels, 8, spread=0.5)
  with pytest.raises(ValueError, match=r"must be \[L\]"):
    score_error(KEY, target, target.predict, VarianceExploding().at(1.0), 8)


def test_mode_score_error_tells_the_modes_apart():
  """A score that is c times the truth right of x = 0: (c - 1)^2 there, and 0 on the left."""
  target = two_modes_1d(separation=20.0)
  level = Level(None, jnp.ones(()), jnp.asarray(0.1))

  def predict(x, level):
    score = target.predict(x, level).score
    return Prediction.of(x, level, "score", score=jnp.where(x > 0, 1.5 * score, score))

  errors, sems = mode_score_error(jax.random.key(0), target, predict, level, 1000)
  np.testing.assert_allclose(errors, [0, 0.25], rtol=1e-5)
  np.testing.assert_allclose(sems, 0, atol=1e-6)
