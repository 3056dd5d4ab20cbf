"""Linear operators that observe points: a matrix, and for images a mask, a blur, a downsampling.

An operator is one linear function of one point, [*event] -> [m]; its adjoint and its matrix are
derived from it.
"""

from __future__ import annotations

import abc
import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from scorelab.pytree import Pytree
from scorelab.ranges import Above, AtLeast
from scorelab.typing import AnyArray, Array, Floats
from scorelab.validation import checked, require_event

_EXACT = jax.lax.Precision.HIGHEST


class Operator(Pytree, abc.ABC, abstract=True):
  """A linear map of points [*batch, *event_shape] to observations [*batch, m]."""

  event_shape: tuple[int, ...]

  @abc.abstractmethod
  def observe(self, x: Floats) -> Float[Array, " m"]:
    """Returns A x of one point [*event_shape]."""

  def __call__(self, x: Float[AnyArray, "*batch_and_event"]) -> Float[Array, "*batch m"]:
    """Returns A x."""
    require_event("x", x, self.event_shape)
    return _batched(self.observe, x, len(self.event_shape))

  def adjoint(self, y: Float[AnyArray, "*batch m"]) -> Float[Array, "*batch_and_event"]:
    """Returns A' y."""
    x = jax.ShapeDtypeStruct(self.event_shape, y.dtype)
    transposed = jax.linear_transpose(self.observe, x)
    return _batched(lambda y: transposed(y)[0], y, 1)

  @property
  def dim(self) -> int:
    """Number of coordinates of an observation, m."""
    return jax.eval_shape(self.observe, jax.ShapeDtypeStruct(self.event_shape, float)).size

  @property
  def matrix(self) -> Float[Array, "m d"]:
    """A, of points whose coordinates are flattened."""
    size = math.prod(self.event_shape)
    return self(jnp.eye(size).reshape(size, *self.event_shape)).T


def _batched(function, x: AnyArray, event_ndim: int) -> Array:
  """Maps a function of one point over leading axes."""
  batch = x.shape[: x.ndim - event_ndim]
  out = jax.vmap(function)(jnp.reshape(x, (math.prod(batch), *x.shape[len(batch) :])))
  return out.reshape(*batch, *out.shape[1:])


class Matrix(Operator, static=("event_shape",), eq=False):
  """A matrix [m, d]; its numbers can be traced."""

  values: Float[Array, "m d"]
  event_shape: tuple[int, ...]

  def __init__(self, values: ArrayLike, event_shape: tuple[int, ...] | None = None):
    """Makes an operator of points [*event_shape] with d coordinates, by default [d].

    Raises:
      ValueError: the values are no matrix, or its rows are not of the points' size.
    """
    values = jnp.asarray(values, jnp.result_type(float, jnp.asarray(values)))
    if values.ndim != 2:
      raise ValueError(f"A has shape {values.shape}, must be [m, d]")
    event_shape = values.shape[1:] if event_shape is None else event_shape
    if math.prod(event_shape) != values.shape[1]:
      raise ValueError(f"A has shape {values.shape}, must be [m, {math.prod(event_shape)}]")
    self._set(values, event_shape)

  def observe(self, x: Floats) -> Float[Array, " m"]:
    return jnp.matmul(self.values, x.reshape(-1), precision=_EXACT)

  @property
  def matrix(self) -> Float[Array, "m d"]:
    return self.values


class Mask(Operator, static=("indices", "event_shape")):
  """The coordinates that a mask keeps: inpainting."""

  indices: tuple[int, ...]
  event_shape: tuple[int, ...]

  def __init__(self, keep: Bool[AnyArray, "*event"]):
    """Makes an operator of a mask of the points' shape, True where they are seen."""
    keep = np.asarray(keep)
    if keep.dtype != bool or not keep.any():
      raise ValueError(f"keep must be a mask of bools, some of them True: {keep.dtype}")
    self._set(tuple(np.flatnonzero(keep).tolist()), keep.shape)

  def observe(self, x: Floats) -> Float[Array, " m"]:
    return x.reshape(-1)[np.array(self.indices)]


