"""Checkpoints that survive preemption, kill -9, full disks and damaged files.

Orbax writes atomically, but it casts dtypes silently, never falls back to an older step, and
returns a wrong number for a flipped bit in an array of more than a kilobyte. So each checkpoint
also holds an index with its own CRC-32: every leaf's dtype, shape and CRC-32, and the metrics. A
restored state has the bits that were saved, or is refused.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from scorelab.errors import ScorelabError

State = TypeVar("State")


class CheckpointError(ScorelabError):
  """A checkpoint cannot be read or written; the message is one line that says what to do."""

  alone = True


class UnreadableError(CheckpointError):
  """There are checkpoints, but none can be restored."""

  exit_code = 2
  alone = False


class DamagedError(UnreadableError):
  """The files of one checkpoint differ from what was written."""


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of one run: the latest few, the best one, and optionally one every few steps.

  Args:
    directory: created if missing; must hold nothing else.
    keep_latest: number of newest steps to keep, at least 1.
    keep_every: steps that are multiples of it are kept as well, > 0; 0 keeps no further steps.
    best_metric: the metric whose best step is kept as well; None keeps only the latest.
    mode: "min" or "max", which values are better. Missing and non-finite values are never best.
    read_only: nothing is created, deleted or renamed, and `save` is an error.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep_latest: int = 2,
    keep_every: int = 0,
    best_metric: str | None = "val_loss",
    mode: str = "min",
    read_only: bool = False,
  ):
    if keep_latest < 1 or mode not in ("min", "max"):
      raise ValueError(f"keep_latest = {keep_latest} (at least 1), mode = {mode!r} (min or max)")
    self._directory = pathlib.Path(directory).absolute()  # Orbax refuses relative paths.
    self._read_only, self._best_metric = read_only, best_metric
    self._sign = 1 if mode == "max" else -1

    def kept(steps: Sequence[int]) -> set[int | None]:
      spaced = (step for step in steps if keep_every and step % keep_every == 0)
      return {*steps[-keep_latest:], self._best(steps), *spaced}

    options = ocp.CheckpointManagerOptions(
      create=not read_only,
      cleanup_tmp_directories=not read_only,
      step_format_fixed_length=9,
      preservation_policy=_Preserve(kept),
      # Else a directory that cannot be made leaves threads that delay the exit by five minutes.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    handlers = {"state": ocp.StandardCheckpointHandler(), "index": ocp.JsonCheckpointHandler()}
    self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)
    self._metrics: dict[int, Mapping[str, float]] = {}
    for step in self.steps():
      with contextlib.suppress(Exception):  # A damaged one is never the best; restore() names it.
        self._metrics[step] = self._index(step)["metrics"]

  def __exit__(self, *exc_info) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Returns the steps that have a checkpoint, oldest first; one still being written counts."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """Returns the newest step, or None."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """Returns the step with the best finite metric (the later of equals), or None."""
    return self._best(self.steps())

  def save(
    self, step: int, state: Any, metrics: Mapping[str, float] | None = None, unlogged: Any = None
  ) -> None:
    """Starts an asynchronous save; the state may be donated as soon as this returns.

    Args:
      step: the number of completed updates. An existing step is not written again.
      state: a pytree of arrays.
      metrics: saved with the checkpoint, for `best_step`.
      unlogged: saved with the checkpoint, for `unlogged`: JSON values, not empty.

    Raises:
      CheckpointError: read-only, a step older than the newest, or this or the last save failed.
    """
    if self._read_only:
      raise CheckpointError(f"{self._directory} is open for reading only: step {step} not saved")
    self.wait()
    if step in self.steps():
      return
    latest = self.latest_step()
    if latest is not None and step < latest:  # Orbax would drop it silently.
      raise CheckpointError(
        f"step {step} is older than step {latest}, the newest checkpoint in "
        f"{self._directory}: not saved"
      )
    self._metrics[step] = {name: float(value) for name, value in (metrics or {}).items()}
    kinds, crcs = _kinds(state), _crcs(state)
    leaves = {path: (kinds[path], crc) for path, crc in zip(kinds, crcs, strict=True)}
    index = {"leaves": leaves, "metrics": self._metrics[step]}
    index |= {"unlogged": unlogged} if unlogged else {}
    index = {**index, "crc32": zlib.crc32(json.dumps(index).encode())}
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), index=ocp.args.JsonSave(index)),
      )

  def restore(self, template: State) -> tuple[State, int] | None:
    """Restores the newest readable state, bit for bit, and its step.

    A damaged checkpoint is skipped with a warning. Once an older one was read, it is renamed to
    damaged-<step>, so that nothing is lost and training can save that step again.

    Args:
      template: a pytree of arrays or `ShapeDtypeStruct`s; defines the structure and the shardings.

    Returns:
      (state, step), the state safe to donate; or None if there is no checkpoint.

    Raises:
      UnreadableError: a checkpoint's state does not match the template, or none can be read.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(self.steps()):
      try:
        state = self.restore_step(template, step)
      except DamagedError as error:
        damaged[step] = error
        logging.warning("%s; trying an older one", error)
      else:
        self._move_aside(damaged)
        return state, step
    if not damaged:
      return None
    newest = max(damaged)
    raise UnreadableError(
      f"none of the {len(damaged)} checkpoints in {self._directory} can be read (newest: step "
      f"{newest}: {_reason(damaged[newest])}); move the directory away to start again"
    )

  def restore_step(self, template: State, step: int) -> State:
    """Restores the state of one step, like `restore`.

    Raises:
      UnreadableError: there is no such step, or its state does not match the template.
      DamagedError: its files differ from what was written.
    """
    self.wait()
    if step not in self.steps():
      raise UnreadableError(f"no checkpoint of step {step} in {self._directory}: {self.steps()}")
    where = f"checkpoint of step {step} in {self._directory}"
    try:
      leaves = self._index(step)["leaves"]
      stored, expected = {path: kind for path, (kind, _) in leaves.items()}, _kinds(template)
      for path in [*expected, *stored]:
        has, wants = stored.get(path, "absent"), expected.get(path, "absent")
        if has != wants:
          raise UnreadableError(f"{where} is of another state: {path} is {has}, expected {wants}")
      target = ocp.args.StandardRestore(jax.tree.map(_abstract, template))
      state = self._manager.restore(step, args=ocp.args.Composite(state=target))["state"]
      for path, found in zip(expected, _crcs(state), strict=True):
        if found != leaves[path][1] and None not in (found, leaves[path][1]):
          raise ValueError(f"{path} fails its CRC-32")
    except UnreadableError:
      raise
    except Exception as error:  # Damage shows as almost any type of error.
      raise DamagedError(f"{where} is damaged: {_reason(error)}") from error
    # On a CPU restored arrays may live in the reader's memory, which must not be donated.
    return jax.tree.map(jnp.copy, state)

  def unlogged(self, step: int) -> Any:
    """Returns the JSON values saved with a restored step; None without any."""
    return self._index(step).get("unlogged")

  def wait(self) -> None:
    """Blocks until the last save is on disk. Raises CheckpointError if it failed."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then frees Orbax's resources."""
    try:
      self.wait()
    finally:
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except Exception as error:
      raise CheckpointError(
        f"saving a checkpoint in {self._directory} failed ({_reason(error)}): those before it are "
        "kept; free disk space or make the folder writable, then run the same command to resume"
      ) from error

  def _best(self, steps: Sequence[int]) -> int | None:
    if self._best_metric is None:
      return None
    values = {step: self._metrics.get(step, {}).get(self._best_metric, math.nan) for step in steps}
    finite = [(self._sign * value, step) for step, value in values.items() if math.isfinite(value)]
    return max(finite)[1] if finite else None

  def _index(self, step: int) -> dict[str, Any]:
    args = ocp.args.Composite(index=ocp.args.JsonRestore())
    index = self._manager.restore(step, args=args)["index"]
    crc = index.pop("crc32")
    if crc != zlib.crc32(json.dumps(index).encode()):
      raise ValueError("the index fails its CRC-32")
    return index

  def _move_aside(self, steps: Collection[int]) -> None:
    if self._read_only or not steps:
      return
    for step in steps if jax.process_index() == 0 else ():
      aside = self._directory / f"damaged-{step}"
      while aside.exists():
        aside = aside.with_name(f"{aside.name}-again")
      (self._directory / f"{step:09d}").rename(aside)
    ocp.multihost.sync_global_processes("checkpoints:moved_aside")
    self._manager.reload()


