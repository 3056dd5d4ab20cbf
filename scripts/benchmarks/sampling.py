"""Sampling by one network on one grid: ours, the notebook way, diffrax, diffusers and k-diffusion.

The network is an MLP of 265,474 parameters in the plane (256, 512, 256; two LayerNorms; leaky ReLU)
with random weights, the same in PyTorch and in Flax; it predicts the noise from x and log(sigma /
alpha) / 4. The grid is every so many steps of DDPM's 1000 linear betas, trailing. Every side starts
from the same noise, and all that draw none end at the same samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.networks.mlp import MLP
from scorelab.predictions import Parameterization, log_sigma
from scorelab.samplers import SAMPLERS, annealed_langevin
from scorelab.samplers.langevin import ula, ula_step
from scorelab.targets.mixtures import nine_modes
from scorelab.typing import Params
from scripts.benchmarks import torch_sampling
from scripts.benchmarks.limits import products
from scripts.benchmarks.paired_timing import Bar, Match
from scripts.benchmarks.sampling_inputs import (
  LANGEVIN_STEPS,
  STEP_SIZE,
  grid_of,
  ratios_of,
  start_of,
  trained,
)
from scripts.benchmarks.timed_processes import Side, Task

SIZES = (20, 100, 2000, 100_000)
_CHAIN_STEP = 1e-2


def sizes(quick: bool) -> tuple[int, ...]:
  """Returns the numbers of points to sample."""
  return SIZES[:1] if quick else SIZES


def flops(params: Params, size: int, calls: int) -> dict[str, float]:
  """Returns the FLOPs of the network's matrix products."""
  weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
  return {"FLOP": 2.0 * weights * size * calls}


def calls_of(sampler: str, steps: int) -> int:
  """Returns the number of calls of the network."""
  return 2 * steps - 1 if sampler == "heun" else steps


def ours(sampler: str, size: int, steps: int, quick: bool) -> Task:
  """A sampler of scorelab, one dispatch."""
  network, params = trained(quick)
  bind = Parameterization(network.apply, log_sigma, "noise").bind
  grid, x = grid_of(ratios_of(steps)), start_of(size)

  @jax.jit
  def sample(params: Params, x: jax.Array) -> jax.Array:
    return SAMPLERS[sampler](jax.random.key(0), bind(params), x, grid).x

  return Task(
    lambda: jax.block_until_ready(sample(params, x)),
    lambda: sample(params, x),
    flops(params, size, calls_of(sampler, steps)),
  )


def notebook(sampler: str, size: int, steps: int, quick: bool) -> Task:
  """A Python loop over jitted steps, in y = x / alpha at r = sigma / alpha."""
  network, params = trained(quick)
  noise = noise_of(network, params)
  ratios = [jnp.float32(r) for r in ratios_of(steps)]
  x = start_of(size) * np.sqrt(1 + ratios_of(steps)[0] ** 2, dtype=np.float32)

  @jax.jit
  def euler(y: jax.Array, r: jax.Array, nxt: jax.Array) -> jax.Array:
    return y + (nxt - r) * noise(y, r)

  @jax.jit
  def heun(y: jax.Array, r: jax.Array, nxt: jax.Array) -> jax.Array:
    first = noise(y, r)
    return y + (nxt - r) * (first + noise(y + (nxt - r) * first, nxt)) / 2

  @jax.jit
  def two_point(y: jax.Array, old: jax.Array, before: Any, r: Any, nxt: Any) -> Any:
    x0, h = y - r * noise(y, r), jnp.log(r / nxt)
    q = jnp.log(before / r) / h
    return nxt / r * y - jnp.expm1(-h) * ((1 + 1 / (2 * q)) * x0 - old / (2 * q)), x0

  @jax.jit
  def one_point(y: jax.Array, r: jax.Array, nxt: jax.Array) -> Any:
    x0 = y - r * noise(y, r)
    return x0 + nxt / r * (y - x0), x0

  def sample() -> jax.Array:
    y, last = jnp.asarray(x), len(ratios) - 2
    old = y
    for i, (r, nxt) in enumerate(itertools.pairwise(ratios)):
      if sampler == "ddim" or (sampler == "heun" and i == last):
        y = euler(y, r, nxt)
      elif sampler == "heun":
        y = heun(y, r, nxt)
      elif i in (0, last):
        y, old = one_point(y, r, nxt)
      else:
        y, old = two_point(y, old, ratios[i - 1], r, nxt)
    return jax.block_until_ready(y)

  return Task(sample, sample, flops(params, size, calls_of(sampler, steps)))


def noise_of(network: MLP, params: Params) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """(y = x / alpha [n, 2], r = sigma / alpha []) -> the network's noise."""

  def noise(y: jax.Array, r: jax.Array) -> jax.Array:
    told = jnp.broadcast_to(jnp.log(r) / 4, y.shape[:1])
    out: Any = network.apply({"params": params}, y / jnp.sqrt(1 + r**2), told)
    return out

  return noise


def with_diffrax(sampler: str, size: int, steps: int, quick: bool) -> Task:
  """diffrax's Euler or Heun on dy / dr = noise through the same levels; the last step is Euler's.

  Euler's method in this form is DDIM.
  """
  import diffrax

  network, params = trained(quick)
  noise = noise_of(network, params)
  ratios = ratios_of(steps)
  x = start_of(size) * np.sqrt(1 + ratios[0] ** 2, dtype=np.float32)
  solver = diffrax.Heun() if sampler == "heun" else diffrax.Euler()

  @jax.jit
  def sample(x: jax.Array) -> jax.Array:
    solution = diffrax.diffeqsolve(
      diffrax.ODETerm(lambda r, y, _: noise(y, r)),  # pyrefly: ignore
      solver,
      t0=jnp.float32(ratios[0]),
      t1=jnp.float32(ratios[-2]),
      dt0=None,
      y0=x,
      stepsize_controller=diffrax.StepTo(jnp.asarray(ratios[:-1], jnp.float32)),
      max_steps=len(ratios),
    )
    y, last = solution.ys[-1], jnp.float32(ratios[-2])  # pyrefly: ignore
    return y - last * noise(y, last)

  return Task(
    lambda: jax.block_until_ready(sample(x)),
    lambda: sample(x),
    flops(params, size, calls_of(sampler, steps)),
  )