@checked
def random_matrix(
  event_shape: tuple[int, ...],
  *,
  rank: Annotated[int, AtLeast(1)] = 1,
  matrix_seed: Annotated[int, AtLeast(0)] = 0,
) -> Matrix:
  """Returns A = U diag(s) V' with s ~ U(0, 1) sorted, and random orthonormal U and V.

  After Cardoso et al., ICLR 2024 (arXiv 2308.07983), appendix: mixtures.

  Args:
    event_shape: shape of a point.
    rank: number of rows of A, at most the number of coordinates of a point.
    matrix_seed: of the matrix.

  Raises:
    ValueError: the rank is larger than that.
  """
  size = math.prod(event_shape)
  if rank > size:
    raise ValueError(f"rank = {rank} must be at most {size}, the coordinates of a point")
  rng = np.random.default_rng([matrix_seed, rank, size])
  left, _, right = np.linalg.svd(rng.normal(size=(rank, size)), full_matrices=False)
  values = np.sort(rng.uniform(size=rank))[::-1]
  return Matrix(left @ np.diag(values) @ right, event_shape)


@checked
def inpainting(
  event_shape: tuple[int, int, int], *, hidden: tuple[int, ...] = (4, 0, 4, 8)
) -> Mask:
  """Returns a mask that hides a rectangle of images [height, width, channels].

  Args:
    event_shape: shape of an image.
    hidden: top, left, height and width of the rectangle, in pixels.

  Raises:
    ValueError: hidden is no such rectangle, or nothing is seen.
  """
  keep = np.ones(_image(event_shape), bool)
  if len(hidden) != 4 or min(hidden) < 0:
    raise ValueError(f"hidden = {hidden} must be (top, left, height, width)")
  top, left, height, width = hidden
  keep[top : top + height, left : left + width] = False
  return Mask(keep)


class Blur(Operator, static=("std", "event_shape")):
  """A Gaussian blur of images [height, width, channels], with reflected borders.

  Attributes:
    std: in pixels.
    event_shape: shape of an image.
  """

  std: float
  event_shape: tuple[int, int, int]

  @checked
  def __init__(self, event_shape: tuple[int, int, int], *, std: Annotated[float, Above(0)] = 1.0):
    """Makes an operator; std is in pixels, and the kernel reaches to three of them."""
    self._set(std, _image(event_shape))

  def observe(self, x: Floats) -> Float[Array, " m"]:
    for axis in (0, 1):
      x = jnp.moveaxis(jnp.tensordot(self._along(x.shape[axis]), x, (1, axis)), 0, axis)
    return x.reshape(-1)

  def _along(self, size: int) -> np.ndarray:
    """The blur of a line of pixels, [size, size]."""
    reach = math.ceil(3 * self.std)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-((offsets / self.std) ** 2) / 2)
    period = (np.arange(size)[:, None] + offsets[None]) % (2 * size)
    seen = np.where(period < size, period, 2 * size - 1 - period)
    blur = np.zeros((size, size))
    np.add.at(blur, (np.arange(size)[:, None], seen), kernel / kernel.sum())
    return blur


class Downsample(Operator, static=("factor", "event_shape")):
  """Means over blocks of factor x factor pixels of images [height, width, channels].

  Attributes:
    factor: side of a block, in pixels.
    event_shape: shape of an image.
  """

  factor: int
  event_shape: tuple[int, int, int]

  @checked
  def __init__(self, event_shape: tuple[int, int, int], *, factor: Annotated[int, AtLeast(1)] = 2):
    """Makes an operator.

    Raises:
      ValueError: the factor does not divide height and width.
    """
    height, width, _ = _image(event_shape)
    if height % factor or width % factor:
      raise ValueError(f"factor = {factor} must divide height and width, {height} x {width}")
    self._set(factor, event_shape)

  def observe(self, x: Floats) -> Float[Array, " m"]:
    height, width, channels = x.shape
    f = self.factor
    return x.reshape(height // f, f, width // f, f, channels).mean((1, 3)).reshape(-1)


def _image(event_shape: tuple[int, ...]) -> tuple[int, int, int]:
  if len(event_shape) != 3:
    raise ValueError(f"event_shape = {event_shape} must be (height, width, channels)")
  height, width, channels = event_shape
  return height, width, channels
