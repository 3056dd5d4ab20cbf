"""The U-Net: the published sizes and outputs, and what each of its options does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from scorelab.networks import UNet, modern_unet
from scorelab.networks.attention import LinearAttention
from scorelab.networks.blocks import AttentionBlock, ConvNeXtBlock, ResNetBlock
from scorelab.networks.embeddings import ConditionEmbedding, sinusoids
from scorelab.pretrained import unet_params
from tests.paths import TESTDATA

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = {"dim": 8, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 4}
X = np.random.default_rng(0).normal(size=(2, 4, 8, 1)).astype(np.float32)
C = np.array([3.0, 871.0], np.float32)


def count(network, side):
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, side, side, 3)), C[:1])
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def drawn(module, *args):
  """Parameters like an initialised module's, but none of them zero."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(a.dtype), shapes)


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("options", "published"),
  [
    ({"dim": 32, "dim_mults": (1, 2, 4, 8), "block": "convnext"}, 14_733_783),
    ({"dim": 128, "dim_mults": (1, 2, 4), "block": "resnet"}, 32_009_619),
  ],
)
def test_published_parameter_counts(options, published):
  assert count(UNet(**options), side=32) == published


@pytest.fixture(scope="module")
def oracle():
  """Weights, inputs and outputs by case: the published code in PyTorch."""
  cases = {}
  with np.load(TESTDATA / "unet.npz") as arrays:
    for name in arrays.files:
      case, key = name.split("/", 1)
      cases.setdefault(case, {})[key] = arrays[name]
  return cases


BLOCKS = {
  "resnet": "resnet",
  "convnext_as_printed": "convnext_as_printed",
  "convnext_fixed": "convnext",
}


@pytest.mark.e2e
@pytest.mark.parametrize("case", BLOCKS)
def test_published_outputs(oracle, case):
  """In float32, outputs up to 7: rounding alone is 3e-5."""
  weights = oracle[case]
  x, t, y = (oracle["io"][f"{case}/{name}"] for name in "xty")
  network = UNet(dim=16, dim_mults=(1, 2), block=BLOCKS[case])
  params = unet_params(network, weights)
  out = jax.jit(network.apply)({"params": params}, np.moveaxis(x, 1, -1), t.astype(np.float32))
  np.testing.assert_allclose(out, np.moveaxis(y, 1, -1), rtol=0, atol=1e-4)


def test_missing_weights_are_named(oracle):
  weights = dict(oracle["resnet"])
  del weights["mid_attn.fn.norm.bias"]
  with pytest.raises(ValueError, match=r"no weights for middle_attention\.norm\.bias$"):
    unet_params(UNet(dim=16, dim_mults=(1, 2)), weights)


def test_keys_over_positions_average_the_values():
  """Where every token has the same value, so has the answer; keys over channels know the token."""
  tokens = jax.random.normal(jax.random.key(1), (1, 5, 6))
  for key_softmax, same in (("positions", True), ("channels", False)):
    attention = LinearAttention(2, 4, key_softmax)
    params = drawn(attention, tokens)
    params["params"]["qkv"]["kernel"][:, 2] = 0  # values are their bias
    params["params"]["qkv"]["bias"][2] = np.arange(8.0).reshape(2, 4)
    params["params"]["qkv"]["kernel"][:, :2] *= 10
    out = jax.jit(attention.apply)(params, tokens)
    assert np.allclose(out, out[:, :1], atol=1e-4) is same


def test_sinusoids_are_a_rotation():
  """Their product depends on the difference alone, and each pair has length 1."""
  x = np.array([0.0, 3.0, 500.0, 503.0])
  table = sinusoids(jnp.asarray(x), 16)
  products = np.asarray(table @ table.T)
  np.testing.assert_allclose(np.diag(products), 8, rtol=1e-5)
  np.testing.assert_allclose(products[0, 1], products[2, 3], atol=1e-3)  # angles up to 503
  with pytest.raises(ValueError, match="num_features = 7 of sinusoids must be even"):
    sinusoids(jnp.ones(3), 7)


