"""Array aliases and the protocols that the parts of scorelab share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax

if TYPE_CHECKING:
  from scorelab.predictions import Prediction
  from scorelab.schedules import Level

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A typed key, made by `jax.random.key`. Consumed once."""
Params: TypeAlias = Any
"""A pytree of arrays: a network's parameters."""
Batch: TypeAlias = dict[str, Array]
"""`x` of shape [batch, *event] and perhaps `label` of shape [batch]."""


class Samples(NamedTuple):
  """What a sampler returns.

  Attributes:
    x: the samples, of the start's shape.
    path: the accepted states at levels 1..N of the grid, of shape [N, *x.shape].
    nfe: calls of `predict` for one sample, exactly.
    network_calls: calls of the network for one sample where guidance or gradients add to `nfe`;
      None where it equals `nfe`.
  """

  x: Array
  path: Array
  nfe: int
  network_calls: int | None = None


Sampler: TypeAlias = Callable[..., Samples]
"""`(key, predict, x, grid, **options) -> Samples`: takes x from grid[0] to the last level.

In place of a key it takes any noise source, see `scorelab.samplers.noise`.
"""


class Context(NamedTuple):
  """What a loss may know of the training around it: the step (int32 []) and the EMA by decay."""

  step: Array
  ema: dict[str, Params]


class Predict(Protocol):
  """Reads a network, or the truth, at noisy points.

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
Loss: TypeAlias = Callable[[Params, Key, Batch, Context], tuple[Array, Metrics]]
"""`(params, key, batch, context) -> (scalar, metrics)`."""
