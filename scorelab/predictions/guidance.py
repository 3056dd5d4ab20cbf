"""Guidance of predictions towards a class, or away from a weaker model.

All of it follows one convention, for scores and so for every view of a prediction:

    guided = weak + scale (strong - weak)

so that a scale of 0 is the weak prediction, 1 the strong one, and scales above 1 guide. If the
strong prediction is conditioned on the class and the weak one is not, this is the score of
q_t(x) P(c | x)^scale, and Ho and Salimans's w is scale - 1. These laws are not the noised versions
of one law of x_0, so even with exact scores the samples do not follow the guided law at the data.

References:
  Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021
    (arXiv 2105.05233), section 4: a classifier's gradient.
  Ho and Salimans, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598), eq. 6.
  Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models", NeurIPS 2024 (arXiv 2404.07724), eq. 5.
  Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024
    (arXiv 2305.08891), section 3.4: rescaling.
  Karras et al., "Guiding a Diffusion Model with a Bad Version of Itself", NeurIPS 2024
    (arXiv 2406.02507), section 3: autoguidance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.ranges import Above, AtLeast, Between
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import Registry, checked

Pair: TypeAlias = Callable[[Array, Level], tuple[Prediction, Prediction]]
"""(x, level) -> the strong and the weak prediction there, of one kind."""


@checked
def extrapolated(
  pair: Pair,
  *,
  guidance_scale: Annotated[Array | float, AtLeast(0)] = 1.0,
  guidance_low: Annotated[Array | float, AtLeast(0)] = 0.0,
  guidance_high: Annotated[Array | float, Above(0)] = jnp.inf,
  guidance_rescale: Annotated[Array | float, Between(0, 1)] = 0.0,
  event_ndim: int = 1,
) -> Predict:
  """Returns weak + scale (strong - weak), in every view alike.

  Args:
    pair: the two predictions.
    guidance_scale: weight of the strong prediction: 0 is the weak one, 1 the strong one.
    guidance_low, guidance_high: guides where low < sigma / alpha <= high; the strong prediction is
      given elsewhere (Kynkaanniemi et al. 2024).
    guidance_rescale: phi: x0 is scaled by phi std(strong x0) / std(guided x0) + 1 - phi,
      the std over one event's coordinates (Lin et al. 2024, eqs. 15 and 16, there of the network's
      output). 0 leaves it.
    event_ndim: how many trailing axes are one event. Static.

  Returns:
    predict(x, level) of the strong one's kind; with a rescale that is not the number 0, of kind x0.
    Nothing is known of its variance or density.
  """

  def predict(x: Array, level: Level) -> Prediction:
    strong, weak = pair(x, level)
    scale = _within(guidance_scale, level, guidance_low, guidance_high, 1.0)
    scale = _expand(scale, x)
    views = {
      name: weak.views[name] + scale * (strong.views[name] - weak.views[name])
      for name in strong.views.keys() & weak.views.keys()
    }
    guided = Prediction.of(x, level, strong.kind, **views)
    if isinstance(guidance_rescale, (int, float)) and not guidance_rescale:
      return guided
    axes = tuple(range(-event_ndim, 0))
    spread, wanted = (jnp.std(p.x0, axis=axes, keepdims=True) for p in (guided, strong))
    ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1), 1)
    share = _within(guidance_rescale, level, guidance_low, guidance_high, 0.0)
    share = _expand(share, x)
    return Prediction.of(x, level, "x0", x0=(share * ratio + 1 - share) * guided.x0)

  return predict


def classifier_free(
  bind: Callable[[Array], Predict], label: Array, none: int, **options: Any
) -> Predict:
  """Classifier-free guidance: the strong prediction has the label, the weak one has none.

  Both are one call of the network, on twice the batch.

  Args:
    bind: labels of x's batch shape -> predict.
    label: the requested class, of x's batch shape.
    none: the label that means no class.
    options: those of `extrapolated`.
  """
  told = bind(jnp.stack([label, jnp.full_like(label, none)]))

  def pair(x: Array, level: Level) -> tuple[Prediction, Prediction]:
    levels = jax.tree.map(lambda a: jnp.stack([a, a]) if a.ndim else a, level)
    both = told(jnp.stack([x, x]), levels)
    strong, weak = ({name: a[i] for name, a in both.views.items()} for i in (0, 1))
    kind = both.kind
    return Prediction.of(x, level, kind, **strong), Prediction.of(x, level, kind, **weak)

  return extrapolated(pair, **options)


def autoguidance(strong: Predict, weak: Predict, **options: Any) -> Predict:
  """Autoguidance: away from a weaker model of the same law, trained less or smaller.

  Args:
    strong, weak: both with the same label, if they take one.
    options: those of `extrapolated`.
  """
  return extrapolated(lambda x, level: (strong(x, level), weak(x, level)), **options)


@checked
def classifier(
  predict: Predict,
  log_prob: Callable[[Array, Level], Array],
  *,
  guidance_scale: Annotated[Array | float, AtLeast(0)] = 1.0,
  guidance_low: Annotated[Array | float, AtLeast(0)] = 0.0,
  guidance_high: Annotated[Array | float, Above(0)] = jnp.inf,
) -> Predict:
  """Classifier guidance: score + scale grad log P(c | x).

  From the unconditional prediction, so that 0 is that one and 1, with the true classifier, the
  conditional one. Outside the interval the scale is 1. At pure noise (alpha = 0) the score is the
  unconditional one, and x0 moves by the limit of sigma^2 / alpha times the gradient: with the true
  classifier by scale (E[x_0 | c] - E[x_0]).

  Args:
    predict: of any kind that has a score.
    log_prob: (x [*batch, *event], level) -> log P(c | x_t = x) [*batch], of each point alone: any
      log-likelihood will do. At pure noise it is also differentiated in the level's alpha.
    guidance_scale, guidance_low, guidance_high: as for `extrapolated`.
  """

  def guided(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    gradient = jax.grad(lambda x: jnp.sum(log_prob(x, level)))(x)
    scale = _within(guidance_scale, level, guidance_low, guidance_high, 1.0)
    push = _expand(scale, x) * gradient
    at = level.like(x)
    noisy = at.alpha > 0
    moved = jnp.where(noisy, at.sigma**2 / jnp.where(noisy, at.alpha, 1) * push, 0)

    def at_pure_noise() -> Array:
      # l'Hopital's rule: the gradient goes to 0 with alpha, so its slope in alpha is the ratio.
      def gradient_at(alpha: Array) -> Array:
        return jax.grad(lambda x: jnp.sum(log_prob(x, level._replace(alpha=alpha))))(x)

      slope = jax.jvp(gradient_at, (level.alpha,), (jnp.ones_like(level.alpha),))[1]
      return jnp.where(noisy, moved, at.sigma**2 * _expand(scale, x) * slope)

    x0 = pred.x0 + jax.lax.cond(jnp.all(level.alpha > 0), lambda: moved, at_pure_noise)
    return Prediction.of(x, level, "score", score=pred.score + push, x0=x0)

  return guided


def _within(
  value: Array | float, level: Level, low: Array | float, high: Array | float, other: float
) -> Array:
  """Returns the value if low < sigma / alpha <= high, else the other; of the level's shape."""
  # Not the ratio itself, which pure noise has not.
  below = (level.sigma <= high * level.alpha) | jnp.isinf(high)
  return jnp.where((level.sigma > low * level.alpha) & below, value, other)


