"""Langevin kernels: chains that step along dx = score(x) dt + sqrt(2) dW, whose law is p for ever.

They take a plain `score(x)`. Leading axes of x are chains, which run in parallel.

Roberts and Tweedie, "Exponential Convergence of Langevin Distributions and Their Discrete
Approximations", Bernoulli 2(4), 1996, section 1.4. Their h is twice ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.typing import Array, Key
from scorelab.validation import checked

Function: TypeAlias = Callable[[Array], Array]
"""`score`: [*chains, *event] -> the same; or `log_prob`: [*chains, *event] -> [*chains]."""


class Chain(NamedTuple):
  """What a kernel returns for a start of shape [*chains, *event].

  Attributes:
    x: the last state.
    path: the states kept, [kept, *x.shape]: each `thin`-th after `burn_in`. The last one is x.
    acceptance: mean acceptance probability after burn-in: [*chains], or 1 of shape [] where every
      step is accepted.
    nfe: calls of `score`, exactly; MALA calls `log_prob` as often.
  """

  x: Array
  path: Array
  acceptance: Array
  nfe: int


Kernel: TypeAlias = Callable[..., Chain]
"""`(key, score, x, *, step_size, num_steps, ...) -> Chain`; MALA takes log_prob before x."""


class MalaState(NamedTuple):
  """x, its score of x's shape, and its log-density [*chains]."""

  x: Array
  score: Array
  log_prob: Array


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
  score: Function,
  log_prob: Function,
  step_size: Array | float,
  z: Array,
  uniform: Array,
) -> tuple[MalaState, Array]:
  """One Metropolis-adjusted step: ULA's x', taken with probability min(1, ratio).

      ratio = p(x') q(x | x') / (p(x) q(x' | x)),    q(x' | x) = N(x + h s, 2 h I)

  Of the two q's the |z|^2 / 2 cancel, here by hand since in many dimensions they are large:

      log q(x | x') / q(x' | x) = -sqrt(h / 2) (s + s') z - h |s + s'|^2 / 4

  Args:
    state: where the chains are.
    score, log_prob: the functions. Any score leaves log_prob's law as it is, the best its gradient.
    step_size: h > 0, in squared units of x.
    z: standard normal of x's shape.
    uniform: uniform on [0, 1), [*chains].

  Returns:
    Where the chains are now and the acceptance probability [*chains]: 0 for an x' that has no
    density, or NaN.
  """
  x = ula_step(state.x, state.score, step_size, z)
  new = MalaState(x, score(x), log_prob(x))
  both = state.score + new.score
  back = jnp.sqrt(step_size / 2) * both * z + step_size / 4 * both**2
  log_ratio = new.log_prob - state.log_prob - back.sum(tuple(range(uniform.ndim, x.ndim)))
  acceptance = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0))
  accepted = uniform < acceptance

  def choose(a: Array, b: Array) -> Array:
    return jnp.where(accepted.reshape(accepted.shape + (1,) * (a.ndim - accepted.ndim)), a, b)

  return jax.tree.map(choose, new, state), acceptance


def run_chains(
  step: Callable[[Any, Key], tuple[Any, Array]],
  state: Any,
  key: Key,
  chains: tuple[int, ...],
  *,
  num_steps: int,
  burn_in: int,
  thin: int,
) -> tuple[Array, Array, Array]:
  """What every kernel does: Chain's x, path and acceptance, by scanning a step.

  Only what is kept is stored, and it is what a run without burn-in or thinning passes through.

  Args:
    step: (state, key) -> (state, acceptance [*chains]).
    state: where the chains start: a tuple, x first.
    key: consumed.
    chains: the acceptance's shape.
    num_steps, burn_in, thin: as `ula`.
  """
  if thin < 1 or not 0 <= burn_in < num_steps or (num_steps - burn_in) % thin:
    raise ValueError(
      f"num_steps = {num_steps}, burn_in = {burn_in} and thin = {thin} must satisfy"
      " 0 <= burn_in < num_steps, and thin must divide num_steps - burn_in"
    )
  Carry = tuple[Any, Array]

  def move(carry: Carry, key: Key) -> tuple[Carry, None]:
    state, acceptance = step(carry[0], key)
    return (state, carry[1] + acceptance), None

  def keep(carry: Carry, keys: Key) -> tuple[Carry, Array]:
    carry, _ = jax.lax.scan(move, carry, keys)
    return carry, carry[0][0]

  keys, none = jax.random.split(key, num_steps), jnp.zeros(chains, state[0].dtype)
  if burn_in:  # else not compiled
    (state, _), _ = jax.lax.scan(move, (state, none), keys[:burn_in])
  (state, total), path = jax.lax.scan(keep, (state, none), keys[burn_in:].reshape(-1, thin))
  return state[0], path, total / (num_steps - burn_in)


@checked("sampler")
def ula(
  key: Key,
  score: Function,
  x: Array,
  *,
  step_size: Array | float,
  num_steps: int,
  burn_in: int = 0,
  thin: int = 1,
) -> Chain:
  """Chains by `ula_step`. On N(m, v I) their variance tends to v / (1 - h / (2 v)): too large.

  Args:
    key: consumed.
    score: the gradient of the log-density.
    x: the start, [*chains, *event].
    step_size: h > 0, in squared units of x; unstable from 2 v on.
    num_steps: all steps, those of the burn-in with them. Static.
    burn_in: steps before the first that may be kept, < num_steps. Static.
    thin: every how manieth step after them is kept; divides their number. Static.

  Returns:
    A Chain; nfe = num_steps.

  Raises:
    ValueError: for other num_steps, burn_in or thin than these.
  """

  def step(state: tuple[Array], key: Key) -> tuple[tuple[Array], Array]:
    z = jax.random.normal(key, x.shape, x.dtype)
    return (ula_step(state[0], score(state[0]), step_size, z),), jnp.ones((), x.dtype)

  run = run_chains(step, (x,), key, (), num_steps=num_steps, burn_in=burn_in, thin=thin)
  return Chain(*run, nfe=num_steps)


@checked("sampler")
def mala(
  key: Key,
  score: Function,
  log_prob: Function,
  x: Array,
  *,
  step_size: Array | float,
  num_steps: int,
  burn_in: int = 0,
  thin: int = 1,
) -> Chain:
  """Chains by `mala_step`: exact for any step size. Arguments as `ula`, and a log-density.

  Args:
    key, score, x, step_size, num_steps, burn_in, thin: as `ula`.
    log_prob: the log-density up to a constant, [*chains, *event] -> [*chains]: from its shape
      follows which axes are chains.

  Returns:
    A Chain; nfe = num_steps + 1.

  Raises:
    ValueError: as `ula`, and for a log_prob that is not of the shape of x's leading axes.
  """
  start = MalaState(x, score(x), log_prob(x))
  chains = start.log_prob.shape
  if x.shape[: len(chains)] != chains:
    raise ValueError(f"log_prob has shape {chains}, not that of leading axes of x {x.shape}")

  def step(state: MalaState, key: Key) -> tuple[MalaState, Array]:
    of_noise, of_choice = jax.random.split(key)
    z = jax.random.normal(of_noise, x.shape, x.dtype)
    uniform = jax.random.uniform(of_choice, chains, x.dtype)
    return mala_step(state, score, log_prob, step_size, z, uniform)

  run = run_chains(step, start, key, chains, num_steps=num_steps, burn_in=burn_in, thin=thin)
  return Chain(*run, nfe=num_steps + 1)
