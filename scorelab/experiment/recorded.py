"""The data of a run as its config.json records them: enough to build its network without them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scorelab.experiment.build import assemble
from scorelab.experiment.spec import Experiment


@dataclasses.dataclass(frozen=True)
class RecordedTarget:
  """A target whose data are not there: it has their shape and scale, and cannot be drawn from.

  Attributes:
    event_shape: of one point.
    scale: the std over all coordinates.
    num_classes: of the labels; 0 without them.
    num_train: training points in memory.
    streamed: whether training streamed images from files.
  """

  event_shape: tuple[int, ...]
  scale: float
  num_classes: int
  num_train: int
  streamed: bool

  @property
  def dim(self) -> int:
    """Coordinates of one point."""
    return math.prod(self.event_shape)

  @property
  def splits(self) -> dict[str, np.ndarray]:
    """Training points that are all 0 and take no memory: only their number is known."""
    return {"train": np.broadcast_to(np.float32(0), (self.num_train, *self.event_shape))}

  @property
  def stream(self) -> str | None:
    """A stand-in for the stream; None where there was none."""
    return "not there" if self.streamed else None


def build_without_data(config: ConfigDict, data: Mapping[str, Any]) -> Experiment:
  """Builds a run's network, schedule and loss without its data, which need not be there any more.

  Args:
    config: of the run.
    data: as its config.json records them: see `scorelab.data.fingerprints.record`.

  Returns:
    An experiment to restore parameters with: it has no points, and measures nothing.
  """
  config = config.copy_and_resolve_references()
  config.evaluation.update(metrics=(), likelihood_points=0, reference="fresh")
  found: dict[str, Any] = dict(data["built_from"])
  target = RecordedTarget(tuple(found.pop("event_shape")), **found)
  return assemble(config, target)
