"""Rebuilds a run's network from the record of its data in config.json, without the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scorelab.experiment.build import assemble
from scorelab.experiment.spec import Experiment
from scorelab.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class RecordedTarget:
  """A placeholder for data that are not available: has their shape and scale, and no points.

  Attributes:
    event_shape: shape of one point.
    scale: the std over all coordinates.
    num_classes: number of classes; 0 without labels.
    num_train: training points in memory.
    streamed: True if training streamed images from files.
  """

  event_shape: tuple[int, ...]
  scale: float
  num_classes: int
  num_train: int
  streamed: bool

  @property
  def dim(self) -> int:
    """Number of coordinates of one point."""
    return math.prod(self.event_shape)

  def sample(self, key: Key, n: int) -> Array:
    """Raises ValueError: there are no data."""
    raise ValueError("the data of this run are not there: nothing can be drawn from them")

  @property
  def splits(self) -> dict[str, np.ndarray]:
    """Zero training points that take no memory: only their number is known."""
    return {"train": np.broadcast_to(np.float32(0), (self.num_train, *self.event_shape))}

  @property
  def stream(self) -> str | None:
    """A placeholder for the stream; None if there was none."""
    return "not there" if self.streamed else None


def build_without_data(config: ConfigDict, data: Mapping[str, Any]) -> Experiment:
  """Builds a run's network, schedule and loss without its data, which may no longer exist.

  Args:
    config: the run's config.
    data: the record of the data in config.json: see `scorelab.data.fingerprints.record`.

  Returns:
    An experiment for restoring parameters: it has no points and no evaluation.
  """
  config = config.copy_and_resolve_references()
  config.evaluation.update(metrics=(), likelihood_points=0, reference="fresh")
  found: dict[str, Any] = dict(data["built_from"])
  target = RecordedTarget(tuple(found.pop("event_shape")), **found)
  return assemble(config, target)
