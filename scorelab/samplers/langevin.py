"""Langevin dynamics: kernels that leave one law (almost) alone, and annealing through many.

    overdamped     dx = score(x) dt + sqrt(2) dW
    underdamped    dx = v dt,    dv = score(x) dt - friction v dt + sqrt(2 friction) dW

Both have exp(log p) as their stationary law, with v ~ N(0, I) apart. The kernels take a plain
`score(x)`, and leading axes of x are chains that run in parallel.

References:
  Roberts and Tweedie, "Exponential Convergence of Langevin Distributions and Their Discrete
    Approximations", Bernoulli 2(4), 1996, section 1.4: ULA and MALA. Their h is twice ours.
  Leimkuhler and Matthews, "Rational Construction of Stochastic Numerical Methods for Molecular
    Sampling", Applied Mathematics Research eXpress, 2013 (arXiv 1203.5428): BAOAB.
  Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", NeurIPS
    2019 (arXiv 1907.05600), algorithm 1: annealing. Their alpha_i is twice our h.
  Song and Ermon, "Improved Techniques for Training Score-Based Generative Models", NeurIPS 2020
    (arXiv 2006.09011), technique 4: its step size. Their alpha_i is our h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict, Samples

Field: TypeAlias = Callable[[Array], Array]
"""`score(x)`, of x's shape, or `log_prob(x)`, of the shape of x's chain axes."""


class Chain(NamedTuple):
  """What a Langevin kernel returns; x [*chains, *event] is its start.

  Attributes:
    x: the last state.
    path: the states kept, [kept, *x.shape]: each `thin`-th after `burn_in`. The last one is x.
    acceptance: mean acceptance probability after burn-in, [*chains]; 1 of shape [] where every
      step is accepted.
    nfe: calls of `score`, exactly. MALA calls `log_prob` as often.
  """

  x: Array
  path: Array
  acceptance: Array
  nfe: int


class MalaState(NamedTuple):
  """x [*chains, *event], its score, and its log-density [*chains]."""

  x: Array
  score: Array
  log_prob: Array


class KineticState(NamedTuple):
  """x, its velocity and its score, of one shape."""

  x: Array
  velocity: Array
  score: Array


def ula_step(x: Array, score: Array, step_size: Array | float, z: Array) -> Array:
  """One unadjusted Langevin step, x + h score + sqrt(2 h) z.

  Args:
    x: points of any shape.
    score: the score at x, of x's shape.
    step_size: h > 0, in squared units of x.
    z: standard normal of x's shape.

  Returns:
    The moved points, of x's shape.
  """
  return x + step_size * score + jnp.sqrt(2 * step_size) * z


def mala_step(
  state: MalaState,
  score: Field,
  log_prob: Field,
  step_size: Array | float,
  z: Array,
  uniform: Array,
) -> tuple[MalaState, Array]:
  """One Metropolis-adjusted Langevin step: ULA's, taken with probability min(1, ratio).

      ratio = p(x') q(x | x') / (p(x) q(x' | x)),    q(x' | x) = N(x + h s(x), 2 h I)

  With x' = x + h s + sqrt(2 h) z, the log of the q's is -sqrt(h / 2) (s + s') z - h |s + s'|^2 / 4:
  the |z|^2, which would drown the rest in float32, cancel by hand.

  Args:
    state: where the chains are.
    score, log_prob: the functions; a score that is not log_prob's gradient is slower, not wrong.
    step_size: h > 0, in squared units of x.
    z: standard normal of x's shape.
    uniform: uniform on [0, 1), [*chains].

  Returns:
    Where the chains are now, and the acceptance probability [*chains]. What has no density, a
    NaN or -inf, is never moved to.
  """
  x = ula_step(state.x, state.score, step_size, z)
  new = MalaState(x, score(x), log_prob(x))
  both = state.score + new.score
  drifted = jnp.sqrt(step_size / 2) * both * z + step_size / 4 * both**2
  event_axes = tuple(range(uniform.ndim, x.ndim))
  log_ratio = new.log_prob - state.log_prob - jnp.sum(drifted, event_axes)
  log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
  acceptance = jnp.exp(jnp.minimum(log_ratio, 0))
  accepted = uniform < acceptance

  def choose(new: Array, old: Array) -> Array:
    return jnp.where(accepted.reshape(accepted.shape + (1,) * (new.ndim - accepted.ndim)), new, old)

  return jax.tree.map(choose, new, state), acceptance


def baoab_step(
  state: KineticState,
  score: Field,
  step_size: Array | float,
  friction: Array | float,
  z: Array,
) -> KineticState:
  """One step of underdamped Langevin dynamics with unit mass, split as BAOAB.

      B  v += dt/2 score(x)      A  x += dt/2 v      O  v = c v + sqrt(1 - c^2) z
      A  x += dt/2 v             B  v += dt/2 score(x)            c = exp(-friction dt)

  Exact in x for a Gaussian of variance > dt^2 / 4 and any friction; v's variance is too small.

  Args:
    state: position, velocity and score.
    score: the function; called once.
    step_size: the time step dt > 0, in units of x: as far as sqrt(2 h) of ULA's h.
    friction: > 0, per unit time; infinite, it draws v anew at each step.
    z: standard normal of x's shape.

  Returns:
    The next position, velocity and score.
  """
  half = step_size / 2
  velocity = state.velocity + half * state.score
  x = state.x + half * velocity
  kept, renewed = jnp.exp(-friction * step_size), jnp.sqrt(-jnp.expm1(-2 * friction * step_size))
  velocity = kept * velocity + renewed * z
  x = x + half * velocity
  new_score = score(x)
  return KineticState(x, velocity + half * new_score, new_score)


def _run(
  step: Callable[[Any, Key], tuple[Any, Array]],
  state: Any,
  key: Key,
  num_chain_axes: int,
  *,
  num_steps: int,
  burn_in: int,
  thin: int,
) -> tuple[Array, Array, Array]:
  """Scans a step from a state whose first entry is x: Chain's x, path and acceptance.

  Only the states kept are stored; the same key draws the same long path for every burn_in and thin.
  """
  if thin < 1 or not 0 <= burn_in < num_steps or (num_steps - burn_in) % thin:
    raise ValueError(
      f"num_steps = {num_steps}, burn_in = {burn_in}, thin = {thin} must satisfy"
      " 0 <= burn_in < num_steps and thin must divide num_steps - burn_in"
    )
  Carry = tuple[Any, Array]

  def move(carry: Carry, key: Key) -> tuple[Carry, None]:
    state, acceptance = step(carry[0], key)
    return (state, carry[1] + acceptance), None

  def keep(carry: Carry, keys: Key) -> tuple[Carry, Array]:
    carry, _ = jax.lax.scan(move, carry, keys)
    return carry, carry[0][0]

  keys = jax.random.split(key, num_steps)
  none_yet = jnp.zeros(state[0].shape[:num_chain_axes], state[0].dtype)
  (state, _), _ = jax.lax.scan(move, (state, none_yet), keys[:burn_in])
  (state, total), path = jax.lax.scan(keep, (state, none_yet), keys[burn_in:].reshape(-1, thin))
  return state[0], path, total / (num_steps - burn_in)
