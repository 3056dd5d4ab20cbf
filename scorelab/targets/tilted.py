"""Tilted laws p(x)^(1-w) p(x | c)^w, normalised: the laws that guidance is believed to sample.

For a mixture whose classes are its components, p(x | c) = p(x) P(c | x) / P(c), so that a tilted
law is a mixture b(x) with a weight g(x) = P(c | x)^e between 0 and 1:

    w >= 1        b = p(. | c),  e = w - 1         0 <= w <= 1        b = p,  e = w

With b = sum_j w_j N(m_j, C_j), V_j = alpha^2 C_j + sigma^2 I and x_t = alpha x_0 + sigma eps, the
noised law is a sum over components of Gaussian expectations, at every level by the same nodes:

    q_t(x) = sum_j w_j N(x; alpha m_j, V_j) E_j[g] / Z
    E_j[g] = E[g(x_0)],  x_0 ~ N(m_j + alpha C_j V_j^-1 (x - alpha m_j), sigma^2 C_j V_j^-1)

Z is E[g] under b. The expectations are trapezoidal sums in units of each Gaussian's std, whose
error falls exponentially with the number of nodes. Exact draws are b's, kept with probability g.

Trefethen and Weideman, "The Exponentially Convergent Trapezoidal Rule", SIAM Review 56 (2014).
"""

from __future__ import annotations

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.predictions import Prediction
from scorelab.pytree import Pytree
from scorelab.ranges import AtLeast
from scorelab.schedules import Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Key
from scorelab.validation import checked, require_event, require_range

_REACH = 7.0  # standard deviations: what is outside has 3e-12 of the mass
_LEAST_ACCEPTED = 1e-5  # share of proposals


