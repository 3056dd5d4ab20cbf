"""Ratio of two means over paired draws, with its standard error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def ratio_of_means(values: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
  """Returns mean(values) / mean(reference) and its standard error, by the delta method.

  Both numbers of a draw share their randomness (same key, same reference set), so the error is
  that of the paired residuals, with R the ratio:

      sem = std(values - R reference) / (sqrt(n) |mean(reference)|)

  Args:
    values: [n], one number per draw.
    reference: [n], of the same draws.

  Returns:
    The ratio, NaN if a value is not finite or the reference's mean is 0, and its standard error,
    NaN for one draw too.
  """
  above, below = np.asarray(values, float), np.asarray(reference, float)
  mean = below.mean()
  if not np.isfinite([above.mean(), mean]).all() or mean == 0:
    return float("nan"), float("nan")
  ratio = above.mean() / mean
  if above.size < 2:
    return float(ratio), float("nan")
  sem = np.std(above - ratio * below, ddof=1) / (above.size**0.5 * abs(mean))
  return float(ratio), float(sem)
