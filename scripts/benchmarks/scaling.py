"""Cost against size: training by batch, seeds and devices, sampling by steps, scores by dimension.

Each gives time over that of the first size, the exponent that fits all sizes, and the one between
the last two, where what does not grow counts least.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import training
from scorelab.experiment.build import build
from scorelab.runs.sharding import make_layout
from scorelab.targets.gaussian_mixture import GaussianMixture
from scripts.benchmarks import ensembles, sampling
from scripts.benchmarks.paired_timing import Match
from scripts.benchmarks.timed_processes import Side, Task
from scripts.benchmarks.training import config_of


def training_step(batch: int, quick: bool) -> Task:
  """Ten steps of ncsn_gmm with this batch, over all devices."""
  config = config_of("ncsn_gmm", quick)
  config.training.batch_size = batch
  experiment = build(config)
  layout = make_layout(experiment.sharding)
  chunk = training.make_chunk(experiment, layout)
  state: Any = training.init_state(experiment, layout)

  def call() -> None:
    nonlocal state
    state, _ = chunk(state, layout.place(experiment.data), length=10)
    jax.block_until_ready(state)

  return Task(call)


def score(dim: int, points: int = 1024, components: int = 25) -> Task:
  """The exact score of a mixture in so many dimensions."""
  rng = np.random.default_rng(0)
  means, x = rng.normal(size=(components, dim)), rng.normal(size=(points, dim))
  target = GaussianMixture(np.ones(components), means, np.full(components, dim / 8))
  run, given = jax.jit(target.score), jnp.asarray(x, jnp.float32)
  return Task(lambda: jax.block_until_ready(run(given)))


def _match(
  name: str, make: Callable[..., Task], sizes: Iterable[int], field: str, **options: Any
) -> Match:
  sizes = tuple(sizes)
  sides = {f"{size:,}": Side(make, {**options, field: size}) for size in sizes}
  return Match(name, sides, sizes=tuple(map(float, sizes)), rounds=10)


def scaling(quick: bool) -> list[Match]:
  """Cost against batch, steps, dimension, seeds and fake devices, with the fitted exponent."""
  batches = (16, 32) if quick else (64, 256, 1024, 4096, 16_384)
  steps = (2, 4) if quick else (10, 30, 100, 300)
  dims = (2, 8) if quick else (2, 16, 128, 1024)
  seeds = (1, 2) if quick else ensembles.SEEDS
  of_ddim = {"sampler": "ddim", "size": 20 if quick else 2000, "quick": quick}
  of_seeds = {"config": "ncsn_gmm", "steps": 2 if quick else 10, "quick": quick}
  return [
    _match("training steps by batch", training_step, batches, "batch", quick=quick),
    _match("DDIM of 2000 points by steps", sampling.ours, steps, "steps", **of_ddim),
    _match("exact score by dimension", score, dims, "dim"),
    _match("training steps by seeds", ensembles.together, seeds, "seeds", **of_seeds),
    _devices(quick),
  ]


def _devices(quick: bool) -> Match:
  """The same batch over ever more devices, which share the cores: what sharding costs."""
  sizes = (1, 2) if quick else (1, 2, 4, 8)
  given = os.environ.get("XLA_FLAGS", "")
  sides = {
    f"{n:,}": Side(
      training_step,
      {"batch": 64 if quick else 4096, "quick": quick},
      {"XLA_FLAGS": f"{given} --xla_force_host_platform_device_count={n}".strip()},
    )
    for n in sizes
  }
  name = "training steps of one batch by fake devices"
  return Match(name, sides, sizes=tuple(map(float, sizes)), rounds=10)
