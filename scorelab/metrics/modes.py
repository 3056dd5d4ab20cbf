"""Mode coverage, mode weights and mode widths of samples from a known mixture.

Distances are in standard deviations: |x - mean| / std of an isotropic mode, the Mahalanobis
distance of any other. A sample belongs to the mode whose own density is the largest at it: the
nearest one where all are of one size. That gives the modes' true shares where they hardly overlap.

A mode's own samples are some sqrt(d) deviations away from its mean in d dimensions, so the radius
beyond which a sample is off mode grows with d; see `mode_radius`.
"""

from __future__ import annotations

import numpy as np
from typing_extensions import TypeIs

from scorelab.metrics.reference import Reference, as_points
from scorelab.typing import Key, ModedTarget, PointSet


def has_modes(target: object) -> TypeIs[ModedTarget]:
  """Returns True if a target has modes and all modes with weight have a width."""
  if not isinstance(target, ModedTarget):
    return False
  covariances = np.asarray(target.covariances)[np.asarray(target.weights) > 0]
  widths = np.linalg.eigvalsh(covariances) if covariances.ndim == 3 else covariances
  return bool((widths > 0).all())


def mode_radius(dim: int, num_std: float = 4.0) -> float:
  """Returns the radius of a mode in its standard deviations, the same in probability for every d.

  The r with P(chi_d > r) = exp(-num_std^2 / 2), so that it is `num_std` itself in 2-D: at 4.0 a
  mode's own samples are beyond it with probability 3.4e-4, and r is 3.6 for d = 1, 11.4 for d = 80
  and 30.7 for d = 800.

  Args:
    dim: d, at least 1.
    num_std: the radius in 2-D, in (0, 37]; beyond that the probability underflows.

  Raises:
    ValueError: an argument is out of range.
  """
  if dim < 1 or not 0 < num_std <= 37:
    raise ValueError(f"dim = {dim} must be at least 1, and num_std = {num_std} in (0, 37]")
  if dim == 2:
    return float(num_std)
  import scipy.special  # here: most runs need no SciPy

  return float(np.sqrt(2 * scipy.special.gammainccinv(dim / 2, np.exp(-(num_std**2) / 2))))


def mode_distances(x: PointSet, target: ModedTarget | Reference) -> np.ndarray:
  """Returns the distance of samples from each mode, in standard deviations.

  Args:
    x: [n, ...], trailing axes flattened to d.
    target: the mixture, or a Reference that has it.

  Returns:
    [n, k], float64; nan in the rows of samples that are not finite, inf for a mode without weight
    and width.

  Raises:
    ValueError: the dimensions differ, or the reference has no mixture.
  """
  return _distances_and_sizes(x, target)[0]


