"""Random probes v with E v v^T = I: a trace, tr A = E v^T A v, from a few products with A.

With S = (A + A^T) / 2, the variance of v^T A v is 2 |S|_F^2 for a Gaussian probe and 2 sum_i S_ii^2
less for a Rademacher one: none where S is diagonal, so none in one dimension. On the sphere it is
2 d / (d + 2) (|S|_F^2 - (tr S)^2 / d): none where S is a multiple of I.

Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing
Splines", Communications in Statistics 19(2), 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from scorelab.ranges import AtLeast
from scorelab.typing import Array, Key
from scorelab.validation import Registry, checked


def gaussian(key: Key, x: Array) -> Array:
  """Independent standard normals of x's shape [n, *event]."""
  return jax.random.normal(key, x.shape, x.dtype)


def rademacher(key: Key, x: Array) -> Array:
  """Independent signs of x's shape [n, *event]."""
  return jax.random.rademacher(key, x.shape, x.dtype)


def sphere(key: Key, x: Array) -> Array:
  """Uniform on the sphere of radius sqrt(d), d the size of an event, of x's shape [n, *event]."""
  v = gaussian(key, x)
  return v / jnp.sqrt(jnp.mean(v**2, axis=tuple(range(1, x.ndim)), keepdims=True))


PROBES: dict[str, Callable[[Key, Array], Array]] = Registry("probes") | {
  "gaussian": gaussian,
  "rademacher": rademacher,
  "sphere": sphere,
}


@checked(probes=PROBES)
def averaging(
  probes: str, num_probes: Annotated[int, AtLeast(1)]
) -> Callable[[Callable[[Array], Any], Key, Array], Any]:
  """The mean of a function over probes.

  Args:
    probes: their law, a name of PROBES.
    num_probes: independent probes of each point.

  Returns:
    (function, key, x [n, *event]) -> the mean of function(v) over probes v of x's shape.

  Raises:
    ValueError: `probes` is not known or num_probes < 1.
  """

  def mean_over_probes(function: Callable[[Array], Any], key: Key, x: Array) -> Any:
    keys = jax.random.split(key, num_probes)
    values = map_in_sequence(lambda key: function(PROBES[probes](key, x)), keys)
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), values)

  return mean_over_probes


def trace(linear: Callable[[Array], Array], x: Array, max_unrolled: int = 16) -> Array:
  """Exact trace, [n], of v -> linear(v) on x's shape [n, *event]; linear must not mix examples.

  One product for each of an event's axes, taken by `map_in_sequence`.
  """
  size = x[0].size

  def diagonal(i: Array) -> Array:
    axis = jnp.broadcast_to(jax.nn.one_hot(i, size, dtype=x.dtype).reshape(x.shape[1:]), x.shape)
    return inner(axis, linear(axis))

  return jnp.sum(map_in_sequence(diagonal, jnp.arange(size), max_unrolled), axis=0)


def inner(a: Array, b: Array) -> Array:
  """Inner products of events: [n, *event] twice -> [n]."""
  return sum_event(a * b)


def sum_event(a: Array) -> Array:
  """The sum over a point's coordinates: [n, *event] -> [n]."""
  return jnp.sum(a, axis=tuple(range(1, a.ndim)))


def map_in_sequence(function: Callable[[Array], Any], items: Array, max_unrolled: int = 16) -> Any:
  """Applies function to each of the items [m, ...]; results are stacked along a new first axis.

  Up to max_unrolled items are unrolled; more run in a loop that stores nothing for the gradient.
  With `vmap` the layers would become batched products of small matrices, which are five times
  slower on a CPU.
  """
  if len(items) > max_unrolled:
    return jax.lax.map(jax.checkpoint(function, prevent_cse=False), items)
  return jax.tree.map(lambda *values: jnp.stack(values), *map(function, items))
