"""The error budget of one metric, with standard errors of paired differences."""

from __future__ import annotations

import numpy as np

from scorelab.metrics.ratios import ratio_of_means
from scorelab.metrics.statistics import mean_and_sem

BUDGET = ("floor", "discretisation", "prior", "learning")
"""Parts of a metric's value in the order in which they add up to it; see `budget`."""
POSTERIOR_BUDGET = ("floor", "discretisation", "prior", "likelihood", "particles", "learning")
"""Parts of a metric's value if samples are of a posterior."""
GUIDED_BUDGET = ("floor", "guidance", "discretisation", "prior", "learning")
"""Parts of a metric's value if samples are guided towards a known law."""
PARTS = ("floor", "guidance", "discretisation", "prior", "likelihood", "particles", "learning")
"""All parts, in the order in which tables and figures show them."""
_NAMES = {len(names): names for names in (BUDGET, GUIDED_BUDGET, POSTERIOR_BUDGET)}


def budget(measured: np.ndarray) -> dict[str, float | None]:
  """Computes the error budget of one metric from its [4, k], [5, k] or [6, k] values.

  The rows are floor, true_start, prior and network; floor, refined, true_start, prior and network,
  of guided samples; or floor, true_start, prior, largest, method and network, of a posterior. The
  columns are keys. A part is what a row adds to the one before.

  Returns:
    value, the parts that add up to it, and the standard error of each over the keys: `sem` for
    the value, `<part>_sem` for a part. None for a single key, for values that are not finite, and
    for parts without an exact score. `over_floor` is value / floor, with the error of the ratio
    paired by key.
  """
  names = _NAMES[len(measured)]
  floor, network = measured[0], measured[-1]
  added = np.diff(measured, axis=0, prepend=0)
  parts = {"value": network, **dict(zip(names, added, strict=True))}
  result: dict[str, float | None] = {}
  for name, values in parts.items():
    mean, sem = mean_and_sem(values)
    for field, number in ((name, mean), ("sem" if name == "value" else f"{name}_sem", sem)):
      result[field] = number if np.isfinite(number) else None
  ratio = zip(("over_floor", "over_floor_sem"), ratio_of_means(network, floor), strict=True)
  return result | {name: number if np.isfinite(number) else None for name, number in ratio}
