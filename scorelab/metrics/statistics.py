"""Mean and standard error of independent values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_and_sem(values: ArrayLike) -> tuple[float, float]:
  """Returns the mean of independent values and its standard error, std / sqrt(n).

  Args:
    values: [n], n > 0; one that is NaN makes both numbers NaN.

  Returns:
    The mean, and its standard error, NaN for a single value.
  """
  x = np.asarray(values)
  sem = float(np.std(x, ddof=1)) / x.size**0.5 if x.size > 1 else float("nan")
  return float(x.mean()), sem
