"""Laws N(mean, variance I) of x_0 given an observation.

With S = variance A A' + noise_std^2 I, which has the eigenvectors of A A' at every variance,

    log p(y)     log N(y; A mean, S)
    mean of x_0  mean + variance A' S^-1 (y - A mean)

and a draw is the mean of a draw of the law, given y less a draw of its noise.

Reference: Papandreou and Yuille, "Gaussian Sampling by Local Perturbations", NeurIPS 2010, for the
draw.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from scorelab.inverse.observation import Observation
from scorelab.pytree import Pytree
from scorelab.samplers.noise import Noise
from scorelab.typing import Array, Floats


class Isotropic(Pytree, eq=False):
  """An observation with the eigenvalues of A A', for isotropic laws of any mean and variance.

  Attributes:
    observation: what was observed.
    squares: eigenvalues of A A', [m].
    axes: its eigenvectors as columns, [m, m].
  """

  observation: Observation
  squares: Float[Array, " m"]
  axes: Float[Array, "m m"]

  @staticmethod
  def of(observation: Observation) -> Isotropic:
    """Diagonalises A A'; eigenvalues of the size of rounding errors count as 0."""
    matrix = observation.matrix
    squares, axes = jnp.linalg.eigh(jnp.matmul(matrix, matrix.T, precision="highest"))
    rounding = jnp.finfo(squares.dtype).eps * max(matrix.shape) * jnp.max(squares)
    return Isotropic(observation, jnp.where(squares > rounding, squares, 0), axes)

  def solve(
    self, residual: Float[Array, "*batch m"], variance: Array
  ) -> tuple[Float[Array, "*batch m"], Float[Array, "*batch"]]:
    """Returns S^-1 residual and log det S, without the directions in which S is 0.

    The variance broadcasts with [*batch, m].
    """
    spread = variance * self.squares + self.observation.noise_std**2
    spread = jnp.broadcast_to(spread, residual.shape)
    positive = spread > 0
    spread = jnp.where(positive, spread, 1)
    along = jnp.where(positive, jnp.matmul(residual, self.axes, precision="highest") / spread, 0)
    return jnp.matmul(along, self.axes.T, precision="highest"), jnp.sum(jnp.log(spread), axis=-1)

  def log_evidence(self, mean: Floats, variance: Array) -> Float[Array, "*batch"]:
    """Returns log p(y) for laws of means [*batch, *event] and one variance []."""
    residual = self.observation.residual(mean)
    weights, log_det = self.solve(residual, variance)
    constant = residual.shape[-1] * jnp.log(2 * jnp.pi)
    return -(jnp.sum(residual * weights, axis=-1) + log_det + constant) / 2

  def mean(self, mean: Floats, variance: Array, y_noise: Array | float = 0.0) -> Floats:
    """Returns E[x_0 | y], [*batch, *event]; the variance broadcasts with [*batch, m].

    Args:
      mean: [*batch, *event].
      variance: of the law.
      y_noise: subtracted from y, [*batch, m].
    """
    weights, _ = self.solve(self.observation.residual(mean) - y_noise, variance)
    return mean + self.observation.operator.adjoint(variance * weights)

  def draw(self, noise: Noise, mean: Floats, variance: Array) -> Floats:
    """Draws from x_0 given y for each of the means [*batch, *event] and one variance []."""
    prior, seen = noise.fork(2)
    x = mean + jnp.sqrt(variance) * prior.normal(mean.shape, mean.dtype)
    shape = self.observation.residual(mean).shape
    return self.mean(x, variance, self.observation.noise_std * seen.normal(shape, mean.dtype))
