"""Distances of samples from the data: `metric(key, samples, reference, **options) -> float`.

A metric is one function in one file of this package, and one line of metric_registry.py. Metrics
run on the host; those without randomness ignore the key. The reference is an array of points, or,
for modes and for exact sliced distances, a distribution; or a `Reference`, which has both and
shares work between calls. A sample that is not finite gives nan.
"""

from collections.abc import Callable

from scorelab.metrics import metric_registry
from scorelab.metrics.classes import class_probabilities, has_known_classes, has_labels
from scorelab.metrics.features import FEATURES, features_need, in_features
from scorelab.metrics.girsanov import girsanov
from scorelab.metrics.kernels import mean_pairwise_distance
from scorelab.metrics.metric_registry import *
from scorelab.metrics.modes import has_modes, mode_weights
from scorelab.metrics.reference import Reference
from scorelab.metrics.score_error import (
  SPREAD,
  ScoreError,
  class_score_error,
  mode_score_error,
  score_error,
)
from scorelab.typing import PartedTarget, SupportedTarget
from scorelab.validation import Registry, parts_of

METRICS: dict[str, Callable[..., float]] = Registry("metric", parts_of(metric_registry))

MODE_METRICS = {  # of a target with `has_modes`
  name: METRICS[name] for name in ("mode_weight_tv", "off_mode_share", "within_mode_std")
}
SUPPORT_METRICS: dict[str, tuple[type, str]] = {  # what a target must be, and its method
  "component_tv": (PartedTarget, "component"),
  "support_distance": (SupportedTarget, "distance"),
}
CLASS_METRICS = {  # of a target with `has_labels`
  name: METRICS[name] for name in ("class_count", "class_imbalance", "confident_share")
}
LABEL_METRICS = {  # of samples of requested classes
  name: METRICS[name] for name in ("class_accuracy",)
}


def needed_by(name: str, target: object) -> str | None:
  """Returns the requirement of a metric that the target does not meet, or None."""
  if name in MODE_METRICS:
    return None if has_modes(target) else "modes of some width"
  if name in CLASS_METRICS:
    return None if has_labels(target) else "labelled points"
  if name in LABEL_METRICS:
    return None if has_known_classes(target) else "classes"
  if name in SUPPORT_METRICS:
    protocol, method = SUPPORT_METRICS[name]
    return None if isinstance(target, protocol) else f"a target with {method}()"
  return None
