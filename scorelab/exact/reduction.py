"""Mixtures in many dimensions whose modes lie in a plane, as a mixture there times a Gaussian.

Let all components have the covariance v I, and means that differ only within a plane: with
orthonormal coordinates u [2] of that plane and w [d - 2] of the rest, m_k = (a_k, b). As the
squared distance from alpha m_k is |u - alpha a_k|^2 + |w - alpha b|^2, the law of x_t is a product,

    q_t = [sum_k w_k N(u; alpha a_k, V)] N(w; alpha b, V)        V = alpha^2 v + sigma^2

and its score, the gradient of a sum of a function of u and one of w, has no coordinate of one in
the other's. A sampler whose steps are combinations of points and predictions with factors that are
the same for every coordinate commutes with the rotation to (u, w) and moves u and w apart; the
start, N(0, s^2 I) or q_T, is a product. So is the law of its samples, and as KL is additive,

    KL(law || target) = KL in the plane + KL of the rest, of two Gaussians.

The covariances must be equal: with several v_k the responsibilities would depend on |w - alpha b|.
"""

from __future__ import annotations

import numpy as np

from scorelab.targets.gaussian_mixture import GaussianMixture

_NEGLIGIBLE = 1e-6  # of the modes' extent, that of float32


def split_plane(target: GaussianMixture) -> tuple[GaussianMixture, GaussianMixture]:
  """Returns a mixture as one of dimension 2 and a Gaussian of the other d - 2 coordinates.

  Args:
    target: of dimension 3 or more.

  Raises:
    ValueError: the components are not isotropic with one variance, or their means span more than a
      plane.
  """
  means, variances = np.asarray(target.means, float), np.asarray(target.variances, float)
  weights = np.exp(np.asarray(target.log_weights, float))
  reason = None
  if variances.shape[1] != 1 or np.ptp(variances) > 1e-6 * variances.max():
    reason = "components of one isotropic covariance"
  middle = means.mean(0)
  # The rows of `turn` are an orthonormal basis, the plane's first.
  size, turn = np.linalg.svd(means - middle)[1:]
  if (size[2:] > _NEGLIGIBLE * max(size[0], 1e-300)).any():
    reason = "means in a plane"
  if reason:
    raise ValueError(
      f"target of dimension {target.dim} must be of dimension 1 or 2, or have {reason}"
    )
  turned = means @ turn.T
  plane = GaussianMixture(weights, turned[:, :2], variances[:, 0])
  rest = GaussianMixture([1.0], (middle @ turn.T)[None, 2:], variances[:1, 0])
  return plane, rest
