"""Problems in many dimensions as problems in few: the subspace of the modes and of A's rows.

Let a mixture have components of one covariance v I and means in a subspace, and let the columns of
Q be an orthonormal basis of that subspace and of the rows of A. With x = Q z + w and Q' w = 0,

    p(x | y) = p(z | y) N(w; 0, v I)        z ~ the mixture with means Q' m_k,  y = (A Q) z + noise

A method whose steps commute with rotations, as all in this package do for matrices, moves z and w
apart, and each coordinate of w as it would move x ~ N(0, v) that is not observed. So a problem with
m observations of modes in a plane takes the same time in any dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.inverse.observation import Observation
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import AnyArray

_NEGLIGIBLE = 1e-6  # of the largest row, that of float32


class Reduced(NamedTuple):
  """A problem in the subspace of the modes and of the rows of A.

  Attributes:
    target: the mixture there, of dimension r.
    observation: of z.
    basis: Q, orthonormal columns [d, r].
  """

  target: GaussianMixture
  observation: Observation
  basis: Float[np.ndarray, "d r"]

  def embed(self, z: Float[AnyArray, " n r"], rest: Float[AnyArray, " n d"]) -> np.ndarray:
    """Returns points [n, d]: z in the subspace, and what `rest` has outside it."""
    inside, outside = np.asarray(z), np.asarray(rest)
    return (inside - outside @ self.basis) @ self.basis.T + outside


def reduced(target: GaussianMixture, observation: Observation) -> Reduced:
  """Returns a problem in the subspace in which it is not trivial.

  Args:
    target: components of one isotropic covariance.
    observation: of points [d].

  Raises:
    ValueError: the components have different covariances, or ones that are not isotropic.
  """
  means, variances = np.asarray(target.means, float), np.asarray(target.variances, float)
  if variances.shape[1] != 1 or np.ptp(variances) > 1e-6 * variances.max():
    raise ValueError("target must have components of one isotropic covariance")
  matrix = np.asarray(observation.matrix, float)
  basis = np.zeros((target.dim, 0))
  for rows in (means, matrix):  # the modes' subspace first, so that it is the same for every A
    rest = rows - (rows @ basis) @ basis.T
    _, sizes, axes = np.linalg.svd(rest, full_matrices=False)
    basis = np.hstack([basis, axes[sizes > _NEGLIGIBLE * np.abs(rows).max()].T])
  dtype = observation.y.dtype
  few = GaussianMixture(np.asarray(target.weights), means @ basis, variances[:, 0])
  seen = Observation(jnp.asarray(matrix @ basis, dtype), observation.y, observation.noise_std)
  return Reduced(few, seen, basis)
