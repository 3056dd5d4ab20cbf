"""Trains, samples and measures the experiment of a config.

python main.py --config=configs/ncsn_gmm.py
python main.py --config=configs/ncsn_gmm.py --config.optimizer.learning_rate=1e-3
python main.py --config=configs/ncsn_gmm.py --mode=eval --config.sampler.name=heun
python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=16   # in one program
python main.py --config=configs/ncsn_gmm.py --distributed    # the same on every host of a cluster
"""

from __future__ import annotations

from scorelab import early_stop

if __name__ == "__main__":  # before the other imports, which take a second
  early_stop.install("main.py: stopped before the run began")

import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from configs import base
from scorelab.config.command_line import (
  expand_flagfiles,
  explain,
  import_beside,
  missing_file,
  parse_flags,
  replaced_values,
)
from scorelab.config.options import check_fields
from scorelab.errors import ConfigError
from scorelab.runs import abort_notice
from scorelab.runs.signals import PREEMPTED_EXIT_CODE, Preempted, StopFlag

if TYPE_CHECKING:
  from scorelab.experiment.spec import Experiment
  from scorelab.runs.workdir import Workdir
  from scorelab.training.ensembles import Ensemble

_ARGV: list[str] = []  # as typed, but for flag files, whose flags stand in their place
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The experiment: configs/NAME.py[:fast].", sys_argv=_ARGV
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where the run leaves what it leaves [results/<config>/<run id>]."
)
_MODE = flags.DEFINE_enum(
  "mode", "train_and_eval", ["train", "eval", "train_and_eval"], "What to do."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "One of several processes that train together, on a shared --workdir."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "With --distributed: host:port of process 0 [as Slurm or a TPU pod says]."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: from 0.")
_TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "Also leave scalars and figures as events, in <workdir>/tensorboard."
)
flags.mark_flag_as_required("config")
_STOPPED = "stopped and saved; the same command goes on"
_AGAIN = "Start all of them again: they go on from the last checkpoint"


def _fail(message: str, code: int = 2, alone: bool = False) -> NoReturn:
  """Ends the program with a line; `alone` where other processes do not end by themselves."""
  print(message, file=sys.stderr)
  if alone and _DISTRIBUTED.value:
    sys.stderr.flush()
    abort_notice.take_back()
    os._exit(code)  # an orderly end waits for all processes
  sys.exit(code)


