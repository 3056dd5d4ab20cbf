"""The diffusion transformer: its published size, its start, its patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.networks import DiT
from scorelab.networks.dit import DiTBlock, places

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = {"patch_size": 2, "width": 16, "depth": 1, "num_heads": 2}
X = np.random.default_rng(0).normal(size=(2, 4, 6, 1)).astype(np.float32)
C = np.array([3.0, 871.0], np.float32)


def drawn(module, *args):
  """Parameters like an initialised module's, but none of them zero."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape).astype(a.dtype), shapes)


def test_published_parameter_count():
  """DiT-XL/2 on latents of 32 x 32 x 4 has 675,129,632, of which 256 places of 1152 are fixed."""
  network = DiT(2, 1152, 28, 16, num_classes=1000, outputs=2)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 32, 32, 4)), C[:1])
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + 256 * 1152 == 675_129_632


def test_it_starts_at_zero_and_its_blocks_as_the_identity():
  """Its last layer is zero, and so are a block's gates, whatever its other layers are."""
  network, block = DiT(**TINY), DiTBlock(num_heads=2)
  tokens, told = np.ones((2, 3, 16), np.float32) * np.arange(16), np.ones((2, 5), np.float32)

  @jax.jit
  def starts(key):
    last = network.init(key, X, C)["params"]["last"]
    return last, block.init(key, tokens, told)["params"]["modulations"]

  last, modulations = starts(jax.random.key(0))
  assert not any(leaf.any() for leaf in jax.tree.leaves(last))
  params = drawn(block, tokens, told)["params"] | {"modulations": modulations}
  np.testing.assert_array_equal(jax.jit(block.apply)({"params": params}, tokens, told), tokens)


def test_patches_come_back_to_their_places():
  """Without blocks, a patch of the output knows its own patch of the input and no other."""
  network = DiT(**TINY | {"depth": 0}, outputs=2)
  variables = drawn(network, X, C)
  moved = X.copy()
  moved[1, 3, 2] += 1  # in the patch of rows 2 and 3, columns 2 and 3
  apply = jax.jit(network.apply)
  out = apply(variables, X, C)
  assert out.shape == (2, 4, 6, 2)
  changed = (apply(variables, moved, C) != out).any(-1)
  expected = np.zeros((2, 4, 6), bool)
  expected[1, 2:, 2:4] = True
  np.testing.assert_array_equal(changed, expected)


def test_places_are_told_apart():
  """Each is nearest to itself, and a neighbour in a row is as near as one in a column."""
  table = places(4, 4, 16)
  products = np.asarray(table @ table.T)
  assert (np.argmax(products, axis=1) == np.arange(16)).all()
  np.testing.assert_allclose(products[5, 6], products[5, 9], rtol=1e-5)


def test_bfloat16_and_dropout():
  """bfloat16 within a few 2^-8 of the output, which is float32; dropout needs a key."""
  network = DiT(**TINY, num_classes=3, dropout=0.3)
  label = np.array([0, 2])
  variables = drawn(network, X, C, label)

  @jax.jit
  def calls(variables, key):
    networks = (network.clone(dropout=0.0), network, network.clone(dtype="bfloat16"))
    outs = [module.apply(variables, X, C, label) for module in networks]
    return *outs, network.apply(variables, X, C, label, rngs={"dropout": key})

  out, without, coarse, with_key = calls(variables, jax.random.key(0))
  np.testing.assert_array_equal(without, out)
  assert coarse.dtype == jnp.float32
  error = np.sqrt(np.mean((coarse - out) ** 2) / np.mean(out**2))
  assert 2**-12 < error < 8 * 2**-8
  assert (calls(variables, jax.random.key(1))[3] != with_key).any()


@pytest.mark.slow
def test_remat_has_the_same_gradient():
  """What is computed again drops the same."""
  network = DiT(**TINY, dropout=0.3)
  variables = drawn(network, X, C)

  def loss(variables, network):
    return jnp.mean(network.apply(variables, X, C, rngs={"dropout": jax.random.key(0)}) ** 2)

  grad = jax.jit(jax.grad(loss), static_argnums=1)
  gradient, again = grad(variables, network), grad(variables, network.clone(remat=True))
  scale = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-5 * scale), again, gradient)


@pytest.mark.parametrize(
  ("options", "shape", "message"),
  [
    ({"patch_size": 4}, (1, 8, 6, 1), "patch_size = 4 must divide .* the images are 8 x 6"),
    ({}, (1, 2), "a DiT takes images .* not events"),
    ({"num_heads": 3}, (1, 4, 4, 1), "width = 16 must be a multiple of 8 and of num_heads = 3"),
    ({"dtype": "half"}, (1, 4, 4, 1), "dtype = 'half' must be one of None, bfloat16, float32"),
  ],
)
def test_what_a_dit_refuses(options, shape, message):
  network = DiT(**TINY | options)
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(network.init, jax.random.key(0), jnp.ones(shape), C[:1])
  assert "\n" not in str(error.value)
