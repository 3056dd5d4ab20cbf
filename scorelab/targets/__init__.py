"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line here. Constructors
take keyword options only, all of them with defaults. Mixtures, circles and finite sets know their exact
score; of the laws of `points` an evaluation compares samples alone.
"""

from collections.abc import Callable
from typing import Any

from scorelab.targets import circles, mixtures, points

TARGETS: dict[str, Callable[..., Any]] = {
  "nine_modes": mixtures.nine_modes,
  "ring": mixtures.ring,
  "grid25": mixtures.grid25,
  "two_modes_1d": mixtures.two_modes_1d,
  "two_circles": circles.two_circles,
  "two_circles_points": circles.two_circles_points,
  "swiss_roll": points.swiss_roll,
  "moons": points.moons,
  "spirals": points.spirals,
  "checkerboard": points.checkerboard,
  "pinwheel": points.pinwheel,
}


def has_truth(target: Any) -> bool:
  """Whether a target knows its exact score: it has `predict`."""
  return hasattr(target, "predict")
