"""The training loop: chunks of steps in one dispatch each, and what happens between them.

A run is a pure function of its config and seed. Every key is `fold_in(stream, step)` of the root,
so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from scorelab import speed
from scorelab.checkpoints import Checkpoints
from scorelab.experiment import Experiment, Stream, stream_key
from scorelab.feeding import Feed, make_feed, nothing_read
from scorelab.pace import Pace, Window
from scorelab.progress import Progress, check_finite, summarise
from scorelab.run import (
  Preempted,
  RefusedError,
  StopFlag,
  Workdir,
  append_jsonl,
  leads,
  truncate_jsonl,
)
from scorelab.sharding import ONE_DEVICE, Layout, any_process, make_layout
from scorelab.typing import Array, Batch, Context, Key, Metrics, Params


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


def train_step(
  experiment: Experiment,
  root: Key,
  state: TrainState,
  data: Batch,
  layout: Layout = ONE_DEVICE,
  read: Batch | None = None,
) -> tuple[TrainState, Metrics]:
  """One update.

  Args:
    experiment: the parts; static.
    root: the run's root key: seeds share a compiled program.
    state: before the step.
    data: the training points, or nothing where the target is sampled afresh.
    layout: where arrays live; static.
    read: the batch, where a stream has read it: see `Experiment.read_batch`.

  Returns:
    The state after it, and loss, grad_norm, param_norm (after the update) and the loss's own
    metrics.
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
  """((loss, metrics), gradient) of a batch, in experiment.accumulate parts one after the other.

  Each part has a key of its own and every k-th point of the batch, so that with devices side by
  side no point changes its device. What comes back is the mean over the parts.
  """
  params = layout.whole(params)
  gradient = jax.value_and_grad(experiment.loss, has_aux=True)
  if (parts := experiment.accumulate) == 1:
    found, grads = gradient(params, key, layout.split(batch), context)
    return found, layout.keep(grads)

  def deal(x: Array) -> Array:
    return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

  def add(total: Params, part: tuple[Key, Batch]) -> tuple[Params, tuple[Array, Metrics]]:
    found, grads = gradient(params, part[0], layout.split(part[1]), context)
    return layout.keep(jax.tree.map(jnp.add, total, grads)), found

  dealt = layout.split(jax.tree.map(deal, layout.split(batch)), axis=1)
  zeros = layout.keep(jax.tree.map(jnp.zeros_like, params))
  total, found = jax.lax.scan(add, zeros, (jax.random.split(key, parts), dealt))
  mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
  return mean, jax.tree.map(lambda x: x / parts, total)


class StepByStep:
  """What a scanned chunk does, in a dispatch for each step; `lower` is the scanned one's."""

  def __init__(self, scanned: Any, one: Callable[..., tuple[TrainState, Metrics]]) -> None:
    self.lower = scanned.lower
    self._one = one

  def __call__(
    self, given: Any, state: TrainState, data: Batch, read: Batch | None = None, *, length: int
  ) -> tuple[TrainState, Metrics]:
    """As a chunk of `make_chunk`, told what the steps share."""
    lines = []
    for i in range(length):
      state, line = self._one(given, state, data, jax.tree.map(lambda x, i=i: x[i], read))
      lines.append(line)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *lines)


def make_chunk(
  experiment: Experiment, layout: Layout = ONE_DEVICE
) -> functools.partial[tuple[TrainState, Metrics]]:
  """`chunk(state, data, read, length=K)`: K steps, in one dispatch; the state is donated.

  `read` is a stream's, each array [K, n, ...], or left out. The metrics come back stacked, each
  with a leading axis K.
  """

  def step(
    root: Key, state: TrainState, data: Batch, read: Batch | None
  ) -> tuple[TrainState, Metrics]:
    return train_step(experiment, root, state, data, layout, read)

  return functools.partial(repeated(step, experiment), layout.place(experiment.root))


def repeated(step: Callable[..., tuple[TrainState, Metrics]], experiment: Experiment) -> Any:
  """`run(given, state, data, read, length=K)`: K steps `step(given, state, data, read)`.

  On a CPU a network with convolutions takes K dispatches: in a loop XLA leaves their gradients to
  its slow fallback, and a step takes ten times as long.
  """

  @functools.partial(jax.jit, static_argnames="length", donate_argnums=1)
  def chunk(
    given: Any, state: TrainState, data: Batch, read: Batch | None = None, *, length: int
  ) -> tuple[TrainState, Metrics]:
    return jax.lax.scan(lambda state, x: step(given, state, data, x), state, read, length=length)

  if jax.default_backend() == "cpu":
    params = jax.eval_shape(experiment.init_params, experiment.root)
    # Kernels [height, width, in, out]; attention's have as many axes, and lose nothing by it.
    if any(leaf.ndim == 4 for leaf in jax.tree.leaves(params)):
      return StepByStep(chunk, jax.jit(step, donate_argnums=1, compiler_options=own_sums()))
  return chunk


