"""Gaussian mixtures: targets whose score, posterior and marginals are known at every level.

With x_t = alpha x_0 + sigma eps and x_0 ~ sum_k w_k N(m_k, C_k), everything stays a mixture:

    law of x_t     sum_k w_k N(alpha m_k, V_k)                    V_k = alpha^2 C_k + sigma^2 I
    score          sum_k r_k V_k^-1 (alpha m_k - x)               r_k = P(k | x_t = x)
    x_0 | x_t = x  sum_k r_k N(m_k + alpha C_k V_k^-1 (x - alpha m_k), sigma^2 C_k V_k^-1)

Each is computed by its own formula, from the differences x - alpha m_k: neither expanded squares
nor a score by way of x_0, which lose the digits of float32 at little noise. In many dimensions the
sums over k are products of matrices, see `products`.

A full covariance is diagonalised once, when the mixture is made; V_k is then diagonal in the same
basis at every level. Where V_k is 0 along an axis, at sigma = 0, predictions use the square of a
rounding error instead: the limit of little noise, to the precision of floats.

Reference: Bishop, "Pattern Recognition and Machine Learning", 2006, eqs. 2.113 to 2.117 (a
Gaussian seen through a linear Gaussian channel); here for each component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scorelab.predictions import Prediction
from scorelab.pytree import Pytree
from scorelab.schedules import Level
from scorelab.targets import products
from scorelab.targets.conditioned import Conditioned, conditioned
from scorelab.targets.marginals import Marginals
from scorelab.targets.mixture_parameters import diagonalised
from scorelab.typing import Array, Key
from scorelab.validation import checked, require_event

if TYPE_CHECKING:
  from scorelab.inverse import Observation

_EXACT = jax.lax.Precision.HIGHEST  # the truth is not computed in TF32
_FEW = 16  # dimensions: in fewer, forming all differences takes less time than products


class GaussianMixture(Pytree, eq=False):
  """sum_k w_k N(m_k, C_k) on R^d: a pytree, so its numbers can be traced and vmapped.

  Attributes:
    log_weights: [k], normalised; -inf for a component without weight.
    means: [k, d].
    variances: of the components along their axes: [k, 1] if isotropic, else [k, d].
    basis: the axes as columns, [k, d, d], or [1, d, d] if all components share them; None if they
      are the coordinates.
  """

  log_weights: Float[Array, " k"]
  means: Float[Array, "k d"]
  variances: Float[Array, "k _"]
  basis: Float[Array, "_ d d"] | None

  def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike):
    """Makes a mixture, of the means' dtype.

    Concrete numbers are normalised and diagonalised in float64, and checked; traced ones are
    not. Gradients with respect to a full covariance need distinct eigenvalues.

    Args:
      weights: [k], >= 0, not all 0; they need not sum to 1. Those of 1e-300 count, but a float32
        array cannot hold them.
      means: [k, d].
      covariances: [k] variances of isotropic components, [k, d] variances of the coordinates, or
        [k, d, d]; positive semi-definite. Singular ones have a density at sigma > 0 only.

    Raises:
      ValueError: for shapes, weights or covariances other than these.
    """
    self._set(*diagonalised(weights, means, covariances))

  @property
  def dim(self) -> int:
    """Dimension d of one point."""
    return self.means.shape[-1]

  @property
  def num_classes(self) -> int:
    """Number k of components, which are the labels."""
    return self.means.shape[0]

  @property
  def event_shape(self) -> tuple[int]:
    """Shape of one point: (d,)."""
    return (self.dim,)

  @property
  def weights(self) -> Float[Array, " k"]:
    """Weights of the components, [k], normalised."""
    return jnp.exp(self.log_weights)

  @property
  def covariances(self) -> Array:
    """Covariances of the components: [k] if isotropic, [k, d] if diagonal, else [k, d, d]."""
    if self.basis is not None:
      scaled = self.basis * self.variances[:, None, :]
      return jnp.einsum("kij,klj->kil", scaled, self.basis, precision=_EXACT)
    return self.variances[:, 0] if self.variances.shape[1] == 1 else self.variances

  @property
  def mean(self) -> Float[Array, " d"]:
    """Mean, [d]."""
    return self._average(self.means)

  @property
  def variance(self) -> Float[Array, " d"]:
    """Variances of the coordinates, [d]: the diagonal of `covariance`, which is not formed."""
    return self._average(self._diagonals + (self.means - self.mean[None]) ** 2)

  @property
  def covariance(self) -> Float[Array, "d d"]:
    """Covariance, [d, d]."""
    apart = self.means - self.mean[None]
    between = jnp.einsum("k,ki,kj->ij", self.weights, apart, apart, precision=_EXACT)
    if self.basis is None:
      return between + jnp.diag(self._average(self._diagonals))
    return between + jnp.einsum("k,kij->ij", self.weights, self.covariances, precision=_EXACT)

  @property
  def scale(self) -> Float[Array, ""]:
    """The std over all coordinates, []: sigma_data of EDM's preconditioning."""
    return jnp.sqrt(jnp.mean(self.variance))

  @property
  def bounds(self) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The box (low [d], high [d]) of all means +- 4 std, for figures."""
    reach = 4 * jnp.sqrt(self._diagonals)
    return jnp.min(self.means - reach, axis=0), jnp.max(self.means + reach, axis=0)

  def sample(self, key: Key, n: int) -> Float[Array, "{n} d"]:
    """Returns independent draws, [n, d]."""
    return self.sample_with_components(key, n)[0]

  def sample_with_components(
    self, key: Key, n: int
  ) -> tuple[Float[Array, "{n} d"], Int[Array, " {n}"]]:
    """Returns independent draws [n, d] and the component [n] that each came from."""
    return jnp.vectorize(self._draw, signature="(k),(d)->(d),()")(*self._noise(key, (n,)))

  def sample_with_labels(
    self, key: Key, n: int
  ) -> tuple[Float[Array, "{n} d"], Int[Array, " {n}"]]:
    """Returns independent draws [n, d], those of `sample`, and their components [n]."""
    return self.sample_with_components(key, n)

  def given(self, observation: Observation) -> GaussianMixture:
    """Returns the law given a linear observation y = A x + noise_std n, see `conditioned`.

    Raises:
      ValueError: A observes points of another dimension, or the noise is 0 and y has no density.
    """
    return self._of(*self._conditioned(observation)[1:])

  def log_evidence(self, observation: Observation) -> Float[Array, ""]:
    """Returns log p(y) of an observation. Raises as `given` does."""
    return self._conditioned(observation).log_evidence

  def _conditioned(self, observation: Observation) -> Conditioned:
    matrix, y, noise_std = observation.matrix, observation.y, observation.noise_std
    if matrix.shape[1] != self.dim:
      raise ValueError(f"A has shape {matrix.shape}, must be [m, {self.dim}] for this target")
    own = self.log_weights, self.means, self.variances, self.basis
    return conditioned(*own, matrix, y, noise_std)

  def of_class(self, label: Array) -> GaussianMixture:
    """Returns the law given its component, [] from 0; label k, none, gives the mixture itself."""
    kept = (jnp.arange(self.num_classes) == label) | (label == self.num_classes)
    logs = jax.nn.log_softmax(jnp.where(kept, self.log_weights, -jnp.inf))
    return self._of(logs, self.means, self.variances, self.basis)

  def sample_of_class(self, key: Key, label: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Returns a draw of each of the components `label` [n]: [n, d]."""
    keys = jax.random.split(key, label.shape[0])
    return jax.vmap(lambda key, label: self.of_class(label).sample(key, 1)[0])(keys, label)

  def log_prob(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Returns the log-density at x [..., d], of shape [...].

    Raises:
      ValueError: the law has no density, as a component with weight has no width along some axis.
    """
    require_event("x", x, self.event_shape)
    self._check_density()
    return self._log_prob(x)

  def _log_prob(self, x: Array) -> Array:
    constant = self.dim / 2 * jnp.log(2 * jnp.pi * self._unit)
    return jax.nn.logsumexp(self._log_joint(x), axis=-1) - constant

  def responsibilities(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
    """Returns P(component | x) at x [..., d], of shape [..., k]."""
    return jax.nn.softmax(self._log_joint(x), axis=-1)

  def score(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Returns the gradient of the log-density at x [..., d], of x's shape.

    Raises:
      ValueError: as for `log_prob`.
    """
    require_event("x", x, self.event_shape)
    self._check_density()
    return jnp.vectorize(self._score, signature="(d)->(d)")(x)

  def perturbed(self, alpha: Array | float, sigma: Array | float) -> GaussianMixture:
    """Returns the law of alpha x_0 + sigma eps, for alpha and sigma of shape []."""
    variances = alpha**2 * self.variances + sigma**2
    return self._of(self.log_weights, alpha * self.means, variances, self.basis)

  def posterior(self, x: Float[Array, " d"], level: Level) -> GaussianMixture:
    """Returns the law of x_0 given x_t = x, for one point x [d] and a level []: vmap for more."""
    noisy = self.perturbed(level.alpha, level.sigma)
    gain = level.alpha * self.variances / noisy._widths
    means = self.means + self._from_axes(gain * self._to_axes(x[None] - noisy.means))
    variances = level.sigma**2 * self.variances / noisy._widths
    return self._of(jax.nn.log_softmax(noisy._log_joint(x)), means, variances, self.basis)

  @checked
  def predict(self, x: Float[Array, "*batch d"], level: Level) -> Prediction:
    """Returns the exact prediction at x [*batch, d], with x0_variance and normalised log_density.

    The level has shape [] or [*batch]; sigma = 0 gives x0 = x / alpha, alpha = 0 the mean.
    """
    require_event("x", x, self.event_shape)

    def at(x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
      level, noisy = Level(None, alpha, sigma), self.perturbed(alpha, sigma)
      posterior = self.posterior(x, level)
      mean = products.posterior_mean(self, x, level) if self._wide else posterior.mean
      return noisy._score(x), mean, posterior.variance, noisy._log_prob(x)

    at = jnp.vectorize(at, signature="(d),(),()->(d),(d),(d),()")
    score, x0, variance, log_density = at(x, level.alpha, level.sigma)
    return Prediction.of(
      x, level, "score", score=score, x0=x0, x0_variance=variance, log_density=log_density
    )

  @checked
  def predict_of_class(self, x: Float[Array, "*batch d"], level: Level, label: Array) -> Prediction:
    """Returns `predict` given the component of x_0, of x's batch shape or []; k stands for none."""

    def at(x: Array, alpha: Array, sigma: Array, label: Array) -> tuple[Array | None, ...]:
      pred = self.of_class(label).predict(x, Level(None, alpha, sigma))
      return pred.score, pred.x0, pred.x0_variance, pred.log_density

    at = jnp.vectorize(at, signature="(d),(),(),()->(d),(d),(d),()")
    score, x0, variance, log_density = at(x, level.alpha, level.sigma, label)
    return Prediction.of(
      x, level, "score", score=score, x0=x0, x0_variance=variance, log_density=log_density
    )

  def log_class_prob(self, x: Float[Array, "*batch d"], level: Level) -> Float[Array, "*batch k"]:
    """Returns log P(component | x_t = x) at x [*batch, d] and a level [] or [*batch]."""

    def at(x: Array, alpha: Array, sigma: Array) -> Array:
      return jax.nn.log_softmax(self.perturbed(alpha, sigma)._log_joint(x))

    return jnp.vectorize(at, signature="(d),(),()->(k)")(x, level.alpha, level.sigma)

  def posterior_mean(self, x: Float[Array, "*batch d"], level: Level) -> Float[Array, "*batch d"]:
    """Returns E[x_0 | x_t = x] at x [*batch, d] and a level of shape [] or [*batch]."""
    return self.predict(x, level).x0

  @checked
  def sample_posterior(
    self, key: Key, x: Float[Array, "*batch d"], level: Level
  ) -> Float[Array, "*batch d"]:
    """Returns a draw of x_0 given x_t for each x [*batch, d]; the level is [] or [*batch]."""

    def draw(x: Array, alpha: Array, sigma: Array, gumbel: Array, normal: Array) -> Array:
      return self.posterior(x, Level(None, alpha, sigma))._draw(gumbel, normal)[0]

    draw = jnp.vectorize(draw, signature="(d),(),(),(k),(d)->(d)")
    return draw(x, level.alpha, level.sigma, *self._noise(key, x.shape[:-1]))

  def marginal(self, directions: Float[Array, "m d"]) -> Marginals:
    """Returns the laws of u . x for each of the unit vectors u in `directions` [m, d]."""
    along = directions[:, None, :]
    if self.basis is not None:
      along = jnp.einsum("mi,kij->mkj", directions, self.basis, precision=_EXACT)
    means = jnp.einsum("mi,ki->mk", directions, self.means, precision=_EXACT)
    stds = jnp.sqrt(jnp.sum(self.variances[None] * along**2, axis=-1))
    return Marginals(self.weights, means, stds)

  # For one point x [d]; components come first, [k, ...].

  def _average(self, values: Array) -> Array:
    """sum_k w_k values_k: [k, d] -> [d]."""
    return products.weighted_sum(self.weights, values)

  @property
  def _diagonals(self) -> Array:
    """Variances of the components' coordinates, [k, d]."""
    if self.basis is None:
      return jnp.broadcast_to(self.variances, self.means.shape)
    return jnp.einsum("kij,kj->ki", self.basis**2, self.variances, precision=_EXACT)

  def _to_axes(self, y: Array) -> Array:
    """Coordinates of y [k, d] along each component's axes."""
    return y if self.basis is None else jnp.einsum("kij,ki->kj", self.basis, y, precision=_EXACT)

  def _from_axes(self, y: Array) -> Array:
    """The inverse of `_to_axes`."""
    return y if self.basis is None else jnp.einsum("kij,kj->ki", self.basis, y, precision=_EXACT)

  def _check_density(self) -> None:
    """Raises ValueError where a component with weight is singular. Traced numbers pass."""
    if any(isinstance(a, jax.core.Tracer) for a in (self.variances, self.log_weights)):
      return
    singular = (np.asarray(self.variances) <= 0).any(1) & (np.asarray(self.log_weights) > -np.inf)
    if singular.any():
      raise ValueError(
        f"covariances: component {singular.argmax()} has no width along some axis, so that the law"
        " has no density; perturbed(1.0, sigma) has one for sigma > 0"
      )

  @property
  def _widths(self) -> Array:
    """Variances to divide by: where they are 0, the square of a rounding error."""
    extent = jnp.maximum(jnp.max(self.means**2), jnp.max(self.variances))
    rounding = jnp.finfo(self.means.dtype).eps ** 2 * jnp.where(extent > 0, extent, 1)
    return jnp.where(self.variances > 0, self.variances, jax.lax.stop_gradient(rounding))

  @property
  def _unit(self) -> Array:
    """A variance, [], in units of which log-determinants are small: they keep their digits."""
    return jnp.max(self._widths)

  def _log_joint(self, x: Array) -> Array:
    """Logarithms of P(k, x) (2 pi unit)^(d / 2): [..., d] -> [..., k]."""
    if self._shared:
      turned, axes = products.turned(self)
      return turned._log_joint(jnp.matmul(x, axes, precision=_EXACT))
    widths, unit = self._widths, self._unit

    def at(x: Array) -> Array:
      squares = jnp.sum(self._to_axes(x[None] - self.means) ** 2 / widths, axis=1)
      log_dets = self.dim * jnp.mean(jnp.log(widths / unit), axis=1)
      return self.log_weights - (squares + log_dets) / 2

    return jnp.vectorize(at, signature="(d)->(k)")(x)

  @property
  def _wide(self) -> bool:
    """True if sums over components are products of matrices: not if each has its own axes."""
    return self._shared or (self.basis is None and self.dim > _FEW)

  @property
  def _shared(self) -> bool:
    """True if several components have one basis: x is turned once, not for each of them."""
    return self.basis is not None and len(self.basis) < self.num_classes

  def _score(self, x: Array) -> Array:
    if self._wide:
      return products.score(self, x)
    pulls = self._from_axes(self._to_axes(self.means - x[None]) / self._widths)
    return products.weighted_sum(self.responsibilities(x), pulls)

  def _noise(self, key: Key, batch: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the noise of `_draw` for a batch: Gumbel [*batch, k] and normal [*batch, d]."""
    component, normal = jax.random.split(key)
    (k, d), dtype = self.means.shape, self.means.dtype
    gumbel = jax.random.gumbel(component, (*batch, k), dtype)
    return gumbel, jax.random.normal(normal, (*batch, d), dtype)

  def _draw(self, gumbel: Array, normal: Array) -> tuple[Array, Array]:
    """A draw [d] and its component [], by the Gumbel-max trick from noise [k] and [d]."""
    index = jnp.argmax(self.log_weights + gumbel)
    offsets = jnp.sqrt(self.variances) * normal[None]
    if not self._shared:
      offsets = self._from_axes(offsets)
    # Masked sums fuse; indexing would store the draws of all components.
    chosen = (jnp.arange(self.num_classes) == index)[:, None]
    mean, offset = (jnp.sum(jnp.where(chosen, a, 0), axis=0) for a in (self.means, offsets))
    if self._shared:
      offset = self._from_axes(offset[None])[0]
    return mean + offset, index
