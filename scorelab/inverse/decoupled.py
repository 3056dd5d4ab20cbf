"""DAPS and PnP-DM: x_0 is drawn given y at every level, and noised again.

Both alternate between the likelihood, with x_0 near a point as N(point, r^2 I), and the network.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation
from scorelab.ranges import AtLeast, Between
from scorelab.samplers.ddim import ddim_step
from scorelab.samplers.noise import Noise, ZeroNoise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

_RHO = 7.0


def _descent(
  noise: Noise, predict: Predict, x: Array, grid: Grid, start: Level, steps: int, eta: float
) -> Array:
  """Takes x from a level to the data in few steps, equally spaced in r^(1 / 7) as EDM's are.

  Args:
    noise: one source per step.
    predict: the network or the truth.
    x: at the level `start`.
    grid: gives the process, and the last noisy level.
    start: a level.
    steps: calls of `predict`.
    eta: 0 for the probability flow, 1 for ancestral steps.
  """
  end = grid[-2] if grid.ends_at_data else grid[-1]
  top, low = start.sigma / start.alpha, end.sigma / end.alpha
  low = jnp.minimum(low, top)

  def level(i: Array) -> Level:
    share = i / jnp.maximum(steps - 1, 1)
    root = top ** (1 / _RHO) * (1 - share) + low ** (1 / _RHO) * share
    return grid.schedule.at_ratio(jnp.where(i < steps, root**_RHO, 0))

  def step(x: Array, inputs: tuple[Array, Noise]) -> tuple[Array, None]:
    i, noise = inputs
    now, nxt = level(i), level(i + 1)
    return ddim_step(predict(x, now), now, nxt, noise.normal(x.shape, x.dtype), eta), None

  return jax.lax.scan(step, x, (jnp.arange(steps), noise))[0]


@checked
def daps(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  flow_steps: Annotated[int, AtLeast(1)] = 5,
  langevin_steps: Annotated[int, AtLeast(0)] = 100,
  step_share: Annotated[Array | float, Between(0, 1, "(]")] = 0.3,
) -> Samples:
  """Decoupled annealing: solve the flow to x_0, draw near it given y, noise that to the next level.

      x_0 ~ N(end of the flow, r^2 I) given y        r = sigma / alpha, by Langevin's dynamics
      x_s = alpha_s x_0 + sigma_s n

  Zhang et al., "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
  CVPR 2025 (arXiv 2407.01521), algorithm 1.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event].
    grid: from noise with alpha > 0 to data, or to a last noisy level.
    observation: with noise_std > 0, if Langevin's dynamics are used.
    flow_steps: calls of `predict` per level. Static.
    langevin_steps: steps of the dynamics per level; 0 draws from their limit, which is known.
      Static.
    step_share: their step size, as a share of the smallest variance of the law of x_0.
  """
  if langevin_steps:
    observation.require_noise("daps with langevin_steps")
  law = Isotropic.of(observation)
  noise_variance = observation.noise_std**2

  def langevin(noise: Noise, mean: Array, r2: Array) -> Array:
    size = step_share / (1 / r2 + jnp.max(law.squares) / noise_variance)

    def move(x: Array, noise: Noise) -> tuple[Array, None]:
      pull = observation.operator.adjoint(observation.residual(x)) / noise_variance
      drift = pull + (mean - x) / r2
      return x + size * drift + jnp.sqrt(2 * size) * noise.normal(x.shape, x.dtype), None

    return jax.lax.scan(move, mean, noise.split(langevin_steps))[0]

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    drawing, noising = noise.fork(2)
    mean = _descent(ZeroNoise(), predict, x, grid, now, flow_steps, 0.0)
    r2 = (now.sigma / now.alpha) ** 2
    x0 = (langevin if langevin_steps else law.draw)(drawing, mean, r2)
    x = nxt.alpha * x0 + nxt.sigma * noising.normal(x.shape, x.dtype)
    return x, x

  x, path = jax.lax.scan(step, x, (*grid.pairs, as_noise(key).split(grid.num_steps)))
  return Samples(x, path, nfe=flow_steps * grid.num_steps)


@checked
def pnp_dm(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  observation: Observation,
  *,
  inner_steps: Annotated[int, AtLeast(1)] = 10,
) -> Samples:
  """Plug-and-play diffusion: split Gibbs sampling of (x_0, z) with a coupling r that falls.

      z given x_0    N(x_0, r^2 I) given y, drawn exactly
      x_0 given z    the posterior of x_0 seen as z with noise r: ancestral steps from that level

  For every r the pair's law is p(x_0) N(z; x_0, r^2 I) p(y | z), whose x_0 is exact as r goes to 0.
  Wu et al., "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors",
  NeurIPS 2024 (arXiv 2405.18782), algorithm 1; the grid's noisy levels are their rho.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: starts at grid[0], [n, *event], as z.
    grid: from noise with alpha > 0; one sweep per level before the last.
    observation: also without noise.
    inner_steps: ancestral steps per sweep. Static.
  """
  law = Isotropic.of(observation)

  def step(z: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    falling, drawing = noise.fork(2)
    steps = falling.split(inner_steps)
    x0 = _descent(steps, predict, now.alpha * z, grid, now, inner_steps, 1.0)
    r2 = (nxt.sigma / nxt.alpha) ** 2
    return jnp.where(r2 > 0, law.draw(drawing, x0, r2), x0), x0

  start = grid[0]
  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x / start.alpha, (*grid.pairs, noise))
  return Samples(x if grid.ends_at_data else path[-1], path, nfe=inner_steps * grid.num_steps)
