"""Langevin kernels: Markov chains that discretise dx = score(x) dt + sqrt(2) dW, which keeps p.

They take a function `score(x)`. Leading axes of x are chains, which run in parallel.

Roberts and Tweedie, "Exponential Convergence of Langevin Distributions and Their Discrete
Approximations", Bernoulli 2(4), 1996, section 1.4. Their h is twice ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.ranges import Above, AtLeast, Count
from scorelab.samplers.noise import Noise, as_noise
from scorelab.typing import Array, Floats, Key
from scorelab.validation import checked

Function: TypeAlias = Callable[[Array], Array]
"""`score`: [*chains, *event] -> the same; or `log_prob`: [*chains, *event] -> [*chains]."""


class Chain(NamedTuple):
  """Path of a kernel's chains, from a start of shape [*chains, *event].

  Attributes:
    x: the last state.
    path: the states kept, [kept, *x.shape]: each `thin`-th after `burn_in`. The last one is x.
    acceptance: mean acceptance probability after burn-in: [*chains], or 1 of shape [] if every step
      is accepted.
    nfe: calls of `score`, exactly; MALA calls `log_prob` as often.
  """

  x: Floats
  path: Float[Array, " kept *shape"]
  acceptance: Float[Array, "*chains"]
  nfe: int


Kernel: TypeAlias = Callable[..., Chain]
"""`(key, score, x, *, step_size, num_steps, ...) -> Chain`; MALA takes log_prob before x."""


class MalaState(NamedTuple):
  """State of MALA: x, its score of x's shape, and its log-density [*chains]."""

  x: Array
  score: Array
  log_prob: Array


def ula_step(x: Floats, score: Floats, step_size: Array | float, z: Floats) -> Floats:
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
  z: Floats,
  uniform: Array,
) -> tuple[MalaState, Array]:
  """One Metropolis-adjusted step: ULA's x', taken with probability min(1, ratio).

      ratio = p(x') q(x | x') / (p(x) q(x' | x)),    q(x' | x) = N(x + h s, 2 h I)

  Of the two q's the |z|^2 / 2 cancel, here by hand since in many dimensions they are large:

      log q(x | x') / q(x' | x) = -sqrt(h / 2) (s + s') z - h |s + s'|^2 / 4

  Args:
    state: the chains' points.
    score, log_prob: the functions. Any score keeps log_prob's law; its gradient mixes best.
    step_size: h > 0, in squared units of x.
    z: standard normal of x's shape.
    uniform: uniform on [0, 1), [*chains].

  Returns:
    The new state and the acceptance probability [*chains]: 0 for an x' whose log-density is -inf or
    NaN.
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
  step: Callable[[Any, Noise], tuple[Any, Array]],
  state: Any,
  noise: Noise,
  chains: tuple[int, ...],
  *,
  num_steps: int,
  burn_in: int,
  thin: int,
) -> tuple[Array, Array, Array]:
  """Scans a step and returns the x, path and acceptance of a Chain.

  Only kept states are stored: they are states of the run without burn-in and thinning.

  Args:
    step: (state, key) -> (state, acceptance [*chains]).
    state: the start, a tuple, x first.
    noise: split into one source per step.
    chains: the acceptance's shape.
    num_steps, burn_in, thin: see `ula`.
  """
  if thin < 1 or not 0 <= burn_in < num_steps or (num_steps - burn_in) % thin:
    raise ValueError(
      f"num_steps = {num_steps}, burn_in = {burn_in} and thin = {thin} must satisfy"
      " 0 <= burn_in < num_steps, and thin must divide num_steps - burn_in"
    )
  Carry = tuple[Any, Array]

  def move(carry: Carry, noise: Noise) -> tuple[Carry, None]:
    state, acceptance = step(carry[0], noise)
    return (state, carry[1] + acceptance), None

  def keep(carry: Carry, noise: Noise) -> tuple[Carry, Array]:
    carry, _ = jax.lax.scan(move, carry, noise, length=thin)
    return carry, carry[0][0]

  noise, none = noise.split(num_steps), jnp.zeros(chains, state[0].dtype)
  if burn_in:  # else not compiled
    (state, _), _ = jax.lax.scan(move, (state, none), noise[:burn_in], length=burn_in)
  kept = (num_steps - burn_in) // thin
  noise = jax.tree.map(lambda a: a.reshape(kept, thin, *a.shape[1:]), noise[burn_in:])
  (state, total), path = jax.lax.scan(keep, (state, none), noise, length=kept)
  return state[0], path, total / (num_steps - burn_in)


@checked
def ula(
  key: Key | Noise,
  score: Function,
  x: Floats,
  *,
  step_size: Annotated[Array | float, Above(0)],
  num_steps: Annotated[int, Count(1_000_000)],
  burn_in: Annotated[int, AtLeast(0)] = 0,
  thin: Annotated[int, AtLeast(1)] = 1,
) -> Chain:
  """Chains by `ula_step`. On N(m, v I) their variance tends to v / (1 - h / (2 v)): too large.

  Args:
    key: consumed.
    score: the gradient of the log-density.
    x: the start, [*chains, *event].
    step_size: h > 0, in squared units of x; stable below 2 v.
    num_steps: number of steps, including the burn-in. Static.
    burn_in: steps before the first that is kept, < num_steps. Static.
    thin: keeps every thin-th step after burn-in; divides their number. Static.

  Returns:
    A Chain; nfe = num_steps.

  Raises:
    ValueError: num_steps, burn_in and thin do not fit together.
  """

  def step(state: tuple[Array], noise: Noise) -> tuple[tuple[Array], Array]:
    z = noise.normal(x.shape, x.dtype)
    return (ula_step(state[0], score(state[0]), step_size, z),), jnp.ones((), x.dtype)

  run = run_chains(step, (x,), as_noise(key), (), num_steps=num_steps, burn_in=burn_in, thin=thin)
  return Chain(*run, nfe=num_steps)


@checked
def mala(
  key: Key | Noise,
  score: Function,
  log_prob: Function,
  x: Floats,
  *,
  step_size: Annotated[Array | float, Above(0)],
  num_steps: Annotated[int, Count(1_000_000)],
  burn_in: Annotated[int, AtLeast(0)] = 0,
  thin: Annotated[int, AtLeast(1)] = 1,
) -> Chain:
  """Chains by `mala_step`, exact for any step size.

  Args:
    key: consumed; RecordedNoise takes (normals [n, *x.shape], uniforms [n, *chains]).
    score, x, step_size, num_steps, burn_in, thin: see `ula`.
    log_prob: the log-density up to a constant, [*chains, *event] -> [*chains]: its shape
      tells which axes are chains.

  Returns:
    A Chain; nfe = num_steps + 1.

  Raises:
    ValueError: see `ula`; or log_prob's shape is not that of x's leading axes.
  """
  start = MalaState(x, score(x), log_prob(x))
  chains = start.log_prob.shape
  if x.shape[: len(chains)] != chains:
    raise ValueError(f"log_prob has shape {chains}, not that of leading axes of x {x.shape}")

  def step(state: MalaState, noise: Noise) -> tuple[MalaState, Array]:
    proposal, choice = noise.fork(2)
    z = proposal.normal(x.shape, x.dtype)
    uniform = choice.uniform(chains, x.dtype)
    return mala_step(state, score, log_prob, step_size, z, uniform)

  lengths = {"num_steps": num_steps, "burn_in": burn_in, "thin": thin}
  run = run_chains(step, start, as_noise(key), chains, **lengths)
  return Chain(*run, nfe=num_steps + 1)
