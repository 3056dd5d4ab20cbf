"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line here. Constructors
take keyword options only, all of them with defaults. A target has

    sample(key, n) -> [n, *event_shape]     event_shape     scale, the std over all coordinates

and may have more: `predict`, its exact score (`has_truth`); `bounds`, a box (low, high) for
figures; `splits`, fixed points in the place of fresh draws (`splits_of`);
`dequantise(key, x) -> x`, noise that every training batch gets anew; `distance(x)` to its support,
and `component(x)` with `weights`, which of its parts a point belongs to.
"""

from collections.abc import Callable, Mapping
from typing import Any

from scorelab.targets import circles, digits, mixtures, patches, points
from scorelab.typing import Array

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
  "digits": digits.digits,
  "patches": patches.patches,
  "pinwheel": points.pinwheel,
}


def has_truth(target: Any) -> bool:
  """Whether a target knows its exact score: it has `predict`."""
  return hasattr(target, "predict")


def splits_of(target: Any) -> Mapping[str, Array]:
  """The points [n, *event_shape] that a target brings as 'train', 'validation' or 'test'."""
  return getattr(target, "splits", {})
