"""Multilayer perceptrons: the published size, and what they do before any training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES, MLP, NETWORKS, ResidualMLP

pytestmark = pytest.mark.usefixtures("quick_compilation")


def drawn(network, dim=3):
  """Parameters like an initialised network's, but none of them zero."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, dim)), jnp.ones(1))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(a.dtype), shapes)


def test_published_parameter_count():
  """265,474 parameters: 256, LN, 512, 256, LN, 2 on two coordinates and a level."""
  shapes = jax.eval_shape(MLP().init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 265_474


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
def test_points_apart(name):
  """float32 throughout; an output depends on its own point and level, and on no other's."""
  network = NETWORKS[name]()
  x, c = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.zeros(5, np.float32)
  variables = drawn(network)
  assert set(variables) == {"params"}
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  apply = jax.jit(network.apply)
  out = apply(variables, x, c)
  assert out.shape == x.shape
  assert out.dtype == jnp.float32
  third = (np.arange(5) == 2).astype(np.float32)
  for other in (apply(variables, x + third[:, None], c), apply(variables, x, c + third)):
    np.testing.assert_array_equal((other != out).any(1), third)


@pytest.mark.parametrize(("features", "inputs"), [("harmonics", 6), ("identity", 3), ("none", 2)])
def test_level_features(features, inputs):
  """On two circles: 256-256-256 ReLU, 2 numbers of the point and 4, 1 or 0 of the level."""
  network = MLP((256,) * 3, (False,) * 3, "relu", level_features=features)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))
  count = 256 * (inputs + 1) + 2 * 256 * 257 + 2 * 257
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_harmonics():
  """At quarters of the circle: (a - 1/2, cos 2 pi a, sin 2 pi a, -cos 4 pi a)."""
  known = [[-0.5, 1, 0, -1], [-0.25, 0, 1, 1], [0, -1, 0, -1], [0.25, 0, -1, 1], [0.5, 1, 0, -1]]
  got = LEVEL_FEATURES["harmonics"](jnp.arange(5) / 4)
  np.testing.assert_allclose(got, known, atol=2e-6)


def test_residual_mlp_starts_at_zero():
  """So that preconditioning begins from the best linear denoiser."""
  network = ResidualMLP(width=8, depth=1)
  x, c = jnp.ones((4, 2)), jnp.arange(4.0)
  start = jax.jit(lambda key: network.init_with_output(key, x, c)[0])(jax.random.key(0))
  np.testing.assert_array_equal(start, 0)


def test_residual_mlp_has_one_set_of_frequencies():
  """They are no parameters, and the same for every seed: only the dense layers' draws differ."""
  init = ResidualMLP(width=16, depth=1).init
  variables = jax.eval_shape(init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))
  names = {path[1].key.split("_")[0] for path, _ in jax.tree_util.tree_leaves_with_path(variables)}
  assert names == {"Dense", "LayerNorm"}


def test_output_activation():
  """The published score went through a leaky ReLU, so its negative part is a hundredth."""
  x, c = jax.random.normal(jax.random.key(1), (64, 2)), jnp.ones(64)
  plain = MLP(widths=(8,), norms=(True,))
  variables = drawn(plain, dim=2)
  leaky = MLP(widths=(8,), norms=(True,), output_activation="leaky_relu")
  out, leaky = jax.jit(lambda *args: (plain.apply(*args), leaky.apply(*args)))(variables, x, c)
  np.testing.assert_allclose(leaky, np.where(out > 0, out, 0.01 * out), 1e-6)
  assert (out < 0).any()


def test_mlp_refuses_unequal_lists():
  with pytest.raises(ValueError, match="shorter"):
    init = MLP(widths=(8, 8), norms=(True,)).init
    jax.eval_shape(init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))


def test_activations_are_flax_names():
  assert all(ACTIVATIONS[name] is getattr(nn, name) for name in ACTIVATIONS)
