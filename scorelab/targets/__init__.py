"""Distributions to sample from, by their config names.

A target is one function or class in one file of this package, and one line of target_registry.py.
Constructors take keyword options only, all of them with defaults. A target has `sample`,
`event_shape` and `scale`. Further abilities, such as an exact score, classes or fixed points, are
the protocols of `scorelab.typing` with Target in their names; `isinstance` checks for them.

A target with a box (low, high) for figures has it as `bounds`.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from typing_extensions import TypeIs

from scorelab.predictions import Exact
from scorelab.targets import target_registry
from scorelab.targets.circles import Circles
from scorelab.targets.data_set import DataSet
from scorelab.targets.digits import DequantisedDigits, Digits
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.marginals import Marginals
from scorelab.targets.patches import DequantisedPatches, Patches
from scorelab.targets.points import Points
from scorelab.targets.target_registry import *
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
from scorelab.validation import Registry, parts_of

TARGETS: dict[str, Callable[..., Target]] = Registry("target", parts_of(target_registry))


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
