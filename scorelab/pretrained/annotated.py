"""Reads weights of the annotated diffusion model's U-Net from a PyTorch state dict.

Rogge and Rasul, "The Annotated Diffusion Model", Hugging Face blog, 2022.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from scorelab.networks.unet import UNet
from scorelab.typing import Params

# Applied in turn to a name as 'downs.0.1.block1.proj.weight'; up stages are counted from below.
_RENAMED = (
  (r"^init_conv\.", "stem."),
  (r"^time_mlp\.1\.", "condition.level_0."),
  (r"^time_mlp\.3\.", "condition.level_1."),
  (r"^(down|up)s\.(\d+)\.([01])\.", r"\1_\2_block_\3."),
  (r"^(down|up)s\.(\d+)\.2\.", r"\1_\2_attention."),
  (r"^(down|up)s\.(\d+)\.3\.", r"\1_\2_resample."),
  (r"^mid_block1\.", "middle_block_0."),
  (r"^mid_block2\.", "middle_block_1."),
  (r"^mid_attn\.", "middle_attention."),
  (r"^final_conv\.0\.", "last_block."),
  (r"^final_conv\.1\.", "last."),
  (r"\.mlp\.1\.", ".condition."),
  (r"\.res_conv\.", ".residual."),
  (r"\.block1\.proj\.|\.net\.1\.", ".conv_0."),
  (r"\.block1\.norm\.|\.net\.0\.", ".norm_0."),
  (r"\.block2\.proj\.|\.net\.4\.", ".conv_1."),
  (r"\.block2\.norm\.|\.net\.3\.", ".norm_1."),
  (r"\.ds_conv\.", ".depthwise."),
  (r"\.fn\.norm\.", ".norm."),
  (r"\.fn\.fn\.to_qkv\.", ".attention.qkv."),
  (r"\.fn\.fn\.to_out\.1\.", ".attention.norm."),
  (r"\.fn\.fn\.to_out\.(0\.)?", ".attention.out."),
)


def unet_params(network: UNet, weights: Mapping[str, Any]) -> Params:
  """Converts a PyTorch state dict to the parameters of a U-Net.

  Args:
    network: of the same dim, dim_mults and block, with linear attention at every stage.
    weights: arrays by their names in PyTorch, from `safetensors.numpy.load_file` or from
      {k: v.numpy() for k, v in model.state_dict().items()}.

  Raises:
    ValueError: a name or a shape does not match the network.
  """
  if "final_conv.1.bias" not in weights:
    raise ValueError("there is no final_conv.1.bias: these are another model's weights")
  (channels,) = np.shape(weights["final_conv.1.bias"])
  side = 2 ** (len(network.dim_mults) - 1)
  x, c = jnp.zeros((1, side, side, channels // network.outputs)), jnp.zeros(1)
  template = jax.eval_shape(network.init, jax.random.key(0), x, c)["params"]
  leaves: dict[str, Any] = flax.traverse_util.flatten_dict(template, sep=".")
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  params = {}
  for name, value in weights.items():
    path, weight = _converted(_renamed(name, len(network.dim_mults)), np.asarray(value))
    if path not in shapes or weight.size != np.prod(shapes[path]):
      raise ValueError(f"{name} of shape {np.shape(value)} is not in this network")
    params[path] = jnp.asarray(weight.reshape(shapes[path]))
  if missing := sorted(shapes.keys() - params.keys()):
    raise ValueError(f"there are no weights for {', '.join(missing)}")
  return flax.traverse_util.unflatten_dict(params, sep=".")


def _renamed(name: str, num_stages: int) -> str:
  """Returns our name of a weight, without its last part, 'weight' or 'bias'."""
  for pattern, replacement in _RENAMED:
    name = re.sub(pattern, replacement, name)
  return re.sub(r"^up_(\d+)", lambda match: f"up_{num_stages - 1 - int(match[1])}", name)


def _converted(path: str, weight: np.ndarray) -> tuple[str, np.ndarray]:
  """Returns a weight under Flax's name, with Flax's order of axes: inputs before outputs."""
  if path.endswith("bias"):
    return path, weight
  if weight.ndim == 1:
    return path.replace("weight", "scale"), weight
  if re.match(r"up_\d+_resample", path):  # PyTorch's [in, out, h, w] is the gradient's kernel
    weight = weight.transpose(2, 3, 0, 1)[::-1, ::-1]
  else:
    weight = np.moveaxis(weight, (0, 1), (-1, -2))
  return path.replace("weight", "kernel"), weight
