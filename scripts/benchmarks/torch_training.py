"""A training step of an experiment in PyTorch: the same network, loss, optimiser and average.

Of MLPs, with the parameterizations 'edm' and, weighted by sigma squared, 'score'. Data, levels and
noise are drawn at every step from PyTorch's generator, and the loss is read after the last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.experiment.spec import Experiment
from scorelab.optimizers import learning_rate_shape
from scorelab.schedules import Level
from scorelab.typing import Array, DequantisedTarget, Params

_LEVELS = 4096  # quantiles of the levels' distribution that are kept


def use_all_cores() -> None:
  """Lets PyTorch have a thread for each core."""
  import torch

  torch.set_num_threads(os.cpu_count() or 1)


def device() -> str:
  """Returns PyTorch's device."""
  import torch

  return "cuda" if torch.cuda.is_available() else "cpu"


def make(
  experiment: Experiment,
  params: Params,
  noisy: Array,
  level: Level,
  steps: int,
  rows: int,
  compiled: bool,
) -> tuple[Callable[[], None], np.ndarray]:
  """(a call of so many steps, the network's x0 at noisy points before the first).

  Args:
    experiment: its parts are read from its config.
    params: the network's, in Flax.
    noisy, level: the points [n, *event] and their levels [n].
    steps: in a call.
    rows: noisy points in a step.
    compiled: whether loss and gradient go through `torch.compile`.
  """
  import torch

  use_all_cores()
  where, config = device(), experiment.config
  network = network_of(config["network"], params, experiment).to(where)
  data_std = float(np.asarray(getattr(experiment.target, "scale", 1.0)))
  edm = config["parameterization"]["name"] == "edm"

  def errors(x: Any, alpha: Any, sigma: Any, noise: Any, x0: Any) -> Any:
    """The network's error, weighted so that its square is the loss: of its own output."""
    shown, told, skip, out = scales(alpha, sigma)
    if edm:
      return network(shown * x, told) - (x0 - skip * x) / out
    return sigma * network(x, told) + noise

  def scales(alpha: Any, sigma: Any) -> tuple[Any, ...]:
    variance = sigma**2 + (alpha * data_std) ** 2
    told = (sigma / alpha).log() / 4
    root = variance.sqrt()
    return 1 / root, told, alpha * data_std**2 / variance, sigma * data_std / root

  def tensor(array: Any) -> Any:
    return torch.tensor(np.asarray(array), dtype=torch.float32, device=where)

  with torch.no_grad():
    x, alpha, sigma = (tensor(a) for a in (noisy, level.alpha[:, None], level.sigma[:, None]))
    x, (shown, told, skip, out) = x.flatten(1), scales(alpha, sigma)
    if edm:
      x0 = skip * x + out * network(shown * x, told)
    else:
      x0 = (x + sigma**2 * network(x, told)) / alpha
    found = x0.cpu().numpy().reshape(noisy.shape)

  assert experiment.loss_levels is not None
  table = experiment.loss_levels((jnp.arange(_LEVELS) + 0.5) / _LEVELS)
  alphas, sigmas = (tensor(a)[:, None] for a in (table.alpha, table.sigma))
  draw = sampler_of(experiment, rows, where)

  def loss_of(x0: Any, alpha: Any, sigma: Any, noise: Any) -> Any:
    x = alpha * x0 + sigma * noise
    return (errors(x, alpha, sigma, noise, x0) ** 2).sum(1).mean()

  run: Any = torch.compile(loss_of) if compiled else loss_of
  section = config["optimizer"]
  parameters = list(network.parameters())
  adam: Any = torch.optim.AdamW(
    parameters, lr=section["learning_rate"], weight_decay=section["weight_decay"] or 0.0
  )
  shape = learning_rate_shape(
    decay=section["decay"], warmup_steps=section["warmup_steps"], num_steps=experiment.num_steps
  )
  rates = section["learning_rate"] * np.asarray(jax.vmap(shape)(jnp.arange(experiment.num_steps)))
  averages = [(decay, [p.detach().clone() for p in parameters]) for decay in section["ema_decays"]]
  done = 0

  def call() -> None:
    nonlocal done
    loss = None
    for _ in range(steps):
      x0 = draw()
      index = torch.randint(_LEVELS, (rows,), device=where)
      adam.zero_grad()
      loss = run(x0, alphas[index], sigmas[index], torch.randn_like(x0))
      loss.backward()
      if section["clip_norm"]:
        torch.nn.utils.clip_grad_norm_(parameters, section["clip_norm"])
      for group in adam.param_groups:
        group["lr"] = float(rates[min(done, len(rates) - 1)])
      adam.step()
      with torch.no_grad():
        for decay, average in averages:
          kept = min(decay, (1 + done) / (10 + done))
          torch._foreach_lerp_(average, parameters, 1 - kept)
      done += 1
    assert loss is not None and math.isfinite(loss.item())

  return call, found


