"""Converts config.json of diffusers' `UNet2DModel` to and from `UNet2D`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from scorelab.networks.unet2d import UNet2D
from scorelab.pretrained.files import Arrays, PretrainedError, Weights, shown
from scorelab.pretrained.names import params_from
from scorelab.typing import Params

WEIGHTS = "diffusion_pytorch_model"
_OWN = {"dtype", "remat", "outputs", "name", "parent"}  # fields that are not of config.json
_MAX_STAGES, _MAX_LAYERS, _MAX_NUMBER = 16, 64, 1 << 20
_TUPLES = ("block_out_channels", "down_block_types", "up_block_types")
_NUMBERS = ("mid_block_scale_factor", "norm_eps", "freq_shift", "dropout")
_FLAGS = ("add_attention", "center_input_sample", "flip_sin_to_cos")
# Recorded by diffusers' EMAModel next to an averaged network's own options.
_OF_AVERAGING = {
  *("decay", "min_decay", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
  "optimization_step",
}
_DOWNSAMPLE_PADDING = "downsample_padding"  # the one whole number that may be 0


def read_unet2d(config: Mapping[str, Any]) -> tuple[UNet2D, tuple[int | None, int | None, int]]:
  """Returns the network that a config.json describes, and the shape of its images.

  Returns:
    The network, and (height, width, channels), the first two None if the config does not give them.

  Raises:
    PretrainedError: an option is not supported, or has an invalid value.
  """
  if (name := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
    raise PretrainedError(f"_class_name = {shown(name)} is not read here: UNet2DModel is")
  known = {field.name for field in dataclasses.fields(UNet2D)} - _OWN
  options: dict[str, Any] = {}
  for field, value in config.items():
    if field.startswith("_") or field in {"sample_size", "in_channels", *_OF_AVERAGING}:
      continue
    if field not in known:
      if value is None:
        continue
      raise PretrainedError(f"{field} = {shown(value)} is an option that is not supported")
    options[field] = _checked(field, value)
  options["down_block_types"] = _plain(options.get("down_block_types", UNet2D.down_block_types))
  options["up_block_types"] = _plain(options.get("up_block_types", UNet2D.up_block_types))
  channels = _checked("in_channels", config.get("in_channels", 3))
  options.setdefault("out_channels", 3)
  network = UNet2D(**options)
  smallest = 2 ** (len(network.block_out_channels) - 1)
  try:
    network.check_event((smallest, smallest, channels))
  except ValueError as error:
    raise PretrainedError(shown(str(error), 400)) from None
  size = config.get("sample_size")
  pair = size if isinstance(size, (list, tuple)) else (size, size)
  if len(pair) != 2 or any(side is not None and not _whole(side) for side in pair):
    raise PretrainedError(f"sample_size = {shown(size)} is not an image size")
  return network, (pair[0], pair[1], channels)


def _whole(value: Any, least: int = 1) -> bool:
  return type(value) is int and least <= value <= _MAX_NUMBER


def _checked(field: str, value: Any) -> Any:
  """Returns an option's value for UNet2D; names and combinations are checked by the network."""
  default = getattr(UNet2D, field, 3)
  if value is None and (default is None or field in ("norm_num_groups", "attention_head_dim")):
    return None
  if field in _TUPLES:
    kind = _whole if field == "block_out_channels" else (lambda v: isinstance(v, str))
    good = isinstance(value, (list, tuple)) and all(map(kind, value))
    good = good and 1 <= len(value) <= _MAX_STAGES
    value = tuple(value) if good else value
  elif field in _NUMBERS:
    good = type(value) in (int, float) and math.isfinite(value) and value >= 0
  elif field in _FLAGS:
    good = isinstance(value, bool)
  elif field == "layers_per_block":
    good = _whole(value) and value <= _MAX_LAYERS
  elif isinstance(default, str) or field in ("class_embed_type", "mid_block_type"):
    good = value is None or isinstance(value, str)
  else:
    good = _whole(value, least=0 if field == _DOWNSAMPLE_PADDING else 1)
  if not good:
    raise PretrainedError(f"{field} = {shown(value)} is not a valid value")
  return value


def _plain(names: tuple[str, ...]) -> tuple[str, ...]:
  """Returns block types without the prefix of the first versions."""
  return tuple(name.removeprefix("UNetRes") for name in names)


def write_unet2d(network: UNet2D, event_shape: tuple[int, int, int]) -> dict[str, Any]:
  """Returns the config.json of a network on such images.

  Raises:
    PretrainedError: it has blocks that diffusers lacks.
  """
  for name in (*network.down_block_types, *network.up_block_types):
    if "Plus" in name:
      raise PretrainedError(f"diffusers has no {name}: save_model writes it")
  height, width, channels = event_shape
  fields = (field.name for field in dataclasses.fields(network) if field.name not in _OWN)
  options = {name: getattr(network, name) for name in fields}
  options = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
  out = network.outputs * channels if network.out_channels is None else network.out_channels
  return {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.35.0",
    **options,
    "sample_size": height if height == width else [height, width],
    "in_channels": channels,
    "out_channels": out,
  }


def read_params(network: UNet2D, channels: int, weights: Weights | Arrays) -> Params:
  """Returns the network's parameters from weights by their names in PyTorch.

  Raises:
    PretrainedError: a weight is missing, unexpected, of another shape or not floating point.
  """
  side = 2 ** (len(network.block_out_channels) - 1)
  x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
  c = jax.ShapeDtypeStruct((1,), jnp.float32)
  try:
    template = jax.eval_shape(network.init, jax.random.key(0), x, c)["params"]
  except (ValueError, TypeError, ZeroDivisionError) as error:  # widths that do not go together
    raise PretrainedError(str(error).strip().splitlines()[-1]) from None
  return params_from(weights, template)
