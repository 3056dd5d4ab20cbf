"""Trains, samples and evaluates the experiment of a config: the program of `scorelab`."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import logging

from scorelab import early_stop
from scorelab.cli.request import Request, help_requested, parse, usage
from scorelab.errors import ConfigError, RefusedError, RunError, ScorelabError
from scorelab.runs.signals import Preempted, StopFlag

if TYPE_CHECKING:
  from scorelab.evaluation.pretrained import Sampling
  from scorelab.experiment.spec import Experiment
  from scorelab.runs.workdir import Workdir
  from scorelab.training.ensembles import Ensemble

_RESTART = "Start all of them again: they go on from the last checkpoint"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line.

  Args:
    argv: the program's name and its arguments; by default those of this process.

  Returns:
    The exit code: 0; 1 for a failed run; 2 for a refused request; 75 for a run that was stopped and
    can be resumed.
  """
  argv = sys.argv if argv is None else argv
  if help_requested(argv):
    print(usage(argv))
    return 0
  distributed = False
  try:
    request = parse(argv)
    distributed = request.distributed
    if distributed:
      _join_processes(request)
    # Processes that work together stop together, when all of them ask.
    line = None if distributed else "main.py: stopped before the run began"
    with StopFlag(line) as stop:
      try:
        run(request, stop)
      finally:
        early_stop.set_line("main.py: stopped after the run had ended")
  except ScorelabError as error:
    print(error, file=sys.stderr)
    if error.alone and distributed:  # a normal exit would wait for the other processes
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(error.exit_code)
    return error.exit_code
  return 0


def _join_processes(request: Request) -> None:
  """Connects to the other processes of the run.

  If one of them dies, a call raises an error in the others, or JAX aborts them with its own line,
  "another task died", which no Python code can follow.

  Raises:
    ConfigError: the connection fails.
  """
  import jax

  from scorelab.runs.distributed import wait_for_all

  try:
    # Process 0 measures alone; the others wait for it however long that takes.
    jax.distributed.initialize(
      request.coordinator,
      request.num_processes,
      request.process_id,
      shutdown_timeout_seconds=7 * 24 * 3600,
      heartbeat_timeout_seconds=30,  # if a process dies, the others are aborted
    )
    wait_for_all("joined")  # now: on CPUs the first barrier times out after 30 s
  except (RuntimeError, ValueError) as error:
    raise ConfigError(f"main.py: --distributed: {str(error).splitlines()[0]}") from error


def run(request: Request, stop: StopFlag) -> None:
  """Builds the requested experiment, and trains, evaluates or both.

  Args:
    request: the command line.
    stop: checked wherever the run can stop.

  Raises:
    ScorelabError: the request is refused, or the run failed or was stopped; one line.
  """
  from scorelab.config.swaps import drop_old_options
  from scorelab.evaluation import pretrained
  from scorelab.experiment.build import build
  from scorelab.runs.checkpoints import silence_orbax
  from scorelab.training import ensembles

  logging.set_verbosity(logging.WARNING)
  silence_orbax()
  config = request.config
  dropped = drop_old_options(config, request.replaced)
  ensemble = None
  with _named_after(request.file):
    try:
      if ensembles.is_ensemble(config):
        ensemble = ensembles.build(config)
        experiment = ensemble.experiment
      else:
        config.ensemble.seeds = None  # one seed is no ensemble
        sampled = config.get("pretrained") is not None and config.pretrained.path is not None
        experiment = pretrained.build(config, request.mode) if sampled else build(config)
    except ConfigError as error:  # e.g. missing data: a finished run's table can still be shown
      if (finished := _finished_run(request)) is None:
        raise
      print(f"{request.file}: {error}", file=sys.stderr)
      show_table(finished)
      return
    _run_in_directory(request, experiment, ensemble, dropped, stop)


def _finished_run(request: Request) -> Workdir | None:
  """Returns a finished run of this config whose data may be gone; None if there is none."""
  from scorelab.runs.workdir import Workdir, find_done

  paths = sorted(pathlib.Path("results", request.name).glob("*"))
  paths = [pathlib.Path(request.workdir)] if request.workdir else paths
  found = find_done(paths, json.loads(request.config.to_json()))
  return Workdir(found) if found else None


def show_table(workdir: Workdir) -> None:
  """Prints the table of a finished run."""
  from scorelab import evaluation
  from scorelab.runs.distributed import is_leader

  if is_leader():
    print(evaluation.format_table(evaluation.read(workdir)))
    print(f"{workdir.path}: already done")


