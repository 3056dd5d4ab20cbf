"""Adam by head: each head as an Adam of its own, and PyTorch's skipping of absent gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scorelab.networks.heads import HEADS
from scorelab.optimizers import adam_by_head, learning_rate_shape, make_optimizer

NUM_HEADS, STEPS, RATE = 5, 40, 0.1


def problem(seed=0):
  """Parameters, and which heads each step draws: one, several, none or all."""
  rng = np.random.default_rng(seed)
  params = {
    "Dense_0": {"kernel": rng.normal(size=(2, 3))},
    HEADS: {"kernel_0": rng.normal(size=(NUM_HEADS, 3, 2)), "bias_0": np.zeros((NUM_HEADS, 2))},
  }
  draws = [rng.choice(NUM_HEADS, size=rng.choice([0, 1, 1, 2, NUM_HEADS]), replace=False)
           for _ in range(STEPS)]  # fmt: skip
  return params, draws, rng


def gradients(params, drawn, rng):
  """Random ones, zero outside the heads drawn; a dead unit's are zero within one, too."""
  grads = jax.tree.map(lambda a: rng.normal(size=a.shape), params)
  for name, a in grads[HEADS].items():
    mask = np.isin(np.arange(NUM_HEADS), drawn).reshape(-1, *[1] * (a.ndim - 1))
    grads[HEADS][name] = a * mask
  grads[HEADS]["kernel_0"][:, 0] = 0
  return grads


def test_every_head_is_an_adam_of_its_own(x64):
  """A Python loop over separate states of optax.adam, each fed where its head was drawn."""
  params, draws, rng = problem()
  ours = jax.tree.map(jnp.asarray, params)
  rule = optax.chain(adam_by_head(b1=0.8, eps=1e-3), optax.scale(-RATE))
  state, update = rule.init(ours), jax.jit(rule.update)

  adam = optax.adam(RATE, b1=0.8, eps=1e-3)
  apart = {h: {name: a[h] for name, a in params[HEADS].items()} for h in range(NUM_HEADS)}
  apart["trunk"] = params["Dense_0"]
  states = {name: adam.init(tree) for name, tree in apart.items()}
  for drawn in draws:
    grads = gradients(params, drawn, rng)
    updates, state = update(jax.tree.map(jnp.asarray, grads), state)
    ours = optax.apply_updates(ours, updates)
    for name in [*drawn, "trunk"]:
      own = grads["Dense_0"] if name == "trunk" else {k: a[name] for k, a in grads[HEADS].items()}
      moves, states[name] = adam.update(own, states[name])
      apart[name] = optax.apply_updates(apart[name], moves)
  np.testing.assert_allclose(ours["Dense_0"]["kernel"], apart["trunk"]["kernel"], 1e-12)
  for h in range(NUM_HEADS):
    for name, a in ours[HEADS].items():
      np.testing.assert_allclose(a[h], apart[h][name], 1e-12, 1e-14)


def test_a_tensor_without_gradient_is_skipped():
  """Kingma and Ba's algorithm 1 for each tensor, as PyTorch runs it: no gradient, nothing moves.

  Also what makes the rule needed: Adam of zero gradients goes on by its momentum.
  """
  params, draws, rng = problem(1)
  ours, plain = (jax.tree.map(jnp.asarray, params) for _ in range(2))
  rules = optax.chain(adam_by_head(), optax.scale(-RATE)), optax.adam(RATE)
  states = [rule.init(ours) for rule in rules]
  updates = [jax.jit(rule.update) for rule in rules]
  tensors = {name: [np.array(a[h]) for h in range(NUM_HEADS)] for name, a in params[HEADS].items()}
  moments = {name: [(0.0, 0.0, 0)] * NUM_HEADS for name in tensors}
  for drawn in draws:
    grads = gradients(params, drawn, rng)
    for name, leaf in grads[HEADS].items():
      for h in drawn:
        m, v, t = moments[name][h]
        m, v, t = 0.9 * m + 0.1 * leaf[h], 0.999 * v + 0.001 * leaf[h] ** 2, t + 1
        moments[name][h] = m, v, t
        root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        tensors[name][h] = tensors[name][h] - RATE * m / (1 - 0.9**t) / root
    given = jax.tree.map(jnp.asarray, grads)
    moves, states[0] = updates[0](given, states[0])
    ours = optax.apply_updates(ours, moves)
    for h in np.setdiff1d(np.arange(NUM_HEADS), drawn):
      assert all((np.asarray(a)[h] == 0).all() for a in moves[HEADS].values())
    moves, states[1] = updates[1](given, states[1])
    plain = optax.apply_updates(plain, moves)
  for name, of_heads in tensors.items():
    np.testing.assert_allclose(ours[HEADS][name], of_heads, 1e-4, 1e-5)
  assert np.abs(plain[HEADS]["kernel_0"] - ours[HEADS]["kernel_0"]).max() > RATE


def test_no_heads_is_adam():
  """Networks without heads are trained as ever."""
  params = {"kernel": jnp.arange(3.0)}
  ours, adam = adam_by_head(b2=0.9), optax.scale_by_adam(b2=0.9)
  state, reference = ours.init(params), adam.init(params)
  for step in range(3):
    grads = {"kernel": jnp.sin(params["kernel"] + step)}
    moves, state = ours.update(grads, state)
    expected, reference = adam.update(grads, reference)
    np.testing.assert_array_equal(moves["kernel"], expected["kernel"])


def test_the_learning_rate_rises_and_reaches_zero_with_the_last_step():
  """A warm-up of 10 of 110 steps, then half a period of a cosine over the 100 that are left."""
  shape = learning_rate_shape(decay="cosine", warmup_steps=10, num_steps=110)
  found = [float(shape(step)) for step in (0, 5, 10, 35, 60, 110)]
  np.testing.assert_allclose(found, [0, 0.5, 1, (1 + 0.5**0.5) / 2, 0.5, 0], atol=1e-6)
  steps, whole = np.arange(120), optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 110)
  np.testing.assert_array_equal(jax.jit(shape)(steps), jax.jit(whole)(steps))
  shape = learning_rate_shape(decay="constant", warmup_steps=0, num_steps=110)
  assert {float(shape(step)) for step in (0, 60, 110)} == {1.0}


def test_a_step_clips_then_decays_then_scales():
  """By hand for plain descent: rate (clipped gradient + decay w), the norm being of the whole."""
  rule = make_optimizer(
    optax.identity(), num_steps=10, learning_rate=0.1, clip_norm=1.0, weight_decay=0.5
  )
  params, grads = {"a": jnp.array([2.0]), "b": jnp.array([-4.0])}, {"a": 3.0, "b": 4.0}
  grads = {name: jnp.array([value]) for name, value in grads.items()}
  updates, _ = rule.update(grads, rule.init(params), params)
  np.testing.assert_allclose(updates["a"], [-0.1 * (0.6 + 1.0)], rtol=1e-6)
  np.testing.assert_allclose(updates["b"], [-0.1 * (0.8 - 2.0)], rtol=1e-6)
