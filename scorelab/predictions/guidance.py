"""Guidance of predictions towards a class, or away from a weaker model.

All of it follows one convention, for scores and so for every view of a prediction:

    guided = weak + scale (strong - weak)

so that a scale of 0 is the weak prediction, 1 the strong one, and scales above 1 guide. If the
strong prediction is conditioned on the class and the weak one is not, this is the score of
q_t(x) P(c | x)^scale, and Ho and Salimans's w is scale - 1. These laws are not the noised versions
of one law of x_0: even with exact scores, guided samples do not follow p(x) P(c | x)^scale. Those
of `tilted` guidance and of the sampler `feynman_kac` do.

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
import numpy as np

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
  guidance_half: Annotated[Array | float, Above(0)] = jnp.inf,
  guidance_rescale: Annotated[Array | float, Between(0, 1)] = 0.0,
  event_ndim: int = 1,
) -> Predict:
  """Returns weak + scale (strong - weak), in every view alike.

  Args:
    pair: the two predictions.
    guidance_scale: weight of the strong prediction: 0 is the weak one, 1 the strong one.
    guidance_low, guidance_high: guides where low < sigma / alpha <= high; the strong prediction is
      given elsewhere (Kynkaanniemi et al. 2024).
    guidance_half: sigma / alpha at which half of the scale above 1 is left: guides by
      1 + (scale - 1) / (1 + (sigma / alpha / half)^2). Infinite: the same scale at every level.
    guidance_rescale: phi: x0 is scaled by phi std(strong x0) / std(guided x0) + 1 - phi,
      the std over one event's coordinates (Lin et al. 2024, eqs. 15 and 16, there of the network's
      output). 0 leaves it.
    event_ndim: how many trailing axes are one event. Static.

  Returns:
    predict(x, level) of the strong one's kind, with its `correction` for `feynman_kac`. If both
    have them, with the log-density of the guided field, and the x0_variance that Gaussians of such
    variances have, whose precisions extrapolate. The correction is nan if the scale differs
    between levels. With a rescale that is not the number 0 it is too, and the prediction is of kind
    x0, without these.
  """
  known = 1 if _one_scale(guidance_low, guidance_high, guidance_half) else jnp.nan

  def predict(x: Array, level: Level) -> Prediction:
    strong, weak = pair(x, level)
    weight = _scale_at(guidance_scale, level, guidance_low, guidance_high, guidance_half)
    scale = _expand(weight, x)
    views = {
      name: weak.views[name] + scale * (strong.views[name] - weak.views[name])
      for name in strong.views.keys() & weak.views.keys()
    }
    apart = strong.noise - weak.noise
    square = jnp.sum(apart**2, axis=tuple(range(-event_ndim, 0)))
    density = variance = None
    if strong.log_density is not None and weak.log_density is not None:
      density = (1 - weight) * weak.log_density + weight * strong.log_density
    if strong.x0_variance is not None and weak.x0_variance is not None:
      variance = _power_variance(strong.x0_variance, weak.x0_variance, scale)
    guided = Prediction.of(
      x,
      level,
      strong.kind,
      log_density=density,
      x0_variance=variance,
      correction=known * weight * (weight - 1) / 2 * square,
      **views,
    )
    if isinstance(guidance_rescale, (int, float)) and not guidance_rescale:
      return guided
    axes = tuple(range(-event_ndim, 0))
    spread, wanted = (jnp.std(p.x0, axis=axes, keepdims=True) for p in (guided, strong))
    ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1), 1)
    share = _within(guidance_rescale, level, guidance_low, guidance_high, 0.0)
    share = _expand(share, x)
    x0 = (share * ratio + 1 - share) * guided.x0
    return Prediction.of(x, level, "x0", x0=x0, correction=jnp.full_like(square, jnp.nan))

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

    def of(i: int) -> Prediction:
      views, density, variance = jax.tree.map(
        lambda a: a[i], (both.views, both.log_density, both.x0_variance)
      )
      return Prediction.of(x, level, both.kind, log_density=density, x0_variance=variance, **views)

    return of(0), of(1)

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
  guidance_half: Annotated[Array | float, Above(0)] = jnp.inf,
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
    guidance_scale, guidance_low, guidance_high, guidance_half: as for `extrapolated`.
  """
  known = 1 if _one_scale(guidance_low, guidance_high, guidance_half) else jnp.nan

  def guided(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    log_probs, pull = jax.vjp(lambda x: log_prob(x, level), x)
    (gradient,) = pull(jnp.ones_like(log_probs))
    scale = _scale_at(guidance_scale, level, guidance_low, guidance_high, guidance_half)
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
    square = jnp.sum((at.sigma * gradient) ** 2, axis=tuple(range(log_probs.ndim, x.ndim)))
    correction = known * scale * (scale - 1) / 2 * square
    return Prediction.of(x, level, "score", score=pred.score + push, x0=x0, correction=correction)

  return guided


@checked
def tilted(
  conditional: Predict,
  log_prob: Callable[[Array], Array],
  *,
  guidance_scale: Annotated[Array | float, AtLeast(1)] = 1.0,
  guidance_nodes: Annotated[int, AtLeast(1)] = 9,
) -> Predict:
  """Guidance whose samples follow p(x_0)^(1-w) p(x_0 | c)^w: the noised scores of that law.

  With e = w - 1 and the conditional posterior N(m(x), v(x)) of x_0,

      q_t(x) = q_t(x | c) E[P(c | x_0)^e] / Z      E[x_0 | x] = m + v e E_w[grad log P(c | x_0)]

  with E_w weighted by P^e. The expectation takes a classifier of clean points, and no call of the
  network. It is exact if the class is a Gaussian whose axes are the coordinates, else as good as
  the Gaussian posterior of the same moments. Derived here; at one node, x_0 = m, it is guidance by
  a classifier of the denoised point, Bansal et al., "Universal Guidance for Diffusion Models"
  (arXiv 2302.07121), eq. 5, with v / sigma^2 in place of m's Jacobian.

  Args:
    conditional: the prediction given the class, with x0_variance.
    log_prob: clean points [*batch, d] -> log P(c | x_0) [*batch].
    guidance_scale: w >= 1.
    guidance_nodes: quadrature nodes of each dimension of the posterior: nodes^d calls of log_prob.
      Static.

  Raises:
    ValueError: the prediction has no x0_variance.
  """

  def guided(x: Array, level: Level) -> Prediction:
    pred = conditional(x, level)
    if pred.x0_variance is None:
      raise ValueError("conditional must return an x0_variance, as exact predictions do")
    exponent = jnp.asarray(guidance_scale, x.dtype) - 1
    z, weights = gaussian_nodes(x.shape[-1], guidance_nodes)
    nodes = pred.x0 + jnp.sqrt(pred.x0_variance) * z.reshape(-1, *[1] * (x.ndim - 1), x.shape[-1])
    log_probs, pull = jax.vjp(log_prob, nodes)
    logs = exponent * log_probs + jnp.log(weights).reshape(-1, *[1] * (x.ndim - 1))
    (push,) = pull(exponent * jax.nn.softmax(logs, axis=0))
    push = jnp.sum(push, axis=0)
    at = level.like(x)
    gain = at.alpha * pred.x0_variance / jnp.where(at.sigma > 0, at.sigma, 1) ** 2
    gain = jnp.where(at.sigma > 0, gain, 1 / jnp.where(at.alpha > 0, at.alpha, 1))
    score, x0 = pred.score + gain * push, pred.x0 + pred.x0_variance * push
    return Prediction.of(x, level, "score", score=score, x0=x0)

  return guided


def gaussian_nodes(dim: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the nodes [count^dim, dim] and weights of the Gauss-Hermite rule for N(0, I).

  Raises:
    ValueError: there would be more than 10,000.
  """
  if count**dim > 10_000:
    raise ValueError(
      f"guidance_nodes = {count} makes {count}^{dim} nodes in {dim} dimensions, must make at most"
      " 10,000: 1 takes the denoised point alone"
    )
  x, w = np.polynomial.hermite_e.hermegauss(count)
  nodes = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), -1).reshape(-1, dim)
  weights = np.stack(np.meshgrid(*[w / w.sum()] * dim, indexing="ij"), -1).reshape(-1, dim)
  return nodes, weights.prod(axis=1)


def _power_variance(strong: Array, weak: Array, scale: Array | float) -> Array:
  """1 / (scale / strong + (1 - scale) / weak); at most the larger variance, or if not positive."""
  widest, share = jnp.maximum(strong, weak), scale * weak + (1 - scale) * strong
  power = strong * weak / jnp.where(share > 0, share, 1)
  return jnp.where(share > 0, jnp.minimum(power, widest), widest)


def _scale_at(
  scale: Array | float,
  level: Level,
  low: Array | float,
  high: Array | float,
  half: Array | float,
) -> Array:
  """Returns the guidance scale at a level, of the level's shape."""
  if not _one_scale(0, half=half):
    share = (half * level.alpha) ** 2 / ((half * level.alpha) ** 2 + level.sigma**2)
    scale = jnp.where(jnp.isinf(half), scale, 1 + (scale - 1) * share)
  return _within(scale, level, low, high, 1.0)


def _one_scale(
  low: Array | float, high: Array | float = jnp.inf, half: Array | float = jnp.inf
) -> bool:
  """Returns True if the scale is that of every level; False for arrays, which may be traced."""
  limits = (low, 0), (high, jnp.inf), (half, jnp.inf)
  return all(isinstance(limit, (int, float)) and limit == none for limit, none in limits)


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
      target's own; 'weak', a weaker model; 'variance', a prediction that has x0_variance.
    tilts: True if it is meant to sample p(x)^(1-w) p(x | c)^w.
  """

  make: Callable[..., Predict]
  options: Callable[..., Predict]
  network_calls: int
  needs: frozenset[str]
  tilts: bool = True


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


def _tilted(sources: Sources, **options: Any) -> Predict:
  label, log_class_prob = sources.label, sources.log_class_prob
  assert label is not None and log_class_prob is not None

  def log_prob(x: Array) -> Array:
    one = jnp.ones((), x.dtype)
    logs = log_class_prob(x, Level(None, one, 0 * one))
    return jnp.take_along_axis(logs, label[..., None], axis=-1)[..., 0]

  return tilted(sources.bind(label), jax.vmap(log_prob), **options)


GUIDANCES: dict[str, Guidance] = Registry("guidance") | {
  "autoguidance": Guidance(_autoguidance, extrapolated, 2, frozenset({"weak"}), tilts=False),
  "classifier": Guidance(_classifier, classifier, 1, frozenset({"classes", "classifier"})),
  "classifier_free": Guidance(_classifier_free, extrapolated, 2, frozenset({"classes"})),
  "tilted": Guidance(_tilted, tilted, 1, frozenset({"classes", "classifier", "variance"})),
}
