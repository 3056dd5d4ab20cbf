"""One prediction, every view: x0, noise, score, v and flow of a network or of the truth.

    x_t = alpha x_0 + sigma eps
    x0    = E[x_0 | x_t]               noise = (x - alpha x0) / sigma      score = -noise / sigma
    v     = alpha noise - sigma x0     flow  = noise - x0

References:
  Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022
    (arXiv 2202.00512), appendix D: v.
  Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023 (arXiv 2210.02747): flow.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scorelab.pytree import Pytree
from scorelab.schedules import Level
from scorelab.typing import Array, Key
from scorelab.validation import checked, require_known

# From each kind of value straight to x0 and to the noise: (x, alpha, sigma, value) -> view.
TO_X0: dict[str, Callable[..., Array]] = {
  "consistency": lambda x, alpha, sigma, end: end,
  "x0": lambda x, alpha, sigma, x0: x0,
  "noise": lambda x, alpha, sigma, noise: (x - sigma * noise) / alpha,
  "score": lambda x, alpha, sigma, score: (x + sigma**2 * score) / alpha,
  # The denominator is 1 for variance-preserving processes only.
  "v": lambda x, alpha, sigma, v: (alpha * x - sigma * v) / (alpha**2 + sigma**2),
  "flow": lambda x, alpha, sigma, flow: (x - sigma * flow) / (alpha + sigma),
}
TO_NOISE: dict[str, Callable[..., Array]] = {
  "x0": lambda x, alpha, sigma, x0: (x - alpha * x0) / sigma,
  "noise": lambda x, alpha, sigma, noise: noise,
  "score": lambda x, alpha, sigma, score: -sigma * score,
  "v": lambda x, alpha, sigma, v: (sigma * x + alpha * v) / (alpha**2 + sigma**2),
  "flow": lambda x, alpha, sigma, flow: (x + alpha * flow) / (alpha + sigma),
}
# |x0 error| per unit of error in each view, the slopes of TO_X0: a loss computed in the
# network's own view is weighted by the square.
_X0_SLOPE: dict[str, Callable[[Array, Array], Array]] = {
  "x0": lambda alpha, sigma: jnp.ones_like(sigma),
  "noise": lambda alpha, sigma: sigma / alpha,
  "score": lambda alpha, sigma: sigma**2 / alpha,
  "v": lambda alpha, sigma: sigma / (alpha**2 + sigma**2),
  "flow": lambda alpha, sigma: sigma / (alpha + sigma),
}


class Prediction(Pytree, static=("kind",)):
  """A prediction at x, in every view.

  Attributes:
    x: the noisy points, [*batch, *event].
    level: their level, of shape [] or [*batch].
    views: the views that were computed apart, by name, each of x's shape; holds `kind` at least.
    kind: the view from which the others are derived. Static.
    x0_variance: diagonal of Cov[x_0 | x_t], of x's shape, where it is known.
    variance_fraction: a network's learned interpolation between the log posterior variance (0)
      and log beta (1), of x's shape, where it has one.
    log_density: log q_t(x) up to a constant of the level, of x's batch shape, where it is known:
      to the truth, and to a network whose score is the gradient of an energy.
    correction: w (w - 1) / 2 |strong noise - weak noise|^2 of a guided prediction, of x's batch
      shape: the rate by which `feynman_kac` weights particles; nan if it is unknown, None if the
      prediction needs none.
  """

  x: Array
  level: Level
  views: dict[str, Array]
  kind: str
  x0_variance: Array | None = None
  variance_fraction: Array | None = None
  log_density: Array | None = None
  correction: Array | None = None

  @classmethod
  def of(
    cls,
    x: Array,
    level: Level,
    kind: str,
    *,
    x0_variance: Array | None = None,
    variance_fraction: Array | None = None,
    log_density: Array | None = None,
    correction: Array | None = None,
    **views: Array,
  ) -> Prediction:
    """A prediction from the views at hand; `kind` names the one that the others follow from.

    Raises:
      ValueError: `kind` is unknown or not among the views given.
    """
    require_known("kind", kind, TO_X0)
    if kind not in views:
      raise ValueError(f"kind = {kind!r} must be among the views given: {', '.join(views)}")
    for name, view in views.items():
      if view.shape != x.shape:
        raise ValueError(f"{name} has shape {view.shape}, must be x's, {x.shape}")
    return cls(x, level, views, kind, x0_variance, variance_fraction, log_density, correction)

  def view(self, name: str) -> Array:
    """The view of this name: 'x0', 'noise', 'score', 'v' or 'flow', of x's shape."""
    return getattr(self, name)

  def _derive(self, formulas: dict[str, Callable[..., Array]]) -> Array:
    if self.kind not in formulas:
      raise ValueError(
        f"a prediction of kind {self.kind!r} is no posterior mean and has no noise or score: "
        "use renoise"
      )
    level = self.level.like(self.x)
    return formulas[self.kind](self.x, level.alpha, level.sigma, self.views[self.kind])

  @property
  def x0(self) -> Array:
    """E[x_0 | x_t], the denoised point, of x's shape; the flow's end for kind 'consistency'."""
    return self.views["x0"] if "x0" in self.views else self._derive(TO_X0)

  @property
  def noise(self) -> Array:
    """E[eps | x_t], of x's shape."""
    return self.views["noise"] if "noise" in self.views else self._derive(TO_NOISE)

  @property
  def score(self) -> Array:
    """The score of q_t, of x's shape. Defined at sigma = 0 where it was given as such."""
    if "score" in self.views:
      return self.views["score"]
    return -self.noise / self.level.like(self.x).sigma

  @property
  def v(self) -> Array:
    """alpha noise - sigma x0, of x's shape."""
    if "v" in self.views:
      return self.views["v"]
    level = self.level.like(self.x)
    return level.alpha * self.noise - level.sigma * self.x0

  @property
  def flow(self) -> Array:
    """noise - x0, linear flow's velocity, of x's shape."""
    return self.views["flow"] if "flow" in self.views else self.noise - self.x0


def x0_slope(kind: str, level: Level) -> Array:
  """|x0 error| per unit of error in the view `kind`, of the level's shape."""
  return _X0_SLOPE[kind](level.alpha, level.sigma)


@checked
def noised(key: Key, x0: Array, level: Level) -> tuple[Array, Prediction]:
  """Draws x = alpha x0 + sigma eps; returns it with the prediction that knows x0 and eps.

  Args:
    key: consumed.
    x0: clean points, [*batch, *event].
    level: of shape [] or [*batch].

  Returns:
    The noisy points, of x0's shape, and the prediction.
  """
  return mixed(x0, jax.random.normal(key, x0.shape, x0.dtype), level)


@checked
def mixed(x0: Array, noise: Array, level: Level) -> tuple[Array, Prediction]:
  """Like `noised`, with given noise of x0's shape."""
  at = level.like(x0)
  x = at.alpha * x0 + at.sigma * noise
  return x, Prediction.of(x, level, "x0", x0=x0, noise=noise)
