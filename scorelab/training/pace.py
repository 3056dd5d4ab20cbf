"""Lengths of the training loop's chunks, and the metrics of steps that have no line yet.

A chunk is at most `log_every` steps and a few seconds, so that a stop is heard soon. Its length
depends on the clock; what a run computes and writes does not: K steps in one chunk give the bits of
K chunks of one, and a line of metrics.jsonl is made of all of its steps at once.
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
"""Of one chunk. Two are in flight, so a stop waits for twice as long, and for the saving."""


class Pace:
  """The length of the next chunk: a divisor of the steps between two lines.

  Args:
    log_every: steps between two lines.
    step: completed updates at the start.
    one_by_one: whether every step is a dispatch of its own. Then any length runs the same program;
      else each is compiled, and the first one is the longest.

  Attributes:
    length: of the next chunk.
    known: whether a step's time has been measured.
  """

  def __init__(self, log_every: int, step: int, one_by_one: bool) -> None:
    self.known = False
    self._log_every, self._one_by_one = log_every, one_by_one
    rest = math.gcd(log_every, step)  # of a line that was begun before the run was stopped
    self.length = 1 if one_by_one else rest
    self._dispatched, self._ready, self._lengths = 0.0, 0.0, [0]

  def dispatched(self, length: int) -> None:
    """Notes that a chunk was compiled and is running."""
    self._dispatched = time.monotonic()
    self._lengths = [*self._lengths[-1:], length]

  def waited(self, step: int) -> None:
    """Notes that the chunk before it is done, or the first one itself; sets the next length."""
    now = time.monotonic()
    length = self._lengths[0] if self.known else self._lengths[-1]
    seconds = now - (self._ready if self.known else self._dispatched)
    self._ready, self.known = now, True
    if jax.process_count() > 1:  # all must take the same length
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
    unlogged: those of a run that was stopped between two lines, as `unlogged` gave them.
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
    """Returns the metrics of all steps, and forgets them."""
    parts, self._parts = self._parts, []
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  def unlogged(self) -> list[Any] | None:
    """Returns the metrics of all steps as JSON values, of float32's bits; None for no steps."""
    if not self._parts:
      return self._restored
    metrics = jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._parts)
    return [leaf.tolist() for leaf in jax.tree.leaves(metrics)]
