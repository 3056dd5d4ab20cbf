"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line here. Constructors
take keyword options only, all of them with defaults. The laws of `points` that have no exact score
are for training and looking at: an evaluation needs the truth, so no config names them.
"""

from collections.abc import Callable
from typing import Any

from scorelab.targets import mixtures, points

TARGETS: dict[str, Callable[..., Any]] = {
  "nine_modes": mixtures.nine_modes,
  "ring": mixtures.ring,
  "grid25": mixtures.grid25,
  "two_modes_1d": mixtures.two_modes_1d,
  "two_circles_points": points.two_circles_points,
}
