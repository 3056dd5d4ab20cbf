"""The state of a training: parameters, their averages, the optimizer's state."""

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
from scorelab.training.batches import nothing_read
from scorelab.typing import Array, Key, Params


class TrainState(struct.PyTreeNode):
  """All that training remembers: arrays only.

  Attributes:
    step: completed updates, int32 [].
    params: the network's parameters.
    ema: their exponential moving averages, by decay.
    opt_state: optax's.
    extra: what else a method keeps, by name: of early stopping the `best` validation so far and
      how many have been `waited` for a better one; of a stream how far each process has `read`.
  """

  step: Array
  params: Params
  ema: dict[str, Params]
  opt_state: optax.OptState
  extra: dict[str, Any]


def init_state(
  experiment: Experiment, layout: Layout = ONE_DEVICE, root: Key | None = None
) -> TrainState:
  """The state before the first step; where there is a mesh each device makes its own part.

  The root key is the experiment's, or another seed's.
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
  if getattr(experiment.target, "stream", None) is not None:
    extra["read"] = nothing_read()
  return TrainState(jnp.zeros((), jnp.int32), params, ema, experiment.optimizer.init(params), extra)


def update_ema(
  ema: dict[str, Params], params: Params, step: Array, decays: Mapping[str, float | Array]
) -> dict[str, Params]:
  """Each average moved towards params, at min(decay, (1 + step) / (10 + step)).

  The warm-up forgets the initialisation; step counts the completed updates before this one.
  """

  def move(name: str) -> Params:
    warm = jnp.minimum(decays[name], (1 + step) / (10 + step))
    return optax.incremental_update(params, ema[name], 1 - warm)

  return {name: move(name) for name in ema}


def remember(state: TrainState, validation: float) -> TrainState:
  """The state after a validation, less being better: what early stopping needs to know."""
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
  """Whether the state at this step is the last one."""
  if experiment.patience and int(state.extra["waited"]) >= experiment.patience:
    return True
  return step >= experiment.num_steps


def evaluated_params(state: TrainState, decay: float | None = None) -> Params:
  """The average of a decay, None for the slowest; the parameters themselves for 0 or without."""
  if decay is None and state.ema:
    return state.ema[max(state.ema, key=float)]
  return state.ema[str(decay)] if decay else state.params
