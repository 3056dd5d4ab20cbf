"""The tutorial's network: its size, and that time does nothing but move the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.networks import AdditiveMLP


def test_published_parameter_count():
  """64, 512, 512, 512, 64 with biases, and a weight and a bias of the time for each pixel."""
  shape = jnp.ones((1, 8, 8, 1))
  shapes = jax.eval_shape(AdditiveMLP().init, jax.random.key(0), shape, jnp.ones(1))
  sizes = (2 * 64, 65 * 512, 513 * 512, 513 * 512, 513 * 64)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(sizes) == 591_552


@pytest.mark.e2e
def test_time_moves_the_image_by_less_than_one_and_no_more():
  """Where the time's weights are zero it does nothing; else it is a shift, undone by another."""
  network = AdditiveMLP(widths=(16, 16))
  x, key = jax.random.normal(jax.random.key(1), (4, 2, 3, 1)), jax.random.key(0)
  params = network.init(key, x, jnp.ones(4))["params"]

  def out(params, x, c):
    return network.apply({"params": params}, x, jnp.full(4, c))

  still = params | {"time": jax.tree.map(jnp.zeros_like, params["time"])}
  np.testing.assert_array_equal(out(still, x, 0.1), out(still, x, 0.9))
  moved = {"kernel": 1.5 + jnp.zeros((1, 6)), "bias": jnp.full(6, -0.2)}
  shift = np.tanh(1.5 * 0.7 - 0.2)
  np.testing.assert_allclose(
    out(params | {"time": moved}, x, 0.7), out(still, x + shift, 0.0), 1e-5, 1e-6
  )


def test_limit_clips():
  x, c = 40 * jax.random.normal(jax.random.key(1), (50, 6)), jnp.zeros(50)
  free, clipped = (AdditiveMLP((16,), output_limit=limit) for limit in (None, 3.0))
  variables = free.init(jax.random.key(0), x, c)
  y = free.apply(variables, x, c)
  assert np.abs(y).max() > 3
  np.testing.assert_array_equal(clipped.apply(variables, x, c), np.clip(y, -3, 3))
