"""Inception's features: the published network's size, torchvision's numbers, and its files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.networks.inception import Inception
from scorelab.pretrained.inception import inception_features, prepared, read_inception

# Convolutions of a block as PyTorch names them, of the paper's table 1 and figures 5 to 7.
SOME = {
  "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
  "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
  "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
  "Mixed_7c.branch3x3_2a.conv.weight": (384, 384, 1, 3),
  "fc.weight": (1008, 2048),
}


@functools.cache
def shapes():
  """The network's arrays, by their shapes."""
  return jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))


@functools.cache
def torch_arrays():
  """Random weights by PyTorch's names, of the shapes that Flax says, with axes turned by hand."""
  rng, arrays = np.random.default_rng(0), {}
  names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
  for collection in shapes().values():
    for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
      *parts, last = (entry.key for entry in path)
      shape = leaf.shape
      if len(shape) == 4:
        height, width, inputs, outputs = shape
        shape = (outputs, inputs, height, width)
      elif len(shape) == 2:
        shape = shape[::-1]
      array = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
      if last in ("scale", "var"):
        array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
      arrays[".".join([*parts, names.get(last, last)])] = array
  return arrays


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  return write(tmp_path_factory.mktemp("weights") / "inception.safetensors", torch_arrays())


def write(file, arrays):
  if file.suffix == ".npz":
    np.savez(file, **arrays)
  else:
    from safetensors.numpy import save_file

    save_file(arrays, file)
  return str(file)


@pytest.mark.e2e
def test_it_has_the_published_size():
  """torchvision's 27,161,264 without the auxiliary classifier's 3,326,696, and 8 more classes."""
  sizes = [leaf.size for leaf in jax.tree.leaves(shapes()["params"])]
  assert sum(sizes) == 27_161_264 - 3_326_696 + 8 * 2049
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes()["batch_stats"])) == 2 * 17_216
  logits, features = jax.eval_shape(
    Inception().apply, shapes(), jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
  )
  assert logits.shape == (2, 1008)
  assert features.shape == (2, 2048)


@pytest.mark.e2e
def test_weights_find_their_places(tmp_path):
  arrays = torch_arrays()
  for name, shape in SOME.items():
    assert arrays[name].shape == shape
  extra = {
    "AuxLogits.fc.weight": np.ones((1000, 768), np.float32),
    "Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(7),
  }
  found = read_inception(write(tmp_path / "inception.npz", arrays | extra))
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda x: x.shape, shapes())
  block = found["params"]["Mixed_6c"]["branch7x7dbl_2"]
  np.testing.assert_array_equal(
    block["conv"]["kernel"][3, 0, 5, 9],
    arrays["Mixed_6c.branch7x7dbl_2.conv.weight"][9, 5, 3, 0],
  )
  stats = found["batch_stats"]["Mixed_7a"]["branch3x3_2"]["bn"]
  np.testing.assert_array_equal(stats["var"], arrays["Mixed_7a.branch3x3_2.bn.running_var"])
  np.testing.assert_array_equal(found["params"]["fc"]["kernel"], arrays["fc.weight"].T)


def test_images_are_prepared():
  """256 values, three channels, a plain bilinear enlargement: the ends of a ramp stay flat."""
  ramp = jnp.linspace(-1.2, 1.2, 5)[None, None, :, None] * jnp.ones((1, 5, 1, 1))
  out = np.asarray(prepared(ramp))
  assert out.shape == (1, 299, 299, 3)
  assert out.min() == pytest.approx(-1, abs=1e-6) and out.max() == pytest.approx(
    1, abs=1e-6
  )  # clipped, to a weighted mean's rounding
  assert np.ptp(out, axis=(1, 3)).max() < 1e-6
  assert np.diff(out[0, 0, :, 0]).min() > -1e-6
  flat = np.asarray(prepared(jnp.full((1, 8, 8, 3), 0.3)))
  np.testing.assert_allclose((flat + 1) * 127.5, 166, atol=1e-4)  # 165.75, rounded


def small_config(**fields):
  config = base.variant(base.get_config(), "fast")
  config.target.name = "patches"
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update(metrics=("frechet:features=rotations",), rows=(), **fields)
  return config


@pytest.mark.e2e
def test_one_field_takes_inception_for_the_small_network(file):
  experiment = build(small_config(features="inception", inception_path=file))
  assert list(experiment.evaluation.metrics) == ["frechet:features=inception"]


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "arrays", "message"),
  [
    (None, {}, "need a file of its weights, safetensors or NPZ"),
    ("nosuch.safetensors", None, "there is no such file"),
    ("inception.pth", {}, r"is a pickle, which can run any code; convert it.*weights_only=True"),
    ("inception.npz", {"fc.weight": np.zeros((1000, 2048), np.float32)}, "has 1000 classes"),
    ("inception.npz", {"fc.weight": np.zeros((1008, 2048), np.float32)}, "no weights for"),
    ("objects.npz", {"a": np.array([{}])}, "not an NPZ file of plain arrays"),
  ],
)
def test_mistakes_are_one_line(name, arrays, message, tmp_path):
  path = None if name is None else tmp_path / name
  if path is not None and arrays is not None:
    if path.suffix == ".pth":
      path.write_bytes(b"\x80\x04.")
    else:
      write(path, arrays)
  with pytest.raises(ConfigError, match=message) as error:
    build(small_config(features="inception", inception_path=None if path is None else str(path)))
  assert "\n" not in str(error.value)


def fid_network(torchvision, torch):
  """torchvision's blocks, pooled as the network of 2015: no padding in a mean, a last maximum."""
  inception = torchvision.models.inception
  pool = torch.nn.functional

  def pooled(block, function):
    """The block, in whose forward `avg_pool2d` is this function."""

    def forward(x):
      before = inception.F.avg_pool2d
      inception.F.avg_pool2d = function
      try:
        return type(block).forward(block, x)
      finally:
        inception.F.avg_pool2d = before

    block.forward = forward

  mean, maximum = pool.avg_pool2d, pool.max_pool2d
  network = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
  for name, block in network.named_children():
    if name == "Mixed_7c":
      pooled(block, maximum)
    elif name.startswith("Mixed"):
      pooled(block, lambda x, **options: mean(x, count_include_pad=False, **options))
  return network.eval()


@pytest.mark.slow
def test_torchvision_gives_the_same_features(file):
  """Of images of 32 x 32 and of one that shrinks, through the whole extractor."""
  torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
  network = fid_network(torchvision, torch)
  state = {name: torch.from_numpy(array) for name, array in torch_arrays().items()}
  missing, unexpected = network.load_state_dict(state, strict=False)
  assert not unexpected
  assert all(name.endswith("num_batches_tracked") for name in missing)
  seen = []
  network.dropout.register_forward_hook(lambda module, given, out: seen.append(given[0]))
  extract = inception_features(file)
  rng = np.random.default_rng(0)
  for side in (32, 400):
    images = rng.integers(0, 256, (2, side, side, 3))
    x = torch.from_numpy(images / 255).float().permute(0, 3, 1, 2)
    x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
      network(2 * x - 1)
    expected = seen.pop()[:, :, 0, 0].numpy()
    found = extract((images / 127.5 - 1).astype(np.float32))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
