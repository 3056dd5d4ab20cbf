"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line here. Constructors
take keyword options only, all of them with defaults. A target has

    sample(key, n) -> [n, *event_shape]     event_shape     scale, the std over all coordinates

and may have more: `predict`, its exact score (`has_truth`); `bounds`, a box (low, high) for
figures; `splits`, fixed points in the place of fresh draws (`splits_of`);
`dequantise(key, x) -> x`, noise that every training batch gets anew; `augment(key, x) -> x`, of
training batches alone; `stream`, training images that are read from files in every epoch;
`distance(x)` to its support, and `component(x)` with `weights`, which of its parts a point belongs
to.

One with classes has `num_classes`, `sample_with_labels(key, n) -> (x, label)`, which draws what
`sample` draws, and `sample_of_class(key, label [n]) -> x`; `labels` of its splits, where it has
those; and, where there is a truth, `predict_of_class(x, level, label)`, which may also know
`log_class_prob(x, level) -> [*batch, num_classes]`. The label num_classes is no class.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from scorelab.predictions import Exact
from scorelab.targets import digits, patches
from scorelab.targets.circles import Circles, two_circles, two_circles_points
from scorelab.targets.data_set import DataSet
from scorelab.targets.digits import DequantisedDigits, Digits
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import grid25, nine_modes, ring, two_modes_1d
from scorelab.targets.patches import DequantisedPatches, Patches
from scorelab.targets.points import Points, checkerboard, moons, pinwheel, spirals, swiss_roll
from scorelab.typing import Array
from scorelab.validation import Registry

TARGETS: dict[str, Callable[..., Any]] = Registry("target") | {
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


def has_truth(target: Any) -> bool:
  """Whether a target knows its exact score: it has `predict`."""
  return hasattr(target, "predict")


def truth_of(target: Any) -> Exact:
  """The exact score of a target with `has_truth`, in a network's place."""
  return Exact(target.predict, getattr(target, "predict_of_class", None))


def labelled_splits_of(target: Any) -> Mapping[str, tuple[Array, Array]]:
  """`splits_of` a target with classes, each split with its labels [n]."""
  labels = getattr(target, "labels", {})
  return {name: (x, jnp.asarray(labels[name])) for name, x in splits_of(target).items()}


def splits_of(target: Any) -> Mapping[str, Array]:
  """The points [n, *event_shape] that a target brings as 'train', 'validation' or 'test'."""
  return getattr(target, "splits", {})


__all__ = [
  "TARGETS",
  "Circles",
  "DataSet",
  "DequantisedDigits",
  "DequantisedPatches",
  "Digits",
  "Empirical",
  "GaussianMixture",
  "Patches",
  "Points",
  "checkerboard",
  "grid25",
  "has_truth",
  "labelled_splits_of",
  "moons",
  "nine_modes",
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
