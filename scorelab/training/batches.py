"""Training batches: from arrays on the devices, or streamed from files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from scorelab.data.image_files import Batches
from scorelab.errors import RunError
from scorelab.experiment.spec import Experiment
from scorelab.runs.sharding import Layout
from scorelab.typing import Array, Batch, DecodedTarget

_MOST_BYTES = 2**26
"""Largest number of bytes of images that are sent to the devices at once."""


class Feed:
  """Inputs of a chunk when the training points live on the devices or are drawn from the target."""

  def __init__(self, data: Batch) -> None:
    self._data = data

  def sizes(self, length: int) -> Iterator[int]:
    """Yields the number of steps of each dispatch; they add up to `length`."""
    yield length

  def take(self, length: int) -> tuple[Any, ...]:
    """Returns the arguments of a chunk of `length` steps that follow its state."""
    del length
    return (self._data,)

  def progress(self) -> dict[str, Array]:
    """Returns the entries of `TrainState.extra` that a resumed run needs.

    All processes must call it.
    """
    return {}


class StreamFeed(Feed):
  """Inputs of a chunk when images are streamed: reads the next batches while the devices compute.

  Args:
    batches: batches of this process.
    layout: the layout that the batches are placed in.
    batch_bytes: bytes of one batch, over all processes.
  """

  def __init__(self, batches: Batches, layout: Layout, batch_bytes: int) -> None:
    super().__init__({})
    self._batches, self._layout = batches, layout
    self._most = max(1, _MOST_BYTES // batch_bytes)

  def sizes(self, length: int) -> Iterator[int]:
    for done in range(0, length, self._most):
      yield min(self._most, length - done)

  def take(self, length: int) -> tuple[Any, ...]:
    try:
      batches = self._batches.take(length)
    except ValueError as error:
      raise RunError(f"training stopped: {error}") from error
    return {}, jax.tree.map(lambda x: self._layout.join(x, axis=1), batches)

  def progress(self) -> dict[str, Array]:
    own = np.array([_split(self._batches.position), _split(self._batches.damaged)])
    if jax.process_count() > 1:
      own = np.asarray(multihost_utils.process_allgather(own))
    return {"read": self._layout.place(jnp.asarray(own.reshape(-1, 2, 2)))}


def unread_position() -> Array:
  """Returns the position of a stream before its first item; int32 [processes, 2, 2]."""
  return jnp.zeros((jax.process_count(), 2, 2), jnp.int32)


def _split(number: int) -> tuple[np.int32, np.int32]:
  """Splits an integer into (number >> 31, low 31 bits): JAX has no int64 unless x64 is enabled."""
  return np.int32(number >> 31), np.int32(number & (2**31 - 1))


def _joined(pair: np.ndarray) -> int:
  return (int(pair[0]) << 31) + int(pair[1])


def make_feed(experiment: Experiment, layout: Layout, read: Array | None) -> Feed:
  """Returns the feed of an experiment; a stream starts at the position given by `read`.

  Args:
    experiment: the experiment.
    layout: the layout of its arrays.
    read: position of each process in the stream, [processes, 2, 2]; None without a stream.
  """
  if read is None:
    return Feed(layout.place(experiment.data))
  target, rank = experiment.target, jax.process_index()
  assert isinstance(target, DecodedTarget)
  position, damaged = map(_joined, np.asarray(read)[rank])
  stream = dataclasses.replace(
    target.stream,
    seed=experiment.config["seed"],
    labelled=experiment.conditional,
    process=rank,
    num_processes=jax.process_count(),
    start=position,
  )
  size = experiment.batch_size
  try:
    batches = Batches(stream, size // jax.process_count(), target.num_workers, damaged)
  except ValueError as error:
    raise RunError(str(error)) from error
  return StreamFeed(batches, layout, size * math.prod(target.event_shape))