def _expand(value: Array, x: Array) -> Array:
  """Adds trailing axes to a number of each level, so that it broadcasts with x."""
  return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


# By name, for rows of an evaluation.


class Sources(NamedTuple):
  """Predictions and labels that the guidance of a row may combine.

  Attributes:
    bind: labels of x's batch shape, or None -> predict.
    label: the requested class, of x's batch shape; None for an unconditional network.
    weak: predict of a weaker model, with the same label; None without one.
    none: the label that means no class.
    log_class_prob: (x, level) -> log P(class | x) [*batch, classes]; None if unknown.
    event_ndim: number of trailing axes of one event.
  """

  bind: Callable[[Array | None], Predict]
  label: Array | None = None
  weak: Predict | None = None
  none: int = 0
  log_class_prob: Callable[[Array, Level], Array] | None = None
  event_ndim: int = 1


@dataclasses.dataclass(frozen=True)
class Guidance:
  """A kind of guidance.

  Attributes:
    make: `(sources, **options) -> predict`.
    options: the function whose keyword options those are.
    network_calls: network calls per call of the guided predict.
    needs: its requirement: 'classes', a network trained with and without labels; 'classifier', the
      target's own; 'weak', a weaker model.
  """

  make: Callable[..., Predict]
  options: Callable[..., Predict]
  network_calls: int
  needs: frozenset[str]


def _classifier_free(sources: Sources, **options: float) -> Predict:
  assert sources.label is not None
  options["event_ndim"] = sources.event_ndim
  return classifier_free(sources.bind, sources.label, sources.none, **options)


def _autoguidance(sources: Sources, **options: float) -> Predict:
  assert sources.weak is not None
  options["event_ndim"] = sources.event_ndim
  return autoguidance(sources.bind(sources.label), sources.weak, **options)


def _classifier(sources: Sources, **options: float) -> Predict:
  label, log_class_prob = sources.label, sources.log_class_prob
  assert label is not None and log_class_prob is not None

  def log_prob(x: Array, level: Level) -> Array:
    return jnp.take_along_axis(log_class_prob(x, level), label[..., None], axis=-1)[..., 0]

  return classifier(sources.bind(None), log_prob, **options)


GUIDANCES: dict[str, Guidance] = Registry("guidance") | {
  "autoguidance": Guidance(_autoguidance, extrapolated, 2, frozenset({"weak"})),
  "classifier": Guidance(_classifier, classifier, 1, frozenset({"classes", "classifier"})),
  "classifier_free": Guidance(_classifier_free, extrapolated, 2, frozenset({"classes"})),
}
