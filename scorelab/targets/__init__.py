"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line here. Constructors
take keyword options only, all of them with defaults. A target has `sample`, `event_shape` and
`scale`. Further abilities, such as an exact score, classes or fixed points, are the protocols of
`scorelab.typing` with Target in their names; `isinstance` checks for them.

A target with a box (low, high) for figures has it as `bounds`.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from typing_extensions import TypeIs

from scorelab.predictions import Exact
from scorelab.targets import digits, patches
from scorelab.targets.circles import Circles, two_circles, two_circles_points
from scorelab.targets.data_set import DataSet
from scorelab.targets.digits import DequantisedDigits, Digits
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.marginals import Marginals
from scorelab.targets.mixtures import grid25, nine_modes, ring, two_modes_1d
from scorelab.targets.patches import DequantisedPatches, Patches
from scorelab.targets.points import Points, checkerboard, moons, pinwheel, spirals, swiss_roll
from scorelab.typing import (
  Array,
  ClassedTarget,
  ExactLabelledTarget,
  ExactTarget,
  LabelledSplitTarget,
  SplitTarget,
  StreamedTarget,
  Target,
)
from scorelab.validation import Registry

TARGETS: dict[str, Callable[..., Target]] = Registry("target") | {
  "nine_modes": nine_modes,
  "ring": ring,
  "grid25": grid25,
  "two_modes_1d": two_modes_1d,
  "two_circles": two_circles,
  "two_circles_points": two_circles_points,
  "swiss_roll": swiss_roll,
  "moons": moons,
  "spirals": spirals,
  "checkerboard": checkerboard,
  "digits": digits.digits,
  "patches": patches.patches,
  "pinwheel": pinwheel,
}


def has_truth(target: object) -> TypeIs[ExactTarget]:
  """Returns True if a target knows its exact score."""
  return isinstance(target, ExactTarget)


def truth_of(target: object) -> Exact:
  """Returns the exact score of a target, as a parameterization."""
  if not has_truth(target):
    raise ValueError(f"target = {type(target).__name__} has no exact score: no predict()")
  labelled = isinstance(target, ExactLabelledTarget)
  return Exact(target.predict, target.predict_of_class if labelled else None)


def labelled_splits_of(target: object) -> Mapping[str, tuple[Array, Array]]:
  """Returns the fixed points of a target by split, each with its labels [n]."""
  labels = target.labels if isinstance(target, LabelledSplitTarget) else {}
  return {name: (x, jnp.asarray(labels[name])) for name, x in splits_of(target).items()}


def num_classes_of(target: object) -> int:
  """Returns the number of a target's classes; 0 without classes."""
  return target.num_classes if isinstance(target, ClassedTarget) else 0


def is_streamed(target: object) -> bool:
  """Returns whether a target's training points are read from files, in epochs."""
  return isinstance(target, StreamedTarget) and target.stream is not None


def splits_of(target: object) -> Mapping[str, Array]:
  """Returns the fixed points [n, *event_shape] by 'train', 'validation' and 'test'; {} for none."""
  return target.splits if isinstance(target, SplitTarget) else {}


__all__ = [
  "TARGETS",
  "Circles",
  "DataSet",
  "DequantisedDigits",
  "DequantisedPatches",
  "Digits",
  "Empirical",
  "GaussianMixture",
  "Marginals",
  "Patches",
  "Points",
  "checkerboard",
  "grid25",
  "has_truth",
  "is_streamed",
  "labelled_splits_of",
  "moons",
  "nine_modes",
  "num_classes_of",
  "pinwheel",
  "ring",
  "spirals",
  "splits_of",
  "swiss_roll",
  "truth_of",
  "two_circles",
  "two_circles_points",
  "two_modes_1d",
]
