"""Precision and recall by nearest-neighbour manifolds.

Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
NeurIPS 2019 (arXiv 1904.06991), section 2. A set's manifold is the union of balls about its points,
each out to the point's k-th nearest neighbour in the set (eq. 1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scorelab.metrics.reference import Points, Reference, as_pair
from scorelab.typing import Key, PointSet, ReferenceSet

_BLOCK = 2**24  # distances at a time: 128 MiB


def precision(
  key: Key | None, x: PointSet, y: ReferenceSet | Reference, *, num_neighbours: int = 3
) -> float:
  """Share of samples within the reference's manifold (eq. 2): in [0, 1], 1 for good samples.

  Exact samples stay below 1, by how much depends on the dimension: compare with the floor.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened; best features of images.
    y: the reference points, or a Reference that has some.
    num_neighbours: k, below the size of either set.

  Returns:
    The share; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, a set is too small, or the reference has no points.
  """
  del key
  return _shares(x, y, num_neighbours, of_samples=True)


def recall(
  key: Key | None, x: PointSet, y: ReferenceSet | Reference, *, num_neighbours: int = 3
) -> float:
  """Share of reference points within the samples' manifold: in [0, 1], 1 if none is missed.

  Args, returns and errors: those of `precision`.

  Args:
    num_neighbours: as for `precision`.
  """
  del key
  return _shares(x, y, num_neighbours, of_samples=False)


def _shares(
  x: PointSet, y: ReferenceSet | Reference, num_neighbours: int, of_samples: bool
) -> float:
  x, points = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  if not 1 <= num_neighbours < min(len(x), len(points)):
    raise ValueError(
      f"num_neighbours = {num_neighbours} of {len(x)} samples and {len(points)} points, must be at "
      "least 1 and below both"
    )
  if not (np.isfinite(x).all() and np.isfinite(points).all()):
    return float("nan")
  if not of_samples:
    return _covered(points, x, _radii(x, num_neighbours))

  def radii() -> np.ndarray:
    return _radii(points, num_neighbours)

  kept = y.cached(("radii", num_neighbours), radii) if isinstance(y, Reference) else radii()
  return _covered(x, points, kept)


def _covered(points: Points, centres: Points, radii: np.ndarray) -> float:
  """Returns the share of points [n, d] in any of the balls around centres [m, d]."""
  inside = [(block <= radii).any(1) for block in _distances(points, centres)]
  return float(np.concatenate(inside).mean())


def _radii(points: Points, k: int) -> np.ndarray:
  """Distance from each point to its k-th nearest neighbour, [n]."""
  nearest = [np.partition(block, k, axis=1)[:, k] for block in _distances(points, points)]
  return np.concatenate(nearest)  # the nearest, at 0, is the point itself


def _distances(x: Points, y: Points) -> Iterator[np.ndarray]:
  """Euclidean distances of x [n, d] to y [m, d] by blocks [b, m], in float64."""
  from scipy.spatial.distance import cdist  # here: most runs need no SciPy

  for rows in np.array_split(x, len(x) * len(y) // _BLOCK + 1):
    yield cdist(rows, y)
