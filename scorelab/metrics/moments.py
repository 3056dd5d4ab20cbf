"""Moments and intervals of samples against those of a law: of posteriors above all.

A posterior is reported by its mean, its covariance and its credible intervals, so that errors of
these are what a user of the samples makes.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
import numpy as np

from scorelab.metrics.reference import Reference, as_pair, as_points
from scorelab.ranges import Between
from scorelab.typing import Key, PointSet, ProjectedTarget, ReferenceSet
from scorelab.validation import checked


def mean_shift(key: Key | None, x: PointSet, y: ReferenceSet | Reference) -> float:
  """Returns the distance between the means, as a share of the reference's root of total variance.

  Exact samples give about 1 / sqrt(n), and with m reference points sqrt(1 / n + 1 / m).

  Args:
    key: ignored.
    x: samples [n, *event].
    y: reference points [m, *event], or a Reference that has some.

  Returns:
    |mean x - mean y| / sqrt(tr Cov y); nan if a sample is not finite.
  """
  del key
  x, y = _pair(x, y)
  if not np.isfinite(x).all():
    return float("nan")
  return float(np.linalg.norm(x.mean(0) - y.mean(0)) / np.sqrt(y.var(0).sum()))


def covariance_error(key: Key | None, x: PointSet, y: ReferenceSet | Reference) -> float:
  """Returns the relative error of the covariance, |Cov x - Cov y| / |Cov y| in Frobenius's norm.

  Args:
    key: ignored.
    x: samples [n, *event].
    y: reference points [m, *event], or a Reference that has some.

  Returns:
    The error, 1 for samples that are all the same; nan if a sample is not finite.
  """
  del key
  x, y = _pair(x, y)
  if not np.isfinite(x).all():
    return float("nan")
  found, true = (np.atleast_2d(np.cov(points.T)) for points in (x, y))
  return float(np.linalg.norm(found - true) / np.linalg.norm(true))


@checked
def interval_error(
  key: Key | None,
  x: PointSet,
  y: ReferenceSet | Reference,
  *,
  level: Annotated[float, Between(0, 1, "()")] = 0.9,
) -> float:
  """Returns the error of credible intervals: of the mass that each has, which should be `level`.

  The intervals are the samples' central ones, coordinate by coordinate. Their mass is that under
  the reference: exact if the Reference has a law whose marginals are known.

  Args:
    key: ignored.
    x: samples [n, *event].
    y: reference points [m, *event], or a Reference.
    level: mass of the samples between the ends.

  Returns:
    The mean over coordinates of |mass - level|; nan if a sample is not finite.
  """
  del key
  points = as_points("x", x)
  if not np.isfinite(points).all():
    return float("nan")
  ends = np.quantile(points.astype(float), [(1 - level) / 2, (1 + level) / 2], axis=0)
  law = y.target if isinstance(y, Reference) else y
  if isinstance(law, ProjectedTarget):
    below = np.asarray(law.marginal(jnp.eye(points.shape[1])).cdf(jnp.asarray(ends)), float)
    mass = below[1] - below[0]
  else:
    _, y = _pair(x, y)
    mass = ((y >= ends[0]) & (y <= ends[1])).mean(0)
  return float(np.abs(mass - level).mean())


def _pair(x: PointSet, y: ReferenceSet | Reference) -> tuple[np.ndarray, np.ndarray]:
  """Returns samples and reference points in float64, [n, d] and [m, d]."""
  x, y = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  return x.astype(float), y.astype(float)
