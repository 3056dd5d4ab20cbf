"""Random keys of a run: one stream per purpose, one key per step."""

from __future__ import annotations

import enum

import jax

from scorelab.typing import Array, Key


class Stream(enum.IntEnum):
  """Purposes of keys: see `stream_key`. Never renumber."""

  INIT = 0
  DATA = 1
  LOSS = 2
  VALIDATION = 3
  TRAIN_SET = 4
  EVALUATION = 5
  SCORE_ERROR = 6
  LIKELIHOOD = 7


def stream_key(root: Key, stream: Stream, step: Array | int) -> Key:
  """Returns a stream's key at a step: `fold_in(fold_in(root, stream), step)`."""
  return jax.random.fold_in(jax.random.fold_in(root, stream), step)
