"""Training: the state, the step, the loop, and ensembles of trainings."""

from scorelab.training.loop import Program, make_program, make_validate, train
from scorelab.training.restore import restore_trained, weaker_params
from scorelab.training.state import TrainState, evaluated_params, finished, init_state, update_ema
from scorelab.training.step import loss_and_gradient, make_chunk, repeated, train_step

__all__ = [
  "Program",
  "TrainState",
  "evaluated_params",
  "finished",
  "init_state",
  "loss_and_gradient",
  "make_chunk",
  "make_program",
  "make_validate",
  "repeated",
  "restore_trained",
  "train",
  "train_step",
  "update_ema",
  "weaker_params",
]
