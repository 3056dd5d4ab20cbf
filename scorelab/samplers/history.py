"""History of past predictions: the weights and the scan of the multistep solvers.

A step is first-order DDIM's plus the change that the polynomial p through the last values f_j of a
view makes, an integral over the step, s from 0 to 1, of known moments:

    x' = DDIM's step + alpha' sum_j w_j (f_j - f)        sum_j w_j (f_j - f) = int (p(s) - f) dm(s)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.samplers.ddim import renewing_step
from scorelab.samplers.noise import Noise, ZeroNoise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict, Samples

_GAUSS = tuple(np.polynomial.legendre.leggauss(8) * np.full((2, 1), 0.5) + np.array([[0.5], [0]]))


def step_orders(
  num_steps: int, order: int, *, lower_order_final: bool = False, last_is_first: bool = False
) -> np.ndarray:
  """Returns the order of each step, [N]: rises from 1 to `order`, and may fall back to 1.

  Args:
    num_steps: N.
    order: the largest.
    lower_order_final: whether the last steps fall, ..., 2, 1.
    last_is_first: whether the last step alone is of first order.
  """
  index = np.arange(num_steps)
  orders = np.minimum(index + 1, order)
  if lower_order_final:
    orders = np.minimum(orders, num_steps - index)
  if last_is_first:
    orders[-1] = 1
  return orders


def past_nodes(knots: Array, known: Array, orders: np.ndarray) -> tuple[Array, Array, Array]:
  """Returns the positions of earlier levels in units of each step, from s = 0 to s = 1.

  Args:
    knots: [N + 1] strictly monotone positions of the levels.
    known: [N + 1] whether a level has a position; other knots are not read.
    orders: [N] of the steps.

  Returns:
    The positions [N, k] of the level 1, ..., k steps before, k = max(orders) - 1; whether they are
    used, [N, k]; and the widths of the steps, [N], 1 if one end has no position.
  """
  width = jnp.where(known[1:] & known[:-1], knots[1:] - knots[:-1], 1)
  index = np.arange(len(orders))
  nodes, used = [], []
  for j in range(1, max(orders)):
    past = np.maximum(index - j, 0)
    nodes.append((knots[past] - knots[:-1]) / width)
    used.append(jnp.asarray(j < orders) & known[past])
  if not nodes:
    return jnp.zeros((len(orders), 0)), jnp.zeros((len(orders), 0), bool), width
  return jnp.stack(nodes, 1), jnp.stack(used, 1), width


def exponential_moments(rate: Array, count: int) -> Array:
  """Returns h times the integral of s^m e^(-h (1 - s)) over s in [0, 1], for m < count.

  By parts they are 1 - e^-h, and then 1 - (m / h) times the one before, which cancels for small h:
  there Gauss-Legendre quadrature with 8 nodes is exact to rounding.

  Args:
    rate: h, [n], of either sign; may be infinite.
    count: number of moments. Static.

  Returns:
    [n, count].
  """
  small = jnp.abs(rate) < 1
  inner, outer = jnp.where(small, rate, 0)[:, None], jnp.where(small, 1, rate)
  nodes, weights = (jnp.asarray(a, rate.dtype)[None] for a in _GAUSS)
  moments, by_parts = [], -jnp.expm1(-outer)
  for m in range(count):
    if m:
      by_parts = 1 - m / outer * by_parts
    rule = jnp.sum(weights * inner * jnp.exp(-inner * (1 - nodes)) * nodes**m, 1)
    moments.append(jnp.where(small, rule, by_parts))
  return jnp.stack(moments, 1)


def lagrange_weights(nodes: Array, used: Array, moments: Array) -> Array:
  """Returns the weights of f(s_j) - f(0) in the integral of the polynomial through 0 and all s_j.

  Args:
    nodes: s_j, [n, k]; those used are distinct, not 0 and at most 1.
    used: [n, k]; a value not used has weight 0 and lowers the degree.
    moments: [n, >= k + 1], the integrals of s^0, s^1, ....

  Returns:
    [n, k]; the rest of the integral is f(0) times the first moment.
  """
  count = nodes.shape[1]
  nodes = jnp.where(used, nodes, 2 + np.arange(count, dtype=np.float32)[None])
  weights = []
  for j in range(count):
    # The polynomial that is 1 at s_j and 0 at 0 and the others: its coefficients of s, s^2, ....
    basis = [1 / nodes[:, j]]
    for m in range(count):
      if m != j:
        scale = jnp.where(used[:, m], 1 / (nodes[:, j] - nodes[:, m]), 1)
        shift = jnp.where(used[:, m], nodes[:, m], 0)
        rises = jnp.where(used[:, m], 1.0, 0.0)
        low, high = [*basis, 0.0], [0.0, *basis]
        # times (s - s_m) / (s_j - s_m), or 1
        basis = [
          scale * (jnp.where(used[:, m], -shift, 1) * a + rises * b)
          for a, b in zip(low, high, strict=True)
        ]
    total = sum(c * moments[:, d + 1] for d, c in enumerate(basis))
    weights.append(jnp.where(used[:, j], total, 0))
  return jnp.stack(weights, 1) if weights else nodes


def combine(weights: Array, values: Array) -> Array:
  """Returns the sum over j of weights [k] times values [k, *shape]."""
  return jnp.sum(weights.reshape(-1, *[1] * (values.ndim - 1)) * values, axis=0)


def run_multistep(
  key: Key | Noise,
  predict: Predict,
  x: Array,
  grid: Grid,
  weights: Array,
  view: str,
  shares: tuple[Array, Array] | None = None,
  s_noise: Array | float = 1.0,
  past: Array | None = None,
) -> Samples:
  """Samples by first-order steps plus weighted differences of past views.

      x' = DDIM's step + alpha' sum_j w_j (view_j - view)

  Args:
    key: consumed if noise is renewed, else ignored.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: from noise to data, or to a last noisy level.
    weights: w, [N, k].
    view: the view kept in the history, 'x0' or 'noise'.
    shares: the parts of r' that each step renews and keeps, each [N]; None for deterministic
      samplers, which keep all.
    s_noise: the relative std of the noise drawn.
    past: the view at the levels before grid[0], latest first, [k, *x.shape]; None if there are
      none.

  Returns:
    Samples of x's shape; nfe = N.
  """
  stochastic = shares is not None
  if shares is None:
    shares = jnp.zeros(grid.num_steps), jnp.ones(grid.num_steps)
  noise = as_noise(key).split(grid.num_steps) if stochastic else ZeroNoise()
  Carry = tuple[Array, Array]

  def step(
    carry: Carry, inputs: tuple[Level, Level, Array, tuple[Array, Array], Noise]
  ) -> tuple[Carry, Array]:
    x, past = carry
    now, nxt, row, share, noise = inputs
    pred = predict(x, now)
    value = pred.view(view)
    z = s_noise * noise.normal(x.shape, x.dtype)
    x = renewing_step(pred, nxt, z, *share) + nxt.alpha * combine(row, past - value[None])
    return (x, jnp.concatenate([value[None], past])[: len(past)]), x

  if past is None:
    past = jnp.zeros((weights.shape[1], *x.shape), x.dtype)
  (x, _), path = jax.lax.scan(step, (x, past), (*grid.pairs, weights, shares, noise))
  return Samples(x, path, nfe=grid.num_steps)
