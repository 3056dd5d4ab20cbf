"""Training steps: one program of many against the notebook way, and PyTorch's.

All sides of a match start from the same parameters; before they are timed, their networks' x0 of
the same noisy points are compared.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import ddpm_circles, ncsn_gmm, ncsn_gmm_published, sbgm_digits
from scorelab import training
from scorelab.experiment.build import build
from scorelab.experiment.spec import Experiment
from scorelab.schedules import Level
from scorelab.training.progress import summarise
from scorelab.typing import Params
from scripts.benchmarks import torch_training, unet
from scripts.benchmarks.limits import products
from scripts.benchmarks.paired_timing import Bar, Match
from scripts.benchmarks.timed_processes import Side, Task

CONFIGS = {
  "ncsn_gmm": ncsn_gmm,
  "ncsn_gmm_published": ncsn_gmm_published,
  "ddpm_circles": ddpm_circles,
  "sbgm_digits": sbgm_digits,
}


def config_of(name: str, quick: bool) -> ConfigDict:
  """A config; a quick one's network and batch are small."""
  config = CONFIGS[name].get_config("fast" if quick else "")
  if quick and config.network.width:
    config.network.width = 16
  if quick and config.network.widths:
    config.network.widths = (16,) * len(config.network.widths)
  return config


def some_params(experiment: Experiment) -> Params:
  """Parameters of which none is 0, as a last layer's are at first: the same on every side."""
  params = jax.tree.map(np.asarray, experiment.init_params(jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: a + 0.02 * rng.normal(size=a.shape).astype(a.dtype), params)


def probe(experiment: Experiment, n: int = 64) -> tuple[jax.Array, Level]:
  """Noisy points [n, *event] and their levels [n], the same on every side."""
  rng = np.random.default_rng(1)
  level = experiment.schedule.at(jnp.linspace(0.1, 0.9, n))
  x = jnp.asarray(rng.normal(size=(n, *experiment.target.event_shape)), jnp.float32)
  return level.like(x).sigma * x, level


def flops_of_step(experiment: Experiment) -> float:
  """FLOPs of a step's matrix products: 2 forwards and 4 backwards for each weight and row."""
  params = jax.eval_shape(experiment.init_params, jax.random.key(0))
  weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
  return 6.0 * weights * rows_of_step(experiment)


def rows_of_step(experiment: Experiment) -> int:
  """Noisy points in a step."""
  return experiment.batch_size * (experiment.config["loss"]["levels_per_point"] or 1)


def ours(config: str, steps: int, quick: bool, loop: bool = False) -> Task:
  """So many steps in one dispatch, or, as a notebook, a dispatch and a read loss for each."""
  experiment = build(config_of(config, quick))
  params = some_params(experiment)
  chunk = training.make_chunk(experiment)
  one = jax.jit(
    lambda root, state: training.train_step(experiment, root, state, experiment.data),
    donate_argnums=1,
  )

  def start() -> training.TrainState:
    given = jax.tree.map(jnp.asarray, params)
    ema = {name: jax.tree.map(jnp.copy, given) for name in experiment.ema_decays}
    return training.init_state(experiment).replace(params=given, ema=ema)

  state: Any = start()

  def call() -> None:
    nonlocal state
    if loop:
      for _ in range(steps):
        state, line = one(experiment.root, state)
        float(line["loss"])
    else:
      state, line = chunk(state, experiment.data, length=steps)
      summarise(line)
    jax.block_until_ready(state)

  def output() -> jax.Array:
    x, level = probe(experiment)
    return experiment.parameterization.bind(params)(x, level).x0

  return Task(call, output, {"FLOP": flops_of_step(experiment) * steps})


def theirs(config: str, steps: int, quick: bool, compiled: bool) -> Task:
  """The same steps in PyTorch."""
  experiment = build(config_of(config, quick))
  params, rows = some_params(experiment), rows_of_step(experiment)
  call, x0 = torch_training.make(experiment, params, *probe(experiment), steps, rows, compiled)
  return Task(call, lambda: x0, {"FLOP": flops_of_step(experiment) * steps})


def match(config: str, name: str, steps: int, quick: bool, bars: tuple[Bar, ...] = ()) -> Match:
  """A config's steps against all that takes them too."""
  options = {"config": config, "steps": 2 if quick else steps, "quick": quick}
  sides = {
    "ours": Side(ours, options),
    "Python loop": Side(ours, {**options, "loop": True}),
    "PyTorch": Side(theirs, {**options, "compiled": False}),
    "PyTorch, compiled": Side(theirs, {**options, "compiled": True}),
  }
  return Match(name, sides, products(quick), rtol=1e-2, atol=1e-2, bars=bars)


def train_ncsn(quick: bool) -> list[Match]:
  """Training steps of NCSN on the nine modes: the published network, and ours.

  By a profile on two cores, the wide products of the published network's step take 21 of 31 ms, at
  the speed of the large product that is the limit here. The rest are passes over memory, one after
  the other: layer normalisation and the leaky ReLU with their gradients, Adam, the average; and the
  narrow products of the plane's coordinates, 2 ms. In two parts (`training.accumulate=2`), which
  stay in the caches, a step takes 5 % less.
  """
  bars = (
    Bar("share", "ours", 0.65),
    Bar("ratio", "PyTorch", 1.1),
    Bar("ratio", "PyTorch, compiled", 1.1),
  )
  return [
    match("ncsn_gmm_published", "MLP 256-512-256, 2048 points x 2 levels", 50, quick, bars),
    match("ncsn_gmm", "residual MLP of width 192, 1024 points", 20, quick),
  ]


def train_circles(quick: bool) -> list[Match]:
  """Training steps of DDPM on two circles of 20 points in all."""
  return [match("ddpm_circles", "residual MLP of width 128, 20 points", 200, quick)]


def train_digits(quick: bool) -> list[Match]:
  """Training steps of a score SDE on 8 x 8 digits."""
  return [match("sbgm_digits", "MLP 1024-1024-1024, 128 digits", 20, quick)]


def train_unet(quick: bool) -> list[Match]:
  """Training steps of the published U-Net on images of 32 x 32: dim 32, ResNet blocks.

  On a CPU ours is slower, by XLA's convolutions: they are Eigen's, which run at about 70 of two
  cores' 177 GFLOP/s, and PyTorch's are oneDNN's. Linear attention is about 30 % of the step,
  normalisations 10 %.
  """
  size = {"side": 8, "batch": 2, "dim": 8} if quick else {"side": 32, "batch": 16, "dim": 32}
  sides = {
    "ours": Side(unet.ours, size),
    "PyTorch": Side(unet.theirs, {**size, "compiled": False}),
    "PyTorch, compiled": Side(unet.theirs, {**size, "compiled": True}),
  }
  name = "U-Net of dim {dim}, {batch} images of {side} x {side}".format(**size)
  bars = (Bar("ratio", "PyTorch", 0.57),)
  return [Match(name, sides, products(quick), rtol=0, atol=1e-3, bars=bars)]
