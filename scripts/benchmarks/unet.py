"""The published U-Net's training step in Flax and in PyTorch: same weights, Adam, loss and data."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax

from scorelab.networks import UNet
from scorelab.pretrained import unet_params
from scorelab.training import throughput
from scorelab.training.step import own_sums
from scripts.benchmarks.timed_processes import Task

MULTS = (1, 2, 4, 8)


def ours(side: int, batch: int, dim: int) -> Task:
  """In Flax."""
  network, optimizer = UNet(dim, MULTS), optax.adam(1e-3)
  x, noise, t = batch_of(side, batch)
  params: Any = jax.tree.map(jax.numpy.asarray, weights(network))
  first = jax.jit(network.apply)({"params": params}, x, t)

  # As training does.
  @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=own_sums())
  def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
    def loss(params: Any) -> jax.Array:
      out: Any = network.apply({"params": params}, x, t)
      return optax.huber_loss(out, noise).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  held = params, optimizer.init(params)
  flops = throughput.flops(step, *held)

  def call() -> None:
    nonlocal held
    *held, value = step(*held)
    float(value)

  return Task(call, lambda: first, {"FLOP": flops} if flops else {})


def theirs(side: int, batch: int, dim: int, compiled: bool) -> Task:
  """In PyTorch, channels last."""
  import torch

  from scripts.benchmarks.torch_training import device, use_all_cores
  from scripts.torch_unet import TorchUNet

  use_all_cores()
  where, network, module = device(), UNet(dim, MULTS), TorchUNet(dim, MULTS)
  _load(module, network)
  model: Any = module.to(where, memory_format=torch.channels_last)
  x, noise, t = batch_of(side, batch)
  given, wanted = (
    torch.from_numpy(np.moveaxis(a, -1, 1).copy())
    .to(where)
    .contiguous(memory_format=torch.channels_last)
    for a in (x, noise)
  )
  times = torch.from_numpy(t).to(where)
  with torch.no_grad():
    first = np.moveaxis(model(given, times).cpu().numpy(), 1, -1)
  adam = torch.optim.Adam(model.parameters(), lr=1e-3)
  run: Any = torch.compile(model) if compiled else model

  def call() -> None:
    adam.zero_grad()
    loss = torch.nn.functional.smooth_l1_loss(run(given, times), wanted)
    loss.backward()
    adam.step()
    loss.item()

  return Task(call, lambda: first)


def batch_of(side: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Noisy images and the noise to be found, [batch, side, side, 3], and times [batch]."""
  rng = np.random.default_rng(0)
  x, noise = rng.normal(size=(2, batch, side, side, 3)).astype(np.float32)
  return x, noise, rng.integers(0, 1000, batch).astype(np.float32)


def weights(network: UNet) -> Any:
  """Parameters, drawn the same on every side: kernels of std 1 / sqrt(fan-in), scales about 1."""
  x, t = np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]
  rng = np.random.default_rng(0)

  def draw(path: Any, leaf: Any) -> np.ndarray:
    drawn = rng.normal(size=leaf.shape).astype(np.float32)
    if leaf.ndim > 1:
      return drawn / np.prod(leaf.shape[:-1], dtype=np.float32) ** 0.5
    return 0.1 * drawn + (jax.tree_util.keystr(path[-1:]) == "['scale']")

  return jax.tree.map_with_path(draw, shapes)


def _load(module: Any, network: UNet) -> None:
  """Gives the PyTorch module the Flax network's `weights`.

  Its own parameters are numbered and go the way of published ones: each number's place in Flax
  says which weight is whose.
  """
  import torch

  state = module.state_dict()
  ends = np.cumsum([value.numel() for value in state.values()])
  numbered = {
    name: np.arange(end - value.numel(), end, dtype=np.float32).reshape(value.shape)
    for (name, value), end in zip(state.items(), ends, strict=True)
  }  # float32 counts to 16 million
  flat = np.empty(ends[-1], np.float32)
  places: Any = unet_params(network, numbered)
  for place, drawn in zip(jax.tree.leaves(places), jax.tree.leaves(weights(network)), strict=True):
    flat[np.asarray(place).astype(int)] = drawn
  module.load_state_dict(
    {
      name: torch.from_numpy(flat[number.astype(int)].reshape(number.shape))
      for name, number in numbered.items()
    }
  )
