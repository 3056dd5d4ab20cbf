"""A finite set of points as a target, split into training, validation and test points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scorelab.typing import Array, Key


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
  """Points of any shape, without a density or a score.

  Attributes:
    train: [n, *event_shape], n >= 1: also what `sample` draws from.
    validation, test: of the same event shape, held out; none of them for None.
    location, spread: what the coordinates of the points were centred on and divided by, of shape
      event_shape or []: x = location + spread * point is in the data's own units.
    fingerprint: of the file that the points were read from (scorelab.data.fingerprints), or None.
  """

  train: Float[Array, " _ *event"]
  validation: Float[Array, " _ *event"] | None = None
  test: Float[Array, " _ *event"] | None = None
  location: Array | float = 0.0
  spread: Array | float = 1.0
  fingerprint: Mapping[str, Any] | None = None

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Shape of one point."""
    return self.train.shape[1:]

  @property
  def dim(self) -> int:
    """Number of coordinates of one point."""
    return math.prod(self.event_shape)

  @property
  def scale(self) -> float:
    """The std over all coordinates of the training points, each about its own mean."""
    return float(np.sqrt(np.asarray(self.train, float).var(0).mean()))

  @property
  def bounds(self) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of shape event_shape: the box of the training points and a tenth of it around."""
    low, high = np.asarray(self.train).min(0), np.asarray(self.train).max(0)
    margin = 0.1 * (high - low)
    return low - margin, high + margin

  @property
  def splits(self) -> dict[str, Array]:
    """The points by split: 'train' and, if present, 'validation' and 'test'."""
    named = {"train": self.train, "validation": self.validation, "test": self.test}
    return {name: points for name, points in named.items() if points is not None}

  def sample(self, key: Key, n: int) -> Float[Array, " {n} *event"]:
    """Returns training points, drawn with replacement: [n, *event_shape]."""
    return self.train[jax.random.randint(key, (n,), 0, len(self.train))]


def split(
  points: ArrayLike,
  *,
  validation_fraction: float = 0.1,
  test_fraction: float = 0.2,
  split_seed: int = 0,
  standardise: bool = False,
  names: Sequence[str] | None = None,
  fingerprint: Mapping[str, Any] | None = None,
) -> DataSet:
  """Splits points at random.

  Args:
    points: [n, *event_shape].
    validation_fraction, test_fraction: share of the points, in [0, 1), together below 1; each
      rounded up to whole points, and 0 for no such set.
    split_seed: seed of the split: the same points are always split alike.
    standardise: whether each coordinate is scaled to mean 0 and std 1 over the training points,
      in float64.
    names: of the coordinates, for messages; None for their positions.
    fingerprint: of the points' file.

  Raises:
    ValueError: a fraction is not allowed, no training point would be left, a coordinate that is to
      be standardised is the same in all of them, or float32 cannot distinguish the points of a
      coordinate.
  """
  if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
    raise ValueError(
      f"validation_fraction = {validation_fraction} and test_fraction = {test_fraction} must be at "
      "least 0, and below 1 together"
    )
  points = np.asarray(points, float)
  points = points[np.random.default_rng(split_seed).permutation(len(points))]
  num_validation, num_test = (
    math.ceil(fraction * len(points)) for fraction in (validation_fraction, test_fraction)
  )
  num_train = len(points) - num_validation - num_test
  if num_train < 2:
    raise ValueError(
      f"{len(points)} points are too few: with {num_validation} to validate and {num_test} to test "
      f"{max(num_train, 0)} are left to train on"
    )
  location, spread = np.zeros(()), np.ones(())
  if standardise:
    location, spread = points[:num_train].mean(0), points[:num_train].std(0)
    if not spread.all():
      raise ValueError("standardise = True, and a coordinate is the same in all training points")
  points = (points - location) / spread
  _check_float32(points, names)
  ends = (num_train, num_train + num_validation)
  train, validation, test = (jnp.asarray(a, float) for a in np.split(points, ends))
  return DataSet(
    train,
    validation if num_validation else None,
    test if num_test else None,
    jnp.asarray(location, float),
    jnp.asarray(spread, float),
    fingerprint,
  )


def _check_float32(points: np.ndarray, names: Sequence[str] | None) -> None:
  """Raises ValueError if float32 loses a coordinate's differences, as of milliseconds since 1970.

  They are where rounding moves points by a thousandth of the coordinate's std, or by a hundredth of
  that and makes one value of two.
  """
  flat = points.reshape(len(points), -1)
  std = flat.std(0)
  wide = (np.abs(flat).max(0) > 100 * std) & (std > 0)
  for i in np.flatnonzero(wide).tolist():  # the others keep theirs
    column = flat[:, i]
    with np.errstate(over="ignore"):
      rounded = column.astype(np.float32).astype(float)
    moved = np.sqrt(((rounded - column) ** 2).mean()) / std[i]
    values, left = len(np.unique(column)), len(np.unique(rounded))
    if values > 1 and (moved > 1e-3 or (moved > 1e-5 and left < values / 2)):
      named = f"coordinate {i}" if names is None else f"column {names[i]!r}"
      raise ValueError(
        f"{named} has {values} values about {column.mean():.6g}, and float32 tells {left} of them "
        "apart: set target.standardise = True, or subtract a constant"
      )


def index_of_class(
  key: Key, labels: Int[np.ndarray, " m"], requested: Int[Array, " n"]
) -> Int[Array, " n"]:
  """Returns the index of a point of each of the requested classes [n], with replacement; jittable.

  Args:
    key: consumed.
    labels: [m] integers, of all points. Of a class that none of them has, the index is of any.
    asked: the requested classes, [n] integers from 0 on.
  """
  order = np.argsort(labels, kind="stable")
  counts = np.bincount(labels, minlength=int(labels.max()) + 1)
  starts, counts = jnp.asarray(np.cumsum(counts) - counts), jnp.asarray(counts)
  rank = jax.random.randint(key, requested.shape, 0, jnp.maximum(counts[requested], 1))
  return jnp.asarray(order)[starts[requested] + rank]
