"""One-dimensional Gaussian mixtures: the marginals of a mixture along many directions.

They let sliced Wasserstein distances be taken against a distribution, not a sample of it. Jit
the caller: XLA then sums over the components without storing them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Bool, Float

from scorelab.pytree import Pytree
from scorelab.typing import Array


class Marginals(Pytree, eq=False):
  """m mixtures on the line, of k components each, with the same weights.

  Attributes:
    weights: [k], normalised.
    means: [m, k].
    stds: [m, k]; 0 is an atom.
  """

  weights: Float[Array, " k"]
  means: Float[Array, "m k"]
  stds: Float[Array, "m k"]

  @property
  def mean(self) -> Float[Array, " m"]:
    """Means, [m]."""
    return jnp.sum(self.weights[None] * self.means, axis=1)

  @property
  def second_moment(self) -> Float[Array, " m"]:
    """Second moments E[X^2], [m]."""
    return jnp.sum(self.weights[None] * (self.means**2 + self.stds**2), axis=1)

  @property
  def has_atoms(self) -> Bool[Array, ""]:
    """True, [], if a component with weight is a point along any of the directions."""
    return jnp.any((self.stds == 0) & (self.weights > 0))

  def shifted(self, by: Float[Array, " m"]) -> Marginals:
    """Returns the laws of X + by, for by [m]."""
    return Marginals(self.weights, self.means + by[:, None], self.stds)

  def cdf(self, x: Float[Array, "*batch m"]) -> Float[Array, "*batch m"]:
    """Returns P(X <= x) for x [..., m], of x's shape."""
    return self._each(lambda w, m, s, x: jnp.sum(w * ndtr(_standard(m, s, x))), x)

  def partial_mean(self, x: Float[Array, "*batch m"]) -> Float[Array, "*batch m"]:
    """Returns E[X 1{X <= x}] for x [..., m], of x's shape; the mean at infinity."""

    def one(w: Array, m: Array, s: Array, x: Array) -> Array:
      z = _standard(m, s, x)
      return jnp.sum(w * (m * ndtr(z) - s * norm.pdf(z)))

    return self._each(one, x)

  def quantile(self, u: Float[Array, "*batch"]) -> Float[Array, "*batch m"]:
    """Returns the x with P(X <= x) = u, for u [...] in [0, 1], along every direction: [..., m].

    As exact as the cdf can be evaluated, and increasing in u up to that; where the cdf is flat,
    between modes far apart, any x of the gap may come back. Has no reverse-mode derivative.
    """
    return self._each(_quantile, jnp.asarray(u, self.means.dtype)[..., None])

  def _each(self, function: Callable[..., Array], x: Array) -> Array:
    """function(weights [k], means [k], stds [k], x []) -> [] for x [..., m] or [..., 1]."""
    each = jnp.vectorize(function, signature="(k),(k),(k),()->()")
    return each(self.weights, self.means, self.stds, x)


def _standard(means: Array, stds: Array, x: Array) -> Array:
  """Returns (x - mean) / std, [k]; at an atom +inf from its point on, and -inf below."""
  wide = stds > 0
  return jnp.where(
    wide, (x - means) / jnp.where(wide, stds, 1), jnp.where(x >= means, jnp.inf, -jnp.inf)
  )


def _quantile(weights: Array, means: Array, stds: Array, u: Array) -> Array:
  """The quantile [] of one mixture [k] at one level [].

  Newton's method, kept in a bracket, on the log of the mass on the lighter side of x: a tail
  keeps its digits there, and a Gaussian's is almost quadratic.
  """
  sign = jnp.where(u > 0.5, -1, 1)
  tail = jnp.where(u > 0.5, 1 - u, u)
  rounding = 4 * jnp.finfo(means.dtype).eps

  def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
    low, high, x, last, count, _ = state
    z = _standard(means, stds, x)
    mass = jnp.sum(weights * ndtr(sign * z))
    density = jnp.sum(weights * norm.pdf(z) / jnp.where(stds > 0, stds, 1))
    excess = sign * (mass - tail)
    low, high = jnp.where(excess < 0, x, low), jnp.where(excess > 0, x, high)
    newton = x - sign * mass * jnp.log(mass / tail) / density
    # Bisect where Newton leaves the bracket (NaN does) or does not halve its step.
    safe = (newton > low) & (newton < high) & (jnp.abs(newton - x) < last / 2)
    moved = jnp.where(safe, newton, (low + high) / 2)
    close = jnp.fmin(jnp.abs(newton - x), high - low) <= rounding * jnp.abs(x)
    done = close | (jnp.abs(excess) <= rounding * tail) | (count == 100)  # at most 15 were seen
    return low, high, jnp.where(done, x, moved), jnp.abs(moved - x), count + 1, done

  own = means + stds * ndtri(u)  # the components' quantiles, with the mixture's between them
  low, high = jnp.min(own), jnp.max(own)
  # Exact for modes far apart: what the modes on the left leave of u, as a share of the next.
  order = jnp.argsort(means)
  reach = jnp.cumsum(weights[order])
  i = jnp.minimum(jnp.sum(reach < u), len(means) - 1)
  share = jnp.clip((u - reach[i]) / weights[order[i]] + 1, 0, 1)
  std = stds[order[i]]
  guess = jnp.clip(means[order[i]] + std * ndtri(jnp.where(std > 0, share, 0.5)), low, high)
  start = (low, high, guess, high - low, 0, ~(low < high))
  return jax.lax.while_loop(lambda state: ~state[-1], step, start)[2]
