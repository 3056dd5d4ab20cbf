"""Reads checkpoints of score_sde: NCSN++ and DDPM++ as Flax wrote them, for `UNet2D`.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021
(arXiv 2011.13456), https://github.com/yang-song/score_sde. A checkpoint is a msgpack of the
training state; its modules are named by their class and the order of their calls:

    ResnetBlockBigGANpp_3   AttnBlockpp_0   Combine_1   GroupNorm_0   Conv_2   Dense_1
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from scorelab.networks.unet2d import UNet2D
from scorelab.pretrained.files import PretrainedError, shown
from scorelab.pretrained.names import listed
from scorelab.typing import Params

# A block's layers there and here.
_RESNET = {
  "GroupNorm_0": "norm1",
  "Conv_0": "conv1",
  "Dense_0": "time_emb_proj",
  "GroupNorm_1": "norm2",
  "Conv_1": "conv2",
  "Conv_2": "conv_shortcut",
}
_ATTENTION = {
  "GroupNorm_0": "group_norm",
  "NIN_0": "to_q",
  "NIN_1": "to_k",
  "NIN_2": "to_v",
  "NIN_3": "to_out_0",
}


def score_sde_unet(
  *,
  image_size: int,
  nf: int = 128,
  ch_mult: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2),
  num_res_blocks: int = 2,
  attn_resolutions: tuple[int, ...] = (16,),
  skips: bool = True,
  fourier: bool = True,
  centered: bool = False,
) -> UNet2D:
  """Returns the network of a score_sde config with BigGAN blocks and rescaled skips.

  The defaults are those of NCSN++ on 256 x 256 images, VE. DDPM++ on CIFAR-10, VP, has images of
  32, ch_mult (1, 2, 2, 2), 4 num_res_blocks, no skips, no fourier, and is centered.

  Args:
    image_size: side of the images.
    nf, ch_mult, num_res_blocks, attn_resolutions: as in config.model.
    skips: whether progressive is 'output_skip' and progressive_input 'input_skip', with FIR;
      else both are 'none', without FIR.
    fourier: whether embedding_type is 'fourier', and the output divided by sigma.
    centered: config.data.centered: whether images are in [-1, 1], and not in [0, 1].
  """
  kind = "Skip" if skips else "Plus"
  attends = [image_size // 2**i in attn_resolutions for i in range(len(ch_mult))]
  return UNet2D(
    block_out_channels=tuple(nf * mult for mult in ch_mult),
    down_block_types=tuple(f"{'Attn' * a}{kind}DownBlock2D" for a in attends),
    up_block_types=tuple(f"{'Attn' * a}{kind}UpBlock2D" for a in attends[::-1]),
    layers_per_block=num_res_blocks,
    mid_block_scale_factor=2**0.5,
    attention_head_dim=None,
    norm_num_groups=None,
    norm_eps=1e-6,
    time_embedding_type="fourier" if fourier else "positional",
    freq_shift=0 if fourier else 1,
    flip_sin_to_cos=False,
    center_input_sample=not centered,
  )


def load_score_sde(file: str | pathlib.Path, network: UNet2D, *, channels: int = 3) -> Params:
  """Reads a network's parameters from a checkpoint, the averaged ones if it has them.

  Args:
    file: the checkpoint, a msgpack.
    network: from `score_sde_unet`.
    channels: of the images.

  Raises:
    PretrainedError: the file is not a checkpoint, or holds another network's parameters.
  """
  path = pathlib.Path(file)
  if not path.is_file():
    raise PretrainedError(f"{path}: there is no such file")
  try:
    state = serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # msgpack may raise anything at another file
    raise PretrainedError(f"{path}: not a msgpack file ({shown(str(error))})") from None
  state = state.get("params_ema", state) if isinstance(state, dict) else None
  if not isinstance(state, dict):
    raise PretrainedError(f"{path}: holds no parameters")
  given = {".".join(k): v for k, v in flax.traverse_util.flatten_dict(_texts(state)).items()}
  return _placed(path, given, network, channels)


def _texts(tree: Any) -> Any:
  """Returns the tree with every key as text."""
  return {str(k): _texts(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _placed(path: pathlib.Path, given: dict[str, Any], network: UNet2D, channels: int) -> Params:
  side = 2 ** (len(network.block_out_channels) - 1)
  x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
  c = jax.ShapeDtypeStruct((1,), jnp.float32)
  template = jax.eval_shape(network.init, jax.random.key(0), x, c)["params"]
  leaves: Mapping[str, Any] = flax.traverse_util.flatten_dict(template, sep=".")
  if any(name.startswith("Downsample_") for name in given):
    raise PretrainedError(
      f"{path}: Downsample layers are not supported: they are of progressive_input 'residual', or "
      "of resblock_type 'ddpm'"
    )
  names = dict(_names(network, leaves))
  if missing := sorted(name for name in names.values() if name not in given):
    raise PretrainedError(f"{path}: there are no weights for {listed(missing)}")
  if extra := sorted(given.keys() - names.values()):
    raise PretrainedError(f"{path}: the network has no {listed(extra)}")
  params = {}
  for name, leaf in leaves.items():
    array = given[names[name]]
    if np.shape(array) != leaf.shape or not jnp.issubdtype(np.asarray(array).dtype, jnp.floating):
      raise PretrainedError(
        f"{path}: {names[name]} is of shape {np.shape(array)} and dtype {np.asarray(array).dtype}, "
        f"not {leaf.shape} and floating point"
      )
    params[name] = jnp.asarray(array, jnp.float32)
  return flax.traverse_util.unflatten_dict(params, sep=".")


def _names(network: UNet2D, leaves: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields (our path, their path) of every parameter."""
  modules = dict(_modules(network))
  for path in leaves:
    module, _, leaf = path.rpartition(".")
    theirs = modules[module]
    if "NIN" in theirs:  # a dense layer on channels
      leaf = {"kernel": "W", "bias": "b"}[leaf]
    yield path, f"{theirs}.{'W' if leaf == 'weight' else leaf}"


