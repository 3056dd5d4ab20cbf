"""Distances of samples from the data: `metric(key, samples, reference, **options) -> float`.

A metric is one function in one file of this package, and one line here. Metrics run on the host;
those without randomness ignore the key. The reference is an array of points, or, for modes and
for exact sliced distances, a distribution; or a `Reference`, which has both and shares work
between calls. A sample that is not finite gives nan.
"""

from collections.abc import Callable

from scorelab.metrics.classes import (
  class_accuracy,
  class_count,
  class_imbalance,
  class_probabilities,
  confident_share,
  has_labels,
  knows_classes,
)
from scorelab.metrics.features import FEATURES, features_need, in_features
from scorelab.metrics.frechet import frechet
from scorelab.metrics.girsanov import girsanov
from scorelab.metrics.kernels import energy_distance, kernel_distance, mean_pairwise_distance
from scorelab.metrics.manifolds import precision, recall
from scorelab.metrics.modes import (
  has_modes,
  mode_weight_tv,
  mode_weights,
  off_mode_share,
  within_mode_std,
)
from scorelab.metrics.reference import Reference
from scorelab.metrics.score_error import (
  SPREAD,
  ScoreError,
  class_score_error,
  mode_score_error,
  score_error,
)
from scorelab.metrics.support import (
  component_tv,
  memorised_share,
  nearest_point_distance,
  support_distance,
)
from scorelab.metrics.wasserstein import max_sliced_wasserstein, sliced_wasserstein, wasserstein
from scorelab.typing import PartedTarget, SupportedTarget
from scorelab.validation import Registry

MODE_METRICS: dict[str, Callable[..., float]] = {  # of a target with `has_modes`
  "mode_weight_tv": mode_weight_tv,
  "off_mode_share": off_mode_share,
  "within_mode_std": within_mode_std,
}
SUPPORT_METRICS: dict[str, tuple[type, str]] = {  # what a target must be, and its method
  "component_tv": (PartedTarget, "component"),
  "support_distance": (SupportedTarget, "distance"),
}
CLASS_METRICS: dict[str, Callable[..., float]] = {  # of a target with `has_labels`
  "class_count": class_count,
  "class_imbalance": class_imbalance,
  "confident_share": confident_share,
}
LABEL_METRICS: dict[str, Callable[..., float]] = {  # of samples of requested classes
  "class_accuracy": class_accuracy,
}
METRICS: dict[str, Callable[..., float]] = Registry("metric") | {
  "sliced_wasserstein": sliced_wasserstein,
  "max_sliced_wasserstein": max_sliced_wasserstein,
  "wasserstein": wasserstein,
  "energy_distance": energy_distance,
  "frechet": frechet,
  "kernel_distance": kernel_distance,
  "precision": precision,
  "recall": recall,
  "memorised_share": memorised_share,
  "nearest_point_distance": nearest_point_distance,
  **MODE_METRICS,
  **CLASS_METRICS,
  **LABEL_METRICS,
  "component_tv": component_tv,
  "support_distance": support_distance,
}


def needed_by(name: str, target: object) -> str | None:
  """Returns the requirement of a metric that the target does not meet, or None."""
  if name in MODE_METRICS:
    return None if has_modes(target) else "modes of some width"
  if name in CLASS_METRICS:
    return None if has_labels(target) else "labelled points"
  if name in LABEL_METRICS:
    return None if knows_classes(target) else "classes"
  if name in SUPPORT_METRICS:
    protocol, method = SUPPORT_METRICS[name]
    return None if isinstance(target, protocol) else f"a target with {method}()"
  return None


__all__ = [
  "CLASS_METRICS",
  "FEATURES",
  "LABEL_METRICS",
  "METRICS",
  "MODE_METRICS",
  "SPREAD",
  "SUPPORT_METRICS",
  "Reference",
  "ScoreError",
  "class_accuracy",
  "class_count",
  "class_imbalance",
  "class_probabilities",
  "class_score_error",
  "component_tv",
  "confident_share",
  "energy_distance",
  "features_need",
  "frechet",
  "girsanov",
  "has_labels",
  "has_modes",
  "in_features",
  "kernel_distance",
  "knows_classes",
  "max_sliced_wasserstein",
  "mean_pairwise_distance",
  "memorised_share",
  "mode_score_error",
  "mode_weight_tv",
  "mode_weights",
  "nearest_point_distance",
  "needed_by",
  "off_mode_share",
  "precision",
  "recall",
  "score_error",
  "sliced_wasserstein",
  "support_distance",
  "wasserstein",
  "within_mode_std",
]
