"""Agreement of posterior samples with what was observed: known without a truth."""

from __future__ import annotations

import numpy as np

from scorelab.metrics.reference import Reference
from scorelab.typing import Key, PointSet


def measurement_misfit(key: Key | None, x: PointSet, y: Reference) -> float:
  """Returns the root mean square of (y - A x) / noise_std over samples and entries of y.

  Its square has the mean 1 over problems if samples are exact: (x, y) is then a draw of the joint
  law. More says that samples disagree with y, much less that they fit its noise.

  Args:
    key: ignored.
    x: samples [n, *event].
    y: a Reference with an observation.

  Returns:
    The misfit; nan if a sample is not finite.

  Raises:
    ValueError: y has no observation, or one without noise.
  """
  del key
  seen = y.observation if isinstance(y, Reference) else None
  if seen is None:
    raise ValueError("needs an observation: set observation.name")
  seen.require_noise("measurement_misfit")
  x = np.asarray(x)
  if not np.isfinite(x).all():
    return float("nan")
  residual = np.asarray(seen.residual(x), float) / float(seen.noise_std)
  return float(np.sqrt(np.mean(residual**2)))
