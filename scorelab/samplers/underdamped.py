"""Underdamped (kinetic) Langevin dynamics, dx = v dt, dv = (score(x) - c v) dt + sqrt(2 c) dW.

With friction c > 0 its stationary law is p(x) N(v; 0, I).

Leimkuhler and Matthews, "Rational Construction of Stochastic Numerical Methods for Molecular
Sampling", Applied Mathematics Research eXpress 2013(1) (arXiv 1203.5428).
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax.numpy as jnp

from scorelab.ranges import Above, AtLeast, Count
from scorelab.samplers.langevin import Chain, Function, run_chains
from scorelab.samplers.noise import Noise, as_noise
from scorelab.typing import Array, Floats, Key
from scorelab.validation import checked


class KineticState(NamedTuple):
  """State of underdamped dynamics: x, its velocity and its score, of one shape."""

  x: Array
  velocity: Array
  score: Array


def baoab_step(
  state: KineticState,
  score: Function,
  step_size: Array | float,
  friction: Array | float,
  z: Floats,
) -> KineticState:
  """One underdamped step at unit mass: the five exact flows B, A, O, A, B in turn.

      B  v += dt/2 score(x)    A  x += dt/2 v    O  v = k v + sqrt(1 - k^2) z, k = exp(-c dt)

  For a Gaussian of std > dt / 2 the law of x is exact, whatever the friction; v's is too narrow.

  Args:
    state: position, velocity and score.
    score: the function, called once.
    step_size: the time step dt > 0, in units of x; at infinite friction it corresponds to
      ULA's h = dt^2 / 2.
    friction: c > 0, per unit time; if infinite, each step draws a new v.
    z: standard normal of x's shape.

  Returns:
    The next position, velocity and score.
  """
  half = step_size / 2
  kept, renewed = jnp.exp(-friction * step_size), jnp.sqrt(-jnp.expm1(-2 * friction * step_size))
  velocity = state.velocity + half * state.score
  x = state.x + half * velocity
  velocity = kept * velocity + renewed * z
  x = x + half * velocity
  new_score = score(x)
  return KineticState(x, velocity + half * new_score, new_score)


@checked
def underdamped_langevin(
  key: Key | Noise,
  score: Function,
  x: Floats,
  *,
  step_size: Annotated[Array | float, Above(0)],
  num_steps: Annotated[int, Count(1_000_000)],
  friction: Annotated[Array | float, Above(0)] = 1.0,
  burn_in: Annotated[int, AtLeast(0)] = 0,
  thin: Annotated[int, AtLeast(1)] = 1,
) -> Chain:
  """Chains by `baoab_step`, from velocities drawn from N(0, I), their stationary law.

  Args:
    key: consumed; RecordedNoise takes (velocity [1, *x.shape], steps [n, *x.shape]).
    score, x: see `ula`.
    num_steps: number of steps, including the burn-in. Static.
    burn_in: steps before the first that is kept, < num_steps. Static.
    thin: keeps every thin-th step after burn-in; divides their number. Static.
    step_size: the time step dt > 0, in units of x; stable below 2 std.
    friction: c > 0, per unit time; 2 / std forgets a Gaussian's start fastest.

  Returns:
    A Chain of positions; nfe = num_steps + 1.

  Raises:
    ValueError: see `ula`.
  """
  velocity, steps = as_noise(key).fork(2)
  start = KineticState(x, velocity.normal(x.shape, x.dtype), score(x))

  def step(state: KineticState, noise: Noise) -> tuple[KineticState, Array]:
    z = noise.normal(x.shape, x.dtype)
    return baoab_step(state, score, step_size, friction, z), jnp.ones((), x.dtype)

  run = run_chains(step, start, steps, (), num_steps=num_steps, burn_in=burn_in, thin=thin)
  return Chain(*run, nfe=num_steps + 1)
