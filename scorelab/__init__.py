"""scorelab: a lab for score-based generative models in which the truth is known.

import scorelab; scorelab.samplers.ddim    # subpackages are imported on first access
"""

from __future__ import annotations

from scorelab import moved

TYPE_CHECKING = False  # typing takes longer to import than all else here
if TYPE_CHECKING:
  from types import ModuleType

  from scorelab import (
    exact,
    likelihood,
    losses,
    metrics,
    networks,
    plotting,
    predictions,
    pretrained,
    samplers,
    schedules,
    targets,
  )

moved.install()

__version__ = "0.1.0"
__all__ = (
  "exact",
  "likelihood",
  "losses",
  "metrics",
  "networks",
  "plotting",
  "predictions",
  "pretrained",
  "samplers",
  "schedules",
  "targets",
)


def __getattr__(name: str) -> ModuleType:
  import importlib

  if name in __all__:
    return importlib.import_module(f"scorelab.{name}")
  raise AttributeError(f"module 'scorelab' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
