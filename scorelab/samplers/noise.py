"""Noise sources: a key, recorded draws, or zeros.

A sampler is a function of its start and of independent standard normals z_1, z_2, ...:

    x_{i+1} = step(x_i, z_i)

It takes them from a source, which it splits and scans with the levels:

    noise = as_noise(key).split(grid.num_steps)              # one source per step
    x, path = jax.lax.scan(step, x, (*grid.pairs, noise))    # which calls its normal(shape, dtype)

With recorded draws the sampler is a differentiable function of them: another library's noise gives
that library's samples, and derivatives give the law of a sampler that is affine in its noise.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, Self

import jax
import jax.numpy as jnp

from scorelab.typing import Array, Key


class Noise(abc.ABC):
  """Source of independent draws: a pytree, each use of which consumes it, like a key.

  Subclasses are dataclasses, whose fields are the pytree's children. After `split` every leaf has
  the new axes first, so that a source can be scanned, mapped by `vmap` and indexed.
  """

  def __init_subclass__(cls) -> None:
    # Not by `register_dataclass`: up to JAX 0.10 at least, jit confuses two classes with as many
    # fields.
    def flatten(source: Any) -> tuple[tuple[Any, ...], None]:
      return tuple(vars(source).values()), None

    jax.tree_util.register_pytree_node(cls, flatten, lambda _, children: cls(*children))

  @abc.abstractmethod
  def split(self, shape: int | tuple[int, ...]) -> Self:
    """Returns an array of sources, one per step; all take the same number of draws."""

  @abc.abstractmethod
  def fork(self, number: int) -> tuple[Self, ...]:
    """Returns several sources for different purposes, such as the start and the steps."""

  @abc.abstractmethod
  def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draws from N(0, I)."""

  @abc.abstractmethod
  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draws from the uniform law on [0, 1), for accept-reject tests."""

  def __getitem__(self, index: Any) -> Self:
    """Indexes the sources that `split` made."""
    return jax.tree.map(lambda leaf: leaf[index], self)


@dataclasses.dataclass(frozen=True, eq=False)
class KeyNoise(Noise):
  """Draws by `jax.random`.

  Attributes:
    key: a key, or keys after `split`.
  """

  key: Key

  def split(self, shape: int | tuple[int, ...]) -> KeyNoise:
    return KeyNoise(jax.random.split(self.key, shape))

  def fork(self, number: int) -> tuple[KeyNoise, ...]:
    return tuple(KeyNoise(key) for key in jax.random.split(self.key, number))

  def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(self.key, shape, dtype)

  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(self.key, shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedNoise(Noise):
  """Given draws, consumed in order; exactly as many as the sampler takes.

  Attributes:
    draws: [number, *shape]. A sampler that forks its source takes a tuple of such arrays:
      `ddim_inference` (start, steps), `underdamped_langevin` (velocity, steps), `mala` (normals,
      uniforms).

  Raises:
    ValueError: in the sampler, if there are too few draws, too many, or draws of another shape.
  """

  draws: Any

  def split(self, shape: int | tuple[int, ...]) -> RecordedNoise:
    axes = (shape,) if isinstance(shape, int) else shape
    parts = math.prod(axes)

    def divide(draws: Array) -> Array:
      number = draws.shape[0]
      if number % parts or (parts and not number):
        raise ValueError(f"RecordedNoise holds {number} draws, must hold {parts} or a multiple")
      return draws.reshape(*axes, number // max(parts, 1), *draws.shape[1:])

    return RecordedNoise(jax.tree.map(lambda draws: divide(jnp.asarray(draws)), self.draws))

  def fork(self, number: int) -> tuple[RecordedNoise, ...]:
    if not isinstance(self.draws, tuple) or len(self.draws) != number:
      raise ValueError(f"RecordedNoise.draws must be a tuple of {number} arrays for this sampler")
    return tuple(RecordedNoise(draws) for draws in self.draws)

  def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
    shapes = [jnp.shape(draws) for draws in jax.tree.leaves(self.draws)]
    if shapes != [(1, *shape)]:
      held = ", ".join(f"{s[0]} of shape {s[1:]}" for s in shapes)
      raise ValueError(f"RecordedNoise holds {held} where the sampler takes 1 of shape {shape}")
    return jnp.asarray(self.draws[0], dtype)

  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return self.normal(shape, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroNoise(Noise):
  """Zeros: the deterministic part of a sampler. A Metropolis test accepts whatever it can."""

  def split(self, shape: int | tuple[int, ...]) -> ZeroNoise:
    return self

  def fork(self, number: int) -> tuple[ZeroNoise, ...]:
    return (self,) * number

  def normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.zeros(shape, dtype)

  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.zeros(shape, dtype)


def as_noise(key: Key | Noise) -> Noise:
  """Returns a key as a source, and a source as it is."""
  return key if isinstance(key, Noise) else KeyNoise(key)
