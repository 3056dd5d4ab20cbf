"""Gaussian laws, and the distances between them in closed form, to full relative precision.

    W2^2(p, q) = |m_p - m_q|^2 + |(T - I) C_q^(1/2)|_F^2          T the optimal map from q to p
    KL(p, q)   = (sum_i e_i - log(1 + e_i) + d' C_q^-1 d) / 2     e_i those of C_q^-1 (C_p - C_q)

with d = m_p - m_q. Both are sums of non-negative terms which are computed from differences of the
laws: two laws that are nearly the same lose no digits, unlike in tr(C_p + C_q - 2 (...)^(1/2)).

References:
  Dowson and Landau, "The Frechet Distance between Multivariate Normal Distributions", Journal of
    Multivariate Analysis 12 (1982).
  Pierret and Galerne, "Diffusion Models for Gaussian Distributions: Exact Solutions and Wasserstein
    Errors", ICML 2025 (arXiv 2405.14250), section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.targets.gaussian_mixture import GaussianMixture


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianLaw:
  """N(mean, covariance) on R^d, in float64, with the covariance's axes.

  Attributes:
    mean: [d].
    variances: [d], of the coordinates along the axes.
    basis: [d, d], the axes as columns; None if they are the coordinates.
  """

  mean: Float[np.ndarray, " d"]
  variances: Float[np.ndarray, " d"]
  basis: Float[np.ndarray, "d d"] | None = None

  @staticmethod
  def of(target: GaussianMixture | GaussianLaw) -> GaussianLaw:
    """Returns a mixture of one component as a law, and a law as it is.

    Raises:
      ValueError: the mixture has several components.
    """
    if isinstance(target, GaussianLaw):
      return target
    if not isinstance(target, GaussianMixture) or target.num_classes != 1:
      raise ValueError(f"target = {_described(target)} must be a GaussianMixture of one component")
    mean = np.asarray(target.means[0], float)
    variances = np.broadcast_to(np.asarray(target.variances[0], float), mean.shape)
    basis = None if target.basis is None else np.asarray(target.basis[0], float)
    return GaussianLaw(mean, variances, basis)

  @staticmethod
  def from_covariance(mean: ArrayLike, covariance: ArrayLike) -> GaussianLaw:
    """Returns the law with a full covariance [d, d], diagonalised."""
    variances, basis = np.linalg.eigh(np.asarray(covariance, float))
    return GaussianLaw(np.asarray(mean, float), np.maximum(variances, 0), basis)

  @property
  def covariance(self) -> Float[np.ndarray, "d d"]:
    """Covariance, [d, d]."""
    if self.basis is None:
      return np.diag(self.variances)
    return (self.basis * self.variances) @ self.basis.T

  def noised(self, alpha: float, sigma: float) -> GaussianLaw:
    """Returns the law of alpha x + sigma eps."""
    return GaussianLaw(alpha * self.mean, alpha**2 * self.variances + sigma**2, self.basis)

  def w2(self, other: GaussianMixture | GaussianLaw) -> float:
    """Returns the 2-Wasserstein distance from another Gaussian, in the data's units."""
    other = GaussianLaw.of(other)
    shift = self.mean - other.mean
    return float(np.sqrt(np.sum(shift**2) + _bures_squared(self, other)))

  def kl(self, other: GaussianMixture | GaussianLaw) -> float:
    """Returns KL(self || other) in nats; inf if the other is singular and this is not."""
    other = GaussianLaw.of(other)
    shift = self.mean - other.mean
    if _same_axes(self, other):
      along = shift if other.basis is None else other.basis.T @ shift
      apart = self.variances - other.variances
    else:
      along, apart = shift, self.covariance - other.covariance
    with np.errstate(divide="ignore", invalid="ignore"):
      if _same_axes(self, other):
        excess, squares = apart / other.variances, along**2 / other.variances
      else:
        axes = np.eye(len(shift)) if other.basis is None else other.basis
        white = axes / np.sqrt(other.variances)
        excess, squares = np.linalg.eigvalsh(white.T @ apart @ white), (white.T @ along) ** 2
      value = float(np.sum(_excess_log(excess)) + np.sum(squares)) / 2
    return value if np.isfinite(value) else np.inf


def _excess_log(e: np.ndarray) -> np.ndarray:
  """Returns e - log(1 + e), elementwise, by its series where |e| is small; inf from e = -1 down."""
  near = np.abs(e) < 0.05
  small = np.where(near, e, 0.0)
  series = np.zeros_like(small)
  for n in range(14, 1, -1):  # 0.05^13 is below a rounding error
    series = (-1) ** n / n + small * series
  e = np.where(near, 1.0, np.maximum(e, -1.0))
  return np.where(near, small**2 * series, e - np.log1p(e))


def _same_axes(p: GaussianLaw, q: GaussianLaw) -> bool:
  if p.basis is None or q.basis is None:
    return p.basis is q.basis
  return np.array_equal(p.basis, q.basis)


def _bures_squared(p: GaussianLaw, q: GaussianLaw) -> float:
  """The part of W2^2 that the covariances make.

  With S = C_q^(1/2) and M = (S C_p S)^(1/2), X = M - C_q solves M X + X C_q = S (C_p - C_q) S, and
  (T - I) S = S^-1 X.
  """
  if _same_axes(p, q):
    roots = np.sqrt(p.variances), np.sqrt(q.variances)
    total = roots[0] + roots[1]
    apart = (p.variances - q.variances) / np.where(total > 0, total, 1)
    return float(np.sum(apart**2))
  if q.variances.min() <= 1e-14 * q.variances.max():
    if p.variances.min() > 1e-14 * p.variances.max():
      return _bures_squared(q, p)
    return _bures_of_singular(p, q)
  b, axes = q.variances, np.eye(len(q.variances)) if q.basis is None else q.basis
  roots = np.sqrt(b)
  inner = roots[:, None] * (axes.T @ p.covariance @ axes) * roots
  apart = roots[:, None] * (axes.T @ (p.covariance - q.covariance) @ axes) * roots
  squares, vectors = np.linalg.eigh(inner)
  m = np.sqrt(np.maximum(squares, 0))
  x = vectors @ ((vectors.T @ apart) / (m[:, None] + b))
  return float(np.sum((x / roots[:, None]) ** 2))


def _bures_of_singular(p: GaussianLaw, q: GaussianLaw) -> float:
  """The same for two singular covariances, to half of the digits."""
  axes = np.eye(len(q.variances)) if q.basis is None else q.basis
  roots = np.sqrt(q.variances)
  inner = roots[:, None] * (axes.T @ p.covariance @ axes) * roots
  cross = np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)))
  return float(max(p.variances.sum() + q.variances.sum() - 2 * cross, 0.0))


def _described(target: Any) -> str:
  if isinstance(target, GaussianMixture):
    return f"<mixture of {target.num_classes} components>"
  return f"<{type(target).__name__}>"
