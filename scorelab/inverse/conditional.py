"""Approximate conditional scores from a Gaussian law of x_0 given x_t.

The score of x_t given y is score(x_t) + grad log p(y | x_t). Every method here replaces the law of
x_0 given x_t by N(x0, C), with x0 = E[x_0 | x_t] and a C of its own, so that

    p(y | x_t) ~ N(y; A x0, S)                                     S = A C A' + noise_std^2 I
    grad log p(y | x_t) ~ J' A' S^-1 (y - A x0)                    J = d x0 / d x_t

where C is held constant in x_t. J is symmetric: sigma^2 / alpha J = Cov[x_0 | x_t], the covariance
by Tweedie's second-order formula, of a network as much as of the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float
from typing_extensions import Protocol, runtime_checkable

from scorelab.inverse.observation import Observation
from scorelab.predictions import Prediction
from scorelab.schedules import Level
from scorelab.typing import Array, Predict

_SIGNAL = 1e-3

Product: TypeAlias = Callable[[Float[Array, "*batch m"]], Float[Array, "*batch m"]]


class Solved(NamedTuple):
  """Solution for the residual y - A x0 of a method.

  Attributes:
    weights: S^-1 (y - A x0), [*batch, m].
    log_det: log det S, [*batch]; None if the method does not know it.
  """

  weights: Float[Array, "*batch m"]
  log_det: Float[Array, "*batch"] | None


class Twisted(NamedTuple):
  """A prediction without and with the observation.

  Attributes:
    prior: the prediction that was given.
    posterior: the approximate prediction given y.
    log_likelihood: log N(y; A x0, S), [*batch]; None if the method does not know det S.
  """

  prior: Prediction
  posterior: Prediction
  log_likelihood: Float[Array, "*batch"] | None


@runtime_checkable
class CountedPredict(Predict, Protocol):
  """A predict that differentiates another one.

  Attributes:
    gradients: products with J' per call, each of which takes about as long as two network calls.
  """

  gradients: int


class Conditional:
  """The conditional prediction that a method gives: a `predict` of any sampler.

  Attributes:
    predict: the unconditional prediction.
    observation: the observation.
    gradients: products with J' per call.
  """

  def __init__(
    self,
    predict: Predict,
    observation: Observation,
    solve: Callable[[Array, Level, Product], Solved],
    gradients: int,
  ):
    """Makes the prediction of a method.

    Args:
      predict: of any kind that has a score.
      observation: what was observed.
      solve: (y - A x0 [*batch, m], level, product) -> S^-1 (y - A x0) and log det S; the level
        broadcasts with [*batch, m], and product is u -> A Cov[x_0 | x_t] A' u.
      gradients: products with J' that the method takes in all, one of them here.
    """
    self.predict, self.observation, self.gradients = predict, observation, gradients
    self._solve = solve

  def __call__(self, x: Array, level: Level) -> Prediction:
    """Returns the conditional prediction: score and x0.

    At pure noise (alpha = 0), where x_t says nothing of x_0, it is the one at a signal of
    1e-3 sigma: Cov[x_0 | x_t] is a limit there, which the network is not asked for.
    """
    return self.twist(x, level).posterior

  def twist(self, x: Array, level: Level) -> Twisted:
    """Returns the predictions without and with y, and the log-likelihood between them."""
    operator = self.observation.operator
    level = level._replace(alpha=jnp.where(level.alpha > 0, level.alpha, _SIGNAL * level.sigma))

    def mean(x: Array) -> tuple[Array, Prediction]:
      pred = self.predict(x, level)
      return pred.x0, pred

    x0, pull, prior = jax.vjp(mean, x, has_aux=True)
    batch = x.shape[: x.ndim - len(operator.event_shape)]
    residual = self.observation.residual(x0)
    at = level.like(residual)
    gain = at.sigma**2 / at.alpha

    def product(u: Array) -> Array:
      return gain * operator(pull(operator.adjoint(u))[0])

    weights, log_det = self._solve(residual, at, product)
    (gradient,) = pull(operator.adjoint(weights))
    at = level.like(x)
    views = {
      "score": prior.score + gradient,
      "x0": prior.x0 + at.sigma**2 / at.alpha * gradient,
    }
    log_likelihood = None
    if log_det is not None:
      squares = jnp.sum(residual * weights, axis=-1)
      constant = residual.shape[-1] * jnp.log(2 * jnp.pi)
      log_likelihood = jnp.broadcast_to(-(squares + log_det + constant) / 2, batch)
    return Twisted(prior, Prediction.of(x, level, "score", **views), log_likelihood)
