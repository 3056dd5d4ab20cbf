"""Coordination of the processes of one run."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_leader() -> bool:
  """Returns True in the process that writes the run's files: the only one, or process 0."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Barrier: waits until every process has called it with this name, unique in the program."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
  """Returns True in every process if the flag is set in any; all must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
