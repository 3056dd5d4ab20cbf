"""Sharding of a training's arrays: all devices on one axis, "data", over which batches are split.

Parameters are replicated, or split over the devices except where they are used (fully sharded data
parallelism: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", SC 2020, arXiv 1910.02054, section 5.3). The results are those of one device up to the
order of sums: random draws have the same bits however they are split.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
SHARDINGS = ("replicated", "fsdp")
_SMALLEST = 1024
"""Elements of an array that is split: sending a smaller one around costs more than it frees."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """The mesh of a run and the sharding of its arrays. Without a mesh, every method is the identity.

  Attributes:
    mesh: the devices of all processes, along the axis "data"; None for one device.
    fsdp: whether parameters, averages and the optimizer's state are split over them.
  """

  mesh: Mesh | None = None
  fsdp: bool = False

  @property
  def shared(self) -> bool:
    """True if the mesh spans several processes: then all must call the methods that move arrays."""
    return self.mesh is not None and self.mesh.is_multi_process

  @property
  def num_devices(self) -> int:
    """Number of devices of all processes."""
    return self.mesh.size if self.mesh else 1

  def state_spec(self, shape: tuple[int, ...]) -> PartitionSpec:
    """Returns the spec of a state array: split along the longest axis that the devices divide."""
    if not self.fsdp or math.prod(shape) < _SMALLEST:
      return PartitionSpec()
    axes = [axis for axis, size in enumerate(shape) if size % self.num_devices == 0]
    if not axes:
      return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, "data")

  def state_shardings(self, state: Tree) -> Tree | None:
    """Returns the sharding of every array of a state; None for one device."""
    if self.mesh is None:
      return None
    mesh = self.mesh
    return jax.tree.map(lambda x: NamedSharding(mesh, self.state_spec(x.shape)), state)

  # Inside jit: sharding constraints.

  def keep(self, state: Tree) -> Tree:
    """Constrains a state, or a gradient, to the sharding of the state."""
    if self.mesh is None:
      return state
    return jax.lax.with_sharding_constraint(state, self.state_shardings(state))

  def whole(self, tree: Tree) -> Tree:
    """Replicates arrays on every device."""
    return self._constrain(tree, PartitionSpec())

  def split(self, batch: Tree, axis: int = 0) -> Tree:
    """Splits a batch over the devices, along the axis of its points."""
    return self._constrain(batch, PartitionSpec(*(None,) * axis, "data"))

  def _constrain(self, tree: Tree, spec: PartitionSpec) -> Tree:
    if self.mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

  # Outside jit: transfers.

  def place(self, tree: Tree, *, split: bool = False, axis: int = 0) -> Tree:
    """Places arrays that are equal in every process on all devices; typed keys are allowed.

    Args:
      tree: the arrays.
      split: split them along the axis if the devices divide all of them; else replicate.
      axis: the axis to split.
    """
    if self.mesh is None:
      return tree
    leaves = jax.tree.leaves(tree)
    split = split and all(x.shape[axis] % self.num_devices == 0 for x in leaves)
    spec = PartitionSpec(*(None,) * axis, "data") if split else PartitionSpec()
    sharding = NamedSharding(self.mesh, spec)

    def put(x: Any) -> Any:
      if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
      host = np.asarray(x)
      return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)

  def join(self, local: np.ndarray, axis: int = 0) -> jax.Array:
    """Joins the processes' own parts to one array, split over the devices along an axis."""
    if self.mesh is None:
      return jax.device_put(local)
    sharding = NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, "data"))
    return jax.make_array_from_process_local_data(sharding, local)

  def gather(self, tree: Tree) -> Tree:
    """Gathers arrays of the state on this process's first device; all processes must call."""
    if self.mesh is None:
      return tree
    return jax.device_put(self.fetch(tree), jax.local_devices()[0])

  def fetch(self, tree: Tree) -> Tree:
    """Fetches whole arrays to this host, also from several hosts; all processes must call."""
    if self.shared:
      return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


ONE_DEVICE = Layout()


def make_layout(name: str | None = None, *, own: bool = False) -> Layout:
  """Returns the layout of a name of SHARDINGS (None means 'replicated').

  It spans all devices, or only this process's own.
  """
  devices = jax.local_devices() if own else jax.devices()
  if len(devices) == 1:
    return ONE_DEVICE
  mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  return Layout(mesh, fsdp=name == "fsdp")