@dataclasses.dataclass
class _Preserve:
  """Orbax PreservationPolicy given by a function of the steps, oldest first."""

  kept: Callable[[Sequence[int]], set[int | None]]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    kept = self.kept([checkpoint.step for checkpoint in checkpoints])
    return [checkpoint.step in kept for checkpoint in checkpoints]


def silence_orbax() -> None:
  """Suppresses the messages of Orbax's failing threads: the error is raised here, in one line."""
  logging.get_absl_handler().addFilter(lambda record: not _by_orbax(record))
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  report_before = sys.unraisablehook

  def report_others(unraisable: Any) -> None:
    late = "Event loop is closed" in str(unraisable.exc_value)  # a write that ends after its save
    if not late and not _raised_by_orbax(unraisable):
      report_before(unraisable)

  sys.unraisablehook = report_others


def _by_orbax(record: logging.logging.LogRecord) -> bool:
  return "orbax" in record.pathname or record.name == "asyncio"


def _raised_by_orbax(unraisable: Any) -> bool:
  """Tells whether Orbax's code failed, or an asyncio object that waited for it did."""
  waiting = (getattr(unraisable.object, name, None) for name in ("cr_code", "ag_code"))
  ran = (frame.f_code for frame, _ in traceback.walk_tb(unraisable.exc_traceback))
  return any(code and "orbax" in code.co_filename for code in (*waiting, *ran))


def _kinds(tree: Any) -> dict[str, str]:
  """Returns {path: 'float32[3, 4]'} of every leaf, in flattening order."""
  return {
    jax.tree_util.keystr(path).lstrip("."): f"{jnp.dtype(x.dtype).name}{list(x.shape)}"
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _crcs(tree: Any) -> list[int | None]:
  """Returns the CRC-32 of every leaf's bytes; None for an array no process holds as a whole."""

  def whole(x):
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated

  # An explicit transfer, which a transfer guard allows.
  leaves = jax.device_get([x if whole(x) else None for x in jax.tree.leaves(tree)])
  return [None if x is None else zlib.crc32(x.tobytes()) for x in leaves]


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _reason(error: BaseException) -> str:
  while error.__cause__ is not None:  # the innermost error is the most specific
    error = error.__cause__
  text = (str(error).splitlines() or [""])[0]
  if len(text) > 200:  # TensorStore puts the cause last
    text = f"{text[:60]} ... {text[-130:]}"
  return f"{type(error).__name__}: {text}"