def _run_in_directory(
  request: Request,
  experiment: Experiment | Sampling,
  ensemble: Ensemble | None,
  dropped: str | None,
  stop: StopFlag,
) -> None:
  """Opens the run's directory, runs all checks, and executes the run."""
  from scorelab.evaluation import pretrained, tensorboard
  from scorelab.experiment.spec import Experiment
  from scorelab.runs import lock
  from scorelab.runs import workdir as runs
  from scorelab.runs.distributed import is_leader, wait_for_all

  config, path = experiment.config, pathlib.Path(request.workdir or ".")
  other = ""
  if not request.workdir:
    path = runs.find(pathlib.Path("results", request.name), config)
    other = "" if path.exists() else runs.on_other_data(path.parent, config)
  if stop.line is not None:
    stop.line = f"{path}: {Preempted()}"
  with _about(path, request.distributed):
    trained_here = isinstance(experiment, Experiment)
    if request.mode == "eval" and trained_here and not path.exists():
      also = f"; {other}" if other else ""
      raise RefusedError(f"{path}: there is no run here to evaluate; train first{also}")
    notices = [other] if other else []
    done = runs.is_done(path, config)
    if isinstance(experiment, Experiment) and not done:
      notices += [f"{request.file}: {line}" for line in _checked(request, experiment, ensemble)]
    if dropped:
      notices.append(f"{request.file}: {dropped}")
    if is_leader():
      for line in notices:
        print(line, file=sys.stderr)
    with lock.hold(path, off=done or not is_leader()):
      workdir = runs.open_workdir(
        path, config, request.overrides, command=request.argv, read_only=not is_leader()
      )
      wait_for_all("workdir")
      with tensorboard.Mirror(workdir, off=not (request.tensorboard and is_leader())):
        if isinstance(experiment, Experiment):
          execute(experiment, ensemble, workdir, request.mode, stop)
        else:
          pretrained.execute(experiment, workdir, stop)


def _checked(request: Request, experiment: Experiment, ensemble: Ensemble | None) -> list[str]:
  """Checks an experiment before anything is written; returns warnings."""
  from scorelab.experiment.compatibility import check_devices, check_metrics, check_rows
  from scorelab.experiment.coverage import coverage_warnings

  check_rows(experiment)
  check_metrics(experiment)
  if request.mode != "eval":
    check_devices(experiment, None if ensemble is None else 1)
  return coverage_warnings(experiment)


@contextlib.contextmanager
def _named_after(file: str) -> Iterator[None]:
  """Prefixes the message of a ConfigError with the config's name."""
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f"{file}: {error}") from error


@contextlib.contextmanager
def _about(path: pathlib.Path, distributed: bool) -> Iterator[None]:
  """Converts exceptions that end a run to a ScorelabError that names the run directory."""
  import jax

  from scorelab.runs import lock

  def failed(line: str) -> RunError:
    failure = RunError(line)
    failure.alone = True
    return failure

  try:
    yield
  except Preempted as stopped:
    raise Preempted(f"{path}: {stopped}") from stopped
  except OSError as error:
    message = lock.why_unwritable(path, error)
    if message is None:
      raise
    raise failed(message) from error
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    first = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in first:
      raise failed(f"{path}: out of memory: {first}") from error
    if not distributed:
      raise
    line = f"{path}: another process has ended, or cannot be reached ({first})\n{_RESTART}"
    raise failed(line) from error


def execute(
  experiment: Experiment, ensemble: Ensemble | None, workdir: Workdir, mode: str, stop: StopFlag
) -> None:
  """Trains, evaluates or both, in the run's directory.

  If several processes draw samples in batches, all draw and process 0 measures.

  Raises:
    RunError: some number of the training or the evaluation is not finite.
    Preempted: a stop was requested.
  """
  from scorelab import evaluation, training
  from scorelab.evaluation import ensembles as ensemble_evaluation
  from scorelab.evaluation import non_finite
  from scorelab.evaluation.ensemble_figures import draw_ensemble
  from scorelab.evaluation.figures import draw_run
  from scorelab.evaluation.table import format_table
  from scorelab.runs.distributed import is_leader
  from scorelab.runs.sharding import make_layout
  from scorelab.training import ensembles

  if workdir.done.exists():
    show_table(workdir)
    return
  program = None
  if ensemble is not None:
    program = ensembles.make_program(ensemble, make_layout(experiment.sharding))
  if mode != "eval":
    training.train(experiment, workdir, stop, program)
  if mode != "train":
    state = training.restore_trained(experiment, workdir, program)
    if ensemble is not None and not is_leader():
      return
    params = training.evaluated_params(state, experiment.evaluation.ema)
    weak = training.weaker_params(experiment, workdir, state)
    if ensemble is not None:
      result = ensemble_evaluation.evaluate(ensemble, params, workdir, stop, weak)
    else:
      devices = make_layout()
      result = evaluation.evaluate(experiment, params, workdir, stop, weak, layout=devices)
      if not is_leader():
        return
    print(format_table(result))
    if faults := result.get("non_finite"):
      raise RunError(f"{workdir.path}: not finite: {non_finite.in_one_line(faults)}")
    if ensemble is not None:
      first = ensembles.state_of(params, ensemble.members[0])
      draw_ensemble(experiment, first, workdir, stop)
    else:
      draw_run(experiment, params, workdir, stop)
    workdir.done.touch()
  if is_leader():
    print(workdir.path)