def sampler_of(experiment: Experiment, rows: int, where: str) -> Callable[[], Any]:
  """Draws flat training points [rows, d], from the data or from the nine modes."""
  import torch

  copies = experiment.config["loss"]["levels_per_point"] or 1
  if experiment.data:
    x = np.asarray(experiment.data["x"])
    points = torch.tensor(x.reshape(len(x), -1), dtype=torch.float32, device=where)
    dequantised = isinstance(experiment.target, DequantisedTarget)

    def of_data() -> Any:
      size = rows // copies
      whole = not experiment.config["training"]["batch_size"]
      index = torch.randperm(size) if whole else torch.randint(len(points), (size,), device=where)
      drawn = points[index]
      if dequantised:
        drawn = drawn + torch.rand_like(drawn) / 16
      return drawn.repeat(copies, 1)

    return of_data
  mixture: Any = experiment.target
  weights, means, stds = (
    torch.tensor(np.asarray(a), device=where)
    for a in (mixture.weights, mixture.means, np.sqrt(mixture.variances))
  )

  def of_mixture() -> Any:
    index = torch.multinomial(weights, rows // copies, replacement=True)
    drawn = means[index]
    return (drawn + stds[index] * torch.randn_like(drawn)).repeat(copies, 1)

  return of_mixture


def network_of(section: Any, params: Params, experiment: Experiment) -> Any:
  """The MLP of a config with the parameters of ours: `(x [n, d], c [n, 1]) -> [n, d]`.

  Raises:
    ValueError: the network is of another kind.
  """
  from torch import nn

  activation = {"leaky_relu": nn.LeakyReLU(0.01), "relu": nn.ReLU(), "silu": nn.SiLU()}
  layers = {name: layer(name, values) for name, values in params.items()}
  if section["name"] == "mlp":
    return _mlp(section, layers, activation)
  if section["name"] == "residual_mlp":
    return _residual_mlp(section, layers, int(np.prod(experiment.target.event_shape)))
  raise ValueError(f"network.name = {section['name']!r}, must be mlp or residual_mlp")


def layer(name: str, values: Any) -> Any:
  """A dense layer or a layer normalisation of Flax, by its name there, in PyTorch."""
  import torch

  given = {k: torch.tensor(np.array(v)) for k, v in values.items()}
  if name.startswith("LayerNorm"):
    made: Any = torch.nn.LayerNorm(len(given["scale"]), eps=1e-6)
    state = {"weight": given["scale"], "bias": given["bias"]}
  else:
    made = torch.nn.Linear(*given["kernel"].shape)
    state = {"weight": given["kernel"].T.contiguous(), "bias": given["bias"]}
  made.load_state_dict(state)
  return made


def _mlp(section: Any, layers: dict[str, Any], activation: dict[str, Any]) -> Any:
  import torch

  chosen, norms, stack = activation[section["activation"] or "leaky_relu"], 0, []
  for i, normed in enumerate(section["norms"]):
    stack.append(layers[f"Dense_{i}"])
    if normed:
      stack.append(layers[f"LayerNorm_{norms}"])
      norms += 1
    stack.append(chosen)
  stack.append(layers[f"Dense_{len(section['norms'])}"])
  if section["output_activation"]:
    stack.append(activation[section["output_activation"]])

  class Mlp(torch.nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.stack = torch.nn.Sequential(*stack)

    def forward(self, x: Any, c: Any) -> Any:
      return self.stack(torch.cat([x, c], 1))

  return Mlp()


def _residual_mlp(section: Any, layers: dict[str, Any], dim: int) -> Any:
  import torch

  from scorelab.networks import ResidualMLP
  from scorelab.networks.embeddings import FourierFeatures

  fields: Any = ResidualMLP()
  scale = {k: section[k] or getattr(fields, k) for k in ("point_scale", "level_scale")}
  num = section["num_features"] or fields.num_features
  depth = section["depth"] or fields.depth

  def frequencies(inputs: int, scale: float) -> Any:
    # sin(x) is x up to 1e-12 at x = 1e-4: the features of small unit vectors are the table.
    small = 1e-4 * np.eye(inputs, dtype=np.float32)
    sines = FourierFeatures(num, scale).apply({}, small)
    return torch.tensor(np.asarray(sines)[:, :num] / 1e-4)

  class ResidualMlp(torch.nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.layers = torch.nn.ModuleDict(layers)
      self.register_buffer("points", frequencies(dim, scale["point_scale"]))
      self.register_buffer("levels", frequencies(1, scale["level_scale"]))

    def forward(self, x: Any, c: Any) -> Any:
      of_x, of_c = x @ self.points, c @ self.levels
      told = torch.cat([x, of_x.sin(), of_x.cos(), c, of_c.sin(), of_c.cos()], 1)
      h, silu = self.layers["Dense_0"](told), torch.nn.functional.silu
      for i in range(depth):
        inner = self.layers[f"Dense_{1 + 2 * i}"](self.layers[f"LayerNorm_{i}"](h))
        h = h + self.layers[f"Dense_{2 + 2 * i}"](silu(inner))
      h = silu(self.layers[f"LayerNorm_{depth}"](h))
      return self.layers[f"Dense_{1 + 2 * depth}"](h)

  return ResidualMlp()
