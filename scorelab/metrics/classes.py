"""Metrics by a classifier of real points: confidence, accuracy and balance of classes.

The classifier is scikit-learn's logistic regression on the target's own training points. Floors are
made of those points too, so they are classified by cross-validation: a classifier of digits is
right about 99.7 % of the points that it was trained on, and 96 % of others.

On digits (8 by 8) it is right about 97 % of the test set, and confident (above 0.9) about 84 %. It
is confident about 27 % of draws from a Gaussian with the digits' moments, and 19 % of means of two
digits.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from typing_extensions import TypeIs

from scorelab.metrics.reference import Reference, as_points
from scorelab.typing import AnyArray, Key, LabelledSplitTarget, MixtureTarget, PointSet

_FOLDS = 5
_MANY = 10_000  # training points, of which fits take minutes: two folds


def has_labels(target: object) -> TypeIs[LabelledSplitTarget]:
  """Returns True if a target has labelled training and test points."""
  return isinstance(target, LabelledSplitTarget) and {"train", "test"} <= set(target.labels)


def _labelled(target: object) -> LabelledSplitTarget:
  """Returns the target itself.

  Raises:
    ValueError: it has no labels.
  """
  if not has_labels(target):
    raise ValueError(f"target = {type(target).__name__} has no labelled points to learn from")
  return target


@functools.lru_cache(maxsize=2)  # a target is itself only: it stands for its training points
def _classifier(target: LabelledSplitTarget) -> Any:
  from sklearn.linear_model import LogisticRegression  # here: most runs need no scikit-learn

  train = as_points("train", target.splits["train"])
  return LogisticRegression(max_iter=1000).fit(train, np.asarray(target.labels["train"]))


def class_probabilities(x: PointSet, target: object) -> np.ndarray:
  """Returns the classifier's probabilities of points [n, ...], [n, classes].

  Training points are judged by a classifier of the other folds of the training set.

  Raises:
    ValueError: the target has no labels.
  """
  target, points = _labelled(target), as_points("x", x)
  probabilities = _classifier(target).predict_proba(points)
  places = _places(target)
  found = np.array([places.get(_digest(point), -1) for point in points])
  if (found >= 0).any():
    probabilities[found >= 0] = _held_out(target)[found[found >= 0]]
  return probabilities


def _digest(point: np.ndarray) -> bytes:
  return hashlib.blake2b(point.astype(np.float32).tobytes(), digest_size=16).digest()


@functools.lru_cache(maxsize=2)
def _places(target: LabelledSplitTarget) -> dict[bytes, int]:
  """Returns the index of each training point by its digest."""
  train = as_points("train", target.splits["train"])
  return {_digest(point): index for index, point in enumerate(train)}


@functools.lru_cache(maxsize=2)
def _held_out(target: LabelledSplitTarget) -> np.ndarray:
  """Returns the probabilities of training points, [n, classes], by cross-validation."""
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import cross_val_predict

  train, labels = as_points("train", target.splits["train"]), np.asarray(target.labels["train"])
  rarest = int(np.unique(labels, return_counts=True)[1].min())
  folds = min(rarest, _FOLDS if len(train) <= _MANY else 2)
  if folds < 2:  # a class of one point cannot be left out
    return _classifier(target).predict_proba(train)
  model = LogisticRegression(max_iter=1000)
  return cross_val_predict(model, train, labels, cv=folds, method="predict_proba")


def confident_share(key: Key | None, x: PointSet, y: Reference, *, threshold: float = 0.9) -> float:
  """Returns the share of samples that the classifier is confident about over that of test points.

  About 1 for real points; see `class_probabilities` of points that it was trained on.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened.
    y: a Reference whose target has labels.
    threshold: the probability of the likeliest class from which on it is confident, in (0, 1).

  Returns:
    The ratio of the shares, at least 0; nan if a sample is not finite.

  Raises:
    ValueError: the target has no labels.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  target = _labelled(y.target)
  share = (class_probabilities(x, target).max(1) > threshold).mean()
  of_test = (class_probabilities(target.splits["test"], target).max(1) > threshold).mean()
  return float(share / of_test)


def has_known_classes(target: object) -> bool:
  """Returns True if points of a target have a class, by its own law or by a classifier."""
  return isinstance(target, MixtureTarget) or has_labels(target)


def class_accuracy(key: Key | None, x: PointSet, y: Reference) -> float:
  """Returns the share of samples that belong to the class requested for them.

  By the likeliest component where the target is a mixture, else by the classifier. Exact samples
  fall short of 1 as far as classes overlap, or the classifier errs: see the floor.

  Args:
    key: ignored; here because every metric takes one.
    x: the samples, [n, ...], trailing axes flattened.
    y: a Reference with labels [n], whose target is a mixture or has labels.

  Returns:
    A share in [0, 1]; nan if a sample is not finite.

  Raises:
    ValueError: there are no labels, or nothing that knows classes.
  """
  del key
  if y.labels is None:
    raise ValueError("y = a Reference without labels: no class was requested")
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  if isinstance(y.target, MixtureTarget):
    found = np.asarray(y.target.responsibilities(jnp.asarray(x))).argmax(-1)
  else:
    found = class_probabilities(x, y.target).argmax(1)
  return float((found == np.asarray(y.labels)).mean())


def class_count(key: Key | None, x: PointSet, y: Reference, *, threshold: float = 0.9) -> float:
  """Returns the number of classes among the samples that the classifier is confident about.

  Args, returns and errors: those of `confident_share`.

  Args:
    threshold: as for `confident_share`.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")
  probabilities = class_probabilities(x, y.target)
  return float(len(set(probabilities.argmax(1)[probabilities.max(1) > threshold])))


def class_imbalance(key: Key | None, x: PointSet, y: Reference) -> float:
  """Returns the largest ratio between a class's share of samples and its share of test points.

  Over classes max(p / q, q / p), with samples and test points assigned to their likeliest class: 1
  is perfect, inf means that a class is missing.

  Args, returns and errors: those of `confident_share`.
  """
  del key
  if not np.isfinite(x := as_points("x", x)).all():
    return float("nan")

  target = _labelled(y.target)

  def shares(points: AnyArray) -> np.ndarray:
    probabilities = class_probabilities(points, target)
    return np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(
      probabilities
    )

  p, q = shares(x), shares(target.splits["test"])
  if not p[q > 0].all():
    return float("inf")
  factor = p[q > 0] / q[q > 0]
  return float(np.maximum(factor, 1 / factor).max())
