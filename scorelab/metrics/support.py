"""Distance to the support, weights of its parts, and memorisation of training points.

For laws on sets without volume, such as curves or a finite data set, no density tells how far off a
sample is; the distance to the set does.

Yoon et al., "Diffusion Probabilistic Models Generalize when They Fail to Memorize", ICML 2023
workshop on structured probabilistic inference: the share of memorised samples.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from scorelab.metrics.reference import Reference, as_pair
from scorelab.typing import Key, PartedTarget, PointSet, ReferenceSet, SupportedTarget

_T = TypeVar("_T")


def support_distance(key: Key | None, x: PointSet, target: SupportedTarget | Reference) -> float:
  """Mean distance of the samples to the nearest point of the target's support.

  In the data's units; exact samples give 0.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, *event].
    target: has `distance`; or a Reference that has such a target.

  Returns:
    The distance; nan if a sample is not finite.

  Raises:
    ValueError: the target has no `distance`.
  """
  del key
  x = np.asarray(x)
  distance = _having(target, SupportedTarget, "distance").distance
  return float(distance(x).mean()) if np.isfinite(x).all() else float("nan")


def component_tv(key: Key | None, x: PointSet, target: PartedTarget | Reference) -> float:
  """Total variation between the parts' shares and their weights, 1/2 sum_k |share - weight|.

  Two equal parts with shares .5 -+ d give d. Exact samples give about
  sum_k sqrt(w (1 - w) / (2 pi n)).

  Args, returns and errors: those of `support_distance`, of a target with `component` and `weights`.
  """
  del key
  parted, x = _having(target, PartedTarget, "component"), np.asarray(x)
  if not np.isfinite(x).all():
    return float("nan")
  weights = np.asarray(parted.weights, np.float64)
  shares = np.bincount(parted.component(x), minlength=len(weights)) / len(x)
  return float(np.abs(shares - weights).sum() / 2)


def nearest_point_distance(key: Key | None, x: PointSet, y: ReferenceSet | Reference) -> float:
  """Mean distance of the samples to the nearest reference point.

  Against the training points it is 0 for a sampler that memorises; exact samples give what held-out
  points have: the floor.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n] or [n, ...], trailing axes flattened.
    y: the points, or a Reference that has some.

  Returns:
    The distance; nan if a sample is not finite.

  Raises:
    ValueError: the dimensions differ, or there are no points.
  """
  del key
  nearest = _nearest(x, y, 1)
  return float("nan") if nearest is None else float(nearest.mean())


def memorised_share(
  key: Key | None, x: PointSet, y: ReferenceSet | Reference, *, ratio: float = 1 / 3
) -> float:
  """Share of the samples much nearer to one reference point than to any other.

  In [0, 1]: how many have d_1 < ratio d_2, the distances to the nearest two points. Exact samples
  give what is due to chance: on a line with equidistant points, 2 ratio / (1 + ratio).

  Args, returns and errors: those of `nearest_point_distance`; y has two points at least.

  Args:
    ratio: d_1 / d_2 below which a sample counts as memorised, in (0, 1).
  """
  del key
  nearest = _nearest(x, y, 2)
  return float("nan") if nearest is None else float((nearest[:, 0] < ratio * nearest[:, 1]).mean())


def _nearest(x: PointSet, y: ReferenceSet | Reference, count: int) -> np.ndarray | None:
  """Distances of x to its nearest points of y, [n, count], increasing; None if one is not finite.

  Raises:
    ValueError: as the metrics, or there are fewer points than `count`.
  """
  from scipy.spatial import KDTree

  x, points = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  if len(points) < count:
    raise ValueError(f"y has {len(points)} points, must be at least {count}")
  if not (np.isfinite(x).all() and np.isfinite(points).all()):
    return None

  def tree() -> KDTree:
    return KDTree(points)

  kept = y.cached("tree of points", tree) if isinstance(y, Reference) else tree()
  return np.asarray(kept.query(x, list(range(1, count + 1)))[0])


def _having(target: object, protocol: type[_T], method: str) -> _T:
  """Returns the target itself, or that of a Reference.

  Raises:
    ValueError: there is none, or it does not fulfil the protocol.
  """
  measured = target.target if isinstance(target, Reference) else target
  if not isinstance(measured, protocol):
    raise ValueError(f"target = {type(measured).__name__}: this metric needs its {method}()")
  return measured
