"""Trains on eight pretended devices in several ways and prints what came of it, as JSON.

A script, not a test: the number of devices is set before JAX starts. See test_sharding.py.
"""

import dataclasses
import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np

from configs import ncsn_gmm, sbgm_digits
from scorelab import training
from scorelab.experiment import build
from scorelab.sharding import ONE_DEVICE, make_layout

STEPS = 20


def points_config():
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=32, depth=1)
  config.optimizer.warmup_steps = 5
  return config


def images_config():
  config = sbgm_digits.get_config("fast")
  config.network.update(name="unet", dim=8, dim_mults=(1, 2), widths=None, norms=None)
  config.network.update(activation=None)
  config.parameterization.update(name="noise", conditioning="time")
  config.loss.update(name="ddpm")
  config.schedule.update(name="variance_preserving", base=None)
  config.training.batch_size = 16
  return config


def train(experiment, layout):
  """Losses of 20 steps, the state, and the compiled program's operations on each device."""
  state = training.init_state(experiment, layout)
  data = layout.place(experiment.data)
  chunk = training.make_chunk(experiment, layout)
  lowered = chunk.func.lower(*chunk.args, state, data, length=STEPS)
  flops = lowered.compile().cost_analysis()["flops"]
  state, metrics = chunk(state, data, length=STEPS)
  return np.asarray(metrics["loss"]).tolist(), state, flops


def shares(state):
  """The part of every array of the state that one device holds, by the array's size."""
  leaves = jax.tree.leaves(state)
  return [(x.size, x.addressable_shards[0].data.size / x.size) for x in leaves]


def main():
  """The argument is 'points', 'accumulated' or 'images'."""
  assert jax.device_count() == 8
  jax.config.update("jax_disable_most_optimizations", True)  # it compiles more than it computes
  experiment = build(images_config() if sys.argv[1] == "images" else points_config())
  if sys.argv[1] == "accumulated":
    parts = experiment.config["training"] | {"accumulate": 4}
    experiment = dataclasses.replace(experiment, config=experiment.config | {"training": parts})
  ways = {"one": ONE_DEVICE, "replicated": make_layout(None), "fsdp": make_layout("fsdp")}
  runs = {way: train(experiment, layout) for way, layout in ways.items()}
  found = {
    "losses": {way: losses for way, (losses, _, _) in runs.items()},
    "flops": {way: flops for way, (_, _, flops) in runs.items()},
    "shares": {way: shares(state) for way, (_, state, _) in runs.items()},
  }
  print(json.dumps(found))


main()
