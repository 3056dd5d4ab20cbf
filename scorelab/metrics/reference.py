"""Reference points or law of a metric, with a cache of work that several measurements share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Points: TypeAlias = np.ndarray
"""Points on the host, [n, d], float32 or float64."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """Points of the data, the distribution itself, or both; passed as a metric's `y`.

  Metrics of samples compare with the points, or with the target if there are no points; the metrics
  of modes need the target. Sorted projections (by key) and the energy self-term are cached, so that
  many sample sets measured with the same key and the same Reference share them.

  Attributes:
    points: [m, ...], trailing axes flattened by the metrics.
    target: a distribution, such as `targets.GaussianMixture`.
    labels: [n], the classes requested for the samples, if any.
    observation: an `inverse.Observation` of the samples, if any.
    capacity: number of cached results; the least recently used is dropped. 10,000 points under 1000
      projections take 40 MB for each key.
  """

  points: ArrayLike | None = None
  target: object = None
  labels: ArrayLike | None = None
  observation: Any = None
  capacity: int = 8
  _cache: dict[Hashable, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

  def __post_init__(self) -> None:
    if self.points is None and self.target is None:
      raise ValueError("Reference() needs points, a target, or both")

  def with_labels(self, labels: ArrayLike) -> Reference:
    """Returns the same reference, with its cache, for samples with these requested classes."""
    reference = dataclasses.replace(self, labels=labels)
    object.__setattr__(reference, "_cache", self._cache)
    return reference

  def require_points(self) -> ArrayLike:
    """Returns the points.

    Raises:
      ValueError: there are none.
    """
    if self.points is None:
      raise ValueError("y = a Reference without points: this metric needs some")
    return self.points

  @property
  def measured(self) -> Any:
    """Reference of metrics of samples: the points, else the target."""
    return self.target if self.points is None else self.points

  def cached(self, name: Hashable, make: Callable[[], Any]) -> Any:
    """Returns the result of `make()`, cached under this name."""
    value = self._cache.pop(name) if name in self._cache else make()
    self._cache[name] = value  # a dict keeps insertion order: the latest used is last
    while len(self._cache) > self.capacity:
      del self._cache[next(iter(self._cache))]
    return value


def as_points(name: str, x: ArrayLike, dim: int | None = None) -> Points:
  """Converts an array [n] or [n, ...] to points [n, d]: d = 1, or the trailing axes flattened.

  float64 stays; every other type becomes float32.

  Raises:
    ValueError: there is no point, or d is not `dim`; the message begins with `name`.
  """
  points = np.asarray(x)
  if points.ndim == 0 or points.size == 0:
    raise ValueError(f"{name} has shape {points.shape}, must be [n, ...] with n >= 1")
  dtype = np.float64 if points.dtype == np.float64 else np.float32
  points = points.reshape(len(points), -1).astype(dtype, copy=False)
  if dim is not None and points.shape[1] != dim:
    raise ValueError(f"{name} has points of dimension {points.shape[1]}, must be {dim}")
  return points


def as_pair(x: ArrayLike, y: ArrayLike) -> tuple[Points, Points]:
  """Converts both to points of one dimension.

  Raises:
    ValueError: their dimensions differ, or there are no points.
  """
  x = as_points("x", x)
  return x, as_points("y", y, x.shape[1])
