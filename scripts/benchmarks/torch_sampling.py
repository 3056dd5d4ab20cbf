"""The sampling of sampling.py by loops of diffusers, k-diffusion and plain PyTorch.

PyTorch runs in inference mode, and what can be computed before the loop is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scripts.benchmarks.sampling_inputs import (
  LANGEVIN_STEPS,
  STEP_SIZE,
  ratios_of,
  start_of,
  trained,
)
from scripts.benchmarks.timed_processes import Task
from scripts.benchmarks.torch_training import device, layer, use_all_cores


def network_of(quick: bool) -> Any:
  """The network of `sampling.trained`: `(x [n, 2], c [n, 1]) -> noise`."""
  import torch

  use_all_cores()
  _, params = trained(quick)
  made, leaky = {name: layer(name, values) for name, values in params.items()}, torch.nn.LeakyReLU
  stack = torch.nn.Sequential(
    *(made["Dense_0"], made["LayerNorm_0"], leaky(0.01)),
    *(made["Dense_1"], leaky(0.01)),
    *(made["Dense_2"], made["LayerNorm_1"], leaky(0.01)),
    made["Dense_3"],
  ).to(device())
  return lambda x, c: stack(torch.cat([x, c], dim=1))


def with_diffusers(sampler: str, size: int, steps: int, quick: bool) -> Task:
  """A scheduler of diffusers, on trailing steps of DDPM's linear betas."""
  import diffusers  # pyrefly: ignore[missing-import]
  import torch

  betas = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
  if sampler == "ddim":
    scheduler: Any = diffusers.DDIMScheduler(**betas, clip_sample=False)
  elif sampler == "heun":
    scheduler = diffusers.HeunDiscreteScheduler(**betas)
  else:
    scheduler = diffusers.DPMSolverMultistepScheduler(**betas, solver_order=2)
  scheduler.set_timesteps(steps)
  if sampler == "ddim":
    alpha_bars = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    called = np.sqrt(1 / alpha_bars - 1)
  else:
    called = scheduler.sigmas.double().numpy()
  logs = np.log(np.where(called > 0, called, 1)) / 4
  network, where = network_of(quick), device()
  columns = torch.tensor(logs, dtype=torch.float32, device=where)[:, None, None]
  columns = columns.expand(-1, size, 1)

  def loop(x: Any) -> Any:
    scheduler.set_timesteps(steps)  # also forgets the last run
    x = x * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
      seen = x if sampler != "heun" else scheduler.scale_model_input(x, t)
      x = scheduler.step(network(seen, columns[i]), t, x).prev_sample
    return x

  return _task(loop, size)


def with_k_diffusion(sampler: str, size: int, steps: int, quick: bool) -> Task:
  """A function of k-diffusion; its wrapper of a network is a closure here."""
  import torch
  from k_diffusion import sampling  # pyrefly: ignore[missing-import]

  network, ratios = network_of(quick), ratios_of(steps)
  sigmas = torch.tensor(ratios, dtype=torch.float32, device=device())
  names = {"ddim": "sample_euler", "heun": "sample_heun", "dpmpp_2m": "sample_dpmpp_2m"}
  function = getattr(sampling, names[sampler])
  # From unit noise: x / alpha is its draw times sqrt(1 + ratio^2).
  scale = float(np.sqrt(1 + ratios[0] ** 2))

  def denoise(x: Any, sigma: Any) -> Any:
    column = sigma[:, None]
    return x - column * network(x / (1 + column**2).sqrt(), column.log() / 4)

  return _task(lambda x: function(denoise, x * scale, sigmas, disable=True), size)


def langevin(size: int, levels: int, quick: bool) -> Task:
  """Song and Ermon's loop; its noise is PyTorch's own, so that samples are not compared."""
  import torch

  network, ratios = network_of(quick), ratios_of(levels)[:-1]
  steps = STEP_SIZE * (ratios / ratios[-1]) ** 2
  columns = torch.tensor(np.log(ratios) / 4, dtype=torch.float32, device=device())[:, None, None]
  columns = columns.expand(-1, size, 1)

  def loop(x: Any) -> Any:
    y = x * float(np.sqrt(1 + ratios[0] ** 2))
    for i, (r, h) in enumerate(zip(ratios.tolist(), steps.tolist(), strict=True)):
      for _ in range(LANGEVIN_STEPS):
        score = -network(y * (1 + r**2) ** -0.5, columns[i]) / r
        y = y + h * score + (2 * h) ** 0.5 * torch.randn_like(y)
    return y

  task = _task(loop, size)
  return Task(task.call)


def _task(loop: Callable[[Any], Any], size: int) -> Task:
  """Runs `loop` from the same unit noise as the other sides."""
  import torch

  x = torch.tensor(start_of(size), device=device())

  def call() -> Any:
    with torch.inference_mode():
      return loop(x).cpu()

  return Task(call, lambda: call().numpy())
