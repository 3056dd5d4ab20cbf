"""Random keys of a run: a stream for each purpose, and a step."""

from __future__ import annotations

import enum

import jax

from scorelab.typing import Array, Key


class Stream(enum.IntEnum):
  """What a key is for: see `stream_key`. Never renumber."""

  INIT = 0
  DATA = 1
  LOSS = 2
  VALIDATION = 3
  TRAIN_SET = 4
  EVALUATION = 5
  SCORE_ERROR = 6
  LIKELIHOOD = 7


def stream_key(root: Key, stream: Stream, step: Array | int) -> Key:
  """The key of a stream at a step, of a run's root key: `fold_in(fold_in(root, stream), step)`."""
  return jax.random.fold_in(jax.random.fold_in(root, stream), step)