@pytest.mark.parametrize("block", [ResNetBlock, ConvNeXtBlock])
def test_scale_and_shift(block):
  """A scale of -1 and no shift wipe out what was normalised: only the residual path is left."""
  condition = np.ones((2, 3), np.float32)
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
  module = block(8, scale_shift=True)
  variables = drawn(module, x, condition)
  told = variables["params"]["condition"]
  told["kernel"][:] = 0
  apply = jax.jit(module.apply)
  differences = []
  for scale in (0, -1):
    told["bias"][:] = [scale] * 8 + [0] * 8
    differences.append(np.ptp(apply(variables, x, condition) - x, axis=0).max())
  assert differences[0] > 0.1
  assert differences[1] < 1e-5
  told["bias"][8:] = 1  # the shift
  assert np.abs(apply(variables, x, condition) - apply(variables, x, None)).max() > 0.1


@pytest.mark.parametrize("block", [ResNetBlock, ConvNeXtBlock])
def test_dropout_needs_a_key(block):
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
  plain, module = block(8), block(8, dropout=0.5)
  variables = drawn(module, x)

  @jax.jit
  def calls(key):
    with_key = module.apply(variables, x, rngs={"dropout": key})
    return with_key, module.apply(variables, x), plain.apply(variables, x)

  one, without, same = calls(jax.random.key(0))
  np.testing.assert_array_equal(without, same)
  assert (calls(jax.random.key(1))[0] != one).any()


def test_classes_and_their_dropout():
  """A dropped label, the label num_classes and no label are the same; a share is dropped."""
  c, label = jnp.zeros(4000), jnp.zeros(4000, int)
  module = ConditionEmbedding(4, 8, jax.nn.silu, num_classes=3, label_dropout=0.25)
  variables = drawn(module, c, label)

  @jax.jit
  def calls():
    outs = [module.apply(variables, c, *labels) for labels in ((), (label + 3,), (label,))]
    return *outs, module.apply(variables, c, label, rngs={"dropout": jax.random.key(0)})

  none, other, told, trained = calls()
  np.testing.assert_array_equal(none, other)
  assert (told != none).any(1).all()
  dropped = (trained == none).all(1)
  np.testing.assert_array_equal(trained, np.where(dropped[:, None], none, told))
  np.testing.assert_allclose(dropped.mean(), 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))
  with pytest.raises(ValueError, match="a label is given to a network of num_classes = 0"):
    jax.eval_shape(ConditionEmbedding(4, 8, jax.nn.silu).init, jax.random.key(0), c, label)


def test_zero_init_starts_blocks_as_their_residual_paths():
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
  options = {"zero_init": True}
  modules = [
    ResNetBlock(8, **options),
    ConvNeXtBlock(8, **options),
    AttentionBlock("full", 2, 4, **options),
    AttentionBlock("linear", 2, 4, **options),
  ]
  outs = jax.jit(lambda key: [m.init_with_output(key, x)[0] for m in modules])(jax.random.key(0))
  for out in outs:
    np.testing.assert_array_equal(out, x)


def test_the_modern_one_starts_at_zero():
  network = modern_unet(**TINY | {"attention": ("none", "full")})
  last = jax.jit(lambda key: network.init(key, X, C)["params"]["last"])(jax.random.key(0))
  assert not any(leaf.any() for leaf in jax.tree.leaves(last))


def test_attention_by_stage():
  """Only where it was asked for, and in the middle."""

  def attended(network):
    names = jax.eval_shape(network.init, jax.random.key(0), X[:, :4, :4], C)["params"]
    return {name.removesuffix("_attention") for name in names if name.endswith("_attention")}

  options = TINY | {"dim_mults": (1, 2, 2)}
  some = UNet(**options, attention=("none", "full", "linear"))
  assert attended(some) == {"down_1", "down_2", "middle", "up_2", "up_1"}
  with_mirror = UNet(**options, first_skip=True)
  assert attended(with_mirror) == {*attended(some), "down_0", "up_0"}


