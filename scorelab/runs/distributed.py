"""Coordination of the processes of one run."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def leads() -> bool:
  """Whether this process writes what a run leaves: the only one, or the first of several."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Waits until every process is here; each such place has a name of its own."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
  """Whether it is so in any process; all of them must ask."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