class Tilted(Pytree, eq=False, static=("num_nodes",)):
  """A mixture on the line or in the plane, weighted by P(class | x)^exponent; made by `tilted`.

  Attributes:
    base: the mixture that is weighted.
    mixture: the one whose classes `label` is of.
    exponent: of the class's probability, [], >= 0.
    log_normaliser: log of the mean weight under the base, [].
    error: relative error of the mean weight, [], estimated by two thirds of the nodes.
    label: the class, [].
    num_nodes: nodes of a dimension. Static.
  """

  base: GaussianMixture
  mixture: GaussianMixture
  exponent: Array
  log_normaliser: Array
  error: Array
  label: Array
  num_nodes: int

  @property
  def dim(self) -> int:
    """Dimension d of one point."""
    return self.base.dim

  @property
  def event_shape(self) -> tuple[int]:
    """Shape of one point: (d,)."""
    return self.base.event_shape

  @property
  def bounds(self) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The base's box for figures, which the tilted law is in."""
    return self.base.bounds

  @property
  def mean(self) -> Float[Array, " d"]:
    """Mean, [d]."""
    return self._whole.x0

  @property
  def variance(self) -> Float[Array, " d"]:
    """Variances of the coordinates, [d]."""
    variance = self._whole.x0_variance
    assert variance is not None
    return variance

  @property
  def scale(self) -> Float[Array, ""]:
    """The std over all coordinates, []."""
    return jnp.sqrt(jnp.mean(self.variance))

  def log_prob(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Returns the log-density at x [..., d], of shape [...]."""
    require_event("x", x, self.event_shape)
    return self.base.log_prob(x) + self._log_weight(x) - self.log_normaliser

  def score(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Returns the gradient of the log-density at x [..., d], of x's shape."""
    require_event("x", x, self.event_shape)
    return self.base.score(x) + self._weight_score(x)

  @checked
  def predict(self, x: Float[Array, "*batch d"], level: Level) -> Prediction:
    """Returns the exact prediction at x [*batch, d], with x0_variance and normalised log_density.

    The level has shape [] or [*batch]; sigma = 0 gives x0 = x / alpha, alpha = 0 the mean.
    """
    require_event("x", x, self.event_shape)
    at = jnp.vectorize(self._at, signature="(d),(),()->(d),(d),(d),()")
    score, x0, variance, log_density = at(x, level.alpha, level.sigma)
    return Prediction.of(
      x, level, "score", score=score, x0=x0, x0_variance=variance, log_density=log_density
    )

  def sample(self, key: Key, n: int) -> Float[Array, "{n} d"]:
    """Returns independent draws, [n, d]: the base's, kept with the weight as probability."""

    def propose(state: tuple[Key, Array, Array]) -> tuple[Key, Array, Array]:
      key, x, missing = state
      key, drawing, keeping = jax.random.split(key, 3)
      new = self.base.sample(drawing, n)
      kept = jnp.log(jax.random.uniform(keeping, (n,), new.dtype)) < self._log_weight(new)
      return key, jnp.where((missing & kept)[:, None], new, x), missing & ~kept

    start = key, jnp.zeros((n, self.dim), self.base.means.dtype), jnp.ones(n, bool)
    return jax.lax.while_loop(lambda state: jnp.any(state[2]), propose, start)[1]

  @property
  def _whole(self) -> Prediction:
    """The prediction at pure noise, which is the law's mean."""
    zero = jnp.zeros((), self.base.means.dtype)
    return self.predict(jnp.zeros_like(self.base.means[0]), Level(zero, zero, zero + 1))

  def _log_weight(self, x: Array) -> Array:
    """Log g at x [..., d], of shape [...]."""
    logs = jax.nn.log_softmax(self.mixture._log_joint(x), axis=-1)
    return self.exponent * logs[..., self.label]

  def _weight_score(self, x: Array) -> Array:
    """The gradient of log g at x [..., d]."""
    alone = self.mixture.of_class(self.label)
    own, whole = (jnp.vectorize(m._score, signature="(d)->(d)")(x) for m in (alone, self.mixture))
    return self.exponent * (own - whole)

  def _at(self, x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
    """Score, E[x_0 | x], its variance and the log-density at one point x [d]."""
    base, noisy = self.base, self.base.perturbed(alpha, sigma)
    posterior = base.posterior(x, Level(None, alpha, sigma))
    # In the dtype of x: a program of float32 must not share its constants with one of float64.
    nodes, logs = (array.astype(x.dtype) for array in _gaussian_nodes(self.dim, self.num_nodes))
    steps = jnp.sqrt(posterior.variances)[:, None, :] * nodes
    if base.basis is not None:
      steps = jnp.einsum("kij,kqj->kqi", base.basis, steps)
    x0 = posterior.means[:, None, :] + steps
    logs = posterior.log_weights[:, None] + logs + self._log_weight(x0)  # [k, q]
    total = jax.nn.logsumexp(logs)
    weights = jnp.exp(logs - total)
    mean = jnp.einsum("kq,kqi->i", weights, x0)
    variance = jnp.einsum("kq,kqi->i", weights, (x0 - mean) ** 2)
    # d x_0 / d x = alpha C V^-1 at a node that is kept at its place in units of the std.
    push = jnp.einsum("kq,kqi->ki", weights, self._weight_score(x0))
    push = base._from_axes(alpha * base.variances / noisy._widths * base._to_axes(push))
    pulls = noisy._from_axes(noisy._to_axes(noisy.means - x[None]) / noisy._widths)
    score = jnp.sum(jnp.sum(weights, axis=1)[:, None] * pulls + push, axis=0)
    return score, mean, variance, noisy._log_prob(x) + total - self.log_normaliser


@checked
def tilted(
  target: GaussianMixture,
  label: Annotated[int, AtLeast(0)],
  scale: Annotated[float, AtLeast(0)],
  *,
  num_nodes: Annotated[int, AtLeast(3)] = 65,
) -> GaussianMixture | Tilted:
  """Returns the law p(x)^(1-scale) p(x | label)^scale, normalised.

  Args:
    target: p, a mixture on the line or in the plane, whose classes are its components.
    label: the class, from 0; one of positive weight.
    scale: guidance scale w: 0 gives p, 1 gives p(x | label), which are mixtures.
    num_nodes: quadrature nodes of a dimension.

  Raises:
    ValueError: the label is not one of the target's; the scale is negative, where the law need not
      be normalisable; the target has more than two dimensions; or so little of the base is kept
      that exact draws would not come.
  """
  if label >= target.num_classes or not float(target.log_weights[label]) > -np.inf:
    raise ValueError(f"label = {label} must be a component of the target with positive weight")
  own = target._of(
    jnp.zeros(1, target.means.dtype),
    *(a if a is None else a[label : label + 1] for a in (target.means, target.variances)),
    None if target.basis is None else target.basis[label : label + 1],
  )
  if scale in (0, 1):
    return own if scale else target
  if target.dim > 2:
    raise ValueError(f"target of dimension {target.dim} must be of dimension 1 or 2")
  base, exponent = (own, scale - 1) if scale > 1 else (target, scale)
  exponent, of = jnp.asarray(exponent, target.means.dtype), jnp.asarray(label)
  zero = jnp.zeros_like(exponent)
  law, coarse = (
    Tilted._of(base, target, exponent, zero, zero, of, n)
    for n in (num_nodes, max(2 * num_nodes // 3, 2))
  )
  total, rough = _log_mean_weight(law), _log_mean_weight(coarse)
  require_range("the share of draws that are kept", jnp.exp(total), AtLeast(_LEAST_ACCEPTED))
  error = jnp.abs(jnp.expm1(rough - total))
  return Tilted._of(base, target, exponent, total, error, of, num_nodes)


@jax.jit
def _log_mean_weight(law: Tilted) -> Array:
  """Log of the mean weight under the base: by the density at pure noise, N(0, I)."""
  density = law._whole.log_density
  assert density is not None
  return density + law.dim / 2 * jnp.log(2 * jnp.pi)


@checked
def tilted_gaussian(
  conditional: GaussianMixture, unconditional: GaussianMixture, scale: float
) -> GaussianMixture:
  """Returns the Gaussian p(x)^(1-w) p(x | c)^w, normalised, in closed form.

      P = (1-w) P_p + w P_c        m = P^-1 ((1-w) P_p m_p + w P_c m_c)

  with P the precisions. Any scale will do at which P is positive definite.

  Args:
    conditional: p(x | c), one component.
    unconditional: p(x), one component.
    scale: guidance scale w.

  Raises:
    ValueError: a mixture has several components, or the law cannot be normalised.
  """
  weights, precisions, pulls = (1 - scale, scale), [], []
  for name, law in (("unconditional", unconditional), ("conditional", conditional)):
    if law.num_classes != 1:
      raise ValueError(f"{name} has {law.num_classes} components, must have 1")
    covariance = np.asarray(law.covariance, float)
    precisions.append(np.linalg.inv(covariance))
    pulls.append(precisions[-1] @ np.asarray(law.mean, float))
  precision = sum(w * p for w, p in zip(weights, precisions, strict=True))
  if not np.linalg.eigvalsh(precision).min() > 0:
    raise ValueError(f"scale = {scale:g} must leave the tilted precision positive definite")
  covariance = np.linalg.inv(precision)
  mean = covariance @ sum(w * p for w, p in zip(weights, pulls, strict=True))
  return GaussianMixture([1.0], jnp.asarray(mean, conditional.means.dtype)[None], covariance[None])


@functools.lru_cache
def _gaussian_nodes(dim: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Nodes [q, d] and log-weights [q] of the trapezoidal rule for N(0, I), within its reach."""
  axis = np.linspace(-_REACH, _REACH, count)
  nodes = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
  squares = np.sum(nodes**2, axis=1)
  nodes, logs = nodes[squares <= _REACH**2], -squares[squares <= _REACH**2] / 2
  return nodes, logs - np.log(np.sum(np.exp(logs)))