def operations(jaxpr, name):
  """The operations of this name in a jaxpr and in those that it holds."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == name:
      yield equation
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from operations(inner, name)


def test_where_bfloat16_and_remat_are():
  """Each block and attention is computed again; parameters, sums and the end are float32."""
  network = UNet(**TINY, attention=("none", "linear"), remat=True, dtype="bfloat16")
  variables = jax.eval_shape(network.init, jax.random.key(0), X, C)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  jaxpr = jax.make_jaxpr(network.apply)(variables, X, C).jaxpr
  blocks = sum("_block" in name or "_attention" in name for name in variables["params"])
  assert len([*operations(jaxpr, "remat2"), *operations(jaxpr, "checkpoint")]) == blocks
  convolutions = [op.outvars[0].aval.dtype for op in operations(jaxpr, "conv_general_dilated")]
  assert convolutions[:-1] == [jnp.bfloat16] * (len(convolutions) - 1)
  assert convolutions[-1] == jnp.float32
  sums = [op.outvars[0].aval.dtype for op in operations(jaxpr, "reduce_sum")]
  assert len(sums) > 20
  assert set(sums) == {jnp.dtype("float32")}


@pytest.mark.slow
def test_bfloat16_is_close():
  """It has 8 bits: a relative error of a few 2^-8."""
  network = UNet(**TINY | {"dim_mults": (1,)}, num_classes=2, scale_shift=True)
  label = np.array([0, 1])
  variables = jax.tree.map(lambda a: a * 3, drawn(network, X, C, label))
  half = network.clone(dtype="bfloat16")
  out, coarse = (jax.jit(net.apply)(variables, X, C, label) for net in (network, half))
  assert coarse.dtype == jnp.float32
  error = np.sqrt(np.mean((coarse - out) ** 2) / np.mean(out**2))
  assert 2**-12 < error < 8 * 2**-8


def assert_same_gradient_with_remat(plain, rematted, x, *told):
  """With the same dropout, which is drawn again: to rounding, 1e-5 of the largest."""
  variables = drawn(plain, x, *told)

  def loss(variables, module):
    return jnp.mean(module.apply(variables, x, *told, rngs={"dropout": jax.random.key(0)}) ** 2)

  grad = jax.jit(lambda v: [jax.grad(loss)(v, module) for module in (plain, rematted)])
  gradient, again = grad(variables)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-5 * scale), again, gradient)


def test_remat_has_the_same_gradient():
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
  plain, rematted = ResNetBlock(8, dropout=0.5), nn.remat(ResNetBlock)(8, dropout=0.5)
  assert_same_gradient_with_remat(plain, rematted, x)


@pytest.mark.slow
def test_remat_of_a_whole_network_has_the_same_gradient():
  network = UNet(**TINY, attention=("linear", "full"), dropout=0.2)
  assert_same_gradient_with_remat(network, network.clone(remat=True), X, C)


@pytest.mark.parametrize(
  ("options", "shape", "message"),
  [
    ({"dim_mults": (1, 2, 4)}, (1, 30, 28, 3), r"multiples of 4, and the images are 30 x 28"),
    ({}, (1, 2), "a U-Net takes images .* not events"),
    ({"block": "resnext"}, (1, 4, 4, 1), "block = 'resnext' must be one of convnext, "),
    ({"attention": ("ful",)}, (1, 4, 4, 1), "attention = 'ful' must be one of full, linear, none"),
    ({"attention": ("full",) * 3}, (1, 4, 4, 1), "must be one name, or as long as dim_mults"),
    ({"key_softmax": "rows"}, (1, 4, 4, 1), "key_softmax = 'rows' must be one of channels, pos"),
    ({"dtype": "float8"}, (1, 4, 4, 1), "dtype = 'float8' must be one of None, bfloat16, float32"),
    ({"dim": 12}, (1, 4, 4, 1), "dim = 12 must be a multiple of 8"),
    ({"scale_shift": True, "block": "convnext_as_printed"}, (1, 4, 4, 1), "exclude each other"),
    ({"flash": True}, (1, 4, 4, 1), "flash = True needs a GPU and dtype = 'bfloat16'"),
  ],
)
def test_what_a_unet_refuses(options, shape, message):
  network = UNet(**TINY | options)
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(network.init, jax.random.key(0), jnp.ones(shape), C[:1])
  assert "\n" not in str(error.value)
