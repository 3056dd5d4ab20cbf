"""What a classifier of real points makes of the samples: whether they look like any class.

The classifier is scikit-learn's logistic regression on the target's own training points. Of digits
(8 by 8) it is right about 97 % of the test set and confident, above 0.9, about 84 %; about 27 % of
draws from a Gaussian with the digits' moments, and 19 % of means of two digits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scorelab.metrics.reference import Reference, as_points
from scorelab.typing import Key


def has_labels(target: Any) -> bool:
  """Whether a target brings labelled training and test points: `labels` beside its `splits`."""
  return {"train", "test"} <= set(getattr(target, "labels", {}))


@functools.lru_cache(maxsize=2)  # a target is itself only: it stands for its training points
def _classifier(target: Any) -> Any:
  from sklearn.linear_model import LogisticRegression  # here: most runs need no scikit-learn

  train = as_points("train", target.splits["train"])
  return LogisticRegression(max_iter=1000).fit(train, np.asarray(target.labels["train"]))


def class_probabilities(x: ArrayLike, target: Any) -> np.ndarray:
  """The classifier's probabilities of points [n, ...] of a target with `has_labels`: [n, classes].

  Raises:
    ValueError: the target has no labels.
  """
  if not has_labels(target):
    raise ValueError(f"target = {type(target).__name__} has no labelled points to learn from")
  return _classifier(target).predict_proba(as_points("x", x))


def confident_share(
  key: Key | None, x: ArrayLike, y: Reference, *, threshold: float = 0.9
) -> float:
  """The share of samples that the classifier is confident about, over that of real test points.

  About 1 for real points that it has not seen; more for points that it was trained on.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened.
    y: a Reference whose target has labels.
    threshold: the probability of the likeliest class from which on it is confident, in (0, 1).

  Returns:
    The ratio of the shares, at least 0; nan where a sample is not finite.

  Raises:
    ValueError: the target has no labels.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  share = (class_probabilities(x, y.target).max(1) > threshold).mean()
  of_test = (class_probabilities(y.target.splits["test"], y.target).max(1) > threshold).mean()
  return float(share / of_test)


def knows_classes(target: Any) -> bool:
  """Whether points of a target can be told apart by class: by its own law, or by a classifier."""
  return hasattr(target, "responsibilities") or has_labels(target)


def class_accuracy(key: Key | None, x: ArrayLike, y: Reference) -> float:
  """The share of samples that are of the class that they were asked to be of.

  By the likeliest component where the target is a mixture, else by the classifier. Exact samples
  fall short of 1 as far as classes overlap, or the classifier errs: see the floor.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened.
    y: a Reference with labels [n], whose target is a mixture or has labels.

  Returns:
    A share in [0, 1]; nan where a sample is not finite.

  Raises:
    ValueError: there are no labels, or nothing that knows classes.
  """
  del key
  if y.labels is None:
    raise ValueError("y = a Reference without labels: no class was asked for")
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  if hasattr(y.target, "responsibilities"):
    found = np.asarray(y.target.responsibilities(x)).argmax(-1)
  else:
    found = class_probabilities(x, y.target).argmax(1)
  return float((found == np.asarray(y.labels)).mean())


def class_count(key: Key | None, x: ArrayLike, y: Reference, *, threshold: float = 0.9) -> float:
  """How many classes occur among the samples that the classifier is confident about.

  Args, returns and errors: those of `confident_share`.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  probabilities = class_probabilities(x, y.target)
  return float(len(set(probabilities.argmax(1)[probabilities.max(1) > threshold])))


def class_imbalance(key: Key | None, x: ArrayLike, y: Reference) -> float:
  """The largest factor by which a class's share of samples is off its share of real test points.

  Over classes max(p / q, q / p), of all samples by their likeliest class and of test points by
  theirs: 1 is right, inf where a class does not occur.

  Args, returns and errors: those of `confident_share`.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")

  def shares(points: ArrayLike) -> np.ndarray:
    probabilities = class_probabilities(points, y.target)
    return np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(
      probabilities
    )

  p, q = shares(x), shares(y.target.splits["test"])
  if not p[q > 0].all():
    return float("inf")
  factor = p[q > 0] / q[q > 0]
  return float(np.maximum(factor, 1 / factor).max())
