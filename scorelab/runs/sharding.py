"""Where a training's arrays live: all devices along one axis, "data", which batches are split over.

Parameters are on every device, or split over them where no computing needs them (fully sharded data
parallelism: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", SC 2020, arXiv 1910.02054, section 5.3). The numbers are those of one device up to the
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
  """Says where arrays live. Where there is no mesh, on one device: everything is left as it is.

  Attributes:
    mesh: the devices of all processes, along the axis "data".
    fsdp: whether parameters, averages and the optimiser's state are split over them.
  """

  mesh: Mesh | None = None
  fsdp: bool = False

  @property
  def shared(self) -> bool:
    """Whether several processes have a part in it: then all must call what moves arrays."""
    return self.mesh is not None and self.mesh.is_multi_process

  @property
  def num_devices(self) -> int:
    """Of all processes."""
    return self.mesh.size if self.mesh else 1

  def state_spec(self, shape: tuple[int, ...]) -> PartitionSpec:
    """Of an array of the state: split along its longest axis that the devices divide."""
    if not self.fsdp or math.prod(shape) < _SMALLEST:
      return PartitionSpec()
    axes = [axis for axis, size in enumerate(shape) if size % self.num_devices == 0]
    if not axes:
      return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, "data")

  def state_shardings(self, state: Tree) -> Tree | None:
    """The sharding of every array of a state; None for one device."""
    if self.mesh is None:
      return None
    mesh = self.mesh
    return jax.tree.map(lambda x: NamedSharding(mesh, self.state_spec(x.shape)), state)

  # Inside jit: what the compiler is told.

  def keep(self, state: Tree) -> Tree:
    """Arrays of a state, or of the gradient, where the state has them."""
    if self.mesh is None:
      return state
    return jax.lax.with_sharding_constraint(state, self.state_shardings(state))

  def whole(self, tree: Tree) -> Tree:
    """Arrays on every device as a whole."""
    return self._constrain(tree, PartitionSpec())

  def split(self, batch: Tree, axis: int = 0) -> Tree:
    """A batch, split along the axis of its points."""
    return self._constrain(batch, PartitionSpec(*(None,) * axis, "data"))

  def _constrain(self, tree: Tree, spec: PartitionSpec) -> Tree:
    if self.mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

  # Outside: what is moved.

  def place(self, tree: Tree, *, split: bool = False, axis: int = 0) -> Tree:
    """Arrays that every process has alike, put on all devices; typed keys may be among them.

    Args:
      tree: the arrays.
      split: along the axis, where the devices divide all of them; else whole on each.
      axis: the first one, or another.
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
    """One array of every process's own part, split over the devices along an axis."""
    if self.mesh is None:
      return jax.device_put(local)
    sharding = NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, "data"))
    return jax.make_array_from_process_local_data(sharding, local)

  def gather(self, tree: Tree) -> Tree:
    """Arrays of the state, on this process's first device as a whole; all processes must call."""
    if self.mesh is None:
      return tree
    return jax.device_put(self.fetch(tree), jax.local_devices()[0])

  def fetch(self, tree: Tree) -> Tree:
    """Arrays on this host as a whole, also those that lie over several; all processes must call."""
    if self.shared:
      return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


ONE_DEVICE = Layout()


def make_layout(name: str | None = None, *, own: bool = False) -> Layout:
  """The layout of a name of SHARDINGS, None being 'replicated'.

  It is over all devices, or over this process's own.
  """
  devices = jax.local_devices() if own else jax.devices()
  if len(devices) == 1:
    return ONE_DEVICE
  mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  return Layout(mesh, fsdp=name == "fsdp")
