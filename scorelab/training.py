"""The training loop: chunks of steps in one dispatch each, and what happens between them.

A run is a pure function of its config and seed. Every key is `fold_in(stream, step)` of the root,
so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from tqdm import tqdm

from scorelab.checkpoints import Checkpoints
from scorelab.experiment import Experiment, Stream, stream_key
from scorelab.run import (
  Preempted,
  RefusedError,
  RunError,
  StopFlag,
  Workdir,
  append_jsonl,
  truncate_jsonl,
)
from scorelab.typing import Array, Average, Batch, Context, Key, Metrics, Params


class TrainState(struct.PyTreeNode):
  """All that training remembers: arrays only.

  Attributes:
    step: completed updates, int32 [].
    params: the network's parameters.
    ema: their exponential moving averages, by decay.
    opt_state: optax's.
    extra: what else a method keeps, by name: of early stopping the `best` validation so far and
      how many have been `waited` for a better one.
  """

  step: Array
  params: Params
  ema: dict[str, Params]
  opt_state: optax.OptState
  extra: dict[str, Any]


def init_state(experiment: Experiment) -> TrainState:
  """The state before the first step."""
  params = experiment.init_params(experiment.key(Stream.INIT, 0))
  ema = {str(decay): jax.tree.map(jnp.copy, params) for decay in experiment.ema_decays}
  extra = {}
  if experiment.patience:
    extra = {"best": jnp.asarray(jnp.inf), "waited": jnp.zeros((), jnp.int32)}
  return TrainState(jnp.zeros((), jnp.int32), params, ema, experiment.optimizer.init(params), extra)


def update_ema(ema: dict[str, Params], params: Params, step: Array) -> dict[str, Params]:
  """Each average moved towards params, at min(decay, (1 + step) / (10 + step)).

  The warm-up forgets the initialisation; step counts the completed updates before this one.
  """

  def move(decay: str) -> Params:
    warm = jnp.minimum(float(decay), (1 + step) / (10 + step))
    return optax.incremental_update(params, ema[decay], 1 - warm)

  return {decay: move(decay) for decay in ema}


def train_step(
  experiment: Experiment, root: Key, state: TrainState, data: Batch
) -> tuple[TrainState, Metrics]:
  """One update.

  Args:
    experiment: the parts; static.
    root: the run's root key: seeds share a compiled program.
    state: before the step.
    data: the training points, or nothing where the target is sampled afresh.

  Returns:
    The state after it, and loss, grad_norm, param_norm (after the update) and the loss's own
    metrics.
  """
  batch = experiment.draw_batch(stream_key(root, Stream.DATA, state.step), data)
  context = Context(state.step, state.ema)
  (loss, metrics), grads = jax.value_and_grad(experiment.loss, has_aux=True)(
    state.params, stream_key(root, Stream.LOSS, state.step), batch, context
  )
  updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = update_ema(state.ema, params, state.step)
  norms = {
    "grad_norm": optax.tree.norm(grads),
    "param_norm": optax.tree.norm(params),
  }
  state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
  return state, {"loss": loss, **norms, **metrics}


def make_chunk(experiment: Experiment) -> Callable[..., tuple[TrainState, Metrics]]:
  """`chunk(state, data, length=K)`: K steps, in one dispatch; the state is donated.

  The metrics come back stacked, each with a leading axis K. On a CPU a network with convolutions
  takes K dispatches: in a loop XLA leaves their gradients to its slow fallback, and a step takes
  ten times as long.
  """

  @functools.partial(jax.jit, static_argnames="length", donate_argnums=1)
  def scanned(
    root: Key, state: TrainState, data: Batch, *, length: int
  ) -> tuple[TrainState, Metrics]:
    return jax.lax.scan(
      lambda state, _: train_step(experiment, root, state, data), state, None, length=length
    )

  @functools.partial(jax.jit, donate_argnums=1)
  def step(root: Key, state: TrainState, data: Batch) -> tuple[TrainState, Metrics]:
    return train_step(experiment, root, state, data)

  def looped(
    root: Key, state: TrainState, data: Batch, *, length: int
  ) -> tuple[TrainState, Metrics]:
    lines = []
    for _ in range(length):
      state, line = step(root, state, data)
      lines.append(line)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *lines)

  def chunk(state: TrainState, data: Batch, *, length: int) -> tuple[TrainState, Metrics]:
    # Kernels [height, width, in, out]; attention's have as many axes, and lose nothing by it.
    convolves = any(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params))
    run = looped if convolves and jax.default_backend() == "cpu" else scanned
    return run(experiment.root, state, data, length=length)

  return chunk


def summarise(metrics: Metrics) -> dict[str, Any]:
  """A chunk's stacked metrics as JSON values: means over its steps, averages pooled."""

  def mean(value: Array | Average) -> Any:
    if isinstance(value, Average):
      total, count = np.sum(value.total, axis=0), np.sum(value.count, axis=0)
      # A band that no level fell into has no loss.
      return np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist()
    return np.mean(value, axis=0).tolist()

  def null_for_nan(value: Any) -> Any:
    if isinstance(value, list):
      return [null_for_nan(v) for v in value]
    return value if np.isfinite(value) else None

  return {name: null_for_nan(mean(value)) for name, value in metrics.items()}


def check_finite(metrics: Metrics, last_step: int) -> None:
  """Raises RunError naming the first step of a chunk, ending at last_step, with a NaN or Inf."""
  for name in ("loss", "grad_norm", "param_norm"):
    values = np.asarray(metrics[name])
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
      step = last_step - len(values) + 1 + int(bad[0])
      raise RunError(
        f"training stopped: {name} is {values[bad[0]]} at step {step}; the checkpoints before it "
        "are kept. Lower optimizer.learning_rate or set optimizer.clip_norm"
      )


