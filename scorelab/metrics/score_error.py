"""How far a network's score is from the exact one, level by level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from scorelab import predictions
from scorelab.schedules import Level
from scorelab.typing import Array, Key, Predict


class ExactTarget(Protocol):
  """A distribution that can be sampled and knows its score at every level."""

  def sample(self, key: Key, n: int, /) -> Array: ...

  def predict(self, x: Array, level: Level, /) -> predictions.Prediction: ...


def score_error(
  key: Key, target: ExactTarget, predict: Predict, levels: Level, num_samples: int
) -> tuple[Array, Array]:
  """The error of predict's score over q_t, the exact distribution of x_t, at each level.

      absolute = sigma^2 E |s - s*|^2        relative = E |s - s*|^2 / E |s*|^2

  Squared, both; |.| over all coordinates of a point. The absolute error is that of the noise
  prediction, so levels can be compared; at sigma = 0 it is 0. The relative one is 1 for s = 0.
  Jittable with `num_samples` static; one level is in memory at a time.

  Args:
    key: consumed; each level has draws of its own.
    target: the truth.
    predict: what is measured; see `Predict`.
    levels: fields of shape [L].
    num_samples: exact draws from q_t for each level, at least 1.

  Returns:
    (absolute, relative), each [L].

  Raises:
    ValueError: num_samples < 1, or levels with fields of another shape than [L].
  """

  def truth_and_guess(key: Key, level: Level) -> tuple[Array, Array]:
    data_key, noise_key = jax.random.split(key)
    x, _ = predictions.noised(noise_key, target.sample(data_key, num_samples), level)
    return target.predict(x, level).score, predict(x, level).score

  return _error_by_level(key, truth_and_guess, levels, num_samples)


class ExactClasses(Protocol):
  """An exact target with classes."""

  def sample_with_labels(self, key: Key, n: int, /) -> tuple[Array, Array]: ...

  def predict_of_class(self, x: Array, level: Level, label: Array, /) -> predictions.Prediction: ...


def class_score_error(
  key: Key,
  target: ExactClasses,
  bind: Callable[[Array], Predict],
  levels: Level,
  num_samples: int,
) -> tuple[Array, Array]:
  """`score_error` given the class of every draw: of bind(label) over q_t(x | label).

  Args:
    key, levels, num_samples: as for `score_error`.
    target: the truth.
    bind: labels [n] -> what is measured.

  Returns and errors: those of `score_error`.
  """

  def truth_and_guess(key: Key, level: Level) -> tuple[Array, Array]:
    data_key, noise_key = jax.random.split(key)
    x0, label = target.sample_with_labels(data_key, num_samples)
    x, _ = predictions.noised(noise_key, x0, level)
    return target.predict_of_class(x, level, label).score, bind(label)(x, level).score

  return _error_by_level(key, truth_and_guess, levels, num_samples)


def _error_by_level(
  key: Key,
  truth_and_guess: Callable[[Key, Level], tuple[Array, Array]],
  levels: Level,
  num_samples: int,
) -> tuple[Array, Array]:
  """The two errors of `score_error` from both scores at draws of a level."""
  if num_samples < 1:
    raise ValueError(f"num_samples = {num_samples}, must be at least 1")
  if levels.sigma.ndim != 1:
    raise ValueError(f"levels have shape {levels.sigma.shape}, must be [L]")

  def at_level(key_and_level: tuple[Key, Level]) -> tuple[Array, Array]:
    key, level = key_and_level
    truth, guess = truth_and_guess(key, level)
    error = jnp.sum((guess - truth) ** 2)
    return level.sigma**2 * error / num_samples, error / jnp.sum(truth**2)

  return jax.lax.map(at_level, (jax.random.split(key, levels.sigma.shape[0]), levels))


class ExactMixture(ExactTarget, Protocol):
  """An exact target of k modes that says which mode a draw came from."""

  weights: Array  # [k]

  def sample_with_components(self, key: Key, n: int, /) -> tuple[Array, Array]: ...


def mode_score_error(
  key: Key, target: ExactMixture, predict: Predict, level: Level, num_samples: int
) -> Array:
  """The relative score error over each mode's own part of q_t: E |s - s*|^2 / E |s*|^2.

  Where modes are far apart it tells a score that is wrong at one of them.

  Args:
    key: consumed.
    target: the truth.
    predict: what is measured.
    level: of shape [].
    num_samples: exact draws from the whole mixture, shared by the modes as their weights are.

  Returns:
    [k]; nan for a mode without a draw.
  """
  data_key, noise_key = jax.random.split(key)
  x0, component = target.sample_with_components(data_key, num_samples)
  x, _ = predictions.noised(noise_key, x0, level)
  truth = target.predict(x, level).score
  errors = jnp.sum((predict(x, level).score - truth) ** 2, axis=-1)
  squares = jnp.sum(truth**2, axis=-1)
  num_modes = target.weights.shape[0]
  total, whole = (jax.ops.segment_sum(a, component, num_modes) for a in (errors, squares))
  return total / whole
