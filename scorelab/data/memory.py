"""Refuses arrays larger than the machine's memory."""

from __future__ import annotations

import os

from scorelab.errors import ConfigError


def check_memory(size: float, what: str) -> None:
  """Raises ConfigError if `size` bytes exceed the machine's memory."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if size > memory:
    raise ConfigError(
      f"{what} takes {size / 2**30:.3g} GiB, and the machine has {memory / 2**30:.3g}"
    )