def nearest_modes(x: PointSet, target: ModedTarget | Reference) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mode that each sample belongs to, [n], and its distance from there, [n].

  Args and errors: those of `mode_distances`. A sample that is not finite has distance nan.
  """
  distances, log_sizes = _distances_and_sizes(x, target)
  if np.ptp(log_sizes[np.isfinite(log_sizes)]) == 0:
    modes = distances.argmin(1)
  else:  # twice the negative log-densities
    modes = (distances**2 + 2 * log_sizes).argmin(1)
  return modes, np.take_along_axis(distances, modes[:, None], axis=1)[:, 0]


def off_mode(x: PointSet, target: ModedTarget | Reference, *, num_std: float = 4.0) -> np.ndarray:
  """Returns a mask [n] of samples beyond `mode_radius` of every mode.

  Args and errors: those of `mode_distances` and of `mode_radius`. False for a sample that is not
  finite.
  """
  distances = mode_distances(x, target)
  return distances.min(1) > mode_radius(_dim(target), num_std)


def mode_weights(x: PointSet, target: ModedTarget | Reference) -> np.ndarray:
  """Returns the share of the samples that belongs to each mode, [k], summing to 1.

  Args and errors: those of `mode_distances`. All nan if a sample is not finite.
  """
  modes, distances = nearest_modes(x, target)
  num_modes = len(np.asarray(_mixture(target).weights))
  if np.isnan(distances).any():
    return np.full(num_modes, np.nan)
  return np.bincount(modes, minlength=num_modes) / len(modes)


def mode_weight_tv(key: Key | None, x: PointSet, target: ModedTarget | Reference) -> float:
  """Returns the total variation of shares and true weights, 1/2 sum_k |share - weight|.

  In [0, 1]. Exact samples give about sum_k sqrt(w (1 - w) / (2 pi n)).

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened to d.
    target: the mixture, or a Reference that has it.

  Returns:
    The distance; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, or the reference has no mixture.
  """
  del key
  weights = np.asarray(_mixture(target).weights, np.float64)
  return float(np.abs(mode_weights(x, target) - weights).sum() / 2)


def off_mode_share(
  key: Key | None, x: PointSet, target: ModedTarget | Reference, *, num_std: float = 4.0
) -> float:
  """Returns the share of samples beyond `mode_radius(d, num_std)` deviations of every mode.

  In [0, 1]. Exact samples give exp(-num_std^2 / 2) in every dimension, 0.03 % at 4.0, or less
  where modes overlap.

  Args, returns and errors: those of `mode_weight_tv`, and of `mode_radius`.

  Args:
    num_std: radius of a mode in 2-D, in its standard deviations, in (0, 37]; see `mode_radius`.
  """
  del key
  if not np.isfinite(as_points("x", x)).all():
    return float("nan")
  return float(off_mode(x, target, num_std=num_std).mean())


def within_mode_std(
  key: Key | None, x: PointSet, target: ModedTarget | Reference, *, num_std: float = 4.0
) -> float:
  """Returns the spread of samples around their modes over the true one: below 1 is too tight.

  The root mean square deviation per coordinate, each in its mode's standard deviations, of the
  samples no farther than `mode_radius(d, num_std)` from their mode. At 4.0 that cut takes 0.23 %
  off in 1-D, 0.13 % in 2-D and less in more dimensions.

  Args, returns and errors: those of `off_mode_share`; nan also where every sample is off mode.

  Args:
    num_std: as for `off_mode_share`.
  """
  del key
  _, distances = nearest_modes(x, target)
  dim = _dim(target)
  kept = distances[distances <= mode_radius(dim, num_std)]
  if np.isnan(distances).any() or not kept.size:
    return float("nan")
  return float(np.sqrt((kept**2).mean() / dim))


def _distances_and_sizes(
  x: PointSet, target: ModedTarget | Reference
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `mode_distances` and the log-determinants [k] of the modes' covariances' roots."""
  mixture = _mixture(target)
  means, covariances = (np.asarray(a, np.float64) for a in (mixture.means, mixture.covariances))
  dim = means.shape[1]
  x = as_points("x", x, dim).astype(np.float64)
  x = np.where(np.isfinite(x).all(1, keepdims=True), x, np.nan)
  distances, log_sizes = np.full((len(x), len(means)), np.inf), np.full(len(means), np.inf)
  distances[np.isnan(x[:, 0])] = np.nan
  for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
    if covariance.ndim == 2:
      if np.linalg.eigvalsh(covariance).min() <= 0:
        continue
      root = np.linalg.cholesky(covariance)
      whitened = np.linalg.solve(root, (x - mean).T).T
      log_sizes[k] = np.log(np.diag(root)).sum()
    else:
      if covariance.min() <= 0:
        continue
      whitened = (x - mean) / np.sqrt(covariance)
      log_sizes[k] = np.log(np.broadcast_to(covariance, dim)).sum() / 2
    distances[:, k] = np.linalg.norm(whitened, axis=1)
  return distances, log_sizes


def _dim(target: ModedTarget | Reference) -> int:
  return np.shape(_mixture(target).means)[1]


def _mixture(target: ModedTarget | Reference) -> ModedTarget:
  """Returns the mixture itself.

  Raises:
    ValueError: there is none: no target, or one without modes of some width.
  """
  mixture = target.target if isinstance(target, Reference) else target
  if not has_modes(mixture):
    name = type(mixture).__name__
    raise ValueError(f"target = {name}: mode metrics need weights, means and covariances above 0")
  return mixture
