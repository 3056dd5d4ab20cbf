"""Which modes of a known mixture the samples reach, in what shares, and how tightly.

Distances are in standard deviations: |x - mean| / std of an isotropic mode, the Mahalanobis
distance of any other. A sample belongs to the mode from which it is the fewest deviations away;
that gives the modes' true shares where they hardly overlap.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from scorelab.metrics.reference import Reference, as_points
from scorelab.typing import Array, Key


class Mixture(Protocol):
  """A mixture of k modes in d dimensions, such as `targets.GaussianMixture`."""

  weights: Array  # [k], positive, summing to 1
  means: Array  # [k, d]
  covariances: Array  # [k] variances, [k, d] variances of the coordinates, or [k, d, d]


def has_modes(target: Any) -> bool:
  """Whether a target has modes, all of some width: what distances are measured in here."""
  if not all(hasattr(target, field) for field in ("weights", "means", "covariances")):
    return False
  covariances = np.asarray(target.covariances)
  widths = np.linalg.eigvalsh(covariances) if covariances.ndim == 3 else covariances
  return bool((widths > 0).all())


def mode_distances(x: ArrayLike, target: Mixture | Reference) -> np.ndarray:
  """How many standard deviations the samples are from each mode.

  Args:
    x: [n, ...], trailing axes flattened to d.
    target: the mixture, or a Reference that has it.

  Returns:
    [n, k], float64; nan in the rows of samples that are not finite.

  Raises:
    ValueError: the dimensions differ, or the reference has no mixture.
  """
  mixture = _mixture(target)
  means, covariances = (np.asarray(a, np.float64) for a in (mixture.means, mixture.covariances))
  x = as_points("x", x, means.shape[1]).astype(np.float64)
  x = np.where(np.isfinite(x).all(1, keepdims=True), x, np.nan)
  distances = np.empty((x.shape[0], means.shape[0]))
  for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
    if covariance.ndim < 2:
      whitened = (x - mean) / np.sqrt(covariance)
    else:
      whitened = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T).T
    distances[:, k] = np.linalg.norm(whitened, axis=1)
  return distances


def mode_weights(x: ArrayLike, target: Mixture | Reference) -> np.ndarray:
  """The share of the samples that belongs to each mode, [k], summing to 1.

  Args and errors: those of `mode_distances`. All nan where a sample is not finite.
  """
  distances = mode_distances(x, target)
  if np.isnan(distances).any():
    return np.full(distances.shape[1], np.nan)
  return np.bincount(distances.argmin(1), minlength=distances.shape[1]) / distances.shape[0]


def mode_weight_tv(key: Key | None, x: ArrayLike, target: Mixture | Reference) -> float:
  """Total variation between the shares and the true weights, 1/2 sum_k |share - weight|.

  In [0, 1]. Exact samples give about sum_k sqrt(w (1 - w) / (2 pi n)).

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened to d.
    target: the mixture, or a Reference that has it.

  Returns:
    The distance; nan where a sample is not finite.

  Raises:
    ValueError: the dimensions differ, or the reference has no mixture.
  """
  del key
  weights = np.asarray(_mixture(target).weights, np.float64)
  return float(np.abs(mode_weights(x, target) - weights).sum() / 2)


def off_mode_share(
  key: Key | None, x: ArrayLike, target: Mixture | Reference, *, num_std: float = 4.0
) -> float:
  """The share of the samples farther than `num_std` standard deviations from every mode.

  In [0, 1]. Exact samples in d dimensions give P(chi_d > num_std): in 2-D exp(-num_std^2 / 2),
  so 0.03 % at 4.

  Args, returns and errors: those of `mode_weight_tv`.
  """
  del key
  nearest = mode_distances(x, target).min(1)
  return float("nan") if np.isnan(nearest).any() else float((nearest > num_std).mean())


def within_mode_std(
  key: Key | None, x: ArrayLike, target: Mixture | Reference, *, num_std: float = 4.0
) -> float:
  """Spread of the samples about their modes over the true one: 1 is right, less is too tight.

  The root mean square deviation per coordinate, each in its mode's standard deviations, of the
  samples no farther than `num_std` from their mode. That cut takes 0.13 % off in 2-D at 4.

  Args, returns and errors: those of `mode_weight_tv`; nan also where every sample is off mode.
  """
  del key
  nearest = mode_distances(x, target).min(1)
  kept = nearest[nearest <= num_std]
  if np.isnan(nearest).any() or not kept.size:
    return float("nan")
  return float(np.sqrt((kept**2).mean() / as_points("x", x).shape[1]))


def _mixture(target: Mixture | Reference) -> Mixture:
  """The mixture itself.

  Raises:
    ValueError: there is none: no target, or one without modes of some width.
  """
  mixture = target.target if isinstance(target, Reference) else target
  if not has_modes(mixture):
    name = type(mixture).__name__
    raise ValueError(f"target = {name}: mode metrics need weights, means and covariances above 0")
  return mixture
