"""Frechet distance of Gaussians with the moments of the samples and of the reference.

Dowson and Landau, "The Frechet Distance between Multivariate Normal Distributions", Journal of
Multivariate Analysis 12 (1982), eq. 16. Heusel et al., "GANs Trained by a Two Time-Scale Update
Rule Converge to a Local Nash Equilibrium", NeurIPS 2017 (arXiv 1706.08500), eq. 6, take it of a
classifier's features, as FID; here it is of the points themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scorelab.metrics.reference import Reference, as_pair
from scorelab.typing import Key, PointSet, ReferenceSet


class Moments(NamedTuple):
  """The mean [d] of points and a root R [min(n, d), d] of their covariance, R^T R, in float64."""

  mean: np.ndarray
  root: np.ndarray


def moments(points: np.ndarray) -> Moments:
  """Computes the mean and a root of the unbiased covariance of points [n, d], n >= 2.

  The root comes from the points' own QR decomposition: a covariance is never formed, so that small
  variances keep their digits, and fewer points than dimensions are no special case.
  """
  points = points.astype(np.float64)
  mean = points.mean(0)
  return Moments(mean, np.linalg.qr(points - mean, mode="r") / np.sqrt(len(points) - 1))


def gaussian_frechet(a: Moments, b: Moments) -> float:
  """Squared Wasserstein-2 distance of two Gaussians: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

  With C = R^T R the eigenvalues of C C' are the squared singular values of R R'^T, so that no
  square or square root of a matrix is formed.
  """
  import scipy.linalg  # here: most runs need no SciPy

  singular = np.asarray(scipy.linalg.svdvals(a.root @ b.root.T))
  traces = (a.root**2).sum() + (b.root**2).sum()
  return float(((a.mean - b.mean) ** 2).sum() + traces - 2 * singular.sum())


def frechet(key: Key | None, x: PointSet, y: ReferenceSet | Reference) -> float:
  """Gaussian Frechet distance of the points themselves, squared as FID is; 0 for equal moments.

  Biased upwards by about tr C (1 / n + 1 / m) and more: few points read as far away, so compare
  numbers of the same n and m only.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened, n >= 2.
    y: the reference points [m, ...], m >= 2, or a Reference, which remembers their moments.

  Returns:
    The squared distance, in the data's units squared; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, a set has fewer than 2 points, or the reference has none.
  """
  del key
  x, points = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  if min(len(x), len(points)) < 2:
    raise ValueError(f"frechet of {len(x)} and {len(points)} points, must be at least 2 each")
  if not np.isfinite(x).all():
    return float("nan")
  if isinstance(y, Reference):
    return gaussian_frechet(moments(x), y.cached("frechet", lambda: moments(points)))
  return gaussian_frechet(moments(x), moments(points))
