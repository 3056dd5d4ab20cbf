"""Frozen dataclasses that are pytrees, so that their numbers can be traced and vmapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self, dataclass_transform

import jax


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Pytree:
  """Base class whose subclasses become frozen dataclasses and pytrees, without a decorator.

  The fields are the children, in their order. Arguments of the class statement:

      static    names of fields that belong to the tree's structure instead: hashable, never traced
      eq        whether instances compare by value, the default, or by identity
      abstract  whether the class is only a base of others

  A subclass with an `__init__` of its own keeps it, and calls `_set` in it. JAX rebuilds instances
  by `_of`, without `__init__` and its checks: the children may then be anything.

  Not by `jax.tree_util.register_dataclass`: up to JAX 0.10 at least, the tree structures that it
  makes of two classes with equally many fields are equal, and `jit` may run the program of one for
  the other.
  """

  _static: ClassVar[tuple[str, ...]] = ()

  def __init_subclass__(
    cls, *, static: Sequence[str] = (), eq: bool = True, abstract: bool = False
  ):
    super().__init_subclass__()
    if abstract:
      return
    dataclasses.dataclass(frozen=True, eq=eq)(cls)
    cls._static = (*cls._static, *static)
    names = [field.name for field in dataclasses.fields(cls)]  # pyrefly: ignore[bad-argument-type]
    children = [name for name in names if name not in cls._static]

    def flatten(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
      return (
        tuple(getattr(tree, name) for name in children),
        tuple(getattr(tree, name) for name in cls._static),
      )

    def flatten_with_keys(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
      values, static = flatten(tree)
      keys = map(jax.tree_util.GetAttrKey, children)
      return tuple(zip(keys, values, strict=True)), static

    def unflatten(static: tuple[Any, ...], values: Iterable[Any]) -> Any:
      known = dict(zip((*children, *cls._static), (*values, *static), strict=True))
      return cls._of(*(known[name] for name in names))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

  def _set(self, *values: Any) -> Self:
    """Sets all fields, in their order, and returns the instance: for `__init__`."""
    for field, value in zip(
      dataclasses.fields(self),  # pyrefly: ignore[bad-argument-type]
      values,
      strict=True,
    ):
      object.__setattr__(self, field.name, value)
    return self

  @classmethod
  def _of(cls, *values: Any) -> Self:
    """Makes an instance of the values of all fields, in their order, without `__init__`."""
    return object.__new__(cls)._set(*values)
