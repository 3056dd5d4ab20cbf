"""One update, and chunks of updates in one dispatch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.spec import Experiment
from scorelab.runs.sharding import ONE_DEVICE, Layout
from scorelab.training.state import TrainState, update_ema
from scorelab.typing import Array, Batch, Context, Key, Metrics, Params


def train_step(
  experiment: Experiment,
  root: Key,
  state: TrainState,
  data: Batch,
  layout: Layout = ONE_DEVICE,
  read: Batch | None = None,
) -> tuple[TrainState, Metrics]:
  """Performs one update.

  Args:
    experiment: the experiment; static.
    root: the run's root key, an argument so that seeds share a compiled program.
    state: the state before the step.
    data: the training points, or {} if every batch is drawn from the target.
    layout: the layout of the arrays; static.
    read: the batch, if it was read from a stream: see `Experiment.read_batch`.

  Returns:
    The new state and the metrics: loss, grad_norm, param_norm (after the update), and those of the
    loss function.
  """
  key = stream_key(root, Stream.DATA, state.step)
  if read is None:
    batch = experiment.draw_batch(key, data)
  else:
    batch = experiment.read_batch(key, layout.split(read))
  context = Context(state.step, state.ema)
  (loss, metrics), grads = loss_and_gradient(
    experiment, layout, state.params, stream_key(root, Stream.LOSS, state.step), batch, context
  )
  updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = update_ema(state.ema, params, state.step, experiment.ema_decays)
  norms = {
    "grad_norm": optax.tree.norm(grads),
    "param_norm": optax.tree.norm(params),
  }
  state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
  return layout.keep(state), layout.whole({"loss": loss, **norms, **metrics})


def loss_and_gradient(
  experiment: Experiment,
  layout: Layout,
  params: Params,
  key: Key,
  batch: Batch,
  context: Context,
) -> tuple[tuple[Array, Metrics], Params]:
  """Returns ((loss, metrics), gradient) of a batch, in experiment.accumulate sequential parts.

  Each part has its own key and takes every k-th point of the batch, so that no point moves to
  another device. The result is the mean over the parts.
  """
  params = layout.whole(params)
  gradient = jax.value_and_grad(experiment.loss, has_aux=True)
  if (parts := experiment.accumulate) == 1:
    found, grads = gradient(params, key, layout.split(batch), context)
    return found, layout.keep(grads)

  def split(x: Array) -> Array:
    return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

  def add(total: Params, part: tuple[Key, Batch]) -> tuple[Params, tuple[Array, Metrics]]:
    found, grads = gradient(params, part[0], layout.split(part[1]), context)
    return layout.keep(jax.tree.map(jnp.add, total, grads)), found

  dealt = layout.split(jax.tree.map(split, layout.split(batch)), axis=1)
  zeros = layout.keep(jax.tree.map(jnp.zeros_like, params))
  total, found = jax.lax.scan(add, zeros, (jax.random.split(key, parts), dealt))
  mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
  return mean, jax.tree.map(lambda x: x / parts, total)


class StepByStep:
  """Runs a chunk one jitted step at a time: for convolutions on a CPU, where XLA's scan is slow.

  `lower` lowers the scanned chunk instead.
  """

  def __init__(self, scanned: Any, one: Callable[..., tuple[TrainState, Metrics]]) -> None:
    self.lower = scanned.lower
    self._one = one

  def __call__(
    self, given: Any, state: TrainState, data: Batch, read: Batch | None = None, *, length: int
  ) -> tuple[TrainState, Metrics]:
    """Runs `length` steps, with the arguments of `repeated`'s function."""
    lines = []
    for i in range(length):
      state, line = self._one(given, state, data, jax.tree.map(lambda x, i=i: x[i], read))
      lines.append(line)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *lines)


def make_chunk(
  experiment: Experiment, layout: Layout = ONE_DEVICE
) -> functools.partial[tuple[TrainState, Metrics]]:
  """Returns `chunk(state, data, read, length=K)`: K steps in one dispatch. The state is donated.

  `read` is a stream's batches, each array [K, n, ...], or omitted. The metrics are stacked along a
  leading axis of size K.
  """

  def step(
    root: Key, state: TrainState, data: Batch, read: Batch | None
  ) -> tuple[TrainState, Metrics]:
    return train_step(experiment, root, state, data, layout, read)

  return functools.partial(repeated(step, experiment), layout.place(experiment.root))


def repeated(step: Callable[..., tuple[TrainState, Metrics]], experiment: Experiment) -> Any:
  """Returns `run(given, state, data, read, length=K)`: K steps of `step(given, state, data, read)`.

  On a CPU a network with convolutions takes K dispatches: inside a loop XLA computes their
  gradients with a slow fallback, and a step takes ten times as long.
  """

  @functools.partial(jax.jit, static_argnames="length", donate_argnums=1)
  def chunk(
    given: Any, state: TrainState, data: Batch, read: Batch | None = None, *, length: int
  ) -> tuple[TrainState, Metrics]:
    return jax.lax.scan(lambda state, x: step(given, state, data, x), state, read, length=length)

  if jax.default_backend() == "cpu":
    params = jax.eval_shape(experiment.init_params, experiment.root)
    # Convolution kernels are [height, width, in, out]. Attention kernels have four axes too; K
    # dispatches do not slow them down.
    if any(leaf.ndim == 4 for leaf in jax.tree.leaves(params)):
      return StepByStep(chunk, jax.jit(step, donate_argnums=1, compiler_options=own_sums()))
  return chunk


@functools.cache
def own_sums() -> dict[str, str]:
  """Compiler options that keep XLA from passing reductions to a library on a CPU.

  They save 10 to 20 % of a step of a network with convolutions; other networks may get slower. The
  result is empty on other devices, or if XLA lacks the option, which is experimental.
  """
  if jax.default_backend() != "cpu":
    return {}
  options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
  try:
    jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options
