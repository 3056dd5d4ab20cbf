"""The training loop: chunks of steps in one dispatch each, with logging and checkpoints between.

A run is a pure function of its config and seed. Every key is `fold_in(stream, step)` of the root
key, so a resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scorelab.experiment.keys import Stream
from scorelab.experiment.spec import Experiment
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.distributed import any_process, is_leader
from scorelab.runs.files import append_jsonl, truncate_jsonl
from scorelab.runs.sharding import Layout, make_layout
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.training import throughput
from scorelab.training.batches import Feed, make_feed
from scorelab.training.pace import Pace, Window
from scorelab.training.progress import Progress, check_finite, summarise
from scorelab.training.state import TrainState, evaluated_params, finished, init_state, remember
from scorelab.training.step import StepByStep, make_chunk
from scorelab.typing import Array, Batch, Context, Key, Metrics, Params


@dataclasses.dataclass(frozen=True)
class Program:
  """The functions that the loop runs, for one training or an ensemble.

  Attributes:
    init: the state before the first step.
    chunk: `(state, *inputs, length=K) -> (state, metrics [K, ...])`, jitted; see `make_chunk`.
    feed: `state -> Feed`: the inputs of chunks, from the stream position in the state.
    validate: computes the validation metrics of a state, by name; called at checkpoints.
    line: `(metrics, last_step, validation)`, all on the host, to a line of metrics.jsonl; raises
      RunError if a value is not finite.
    num_runs: number of trainings.
  """

  init: Callable[[], TrainState]
  chunk: functools.partial[tuple[TrainState, Metrics]]
  feed: Callable[[TrainState], Feed]
  validate: Callable[[TrainState], dict[str, Array]]
  line: Callable[[Metrics, int, dict[str, np.ndarray]], dict[str, Any]]
  num_runs: int = 1


def make_program(experiment: Experiment, layout: Layout) -> Program:
  """Returns the program of one training."""
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
    experiment: the experiment.
    workdir: receives checkpoints, metrics.jsonl and timings.jsonl.
    stop: checked after every chunk, which takes a few seconds. If set, a checkpoint is saved and
      the run ends.
    program: the program to run; by default the experiment's own.

  Returns:
    The last state.

  Raises:
    Preempted: a stop was requested.
    RunError: the loss, the gradient or a parameter is NaN or Inf.
    CheckpointError: there are checkpoints but none can be read.
  """
  program = program or make_program(experiment, make_layout(experiment.sharding))
  with Checkpoints(
    workdir.checkpoints, keep_every=experiment.keep_every, best_metric=experiment.monitor
  ) as checkpoints:
    # Committed to its devices, like a restored state: a resumed run has the same executables.
    state = program.init()
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))
    step = 0
    unlogged = None
    if (found := checkpoints.restore(state)) is not None:
      state, step = found
      unlogged = checkpoints.unlogged(step)
      if is_leader():
        print(f"{workdir.path}: resuming from step {step}", file=sys.stderr)
    if is_leader():
      workdir.metrics.touch()
      truncate_jsonl(workdir.metrics, step)

    chunk, feed = program.chunk, program.feed(state)
    progress = Progress(step, experiment.num_steps, shown=is_leader())
    window = Window(unlogged)
    pending: tuple[int, list[Metrics]] | None = None
    abstract: tuple[int, Any] | None = None  # a chunk's length, and what it takes

    def log_chunk(validation: dict[str, np.ndarray]) -> None:
      """Logs the metrics of the previous chunk while the device computes the next one."""
      nonlocal pending
      if pending is None:
        return
      (last, parts), pending = pending, None
      window.add(parts)
      if last % experiment.log_every and last != experiment.num_steps:
        return
      line = program.line(window.take(), last, validation)
      rate = progress.update(last, line["loss"])
      if is_leader():
        workdir.log({"step": last, **line})
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
      log_chunk({})
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
        log_chunk(validation)
        numbers = {name: float(np.mean(value)) for name, value in validation.items()}
        state = remember(state, numbers[experiment.monitor])
        done = finished(experiment, state, step)
        checkpoints.save(step, state, numbers)
      elif stopping:
        log_chunk({})
        checkpoints.save(step, state, None, window.unlogged())
      if stopping:
        progress.close()
        checkpoints.wait()
        raise Preempted
    progress.close()
    if is_leader() and abstract is not None and (rate := progress.steady_rate()) is not None:
      length, given = abstract
      cost = throughput.flops(chunk.func, *chunk.args, *given, length=length)
      examples = program.num_runs * experiment.batch_size
      found = throughput.report(rate, examples, cost, experiment.compute_dtype)
      append_jsonl(workdir.timings, {"step": step, "time": time.time(), **found})
    if step < experiment.num_steps and is_leader():
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
  """Returns `validate(params, held_out, context)`, jitted, and the held-out points that it takes.

  Every call sees the same points with the same noise.
  """
  key = layout.place(experiment.key(Stream.VALIDATION, 0))

  @jax.jit
  def validate(params: Params, key: Key, batch: Batch, context: Context) -> dict[str, Array]:
    return layout.whole(experiment.validate(layout.whole(params), key, batch, context))

  held_out = layout.place(experiment.validation, split=True)
  return lambda params, batch, context: validate(params, key, batch, context), held_out
