"""Restores the parameters that an evaluation needs, without writing anything."""

from __future__ import annotations

from scorelab.errors import RefusedError
from scorelab.experiment.spec import Experiment
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.sharding import make_layout
from scorelab.runs.workdir import Workdir
from scorelab.training.loop import Program
from scorelab.training.state import TrainState, evaluated_params, finished, init_state
from scorelab.typing import Params


def weaker_params(
  experiment: Experiment, workdir: Workdir, state: TrainState
) -> dict[float, Params]:
  """Restores the parameters of the weaker models that guided rows need, by `Row.weak`.

  `Row.weak` is 0 or the decay of an average, or an earlier step. If the state is an ensemble's, so
  are the parameters.

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
  """Restores the state of a finished training on one device, for evaluation. Writes nothing.

  The state is that of the last or the best checkpoint, by config.evaluation.checkpoint. The program
  must be the trained one; by default it is the experiment's own. All processes must call this.

  Raises:
    RefusedError: training is not finished in this workdir.
    CheckpointError: there are checkpoints but none can be read.
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
