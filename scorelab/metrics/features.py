"""Distances in the feature space of a network, for images.

`in_features(frechet, ...)` of Inception's features is FID, `kernel_distance` there is KID: see
`scorelab/pretrained/inception.py`. The networks here are small ones, trained on images of the
target, which any target has. Numbers compare only within one network.

A floor is the metric of exact samples, which the feature network must not have seen, just as it has
not seen a model's samples. The exact samples of a target with test images are training images, so
the network is trained on the other splits, `held_out_splits`. A network that has memorised the
training images separates them from new ones: for images of noise with random labels the recall of
the training images is 0.63, and that of new images 0.86 (tests/core/metrics/test_features.py). The
network has seen the images of the reference; this affects floors and samples alike.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
NeurIPS 2017 (arXiv 1706.08500), eq. 6. Gidaris, Singh and Komodakis, "Unsupervised Representation
Learning by Predicting Image Rotations", ICLR 2018 (arXiv 1803.07728): features without labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike

from scorelab.metrics.classes import has_labels
from scorelab.metrics.reference import Reference
from scorelab.ranges import AtLeast
from scorelab.targets import splits_of
from scorelab.typing import Array, Key, LabelledSplitTarget, Params, PointSet, SplitTarget, Target
from scorelab.validation import Registry, checked

Extractor: TypeAlias = Callable[[ArrayLike], np.ndarray]
"""Images [n, h, w, c] -> features [n, d]."""

_STEPS, _BATCH = 400, 128


class Classifier(nn.Module):
  """Three convolutions (two of stride 2), a global mean over pixels, and a linear layer.

  Attributes:
    num_classes: number of logits.
    widths: channels of the convolutions; the last ones are the features.
  """

  num_classes: int
  widths: tuple[int, ...] = (32, 64, 64)

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """[n, h, w, c] -> logits [n, num_classes] and features [n, widths[-1]]."""
    for i, width in enumerate(self.widths):
      x = nn.silu(nn.Conv(width, (3, 3), strides=(2 if i else 1,) * 2)(x))
    features = x.mean((1, 2))
    return nn.Dense(self.num_classes)(features), features


def held_out_splits(target: object) -> tuple[str, ...]:
  """Returns the names of the splits that no floor uses: validation and test images.

  Without test images it is the training split. Exact samples are then draws from it with
  replacement: the network knows their law, but no draw.
  """
  splits = splits_of(target)
  labels = target.labels if isinstance(target, LabelledSplitTarget) else {}
  names = [name for name in ("validation", "test") if name in splits and name in (labels or splits)]
  return tuple(names) if "test" in names else ("train",)


def _joined(arrays: Mapping[str, Any], target: object) -> Array:
  return jnp.concatenate([jnp.asarray(arrays[name]) for name in held_out_splits(target)])


@functools.lru_cache(maxsize=2)  # a target is itself only: it stands for its images
def classifier(target: LabelledSplitTarget) -> Extractor:
  """Returns features of a classifier of the target's labels, trained on its `held_out_splits`."""
  labels = _joined(target.labels, target)

  def draw(key: Key, images: Array) -> tuple[Array, Array]:
    index = jax.random.randint(key, (_BATCH,), 0, len(images))
    return images[index], labels[index]

  return _trained(_joined(target.splits, target), draw, int(labels.max()) + 1)


@functools.lru_cache(maxsize=2)
def rotations(target: SplitTarget) -> Extractor:
  """Returns features of a network that classifies an image's rotation by quarter turns."""

  def draw(key: Key, images: Array) -> tuple[Array, Array]:
    index = jax.random.randint(key, (_BATCH // 4,), 0, len(images))
    turned = jnp.concatenate([jnp.rot90(images[index], turns, (1, 2)) for turns in range(4)])
    return turned, jnp.repeat(jnp.arange(4), _BATCH // 4)

  return _trained(_joined(target.splits, target), draw, 4)


FEATURES: dict[str, Callable[[Any], Extractor]] = Registry("features") | {
  "classifier": classifier,
  "rotations": rotations,
}


def features_need(name: str, target: Target) -> str | None:
  """Returns the requirement of these features that the target does not meet, or None."""
  shape = target.event_shape
  if name == "inception":
    return None if len(shape) == 3 and shape[-1] in (1, 3) else "grey or colour images"
  if len(shape) != 3 or "train" not in splits_of(target):
    return "training images"
  if name == "classifier":
    return None if has_labels(target) else "labelled images"
  return None if shape[0] == shape[1] else "square images"


def in_features(
  metric: Callable[..., float], name: str, features: Callable[[Any], Extractor]
) -> Callable[..., float]:
  """Returns a metric on features instead of images; a Reference's features are computed once.

  Args:
    metric: a metric on points.
    name: of the features; the key under which the Reference keeps its own.
    features: builds an extractor for a target: a value of FEATURES.

  Returns:
    `(key, x, reference, **options) -> float`, nan if a sample is not finite. Its attribute
    `of_points` is the metric on points.
  """

  def measured(key: Key | None, x: PointSet, y: Reference, **options: Any) -> float:
    if not np.isfinite(np.asarray(x)).all():
      return float("nan")
    extract = features(y.target)

    def reference() -> Reference:
      return Reference(extract(y.require_points()), y.target)

    return metric(key, extract(x), y.cached(("features", name), reference), **options)

  vars(measured)["of_points"] = metric
  return measured


@checked
def batched(apply: Callable[[Array], Array], size: Annotated[int, AtLeast(1)] = 256) -> Extractor:
  """Returns an extractor that passes `size` images at a time through `apply`, which is jitted."""

  def extract(x: ArrayLike) -> np.ndarray:
    images = np.asarray(x, np.float32)
    parts = []
    for i in range(0, len(images), size):
      part = images[i : i + size]
      padding = [(0, size - len(part))] + [(0, 0)] * (images.ndim - 1)  # of one shape: one program
      parts.append(np.asarray(apply(jnp.asarray(np.pad(part, padding))))[: len(part)])
    return np.concatenate(parts)

  return extract


def _trained(
  images: Array, draw: Callable[[Key, Array], tuple[Array, Array]], num_classes: int
) -> Extractor:
  """Features of a Classifier after 400 steps of Adam on batches that `draw` makes of images."""
  import optax  # here: most runs need no such network

  network = Classifier(num_classes)
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, _STEPS))

  @jax.jit
  def step(key: Key, params: Params, state: Any, images: Array) -> tuple[Params, Any]:
    x, label = draw(key, images)

    def loss(params: Params) -> Array:
      logits, _ = network.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  init_key, *keys = jax.random.split(jax.random.key(0), _STEPS + 1)
  params = jax.jit(network.init)(init_key, images[:1])["params"]
  state = optimizer.init(params)
  for key in keys:  # no scan: XLA's gradients of convolutions are slow in a loop on a CPU
    params, state = step(key, params, state, images)
  return batched(jax.jit(lambda x: network.apply({"params": params}, x)[1]))
