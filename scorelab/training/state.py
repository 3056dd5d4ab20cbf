"""The training state: parameters, their averages, and the optimizer's state."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.spec import Experiment
from scorelab.runs.sharding import ONE_DEVICE, Layout
from scorelab.targets import is_streamed
from scorelab.training.batches import unread_position
from scorelab.typing import Array, Key, Params


class TrainState(struct.PyTreeNode):
  """Everything that a checkpoint saves: arrays only.

  Attributes:
    step: completed updates, int32 [].
    params: the network's parameters.
    ema: exponential moving averages of the parameters, by decay.
    opt_state: optax's state.
    extra: further state by name: for early stopping the `best` validation loss so far and how many
      validations were `waited` for a better one; for a stream the position `read` by each process.
  """

  step: Array
  params: Params
  ema: dict[str, Params]
  opt_state: optax.OptState
  extra: dict[str, Any]


def init_state(
  experiment: Experiment, layout: Layout = ONE_DEVICE, root: Key | None = None
) -> TrainState:
  """Returns the state before the first step. On a mesh each device creates its own shard.

  The root key is the experiment's, or that of another seed.
  """
  if layout.mesh is not None:
    make = functools.partial(init_state, experiment, root=root)
    return jax.jit(make, out_shardings=layout.state_shardings(jax.eval_shape(make)))()
  root = experiment.root if root is None else root
  params = experiment.init_params(stream_key(root, Stream.INIT, 0))
  ema = {name: jax.tree.map(jnp.copy, params) for name in experiment.ema_decays}
  extra = {}
  if experiment.patience:
    extra = {"best": jnp.asarray(jnp.inf), "waited": jnp.zeros((), jnp.int32)}
  if is_streamed(experiment.target):
    extra["read"] = unread_position()
  return TrainState(jnp.zeros((), jnp.int32), params, ema, experiment.optimizer.init(params), extra)


def update_ema(
  ema: dict[str, Params], params: Params, step: Array, decays: Mapping[str, float | Array]
) -> dict[str, Params]:
  """Updates each average of the parameters with weight min(decay, (1 + step) / (10 + step)).

  The warm-up forgets the initialisation; step counts the completed updates before this one.
  """

  def move(name: str) -> Params:
    warm = jnp.minimum(decays[name], (1 + step) / (10 + step))
    return optax.incremental_update(params, ema[name], 1 - warm)

  return {name: move(name) for name in ema}


def remember(state: TrainState, validation: float) -> TrainState:
  """Updates the early-stopping state with a validation loss (lower is better)."""
  if "best" not in state.extra:
    return state
  best, waited = state.extra["best"], state.extra["waited"]
  better = validation < best
  extra = {
    "best": jnp.where(better, validation, best),
    "waited": jnp.where(better, 0, waited + 1),
  }
  return state.replace(extra=state.extra | extra)


def finished(experiment: Experiment, state: TrainState, step: int) -> bool:
  """Returns True if the state at this step is the last one."""
  if experiment.patience and int(state.extra["waited"]) >= experiment.patience:
    return True
  return step >= experiment.num_steps


def evaluated_params(state: TrainState, decay: float | None = None) -> Params:
  """Returns the average with this decay, or the parameters.

  The decay None means the slowest average; 0, or a training without averages, the parameters.
  """
  if decay is None and state.ema:
    return state.ema[max(state.ema, key=float)]
  return state.ema[str(decay)] if decay else state.params
