"""The same sampling by diffusers' and k-diffusion's loops and by ours: one network, one grid.

The network is an MLP of 265,474 parameters in the plane (256, 512, 256; two LayerNorms; leaky ReLU)
with random weights, the same in PyTorch and in Flax; it predicts the noise and is told log(sigma /
alpha) / 4. PyTorch runs in inference mode on as many threads as there are cores, and what can be
computed before the loop is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.networks.mlp import MLP
from scorelab.predictions import Parameterization
from scorelab.samplers import SAMPLERS
from scorelab.schedules import Grid, Level

NUM_STEPS, SIZES = 100, (20, 2000)
Work = Callable[[], Any]


def conditioning(level: Level) -> jax.Array:
  """What the network is told."""
  return (jnp.log(level.sigma) - jnp.log(level.alpha)) / 4


def make_networks() -> tuple[Any, Any, Any]:
  """The Flax module, its parameters, and the same network in PyTorch, `(x, c [n, 1]) -> noise`."""
  import torch

  network = MLP()
  params = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))["params"]

  def layer(name: str) -> Any:
    p = {k: torch.tensor(np.array(v)) for k, v in params[name].items()}
    if name.startswith("LayerNorm"):
      made: Any = torch.nn.LayerNorm(len(p["scale"]), eps=1e-6)
      values = {"weight": p["scale"], "bias": p["bias"]}
    else:
      made = torch.nn.Linear(*p["kernel"].shape)
      values = {"weight": p["kernel"].T.contiguous(), "bias": p["bias"]}
    made.load_state_dict(values)
    return made

  leaky = torch.nn.LeakyReLU(0.01)
  stack = torch.nn.Sequential(
    *(layer("Dense_0"), layer("LayerNorm_0"), leaky),
    *(layer("Dense_1"), leaky),
    *(layer("Dense_2"), layer("LayerNorm_1"), leaky),
    layer("Dense_3"),
  )
  return network, params, lambda x, c: stack(torch.cat([x, c], dim=1))


def diffusers_loops(network: Any) -> dict[str, tuple[Callable[[Any], Any], np.ndarray]]:
  """By sampler: `x -> samples` from unit noise, and sigma / alpha of its levels, [N + 1]."""
  import diffusers
  import torch

  betas = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
  schedulers = {
    "ddim": diffusers.DDIMScheduler(**betas, clip_sample=False),
    "heun": diffusers.HeunDiscreteScheduler(**betas),
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler(**betas, solver_order=2),
  }
  loops = {}
  for name, scheduler in schedulers.items():
    scheduler.set_timesteps(NUM_STEPS)
    if name == "ddim":
      alpha_bars = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
      called = np.sqrt(1 / alpha_bars - 1)
      ratios = np.append(called, 0.0)
    else:
      called = scheduler.sigmas.double().numpy()
      ratios = np.append(np.unique(called[called > 0])[::-1], 0.0)
    told = torch.tensor(np.log(np.where(called > 0, called, 1)) / 4, dtype=torch.float32)

    def loop(x: Any, name: str = name, scheduler: Any = scheduler, told: Any = told) -> Any:
      columns = told[:, None, None].expand(-1, len(x), 1)
      scheduler.set_timesteps(NUM_STEPS)  # also forgets the last run
      x = x * scheduler.init_noise_sigma
      for i, t in enumerate(scheduler.timesteps):
        seen = x if name != "heun" else scheduler.scale_model_input(x, t)
        x = scheduler.step(network(seen, columns[i]), t, x).prev_sample
      return x

    loops[name] = (loop, ratios)
  return loops


def k_diffusion_loops(
  network: Any, ratios: np.ndarray
) -> dict[str, tuple[Callable[[Any], Any], np.ndarray]]:
  """The same for k-diffusion, on one grid: its own wrapper of a network is a closure here."""
  import torch
  from k_diffusion import sampling

  sigmas = torch.tensor(ratios, dtype=torch.float32)

  def denoise(x: Any, sigma: Any) -> Any:
    column = sigma[:, None]
    return x - column * network(x / (1 + column**2).sqrt(), column.log() / 4)

  functions = {"euler": sampling.sample_euler, "heun": sampling.sample_heun}
  functions["dpmpp_2m"] = sampling.sample_dpmpp_2m

  def loop(function: Callable[..., Any]) -> Callable[[Any], Any]:
    # From unit noise: x / alpha is its draw times sqrt(1 + ratio^2).
    scale = float(np.sqrt(1 + ratios[0] ** 2))
    return lambda x: function(denoise, x * scale, sigmas, disable=True)

  return {name: (loop(function), ratios) for name, function in functions.items()}


def grid_of(ratios: np.ndarray) -> Grid:
  """The variance-preserving grid of these sigma / alpha."""
  alphas = 1 / np.sqrt(1 + ratios**2)
  return Grid.from_arrays(alphas, ratios * alphas, process="vp")


def matched(
  library: str, loops: dict[str, tuple[Callable[[Any], Any], np.ndarray]], network: Any, params: Any
) -> dict[str, tuple[Work, Work]]:
  """Pairs of work that give the same samples, for every sampler and size."""
  import torch

  bind = Parameterization(network.apply, conditioning, "noise").bind
  pairs = {}
  for name, (loop, ratios) in loops.items():
    grid = grid_of(ratios)

    @jax.jit
    def run(x: jax.Array, name: str = name, grid: Grid = grid) -> jax.Array:
      return SAMPLERS[name](jax.random.key(0), bind(params), x, grid).x

    for size in SIZES:
      x = np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
      given = torch.tensor(x)

      def theirs(loop: Any = loop, given: Any = given) -> Any:
        with torch.inference_mode():
          return loop(given)

      def ours(run: Any = run, x: np.ndarray = x) -> Any:
        return jax.block_until_ready(run(x))

      np.testing.assert_allclose(ours(), theirs().numpy(), rtol=1e-2, atol=1e-2)
      pairs[f"{library} / ours, {name}, {size} points"] = (theirs, ours)
  return pairs


def share_of_peak(ddim: Work, size: int) -> tuple[Work, Work]:
  """Matrix products alone, as many operations as DDIM's: their time over its time is its share.

  The products are of `size` rows and 512 columns, one after the other.
  """
  products = NUM_STEPS * (3 * 256 + 2 * 256 * 512 + 256 * 2) / 512**2

  @jax.jit
  def multiply(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, round(products), lambda _, x: x @ w, x)

  key = jax.random.key(0)
  x, w = jax.random.normal(key, (size, 512)), jax.random.orthogonal(key, 512)
  return lambda: jax.block_until_ready(multiply(x, w)), ddim


def side_by_side() -> dict[str, tuple[Work, Work]]:
  """Every pair, and the share of the matrix products' peak.

  Raises:
    ImportError: torch, diffusers or k-diffusion is not installed.
  """
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  network, params, in_torch = make_networks()
  loops = diffusers_loops(in_torch)
  pairs = matched("diffusers", loops, network, params)
  others = k_diffusion_loops(in_torch, loops["ddim"][1])
  pairs |= matched("k-diffusion", others, network, params)
  _, ddim = pairs[f"diffusers / ours, ddim, {SIZES[-1]} points"]
  pairs[f"share of the matrix products' peak, ddim, {SIZES[-1]} points"] = share_of_peak(
    ddim, SIZES[-1]
  )
  return pairs