def langevin(size: int, levels: int, quick: bool, loop: bool = False) -> Task:
  """Annealed Langevin dynamics, in one dispatch or, as a notebook, in one for each step."""
  network, params = trained(quick)
  bind = Parameterization(network.apply, log_sigma, "noise").bind
  ratios, x, key = ratios_of(levels), start_of(size), jax.random.key(0)
  grid = grid_of(ratios)

  @jax.jit
  def sample(x: jax.Array) -> jax.Array:
    options = {"steps_per_level": LANGEVIN_STEPS, "step_size": STEP_SIZE}
    return annealed_langevin(key, bind(params), x, grid, **options).x

  @jax.jit
  def step(y: jax.Array, key: jax.Array, level: Any, h: jax.Array) -> jax.Array:
    score = level.alpha * bind(params)(level.alpha * y, level).score
    return ula_step(y, score, h, jax.random.normal(key, y.shape))

  def step_by_step() -> jax.Array:
    y, level = x / grid[0].alpha, grid[0]
    for i, level_key in enumerate(jax.random.split(key, levels)):
      level = grid[i]
      h = jnp.float32(STEP_SIZE * (ratios[i] / ratios[-2]) ** 2)
      for step_key in jax.random.split(level_key, LANGEVIN_STEPS):
        y = step(y, step_key, level, h)
    return jax.block_until_ready(level.alpha * y)

  work = step_by_step if loop else lambda: jax.block_until_ready(sample(x))
  return Task(work, work, flops(params, size, levels * LANGEVIN_STEPS))


def chains(size: int, steps: int, loop: bool = False) -> Task:
  """Chains of ULA by the nine modes' exact score; all states are kept, as for an animation."""
  target, key = nine_modes(), jax.random.key(0)
  start = 10 * start_of(size)

  @jax.jit
  def step(key: jax.Array, x: jax.Array) -> jax.Array:
    return ula_step(x, target.score(x), _CHAIN_STEP, jax.random.normal(key, x.shape))

  def step_by_step() -> np.ndarray:
    x, path = start, []
    for step_key in jax.random.split(key, steps):
      x = step(step_key, x)
      path.append(x)
    return np.stack(path)

  @jax.jit
  def chain(x: jax.Array) -> jax.Array:
    return ula(key, target.score, x, step_size=_CHAIN_STEP, num_steps=steps).path

  work = step_by_step if loop else lambda: jax.block_until_ready(chain(start))
  return Task(work, work)


def match(sampler: str, size: int, quick: bool, bars: tuple[Bar, ...] = ()) -> Match:
  """Times one sampler at several batch sizes against every library that implements it."""
  steps = 4 if quick else 100 if size <= 2000 else 10
  options = {"sampler": sampler, "size": size, "steps": steps}
  options["quick"] = quick
  sides = {"ours": Side(ours, options), "Python loop": Side(notebook, options)}
  if sampler != "dpmpp_2m":
    sides["diffrax"] = Side(with_diffrax, options)
  sides["diffusers"] = Side(torch_sampling.with_diffusers, options)
  sides["k-diffusion"] = Side(torch_sampling.with_k_diffusion, options)
  return Match(
    f"{size:,} points, {steps} steps",
    sides,
    products(quick),
    rtol=1e-2,
    atol=1e-2,
    rounds=20 if size <= 2000 else 5,
    bars=bars,
  )


def sample_ddim(quick: bool) -> list[Match]:
  """DDIM: k-diffusion's and diffrax's Euler in sigma / alpha are the same method."""
  bars = {
    20: (Bar("ratio", "diffusers", 4.5),),
    2000: (Bar("ratio", "diffusers", 1.5), Bar("share", "ours", 0.9)),
  }
  return [match("ddim", size, quick, bars.get(size, ())) for size in sizes(quick)]


def sample_heun(quick: bool) -> list[Match]:
  """Heun's method on the probability flow, its last step Euler's."""
  return [match("heun", size, quick) for size in sizes(quick)]


def sample_dpmpp_2m(quick: bool) -> list[Match]:
  """DPM-Solver++(2M)."""
  return [match("dpmpp_2m", size, quick) for size in sizes(quick)]


def sample_langevin(quick: bool) -> list[Match]:
  """Annealed Langevin dynamics, 5 steps at each level; and ULA on the data's own score."""
  matches = []
  for size in sizes(quick):
    levels = 2 if quick or size > 2000 else 20
    options = {"size": size, "levels": levels, "quick": quick}
    sides = {
      "ours": Side(langevin, options),
      "Python loop": Side(langevin, {**options, "loop": True}),
      "PyTorch loop": Side(torch_sampling.langevin, options),
    }
    name, rounds = f"{size:,} points, {levels} levels", 20 if size <= 2000 else 5
    limits = products(quick)
    matches.append(Match(name, sides, limits, rtol=1e-2, atol=1e-2, rounds=rounds))
  size = {"size": 20, "steps": 20 if quick else 1000}
  sides = {"ours": Side(chains, size), "Python loop": Side(chains, {**size, "loop": True})}
  name = "20 chains, {steps} steps of ULA, exact score".format(**size)
  return [*matches, Match(name, sides, rtol=1e-3, atol=1e-3)]
