"""Array aliases, and protocols that the components of scorelab share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from typing_extensions import Protocol, runtime_checkable  # Python 3.11's own reads properties

if TYPE_CHECKING:
  from scorelab.predictions import Prediction
  from scorelab.samplers.noise import Noise
  from scorelab.schedules import Grid, Level

Array: TypeAlias = jax.Array
AnyArray: TypeAlias = Array | np.ndarray
"""An array on a device, or of NumPy's."""
Floats: TypeAlias = Float[Array, "*shape"]
"""Floats of any shape: all that one signature calls so have the same, element by element."""
Scalar: TypeAlias = Float[Array, ""]
PointSet: TypeAlias = Float[AnyArray, " n *event"]
"""n points; trailing axes are one point's."""
ReferenceSet: TypeAlias = Float[AnyArray, " m *event"]
"""m points of the same shape as those of the signature's PointSet."""
Key: TypeAlias = jax.Array
"""A typed key, made by `jax.random.key`. Consumed once."""
Params: TypeAlias = Any
"""A pytree of arrays: a network's parameters."""
Batch: TypeAlias = dict[str, Array]
"""`x` of shape [batch, *event] and perhaps `label` of shape [batch]."""


class Samples(NamedTuple):
  """Result of a sampler.

  Attributes:
    x: the samples, of the start's shape.
    path: the accepted states at levels 1..N of the grid, of shape [N, *x.shape].
    nfe: exact number of calls of `predict` for one sample.
    network_calls: calls of the network for one sample, if guidance adds to `nfe`; None if it equals
      `nfe`.
    gradients: products with the derivative of `predict` for one sample.
    particles: particles per sample; `nfe` and `gradients` count all of them.
  """

  x: Floats
  path: Float[Array, " steps *shape"]
  nfe: int
  network_calls: int | None = None
  gradients: int = 0
  particles: int = 1


@runtime_checkable
class Sampler(Protocol):
  """Maps x at grid[0] to the grid's last level.

  Instead of a key it takes any noise source, see `scorelab.samplers.noise`.
  """

  def __call__(
    self, key: Key | Noise, predict: Predict, x: Array, grid: Grid, /, *args: Any, **options: Any
  ) -> Samples: ...


class Context(NamedTuple):
  """Training state that a loss may use: the step (int32 []) and the EMA by decay."""

  step: Array
  ema: dict[str, Params]


@runtime_checkable
class Predict(Protocol):
  """Evaluates a network, or the exact prediction, at noisy points.

  `x` is one point, or points with leading batch axes; the level's fields have shape [] or x's
  leading batch shape.
  """

  def __call__(self, x: Array, level: Level, /) -> Prediction: ...


class Average(NamedTuple):
  """A mean over unequally many parts, so that means can be pooled: total / count, elementwise."""

  total: Array
  count: Array


Metrics: TypeAlias = dict[str, Array | Average]
"""By name: arrays, averaged over the steps of a chunk, or pooled averages."""


@runtime_checkable
class Loss(Protocol):
  """Computes a scalar and metrics of a batch."""

  def __call__(
    self, params: Params, key: Key, batch: Batch, context: Context, /
  ) -> tuple[Scalar, Metrics]: ...


@runtime_checkable
class Network(Protocol):
  """A Flax module `(x [b, *event], conditioning [b]) -> [b, *event]`."""

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any: ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any: ...

  def clone(self, **fields: Any) -> Any: ...


@runtime_checkable
class EventNetwork(Network, Protocol):
  """A network that takes events of some shapes only."""

  def check_event(self, shape: tuple[int, ...], /) -> None:
    """Raises ValueError for an unsupported shape."""
    ...


# Targets: what each can do. `isinstance(target, ExactTarget)` asks it, without calling anything.


@runtime_checkable
class Target(Protocol):
  """A distribution to sample from: the minimum that training needs."""

  @property
  def event_shape(self) -> tuple[int, ...]:
    """Shape of one point."""
    ...

  @property
  def scale(self) -> Array | float:
    """The std over all coordinates, [] and > 0."""
    ...

  @property
  def sample(self) -> DrawsPoints:
    """(key, n) -> independent draws [n, *event_shape]; jittable, n static."""
    ...


@runtime_checkable
class DrawsPoints(Protocol):
  """A draw of points: `(key, n) -> [n, *event_shape]`."""

  def __call__(self, key: Key, n: int, /) -> Array: ...


@runtime_checkable
class ExactTarget(Target, Protocol):
  """A target that knows its exact score, x0 and noise at every level."""

  def predict(self, x: Array, level: Level, /) -> Prediction: ...


@runtime_checkable
class ClassedTarget(Protocol):
  """A target that may have classes."""

  @property
  def num_classes(self) -> int:
    """Number of classes, 0 for none; the label `num_classes` means no class."""
    ...


@runtime_checkable
class LabelledTarget(ClassedTarget, Target, Protocol):
  """A target that draws points with their classes."""

  def sample_with_labels(self, key: Key, n: int, /) -> tuple[Array, Array]:
    """Returns the draws of `sample` and their labels [n]."""
    ...


