"""Inception features for FID, with weights from a file.

The weights are those of TensorFlow's graph of 2015 (Heusel et al., arXiv 1706.08500, appendix), as
pytorch-fid ported them, by torchvision's names, in safetensors or NPZ:

  python -c "import torch; from safetensors.torch import save_file; save_file(torch.load(
    'pt_inception-2015-12-05-6726825d.pth', weights_only=True), 'inception.safetensors')"
"""

from __future__ import annotations

import functools
import pathlib
import zipfile
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from scorelab.metrics.features import Extractor, batched
from scorelab.networks.inception import Inception
from scorelab.pretrained.files import Arrays, PretrainedError, Weights
from scorelab.pretrained.names import params_from
from scorelab.pretrained.pickled import PICKLES, refuse_pickle
from scorelab.typing import Array, Params

SIDE = 299
_UNUSED = ("AuxLogits.",)
_BATCH = 32


def read_inception(path: str) -> Params:
  """Reads the variables of `Inception` from a file of its weights.

  Raises:
    PretrainedError: there is no such file, it is a pickle, or it holds another network's; one line.
  """
  file = pathlib.Path(path)
  if file.suffix in PICKLES:
    raise refuse_pickle(file)
  if not file.is_file():
    raise PretrainedError(f"{file}: there is no such file")
  stored = _read_npz(file) if file.suffix == ".npz" else Weights(file)
  names = [name for name in stored if not name.startswith(_UNUSED)]
  names = [name for name in names if not name.endswith(".num_batches_tracked")]
  if stored.shapes.get("fc.weight", (0,))[0] == 1000:
    raise PretrainedError(
      f"{file}: has 1000 classes, as torchvision's own Inception, whose features give no FID: that "
      "of 2015 has 1008"
    )
  shapes = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  try:
    flat = params_from(Arrays({name: stored[name] for name in names}), _merged(shapes))
  except PretrainedError as error:
    raise PretrainedError(f"{file}: {error}") from None
  leaves = flax.traverse_util.flatten_dict(flat)
  stats = {path: leaf for path, leaf in leaves.items() if path[-1] in ("mean", "var")}
  rest = {path: leaf for path, leaf in leaves.items() if path not in stats}
  return {
    "params": flax.traverse_util.unflatten_dict(rest),
    "batch_stats": flax.traverse_util.unflatten_dict(stats),
  }


def _merged(variables: Params) -> Params:
  """Merges parameters and stored moments into one tree, as in PyTorch."""
  flat = {
    path: leaf
    for collection in ("params", "batch_stats")
    for path, leaf in flax.traverse_util.flatten_dict(variables[collection]).items()
  }
  return flax.traverse_util.unflatten_dict(flat)


def _read_npz(file: pathlib.Path) -> Arrays:
  try:
    with np.load(file, allow_pickle=False) as arrays:
      return Arrays({name: np.asarray(arrays[name]) for name in arrays.files})
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise PretrainedError(f"{file}: not an NPZ file of plain arrays") from error


def prepared(x: Array) -> Array:
  """Prepares images [n, h, w, 1 or 3] in [-1, 1] for the network: [n, 299, 299, 3].

  Images are quantised to 256 values as in a file; grey ones get three channels. Resizing is
  bilinear without antialiasing.
  """
  x = jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5) / 127.5 - 1
  x = jnp.broadcast_to(x, (*x.shape[:3], 3))
  return jax.image.resize(x, (len(x), SIDE, SIDE, 3), "linear", antialias=False)


@functools.lru_cache(maxsize=1)
def inception_features(path: str | None) -> Extractor:
  """Returns the extractor of Inception's 2048 features, with weights from a file.

  Raises:
    PretrainedError: as for `read_inception`, or path is None.
  """
  if path is None:
    raise PretrainedError(
      "features = 'inception' need a file of its weights, safetensors or NPZ: "
      "scorelab/pretrained/inception.py says how to make one"
    )
  variables = read_inception(path)

  @jax.jit
  def features(variables: Params, x: Array) -> Array:
    found: Any = Inception().apply(variables, prepared(x))
    return found[1]

  return batched(lambda x: features(variables, x), _BATCH)
