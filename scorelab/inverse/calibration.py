"""Simulation-based calibration of posterior samplers, over many problems.

If x ~ p(x), y ~ p(y | x) and z_1, ..., z_n are draws from p(x | y), the rank of each coordinate of
x among those of the z is uniform on 0, ..., n.

Reference: Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based
Calibration" (arXiv 1804.06788), theorem 1.
"""

from __future__ import annotations

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from scorelab.typing import AnyArray


def calibration_ranks(
  samples: Float[AnyArray, "problems n d"], truth: Float[AnyArray, "problems d"]
) -> Int[np.ndarray, "problems d"]:
  """Returns the rank, 0 to n, of each coordinate of the truth among a problem's samples.

  Samples should be independent given y; a coordinate may be any function of x.
  """
  return (np.asarray(samples) < np.asarray(truth)[:, None]).sum(axis=1)


def uniformity(
  ranks: Int[AnyArray, "problems d"], n: int, *, bins: int = 10
) -> Float[np.ndarray, " d"]:
  """Returns the p-value of uniform ranks by a chi-square test, for each coordinate.

  Args:
    ranks: 0 to n.
    n: number of samples per problem; n + 1 should be a multiple of `bins`.
    bins: number of cells; problems should be five times as many at least.

  Raises:
    ValueError: the cells would be unequal.
  """
  if (n + 1) % bins:
    raise ValueError(f"bins = {bins} must divide the number of ranks, n + 1 = {n + 1}")
  cells = np.asarray(ranks) * bins // (n + 1)
  counts = np.stack([np.bincount(cell, minlength=bins) for cell in cells.T])
  expected = counts.mean(axis=1, keepdims=True)
  return scipy.special.chdtrc(bins - 1, ((counts - expected) ** 2 / expected).sum(axis=1))