def _modules(network: UNet2D) -> Iterator[tuple[str, str]]:
  """Yields (our module, their module) of every layer with parameters, in call order."""
  count: collections.Counter[str] = collections.Counter()

  def call(name: str) -> str:
    count[name] += 1
    return f"{name}_{count[name] - 1}"

  def block(ours: str, name: str, layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    theirs = call(name)
    yield from ((f"{ours}.{here}", f"{theirs}.{there}") for there, here in layers.items())

  def resnet(ours: str) -> Iterator[tuple[str, str]]:
    return block(ours, "ResnetBlockBigGANpp", _RESNET)

  def attention(ours: str) -> Iterator[tuple[str, str]]:
    return block(ours, "AttnBlockpp", _ATTENTION)

  if network.time_embedding_type == "fourier":
    yield "time_proj", call("GaussianFourierProjection")
  yield from ((f"time_embedding.linear_{i}", call("Dense")) for i in (1, 2))
  yield "conv_in", call("Conv")
  last = len(network.block_out_channels) - 1
  for i, kind in enumerate(network.down_block_types):
    for j in range(network.layers_per_block):
      yield from resnet(f"down_blocks_{i}.resnets_{j}")
      if "Attn" in kind:
        yield from attention(f"down_blocks_{i}.attentions_{j}")
    if i < last:
      yield from resnet(f"down_blocks_{i}.resnet_down")
      if "Skip" in kind:
        yield f"down_blocks_{i}.skip_conv", f"{call('Combine')}.Conv_0"
  yield from resnet("mid_block.resnets_0")
  yield from attention("mid_block.attentions_0")
  yield from resnet("mid_block.resnets_1")
  for i, kind in enumerate(network.up_block_types):
    for j in range(network.layers_per_block + 1):
      yield from resnet(f"up_blocks_{i}.resnets_{j}")
    if "Attn" in kind:
      yield from attention(f"up_blocks_{i}.attentions_0")
    if i < last:
      if "Skip" in kind:
        yield f"up_blocks_{i}.skip_norm", call("GroupNorm")
        yield f"up_blocks_{i}.skip_conv", call("Conv")
      yield from resnet(f"up_blocks_{i}.resnet_up")
  yield "conv_norm_out", call("GroupNorm")
  yield "conv_out", call("Conv")
