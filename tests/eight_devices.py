"""Trains on eight pretended devices in several ways and prints what came of it, as JSON.

A script, not a test: the number of devices is set before JAX starts. See test_sharding.py.
"""

import dataclasses
import json
import os
import sys

os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np

from configs import ncsn_gmm, sbgm_digits
from scorelab import evaluation, training
from scorelab.experiment.build import build
from scorelab.runs.sharding import ONE_DEVICE, make_layout
from scorelab.runs.signals import StopFlag
from scorelab.training import ensembles

STEPS = 20


def points_config():
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=32, depth=1)
  config.optimizer.warmup_steps = 5
  config.sampler.update(name="ddim", eta=1.0)
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


def sample(experiment):
  """Ten ancestral samples in batches of eight, on one device and on all; the noise is in them."""
  row = dataclasses.replace(experiment.evaluation.rows[0], weak=None)
  run = evaluation.sample_row(row, lambda params: experiment.target.predict)
  starts = row.prior(jax.random.key(0), (1, 10, 2))
  keys = jax.random.split(jax.random.key(1), 1)
  given = jax.device_put({"w": np.ones(3)}, jax.devices()[0])  # as a checkpoint is restored
  drawn = [
    evaluation.sample_in_batches(run, given, keys, starts, 8, StopFlag(), layout=layout)[0]
    for layout in (ONE_DEVICE, make_layout())
  ]
  return [x.ravel().tolist() for x in drawn]


def train_ensemble():
  """Losses of sixteen seeds on one device and on all, and the parts of the state on each."""
  config = points_config()
  config.ensemble.update(seeds=8, over="optimizer.learning_rate=1e-3,3e-3")
  ensemble, losses = ensembles.build(config), {}
  for way, layout in (("one", ONE_DEVICE), ("spread", make_layout(None))):
    program = ensembles.make_program(ensemble, layout)
    state = program.init()
    fed = program.feed(state).take(STEPS)
    state, metrics = program.chunk(state, *fed, length=STEPS)
    program.validate(state)
    losses[way] = np.asarray(metrics["loss"]).tolist()
  return {"losses": losses, "shares": [share for _, share in shares(state)]}


def main():
  """The argument is 'points', 'accumulated', 'images' or 'ensemble'."""
  assert jax.device_count() == 8
  jax.config.update("jax_disable_most_optimizations", True)  # it compiles more than it computes
  if sys.argv[1] == "ensemble":
    print(json.dumps(train_ensemble()))
    return
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
    "samples": sample(experiment) if sys.argv[1] == "points" else [],
  }
  print(json.dumps(found))


main()