class Progress:
  """A bar on a terminal, a plain line now and then elsewhere."""

  def __init__(self, start: int, total: int) -> None:
    self._terminal = sys.stderr.isatty()
    self._bar = tqdm(
      total=total, initial=start, unit="step", disable=not self._terminal, dynamic_ncols=True
    )
    self._start, self._total, self._begun = start, total, time.monotonic()
    self._printed = self._begun

  def update(self, step: int, loss: float) -> float:
    """Shows the step and its loss; returns the steps per second so far."""
    now = time.monotonic()
    rate = (step - self._start) / max(now - self._begun, 1e-9)
    self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
    self._bar.update(step - self._bar.n)
    if not self._terminal and (now - self._printed > 10 or step == self._total):
      self._printed = now
      left = (self._total - step) / rate
      print(
        f"step {step}/{self._total}  loss {loss:.4g}  {rate:.1f} steps/s  {left:.0f} s left",
        file=sys.stderr,
        flush=True,
      )
    return rate

  def close(self) -> None:
    """Ends the bar's line."""
    self._bar.close()


def train(experiment: Experiment, workdir: Workdir, stop: StopFlag) -> TrainState:
  """Trains to experiment.num_steps, from the newest readable checkpoint in the workdir.

  Args:
    experiment: the parts.
    workdir: receives checkpoints, metrics.jsonl and timings.jsonl.
    stop: asked after every chunk; a checkpoint is saved before the run ends.

  Returns:
    The last state.

  Raises:
    Preempted: a stop was requested.
    RunError: the loss, the gradient or a parameter is NaN or Inf.
    CheckpointError: there are checkpoints and none can be read.
  """
  with Checkpoints(
    workdir.checkpoints, keep_every=experiment.keep_every, best_metric=experiment.monitor
  ) as checkpoints:
    state = init_state(experiment)
    step = 0
    if (found := checkpoints.restore(state)) is not None:
      state, step = found
      print(f"{workdir.path}: going on from step {step}", file=sys.stderr)
    workdir.metrics.touch()
    truncate_jsonl(workdir.metrics, step)

    chunk, data = make_chunk(experiment), experiment.data
    validate = jax.jit(experiment.validate)
    progress = Progress(step, experiment.num_steps)
    pending: tuple[int, Metrics] | None = None

    def settle(extra: dict[str, float]) -> None:
      """Reads the metrics of the chunk before; by then the device is busy with the next one."""
      nonlocal pending
      if pending is None:
        return
      (last, metrics), pending = pending, None
      check_finite(metrics, last)
      line = summarise(metrics)
      append_jsonl(workdir.metrics, {"step": last, **line, **extra})
      rate = progress.update(last, line["loss"])
      append_jsonl(workdir.timings, {"step": last, "time": time.time(), "steps_per_s": rate})

    done = finished(experiment, state, step)
    while not done:
      length = min(experiment.log_every - step % experiment.log_every, experiment.num_steps - step)
      state, metrics = chunk(state, data, length=length)
      for leaf in jax.tree.leaves(metrics):
        leaf.copy_to_host_async()
      settle({})
      step += length
      pending = (step, metrics)

      stopping = stop.requested  # asked once: what is decided here must hold below
      if step % experiment.checkpoint_every == 0 or step == experiment.num_steps:
        context = Context(state.step, state.ema)
        key = experiment.key(Stream.VALIDATION, 0)  # always the same points and noise
        validation = validate(evaluated_params(state), key, experiment.validation, context)
        numbers: dict[str, float] = jax.tree.map(float, validation)
        settle(numbers)
        state = remember(state, numbers[experiment.monitor])
        done = finished(experiment, state, step)
        checkpoints.save(step, state, numbers)
      elif stopping:
        settle({})
        checkpoints.save(step, state, None)
      if stopping:
        progress.close()
        checkpoints.wait()
        raise Preempted
    progress.close()
    if step < experiment.num_steps:
      print(
        f"stopped early at step {step}: no better {experiment.monitor} than at step "
        f"{checkpoints.best_step()} in {experiment.patience} validations",
        file=sys.stderr,
      )
  return state


def remember(state: TrainState, validation: float) -> TrainState:
  """The state after a validation, less being better: what early stopping needs to know."""
  if not state.extra:
    return state
  best, waited = state.extra["best"], state.extra["waited"]
  better = validation < best
  extra = {
    "best": jnp.where(better, validation, best),
    "waited": jnp.where(better, 0, waited + 1),
  }
  return state.replace(extra=extra)


def finished(experiment: Experiment, state: TrainState, step: int) -> bool:
  """Whether the state at this step is the last one."""
  if experiment.patience and int(state.extra["waited"]) >= experiment.patience:
    return True
  return step >= experiment.num_steps


def evaluated_params(state: TrainState) -> Params:
  """The slowest average where there is one, else the parameters themselves."""
  return state.ema[max(state.ema, key=float)] if state.ema else state.params


def restore_trained(experiment: Experiment, workdir: Workdir) -> TrainState:
  """The state of a finished training that is evaluated, without writing anything.

  It is that of the last checkpoint, or of the best one: config.evaluation.checkpoint.

  Raises:
    RefusedError: training is not finished in this workdir.
    CheckpointError: there are checkpoints and none can be read.
  """
  template = init_state(experiment)
  if experiment.num_steps == 0:
    return template
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
      return checkpoints.restore_step(template, best)
  return found[0]
