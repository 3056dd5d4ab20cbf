"""Maps names and axes of weights between PyTorch and Flax, for networks with the same layers.

down_blocks.0.resnets.1.conv1.weight  [out, in, h, w]     PyTorch
down_blocks_0.resnets_1.conv1.kernel  [h, w, in, out]     Flax
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np

from scorelab.pretrained.files import Arrays, PretrainedError, Weights
from scorelab.typing import Params

_LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
# Names of attentions before diffusers 0.17.
_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def torch_name(path: str) -> str:
  """Returns the PyTorch name of a parameter, from its dotted path in Flax."""
  name = re.sub(rf"\b({_LISTS})_(\d+)\b", r"\1.\2", path)
  name = re.sub(r"\.(mean|var)$", r".running_\1", name)  # of a batch normalisation
  return re.sub(r"\.(kernel|scale|embedding)$", ".weight", name)


def old_name(name: str) -> str:
  """Returns a parameter's name from before attentions were renamed."""
  return re.sub(
    r"(attentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}{_OLD[m[2]]}.", name
  )


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
  """Returns a parameter with PyTorch's order of axes: a kernel's outputs, inputs, height, width."""
  return np.moveaxis(array, (-1, -2), (0, 1)) if path.endswith("kernel") else array


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
  """Returns a weight with Flax's order of axes: a kernel's height, width, inputs, outputs."""
  return np.moveaxis(array, (0, 1), (-1, -2)) if path.endswith("kernel") else array


def torch_weights(params: Params) -> dict[str, np.ndarray]:
  """Returns all parameters by their names in PyTorch, contiguous."""
  leaves: Mapping[str, Any] = flax.traverse_util.flatten_dict(params, sep=".")
  return {
    torch_name(path): np.ascontiguousarray(to_torch(path, np.asarray(leaf)))
    for path, leaf in leaves.items()
  }


def params_from(weights: Weights | Arrays, template: Params) -> Params:
  """Returns parameters from weights by their names in PyTorch, new or old.

  Args:
    weights: as in a file.
    template: the parameters' shapes, from `jax.eval_shape`.

  Raises:
    PretrainedError: a weight is missing, unexpected or of another shape.
  """
  leaves: Mapping[str, Any] = flax.traverse_util.flatten_dict(template, sep=".")
  found = {}
  for path in leaves:
    names = (torch_name(path), old_name(torch_name(path)))
    found[path] = next((name for name in names if name in weights.shapes), None)
  if missing := sorted(torch_name(path) for path, name in found.items() if name is None):
    raise PretrainedError(f"there are no weights for {listed(missing)}")
  if extra := sorted(weights.shapes.keys() - found.values()):
    raise PretrainedError(f"the network has no {listed(extra)}")
  for path, name in found.items():
    wanted = to_torch(path, np.broadcast_to(0, leaves[path].shape)).shape
    if name is not None and weights.shapes[name] != wanted:
      raise PretrainedError(f"{name} is of shape {weights.shapes[name]}, not {wanted}")
  params = {}
  for path, name in found.items():
    assert name is not None
    params[path] = jax.device_put(_aligned(from_torch(path, weights[name])), may_alias=True)
    jax.block_until_ready(params[path])  # one tensor's copies at a time
  return flax.traverse_util.unflatten_dict(params, sep=".")


def _aligned(array: np.ndarray) -> np.ndarray:
  """Returns a contiguous copy aligned to 64 bytes, which JAX on a CPU uses without another copy.

  JAX's own copies of many arrays in sequence use some 50 MB more.
  """
  room = np.empty(array.nbytes + 64, np.uint8)
  start = -room.ctypes.data % 64
  copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
  copy[...] = array
  return copy


def listed(names: list[str]) -> str:
  """Formats the first few names."""
  names = [name.encode("unicode_escape").decode()[:120] for name in names]
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
