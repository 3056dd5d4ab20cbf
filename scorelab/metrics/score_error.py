"""Error of a network's score against the exact one, level by level.

A network is worst in the tails of modes and between them, where few draws fall. So half of the
draws come from the law with more noise, and each is weighted by the ratio of the true density to
that of all draws (Veach and Guibas, "Optimally Combining Sampling Techniques for Monte Carlo
Rendering", SIGGRAPH 1995: the balance heuristic). With equal halves no weight is above 2, so the
variance is at worst that of half as many draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab import predictions
from scorelab.ranges import AtLeast
from scorelab.schedules import Level
from scorelab.typing import Array, ExactLabelledTarget, ExactTarget, Key, MixtureTarget, Predict
from scorelab.validation import checked

SPREAD = 3.0
"""Factor by which half of the draws have more noise."""


class ScoreError(NamedTuple):
  """Squared errors of a score over q_t, the exact law of x_t, and their standard errors.

      absolute = sigma^2 E |s - s*|^2        relative = E |s - s*|^2 / E |s*|^2

  |.| is over all coordinates of a point. The absolute error is that of the noise prediction, so
  that levels compare; at sigma = 0 it is 0. The relative one is 1 for s = 0.

  Attributes:
    absolute, relative: [L], for each level.
    absolute_sem, relative_sem: [L], that of the ratio by the delta method; nan for one draw.
  """

  absolute: Float[Array, " levels"]
  relative: Float[Array, " levels"]
  absolute_sem: Float[Array, " levels"]
  relative_sem: Float[Array, " levels"]


_Drawn: TypeAlias = tuple[Array, Predict, Predict]
"""Clean draws [n, *event], the truth and what is measured."""


@checked
def score_error(
  key: Key,
  target: ExactTarget,
  predict: Predict,
  levels: Level,
  num_samples: Annotated[int, AtLeast(1)],
  *,
  spread: Annotated[float, AtLeast(1)] = SPREAD,
) -> ScoreError:
  """Returns the error of predict's score over q_t at each level.

  Jittable with `num_samples` and `spread` static; one level is in memory at a time.

  Args:
    key: consumed; each level has draws of its own.
    target: the truth.
    predict: what is measured; see `Predict`.
    levels: fields of shape [L].
    num_samples: exact draws from q_t for each level, at least 1.
    spread: the noise of half of the draws over sigma, at least 1; 1 where the truth has no
      log_density, and where there are fewer than 4 draws.

  Raises:
    ValueError: num_samples or spread < 1, or levels with fields of another shape than [L].
  """

  def draw(key: Key) -> _Drawn:
    return target.sample(key, num_samples), target.predict, predict

  return _error_by_level(key, draw, levels, num_samples, spread)


@checked
def class_score_error(
  key: Key,
  target: ExactLabelledTarget,
  bind: Callable[[Array], Predict],
  levels: Level,
  num_samples: Annotated[int, AtLeast(1)],
  *,
  spread: Annotated[float, AtLeast(1)] = SPREAD,
) -> ScoreError:
  """Returns `score_error` given the class of every draw: of bind(label) over q_t(x | label).

  Args:
    key, levels, num_samples, spread: as for `score_error`.
    target: the truth.
    bind: labels [n] -> what is measured.

  Raises:
    ValueError: as `score_error`.
  """

  def draw(key: Key) -> _Drawn:
    x0, label = target.sample_with_labels(key, num_samples)
    return x0, lambda x, level: target.predict_of_class(x, level, label), bind(label)

  return _error_by_level(key, draw, levels, num_samples, spread)


def _error_by_level(
  key: Key, draw: Callable[[Key], _Drawn], levels: Level, num_samples: int, spread: float
) -> ScoreError:
  """Returns the errors of both scores at draws of each level."""
  if levels.sigma.ndim != 1:
    raise ValueError(f"levels have shape {levels.sigma.shape}, must be [L]")

  def at_level(key_and_level: tuple[Key, Level]) -> ScoreError:
    key, level = key_and_level
    data_key, noise_key = jax.random.split(key)
    x0, truth, predict = draw(data_key)
    x, exact, weights = _weighted_draws(noise_key, x0, truth, level, spread)
    return _errors(predict(x, level).score - exact, exact, weights, level)

  return jax.lax.map(at_level, (jax.random.split(key, levels.sigma.shape[0]), levels))


def _num_wide(n: int, spread: float) -> int:
  """Number of the last draws that have more noise: two of each kind are needed for an error."""
  return n // 2 if spread > 1 and n >= 4 else 0


def _weighted_draws(
  key: Key, x0: Array, truth: Predict, level: Level, spread: float
) -> tuple[Array, Array, Array | None]:
  """Returns noisy points x of x0's shape, the exact score there, and the weights [n] of draws.

  The weights have mean 1; they are None if all draws are from q_t itself.
  """
  n = len(x0)
  if num_wide := _num_wide(n, spread):
    wide = Level(None, level.alpha, spread * level.sigma)
    factor = jnp.where(jnp.arange(n) < n - num_wide, 1, spread)
    sigma = factor.astype(level.sigma.dtype) * level.sigma
    x, _ = predictions.noised(key, x0, Level(None, jnp.broadcast_to(level.alpha, n), sigma))
    pred = truth(x, level)
    if pred.log_density is not None:
      log_ratio = jnp.asarray(truth(x, wide).log_density) - pred.log_density
      weights = n / (n - num_wide + num_wide * jnp.exp(log_ratio))
      return x, pred.score, jnp.where(level.sigma > 0, weights, 1)
  x, _ = predictions.noised(key, x0, level)
  return x, truth(x, level).score, None


def _errors(error: Array, exact: Array, weights: Array | None, level: Level) -> ScoreError:
  """Returns the errors, [], from those of draws [n, *event] and from the exact score there."""
  n, axes = len(error), tuple(range(1, error.ndim))
  squares, sizes = jnp.sum(error**2, axes), jnp.sum(exact**2, axes)
  if weights is None:
    total, size, num_wide = jnp.sum(error**2), jnp.sum(exact**2), 0
  else:
    squares, sizes, num_wide = weights * squares, weights * sizes, n // 2
    total, size = jnp.sum(squares), jnp.sum(sizes)
  relative = total / size

  def sem(values: Array) -> Array:  # of a sum: each kind of draw has its own mean
    parts = (values[: n - num_wide], values[n - num_wide :])
    variances = [len(part) * jnp.var(part, ddof=1) for part in parts if len(part)]
    return jnp.sqrt(sum(variances))

  sigma2 = level.sigma**2
  return ScoreError(
    sigma2 * total / n,
    relative,
    sigma2 * sem(squares) / n,
    sem(squares - relative * sizes) / size,
  )


@checked
def mode_score_error(
  key: Key,
  target: MixtureTarget,
  predict: Predict,
  level: Level,
  num_samples: Annotated[int, AtLeast(1)],
  *,
  spread: Annotated[float, AtLeast(1)] = SPREAD,
) -> tuple[Array, Array]:
  """Returns the relative score error over each mode's own part of q_t: E |s - s*|^2 / E |s*|^2.

  Where modes are far apart it tells a score that is wrong at one of them.

  Args:
    key: consumed.
    target: the truth.
    predict: what is measured.
    level: of shape [].
    num_samples: exact draws, as many from each mode: a light one has no fewer. At least one each.
    spread: as for `score_error`.

  Returns:
    The errors and their standard errors, each [k]; nan for a mode without weight.
  """
  num_modes = target.weights.shape[0]
  size = max(1, num_samples // num_modes)

  def of_mode(key_and_mode: tuple[Key, Array]) -> tuple[Array, Array]:
    key, mode = key_and_mode
    data_key, noise_key = jax.random.split(key)
    label = jnp.full(size, mode)

    def own(x: Array, level: Level) -> predictions.Prediction:
      return target.predict_of_class(x, level, label)

    x0 = target.sample_of_class(data_key, label)
    x, _, weights = _weighted_draws(noise_key, x0, own, level, spread)
    exact = target.predict(x, level).score
    found = _errors(predict(x, level).score - exact, exact, weights, level)
    return found.relative, found.relative_sem

  return jax.lax.map(of_mode, (jax.random.split(key, num_modes), jnp.arange(num_modes)))
