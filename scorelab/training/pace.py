"""Lengths of the training loop's chunks, and the metrics of steps that are not logged yet.

A chunk is at most `log_every` steps and a few seconds long, so that a stop request is served soon.
The length depends on the clock; the results do not: K steps in one chunk give the same bits as K
chunks of one step, and a line of metrics.jsonl is computed from all of its steps at once.
"""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from scorelab.typing import Metrics

CHUNK_SECONDS = 4.0
"""Longest chunk. Two chunks are in flight, so a stop takes up to twice this, plus the save."""


class Pace:
  """Chooses the length of the next chunk: a divisor of the number of steps between two lines.

  Args:
    log_every: steps between two lines.
    step: completed updates at the start.
    one_by_one: True if every step is a dispatch of its own. Then any length runs the same program.
      Else each length is compiled, and no later chunk is longer than the first.

  Attributes:
    length: number of steps of the next chunk.
    known: True once the time of a step has been measured.
  """

  def __init__(self, log_every: int, step: int, one_by_one: bool) -> None:
    self.known = False
    self._log_every, self._one_by_one = log_every, one_by_one
    rest = math.gcd(log_every, step)  # a resumed run may start between two lines
    self.length = 1 if one_by_one else rest
    self._dispatched, self._ready, self._lengths = 0.0, 0.0, [0]

  def dispatched(self, length: int) -> None:
    """Records that a chunk was compiled and is running."""
    self._dispatched = time.monotonic()
    self._lengths = [*self._lengths[-1:], length]

  def waited(self, step: int) -> None:
    """Records that the previous chunk (or the first) has finished, and sets the next length."""
    now = time.monotonic()
    length = self._lengths[0] if self.known else self._lengths[-1]
    seconds = now - (self._ready if self.known else self._dispatched)
    self._ready, self.known = now, True
    if jax.process_count() > 1:  # all processes must use the same length
      seconds = float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
    fits = [
      divisor
      for divisor in range(1, self._log_every + 1)
      if self._log_every % divisor == 0
      and (step % self._log_every) % divisor == 0
      and divisor * seconds <= CHUNK_SECONDS * length
    ]
    longest = max(fits, default=1)
    self.length = longest if self._one_by_one else min(self.length, longest)


class Window:
  """The metrics of steps that have no line in metrics.jsonl yet.

  Args:
    unlogged: return value of `unlogged` in a run that stopped between two lines.
  """

  def __init__(self, unlogged: list[Any] | None = None) -> None:
    self._restored, self._parts = unlogged, []

  def add(self, parts: list[Metrics]) -> None:
    """Adds the metrics of further steps, each with a leading axis of steps."""
    self._parts += [jax.tree.map(np.asarray, part) for part in parts]
    if self._restored is not None:
      leaves, structure = jax.tree.flatten(self._parts[0])
      pairs = zip(self._restored, leaves, strict=True)
      before = [np.asarray(values, leaf.dtype) for values, leaf in pairs]
      self._parts.insert(0, jax.tree.unflatten(structure, before))
      self._restored = None

  def take(self) -> Metrics:
    """Returns the metrics of all steps and clears them."""
    parts, self._parts = self._parts, []
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  def unlogged(self) -> list[Any] | None:
    """Returns the metrics of all steps as JSON values with float32's exact bits, or None."""
    if not self._parts:
      return self._restored
    metrics = jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._parts)
    return [leaf.tolist() for leaf in jax.tree.leaves(metrics)]
