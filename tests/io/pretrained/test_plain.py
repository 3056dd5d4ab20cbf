"""Networks of ours as safetensors: out and in again, and what is none."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from scorelab.networks import MLP, DiT, UNet, UNet2D
from scorelab.pretrained import PretrainedError, load_model, save_model

NETWORKS = [
  (MLP(widths=(8, 8), norms=(True, False)), (2,)),
  (UNet(dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4), (4, 4, 1)),
  (DiT(patch_size=2, width=16, depth=1, num_heads=2), (4, 4, 1)),
  (
    UNet2D(
      block_out_channels=(4,),
      down_block_types=("DownBlock2D",),
      up_block_types=("UpBlock2D",),
      norm_num_groups=2,
      attention_head_dim=None,
    ),
    (4, 4, 1),
  ),
]


def drawn(network, shape):
  template = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), template["params"])


@pytest.mark.e2e
@pytest.mark.parametrize(("network", "shape"), NETWORKS, ids=lambda v: type(v).__name__)
def test_what_is_written_is_read_again(network, shape, tmp_path):
  params, about = drawn(network, shape), {"schedule": {"name": "cosine"}}
  save_model(tmp_path, network, params, shape, about)
  again, read, event_shape, told = load_model(tmp_path)
  assert (again, event_shape, told) == (network, shape, about)
  jax.tree.map(np.testing.assert_array_equal, read, params)
  # Anyone can read the file: plain names, plain arrays.
  stored = load_file(tmp_path / "model.safetensors")
  assert len(stored) == len(jax.tree.leaves(params))


@pytest.mark.parametrize(
  ("change", "line"),
  [
    ({"network": "Transformer"}, "is no network of ours"),
    ({"format": "other"}, "is no network of ours"),
    ({"options": {"width": 3}}, "MLP has no option width"),
    ({"options": {"widths": [10**12]}}, "beyond 1048576"),
    ({"options": {"widths": [16], "norms": [True]}}, "is in the network or the file, not in both"),
    ({"options": {"widths": [8, 9], "norms": [True, False]}}, "is of shape"),
    ({"options": {"widths": "ab"}}, "MLP"),
    ({"event_shape": [-2]}, "event_shape"),
    ({"event_shape": [3]}, "is of shape"),
  ],
)
def test_what_is_none_is_one_line(change, line, tmp_path):
  network, shape = NETWORKS[0]
  save_model(tmp_path, network, drawn(network, shape), shape)
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config | change))
  with pytest.raises(PretrainedError, match=line) as caught:
    load_model(tmp_path)
  assert len(str(caught.value).splitlines()) == 1