@functools.cache
def own_sums() -> dict[str, str]:
  """Compiler options by which XLA keeps the sums that it hands to a library on a CPU.

  A step of a network with convolutions then takes a tenth to a fifth less; others may take more.
  Nothing on other devices, or where XLA has no such option: it is an experimental one.
  """
  if jax.default_backend() != "cpu":
    return {}
  options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
  try:
    jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


@dataclasses.dataclass(frozen=True)
class Program:
  """What the loop runs, of one training or of several at once.

  Attributes:
    init: the state before the first step.
    chunk: `(state, *fed, length=K) -> (state, metrics [K, ...])`, jitted; see `make_chunk`.
    feed: what the loop is fed with, from where the state left a stream.
    validate: what is measured of a state at a checkpoint, by name.
    line: `(metrics, last_step, validation)`, all on the host, as a line of metrics.jsonl; raises
      RunError where one is not finite.
    num_runs: trainings in it.
  """

  init: Callable[[], TrainState]
  chunk: functools.partial[tuple[TrainState, Metrics]]
  feed: Callable[[TrainState], Feed]
  validate: Callable[[TrainState], dict[str, Array]]
  line: Callable[[Metrics, int, dict[str, np.ndarray]], dict[str, Any]]
  num_runs: int = 1


def make_program(experiment: Experiment, layout: Layout) -> Program:
  """The program of one training."""
  validate, held_out = make_validate(experiment, layout)

  def line(metrics: Metrics, last: int, validation: dict[str, np.ndarray]) -> dict[str, Any]:
    check_finite(metrics, last, validation)
    return {**summarise(metrics), **{name: float(value) for name, value in validation.items()}}

  return Program(
    init=functools.partial(init_state, experiment, layout),
    chunk=make_chunk(experiment, layout),
    feed=lambda state: make_feed(experiment, layout, state.extra.get("read")),
    validate=lambda state: validate(
      evaluated_params(state), held_out, Context(state.step, state.ema)
    ),
    line=line,
  )


def train(
  experiment: Experiment, workdir: Workdir, stop: StopFlag, program: Program | None = None
) -> TrainState:
  """Trains to experiment.num_steps, from the newest readable checkpoint in the workdir.

  Args:
    experiment: the parts.
    workdir: receives checkpoints, metrics.jsonl and timings.jsonl.
    stop: asked after every chunk, which takes some seconds; a checkpoint is saved before the run
      ends.
    program: what is run; by default the experiment's own.

  Returns:
    The last state.

  Raises:
    Preempted: a stop was requested.
    RunError: the loss, the gradient or a parameter is NaN or Inf.
    CheckpointError: there are checkpoints and none can be read.
  """
  program = program or make_program(experiment, make_layout(experiment.sharding))
  with Checkpoints(
    workdir.checkpoints, keep_every=experiment.keep_every, best_metric=experiment.monitor
  ) as checkpoints:
    state = program.init()
    step = 0
    unlogged = None
    if (found := checkpoints.restore(state)) is not None:
      state, step = found
      unlogged = checkpoints.unlogged(step)
      if leads():
        print(f"{workdir.path}: going on from step {step}", file=sys.stderr)
    if leads():
      workdir.metrics.touch()
      truncate_jsonl(workdir.metrics, step)

    chunk, feed = program.chunk, program.feed(state)
    progress = Progress(step, experiment.num_steps, shown=leads())
    window = Window(unlogged)
    pending: tuple[int, list[Metrics]] | None = None
    abstract: tuple[int, Any] | None = None  # a chunk's length, and what it takes

    def settle(validation: dict[str, np.ndarray]) -> None:
      """Reads the metrics of the chunk before; by then the device is busy with the next one."""
      nonlocal pending
      if pending is None:
        return
      (last, parts), pending = pending, None
      window.add(parts)
      if last % experiment.log_every and last != experiment.num_steps:
        return
      line = program.line(window.take(), last, validation)
      rate = progress.update(last, line["loss"])
      if leads():
        append_jsonl(workdir.metrics, {"step": last, **line})
        append_jsonl(workdir.timings, {"step": last, "time": time.time(), "steps_per_s": rate})

    done = finished(experiment, state, step)
    pace = Pace(experiment.log_every, step, one_by_one=isinstance(chunk.func, StepByStep))
    while not done:
      length = min(pace.length, experiment.num_steps - step)
      metrics = []
      for size in feed.sizes(length):
        fed = feed.take(size)
        if abstract is None:
          abstract = size, jax.eval_shape(lambda *given: given, state, *fed)
        state, stacked = chunk(state, *fed, length=size)
        metrics.append(stacked)
      for leaf in jax.tree.leaves(metrics):
        leaf.copy_to_host_async()
      pace.dispatched(length)
      settle({})
      step += length
      pending = (step, metrics)
      if not pace.known:  # the first chunk's own time, without what was compiled for it
        jax.block_until_ready(metrics)
      pace.waited(step)

      stopping = any_process(stop.requested)  # asked once: what is decided must hold below
      stop.unsaved = True
      saved = step % experiment.checkpoint_every == 0 or step == experiment.num_steps
      if saved or stopping:
        state = state.replace(extra=state.extra | feed.progress())
      if saved:
        validation = jax.tree.map(np.asarray, program.validate(state))
        settle(validation)
        numbers = {name: float(np.mean(value)) for name, value in validation.items()}
        state = remember(state, numbers[experiment.monitor])
        done = finished(experiment, state, step)
        checkpoints.save(step, state, numbers)
      elif stopping:
        settle({})
        checkpoints.save(step, state, None, window.unlogged())
      if stopping:
        progress.close()
        checkpoints.wait()
        raise Preempted
    progress.close()
    if leads() and abstract is not None and (rate := progress.steady_rate()) is not None:
      length, given = abstract
      cost = speed.flops(chunk.func, *chunk.args, *given, length=length)
      examples = program.num_runs * experiment.batch_size
      found = speed.report(rate, examples, cost, experiment.compute_dtype)
      append_jsonl(workdir.timings, {"step": step, "time": time.time(), **found})
    if step < experiment.num_steps and leads():
      print(
        f"stopped early at step {step}: no better {experiment.monitor} than at step "
        f"{checkpoints.best_step()} in {experiment.patience} validations",
        file=sys.stderr,
      )
  stop.unsaved = False
  return state


