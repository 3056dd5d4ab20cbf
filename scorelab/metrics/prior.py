"""Cost of starting from a Gaussian: the divergence of the noised data from the prior.

    KL(N(alpha m, alpha^2 C + sigma^2 I) || N(0, s^2 I)),    s the prior's std

for the data's mean m and covariance C. It is exact for Gaussian data. For others it is the part of
the cost that their first two moments make, and the rest is smaller wherever this is small: noise
takes away higher moments faster.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from scorelab.ranges import Above
from scorelab.schedules import Schedule
from scorelab.validation import checked

_MOST_POINTS = 4096
_MOST_COORDINATES = 512


@dataclasses.dataclass(frozen=True)
class Moments:
  """The first two moments of data, as far as a spherical prior sees them.

  Attributes:
    squared_mean: |m|^2.
    variances: the eigenvalues of C that are not known to be 0, [k].
    dim: coordinates of one point.
  """

  squared_mean: float
  variances: np.ndarray
  dim: int

  @staticmethod
  def of(points: ArrayLike) -> Moments:
    """Estimates the moments of points [n, *event_shape], of evenly spaced ones if n is large.

    Points of more coordinates than their number give the eigenvalues by their Gram matrix.
    """
    x = np.asarray(points)
    x = x.reshape(len(x), -1)
    wide = x.shape[1] > _MOST_COORDINATES
    x = np.asarray(x[:: math.ceil(len(x) / (_MOST_COORDINATES if wide else _MOST_POINTS))], float)
    mean = x.mean(0)
    x = (x - mean) / math.sqrt(len(x))
    product = x @ x.T if x.shape[1] > len(x) else x.T @ x
    return Moments(float(mean @ mean), np.maximum(np.linalg.eigvalsh(product), 0), x.shape[1])


@checked
def prior_divergence(
  moments: Moments, alpha: float, sigma: float, prior_std: Annotated[float, Above(0)]
) -> float:
  """Returns the divergence in nats of noised data from N(0, prior_std^2 I).

  Args:
    moments: of the data.
    alpha, sigma: the level; alpha >= 0, sigma > 0.
    prior_std: above 0.
  """
  alpha, sigma = alpha / prior_std, sigma / prior_std
  noise = (sigma - 1) * (sigma + 1)  # sigma^2 - 1, which is 0 for variance-exploding processes
  excess = noise + alpha**2 * moments.variances
  rest = moments.dim - len(moments.variances)
  parts = np.sum(excess - np.log1p(excess)) + rest * (noise - math.log1p(noise))
  return float(parts + alpha**2 * moments.squared_mean) / 2


def least_ratio(moments: Moments, schedule: Schedule, most: float) -> float:
  """Returns the sigma / alpha from which on the divergence is at most `most` nats.

  Args:
    moments: of the data.
    schedule: the process, extrapolated where it does not reach that ratio, and its prior.
    most: above 0.
  """
  low, high = math.log(1e-3), math.log(1e15)
  for _ in range(50):
    middle = (low + high) / 2
    level = schedule.at_ratio(math.exp(middle))
    alpha, sigma, std = (float(a) for a in (*level[1:], schedule.prior_std(level)))
    enough = prior_divergence(moments, alpha, sigma, std) <= most
    low, high = (low, middle) if enough else (middle, high)
  return math.exp(high)