def _config_flag(argv: list[str]) -> str:
  """The config as it was typed, 'configs/NAME.py:arg'; '' where none was."""
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    name, sign, value = argument.lstrip("-").partition("=")
    if name == "config":
      return value if sign else following
  return ""


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake ends the program with one line and code 2."""
  logging.set_verbosity(logging.ERROR)
  try:
    argv = _ARGV[:] = expand_flagfiles(argv)
  except ConfigError as error:
    _fail(str(error))
  config = _config_flag(argv)
  if sum(argument.partition("=")[0].lstrip("-") == "config" for argument in argv) > 1:
    _fail("main.py: --config is given more than once")
  if config and (message := missing_file(config)):
    _fail(message)
  import_beside(config)
  try:
    rest = parse_flags(argv, flags.FLAGS)
    check_fields(_CONFIG.value, base.get_config())
    return rest
  except Exception as error:  # whatever a config module or ml_collections raises
    _fail(explain(error, config, argv))


def main(argv: list[str]) -> None:
  """Dispatches."""
  if len(argv) > 1:
    _fail(f"main.py: {argv[1]!r} is not a flag; did you mean --config={argv[1]}?")
  join_processes()
  # Processes that work together stop together, where all of them ask.
  line = None if _DISTRIBUTED.value else "main.py: stopped before the run began"
  with StopFlag(line) as stop:
    try:
      start(stop)
    finally:
      early_stop.say("main.py: stopped after the run had ended")


def start(stop: StopFlag) -> None:
  """Builds what the config describes and does it; a mistake ends the program with one line."""
  # Only now: a mistake on the command line is answered at once.
  import jax

  from scorelab.errors import RefusedError, RunError
  from scorelab.evaluation import pretrained as pretrained_model
  from scorelab.evaluation import tensorboard
  from scorelab.experiment.build import build
  from scorelab.experiment.compatibility import check_devices, check_metrics, check_rows
  from scorelab.experiment.coverage import coverage_warnings
  from scorelab.experiment.spec import Experiment
  from scorelab.experiment.swaps import drop_old_options
  from scorelab.runs import lock
  from scorelab.runs import workdir as runs
  from scorelab.runs.checkpoints import CheckpointError, UnreadableError, silence_orbax
  from scorelab.runs.distributed import leads, wait_for_all
  from scorelab.training import ensembles

  logging.set_verbosity(logging.WARNING)
  silence_orbax()
  config, mode = _CONFIG.value, _MODE.value
  file = _config_flag(_ARGV)
  if not (_WORKDIR.value or "").isprintable():
    _fail(f"main.py: --workdir={_WORKDIR.value!r} must be one line")
  path = pathlib.Path(_WORKDIR.value or ".")
  try:
    path.exists()
  except OSError as error:
    _fail(f"main.py: --workdir: {error.strerror}")
  dropped = drop_old_options(config, replaced_values(flags.FLAGS))
  pretrained = config.get("pretrained") is not None and config.pretrained.path is not None
  try:
    root = pathlib.Path("results", pathlib.Path(file.partition(":")[0]).stem)
    ensemble = None
    try:
      if ensembles.asked(config):
        ensemble = ensembles.build(config)
        experiment = ensemble.experiment
      else:
        config.ensemble.seeds = None  # one seed is no ensemble
        experiment = pretrained_model.build(config, mode) if pretrained else build(config)
    except ConfigError as error:  # such as data that are gone, which a finished run's table is not
      paths = [path] if _WORKDIR.value else sorted(root.glob("*"))
      if not (found := runs.find_done(paths, json.loads(config.to_json()))):
        raise
      print(f"{file}: {error}", file=sys.stderr)
      show_done(runs.Workdir(found))
      return
    if not _WORKDIR.value:
      path = runs.find(root, experiment.config)
    other = (
      "" if _WORKDIR.value or path.exists() else runs.on_other_data(path.parent, experiment.config)
    )
    if stop.line is not None:
      stop.line = f"{path}: {_STOPPED}"
    if mode == "eval" and not pretrained and not path.exists():
      also = f"; {other}" if other else ""
      raise RefusedError(f"{path}: there is no run here to evaluate; train first{also}")
    if other and leads():
      print(other, file=sys.stderr)
    done = runs.is_done(path, experiment.config)
    if isinstance(experiment, Experiment) and not done:
      check_rows(experiment)  # before anything is written
      check_metrics(experiment)
      if leads():
        for line in coverage_warnings(experiment):
          print(f"{file}: {line}", file=sys.stderr)
      if mode != "eval":
        check_devices(experiment, None if ensemble is None else 1)
    if dropped and leads():
      print(f"{file}: {dropped}", file=sys.stderr)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    with lock.hold(path, off=done or not leads()):
      workdir = runs.open_workdir(path, experiment.config, overrides, read_only=not leads())
      wait_for_all("workdir")
      with tensorboard.Mirror(workdir, off=not (_TENSORBOARD.value and leads())):
        if isinstance(experiment, Experiment):
          execute(experiment, ensemble, workdir, mode, stop)
        else:
          pretrained_model.execute(experiment, workdir, stop)
  except ConfigError as error:
    _fail(f"{file}: {error}")
  except Preempted:
    _fail(f"{path}: {_STOPPED}", PREEMPTED_EXIT_CODE)
  except (RefusedError, UnreadableError) as error:
    _fail(str(error), alone=isinstance(error, lock.UnwritableError))
  except (RunError, CheckpointError) as error:
    _fail(str(error), 1, alone=isinstance(error, CheckpointError))
  except OSError as error:
    message = lock.why_unwritable(path, error)
    if message is None:
      raise
    _fail(message, 1, alone=True)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    said = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
      _fail(f"{path}: out of memory: {said}", 1, alone=True)
    if not _DISTRIBUTED.value:
      raise
    print(f"{path}: another process has ended, or cannot be reached ({said})", file=sys.stderr)
    _fail(_AGAIN, 1, alone=True)


def join_processes() -> None:
  """Meets the other processes of --distributed; a mistake ends the program with one line."""
  given = {
    "--coordinator": _COORDINATOR.value,
    "--num_processes": _NUM_PROCESSES.value,
    "--process_id": _PROCESS_ID.value,
  }
  named = [name for name, value in given.items() if value is not None]
  if named and (not _DISTRIBUTED.value or len(named) < len(given)):
    _fail(f"main.py: {', '.join(named)} must come with --distributed and all of {list(given)}")
  if not _DISTRIBUTED.value:
    return
  abort_notice.leave(
    f"main.py: process {os.getpid()} was aborted, most likely since another one has died\n{_AGAIN}"
  )
  import jax

  from scorelab.runs.distributed import wait_for_all

  try:
    # Process 0 measures alone, and the others may have to wait for it as long as that takes.
    jax.distributed.initialize(
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      shutdown_timeout_seconds=7 * 24 * 3600,
      heartbeat_timeout_seconds=30,  # a dead process ends the others
    )
    wait_for_all("joined")  # at once: on CPUs they have 30 seconds for their first meeting
  except (RuntimeError, ValueError) as error:
    _fail(f"main.py: --distributed: {str(error).splitlines()[0]}")


def show_done(workdir: Workdir) -> None:
  """Prints the table of a finished run."""
  from scorelab import evaluation
  from scorelab.evaluation.table import format_table
  from scorelab.runs.distributed import leads

  if leads():
    print(format_table(evaluation.read(workdir)))
    print(f"{workdir.path}: already done")


def execute(
  experiment: Experiment, ensemble: Ensemble | None, workdir: Workdir, mode: str, stop: StopFlag
) -> None:
  """Trains, evaluates or both, in the workdir.

  Of several processes all draw samples, where that is done in batches, and the first one measures.
  """
  from scorelab import evaluation, training
  from scorelab.errors import RunError
  from scorelab.evaluation import ensembles as ensemble_evaluation
  from scorelab.evaluation import non_finite
  from scorelab.evaluation.ensemble_figures import draw_ensemble
  from scorelab.evaluation.figures import draw_run
  from scorelab.evaluation.table import format_table
  from scorelab.runs.distributed import leads
  from scorelab.runs.sharding import make_layout
  from scorelab.training import ensembles

  if workdir.done.exists():
    show_done(workdir)
    return
  program = None
  if ensemble is not None:
    program = ensembles.make_program(ensemble, make_layout(experiment.sharding))
  if mode != "eval":
    training.train(experiment, workdir, stop, program)
  if mode != "train":
    state = training.restore_trained(experiment, workdir, program)
    if ensemble is not None and not leads():
      return
    params = training.evaluated_params(state, experiment.evaluation.ema)
    weak = training.weaker_params(experiment, workdir, state)
    if ensemble is not None:
      result = ensemble_evaluation.evaluate(ensemble, params, workdir, stop, weak)
    else:
      devices = make_layout()
      result = evaluation.evaluate(experiment, params, workdir, stop, weak, layout=devices)
      if not leads():
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
  if leads():
    print(workdir.path)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
