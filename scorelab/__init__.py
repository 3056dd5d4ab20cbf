"""scorelab: the lab for score-based generative models in which the truth is known.

import scorelab; scorelab.samplers.ddim    # a part is imported when it is first named
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from scorelab import (
    guidance,
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

__version__ = "0.1.0"
__all__ = (
  "guidance",
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
  if name in __all__:
    return importlib.import_module(f"scorelab.{name}")
  raise AttributeError(f"module 'scorelab' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
