"""Nodes of the trapezoidal rule over the components of a Gaussian mixture.

    E f(y) = sum_k w_k int N(z; 0, I) f(m_k + C_k^(1/2) z) dz

The rule converges exponentially for analytic functions: at a spacing of h standard deviations the
error of a Gaussian's own integral is exp(-2 pi^2 / h^2).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array


def component_nodes(
  law: GaussianMixture, spacing: float, reach: float
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
  """Returns nodes [n, d] and weights [n], which sum to one. The law's numbers may be traced.

  Args:
    law: of dimension 1 or 2, as the number of nodes is a power of it.
    spacing: of the nodes along each component's axes, in standard deviations.
    reach: radius in standard deviations beyond which nodes are dropped.
  """
  side = np.arange(-reach, reach + spacing / 2, spacing)
  z = np.stack(np.meshgrid(*[side] * law.dim, indexing="ij"), -1).reshape(-1, law.dim)
  squares = np.sum(z**2, axis=1)
  z, density = z[squares <= reach**2], np.exp(-squares[squares <= reach**2] / 2)
  axes = jnp.eye(law.dim)[None] if law.basis is None else law.basis
  roots = jnp.broadcast_to(axes, (law.num_classes, law.dim, law.dim))
  roots = roots * jnp.sqrt(law.variances)[:, None]
  y = law.means[:, None] + jnp.einsum("kij,nj->kni", roots, z)
  weights = law.weights[:, None] * (density / density.sum())
  return y.reshape(-1, law.dim), weights.reshape(-1)
