"""Heads chosen by gather, against a Python loop over rows; the size of the published network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.networks.heads import HEADS, HeadsMLP

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORK = HeadsMLP(widths=(8, 6), head_widths=(5,), num_heads=7, outputs=2)
# Which head each row names; one block has 32 rows.
HEADS_OF_ROWS = {
  "one row": [3],
  "one head": [2] * 70,
  "every head once": [4, 0, 6, 2, 1, 5, 3],
  "in order": np.repeat(range(7), 40).tolist(),
  "a full block and one more": [1] * 33 + [6] * 32,
  "any": np.random.default_rng(0).integers(0, 7, 200).tolist(),
}


def row_by_row(params, x, heads):
  """The plain network of each row, in NumPy's float64."""
  params = jax.tree.map(lambda a: np.asarray(a, float), params)
  out = []
  for row, head in zip(np.asarray(x, float), heads, strict=True):
    h = row
    for layer in ("Dense_0", "Dense_1"):
      h = np.maximum(h @ params[layer]["kernel"] + params[layer]["bias"], 0)
    of_head = {name: a[head] for name, a in params[HEADS].items()}
    h = np.maximum(h @ of_head["kernel_0"] + of_head["bias_0"], 0)
    out.append(h @ of_head["kernel_1"] + of_head["bias_1"])
  return np.array(out)


def drawn(rows):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))["params"]
  params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
  return params, rng.normal(size=(rows, 2)).astype(np.float32)


@pytest.mark.parametrize("name", HEADS_OF_ROWS)
def test_each_row_has_its_own_head(name):
  heads = HEADS_OF_ROWS[name]
  params, x = drawn(len(heads))
  out = jax.jit(NETWORK.apply)({"params": params}, x, jnp.asarray(heads, jnp.float32))
  assert out.shape == (len(heads), 4)
  np.testing.assert_allclose(out, row_by_row(params, x, heads), 1e-5, 1e-5)


def test_gradients_stay_within_heads():
  """A head's gradient is that of its rows alone, by central differences; of no rows, zero."""
  heads = [5, 1, 5, 5, 1, 3]
  params, x = drawn(len(heads))

  def loss(params):
    out = NETWORK.apply({"params": params}, x, jnp.asarray(heads, jnp.float32))
    return jnp.sum(jnp.sin(out))

  gradient = jax.jit(jax.grad(loss))(params)[HEADS]
  for leaf in jax.tree.leaves(gradient):
    moved = np.abs(leaf).reshape(7, -1).max(axis=1) > 0
    np.testing.assert_array_equal(np.flatnonzero(moved), [1, 3, 5])

  rng = np.random.default_rng(2)
  direction = {name: rng.normal(size=a.shape) for name, a in params[HEADS].items()}
  step = 1e-6

  def shifted(sign):
    of_heads = {
      n: np.asarray(a, float) + sign * step * direction[n] for n, a in params[HEADS].items()
    }
    return np.sin(row_by_row(params | {HEADS: of_heads}, x, heads)).sum()

  slope = sum(float(np.sum(gradient[name] * direction[name])) for name in direction)
  np.testing.assert_allclose(slope, (shifted(1) - shifted(-1)) / (2 * step), 1e-4)


def test_published_size():
  """64-64, then 40 heads 64-64-4: PyTorch's linear layers of these sizes have 181,152 numbers."""
  network = HeadsMLP(outputs=2)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))
  linear = {(2, 64): 1, (64, 64): 41, (64, 4): 40}
  expected = sum(count * (n + 1) * m for (n, m), count in linear.items())
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected == 181_152