@runtime_checkable
class ConditionalTarget(LabelledTarget, Protocol):
  """A target that draws points of given classes."""

  def sample_of_class(self, key: Key, label: Array, /) -> Array:
    """Returns a draw of each of the classes `label` [n]."""
    ...


@runtime_checkable
class ExactLabelledTarget(ExactTarget, ConditionalTarget, Protocol):
  """A target that knows its exact score given the class."""

  def predict_of_class(self, x: Array, level: Level, label: Array, /) -> Prediction: ...


@runtime_checkable
class ClassifiedTarget(Target, Protocol):
  """A target that knows log P(class | x_t = x) at every level: [*batch, num_classes]."""

  def log_class_prob(self, x: Array, level: Level, /) -> Array: ...


@runtime_checkable
class SplitTarget(Protocol):
  """A target of fixed points: 'train', and optionally 'validation' and 'test'."""

  @property
  def splits(self) -> Mapping[str, Array]:
    """The points [n, *event_shape] by name; empty if all are drawn when needed."""
    ...


@runtime_checkable
class LabelledSplitTarget(SplitTarget, Protocol):
  """A target whose fixed points have labels."""

  @property
  def labels(self) -> Mapping[str, np.ndarray]:
    """The labels [n] by split name; empty without labels."""
    ...


@runtime_checkable
class DequantisedTarget(Protocol):
  """A target on a lattice; training and validation points get uniform noise over their bins."""

  def dequantise(self, key: Key, x: Array, /) -> Array: ...


@runtime_checkable
class AugmentedTarget(Protocol):
  """A target whose training batches are augmented at random, such as mirrored."""

  def augment(self, key: Key, x: Array, /) -> Array: ...


@runtime_checkable
class StreamedTarget(Protocol):
  """A target whose training points may be read from files, in epochs."""

  @property
  def stream(self) -> Any:
    """The training points in files, or None if `splits` has them all."""
    ...


@runtime_checkable
class DecodedTarget(StreamedTarget, Target, Protocol):
  """A target of images that processes read from files and decode."""

  @property
  def num_workers(self) -> int:
    """Number of decoding processes."""
    ...

  def scaled(self, pixels: Array, /) -> Array:
    """Converts bytes that were read to points."""
    ...


@runtime_checkable
class FileTarget(Protocol):
  """A target whose points may come from files."""

  @property
  def fingerprint(self) -> Mapping[str, Any] | None:
    """Identifies the contents of the files; None without files."""
    ...


@runtime_checkable
class LatticeTarget(DequantisedTarget, Protocol):
  """A dequantised target whose bins are of one known width: log-densities are bits."""

  @property
  def bin_width(self) -> float:
    """Width of a bin, in units of the data."""
    ...


@runtime_checkable
class DensityTarget(Target, Protocol):
  """A target with a log-density: x [..., *event] -> [...]."""

  def log_prob(self, x: Array, /) -> Array: ...


@runtime_checkable
class ModedTarget(Protocol):
  """A mixture of k modes in d dimensions."""

  @property
  def weights(self) -> Array:
    """[k], summing to 1."""
    ...

  @property
  def means(self) -> Array:
    """[k, d]."""
    ...

  @property
  def covariances(self) -> Array:
    """[k] variances, [k, d] variances of the coordinates, or [k, d, d]."""
    ...


@runtime_checkable
class MixtureTarget(ModedTarget, ExactLabelledTarget, ClassifiedTarget, DensityTarget, Protocol):
  """A mixture whose components have densities at every level, and are its classes."""

  def responsibilities(self, x: Array, /) -> Array:
    """Returns P(component | x) at x [..., d], of shape [..., k]."""
    ...

  def sample_with_components(self, key: Key, n: int, /) -> tuple[Array, Array]:
    """Returns draws [n, d] and their components [n]."""
    ...

  def perturbed(self, alpha: Array | float, sigma: Array | float, /) -> MixtureTarget:
    """Returns the law of alpha x_0 + sigma eps."""
    ...


@runtime_checkable
class SupportedTarget(Protocol):
  """A target that knows the distance of points to its support: x [n, *event] -> [n]."""

  def distance(self, x: ArrayLike, /) -> np.ndarray: ...


@runtime_checkable
class PartedTarget(Protocol):
  """A target of k parts that knows which part a point belongs to."""

  @property
  def weights(self) -> ArrayLike:
    """[k], summing to 1."""
    ...

  def component(self, x: ArrayLike, /) -> np.ndarray:
    """Returns the part of each of x [n, *event], [n] in 0..k - 1."""
    ...


@runtime_checkable
class ProjectedTarget(Protocol):
  """A target whose laws along lines are known."""

  @property
  def dim(self) -> int:
    """Dimension d of one point."""
    ...

  def marginal(self, directions: Array, /) -> Any:
    """Returns the laws of u . x for each of the unit vectors u in `directions` [m, d]."""
    ...