def make_validate(
  experiment: Experiment, layout: Layout
) -> tuple[Callable[[Params, Batch, Context], dict[str, Array]], Batch]:
  """`validate(params, held_out, context)`, jitted, and the held-out points where it wants them.

  It always shows the same points with the same noise.
  """
  key = layout.place(experiment.key(Stream.VALIDATION, 0))

  @jax.jit
  def validate(params: Params, key: Key, batch: Batch, context: Context) -> dict[str, Array]:
    return layout.whole(experiment.validate(layout.whole(params), key, batch, context))

  held_out = layout.place(experiment.validation, split=True)
  return lambda params, batch, context: validate(params, key, batch, context), held_out


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


def weaker_params(
  experiment: Experiment, workdir: Workdir, state: TrainState
) -> dict[float, Params]:
  """The weaker models that rows are guided by: by 0, an average's decay, or an earlier step.

  Of all members of an ensemble at once, where the state is theirs.

  Raises:
    CheckpointError: there is no such checkpoint, or it cannot be read.
  """
  found: dict[float, Params] = {}
  for weak in {row.weak for row in experiment.evaluation.rows if row.weak is not None}:
    if not experiment.num_steps or weak == 0:
      found[weak] = state.params
    elif weak < 1:
      found[weak] = state.ema[str(weak)]
    else:
      with Checkpoints(
        workdir.checkpoints, keep_every=experiment.keep_every, read_only=True
      ) as checkpoints:
        found[weak] = evaluated_params(checkpoints.restore_step(state, int(weak)))
  return found


def restore_trained(
  experiment: Experiment, workdir: Workdir, program: Program | None = None
) -> TrainState:
  """The state of a finished training that is evaluated, on one device, without writing anything.

  It is that of the last checkpoint, or of the best one: config.evaluation.checkpoint. The program
  is the one that was trained, by default the experiment's own. All processes must call.

  Raises:
    RefusedError: training is not finished in this workdir.
    CheckpointError: there are checkpoints and none can be read.
  """
  layout = make_layout(experiment.sharding)
  template = program.init() if program else init_state(experiment, layout)
  if experiment.num_steps == 0:
    return layout.gather(template)
  with Checkpoints(
    workdir.checkpoints, best_metric=experiment.monitor, read_only=True
  ) as checkpoints:
    found = checkpoints.restore(template)
    if found is None or not finished(experiment, *found):
      reached = "no checkpoint" if found is None else f"step {found[1]} of {experiment.num_steps}"
      raise RefusedError(
        f"{workdir.path}: training is not finished ({reached}); run --mode=train first"
      )
    best = checkpoints.best_step()
    if experiment.evaluation.checkpoint == "best" and best is not None:
      return layout.gather(checkpoints.restore_step(template, best))
  return layout.gather(found[0])
