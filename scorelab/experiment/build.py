"""Builds an experiment from its config."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from scorelab.config.options import check_bounds, choose, make, named
from scorelab.data.fingerprints import record
from scorelab.data.points import FILES
from scorelab.errors import ConfigError
from scorelab.experiment.build_evaluation import make_evaluation, plan_rows_of
from scorelab.experiment.build_observation import make_observation
from scorelab.experiment.compatibility import check_sizes, check_target
from scorelab.experiment.components import (
  NO_NUMBERS,
  Numbers,
  numbers_of,
  plan_components,
)
from scorelab.experiment.keys import Stream
from scorelab.experiment.sampler_spec import RowPlan
from scorelab.experiment.spec import Components, Experiment
from scorelab.runs.sharding import SHARDINGS
from scorelab.targets import TARGETS, labelled_splits_of, splits_of
from scorelab.typing import Batch, DequantisedTarget, Key, Target


def build(config: ConfigDict) -> Experiment:
  """Builds the experiment that a config describes.

  Raises:
    ConfigError: the config is invalid.
  """
  check_bounds(config)
  if config.ensemble.over or config.ensemble.seeds not in (None, 1):
    raise ConfigError(
      f"ensemble.seeds = {config.ensemble.seeds} and ensemble.over = {config.ensemble.over!r} are "
      "several runs, and this takes one"
    )
  precisions = ("default", "bfloat16", "tensorfloat32", "float32")
  choose(named(precisions), config.matmul_precision, "matmul_precision", "precision")
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  target = make(TARGETS | FILES, config.target, "target", "target", also=("num_train",))
  check_target(config, target)
  experiment = assemble(config, target)
  check_sizes(experiment)
  return with_points(experiment, jax.jit(experiment.draw_data, static_argnums=1))


def assemble(config: ConfigDict, target: Target, numbers: Numbers = NO_NUMBERS) -> Experiment:
  """Like `build`, for an existing target; does not draw the train and validation sets.

  Args:
    config: a checked config.
    target: the distribution to sample from.
    numbers: the numbers of the config that differ between members of an ensemble, by dotted field.
  """
  make_components = plan_components(config, target)
  components = make_components(NO_NUMBERS)
  for often, seldom in (("log_every", "checkpoint_every"), ("checkpoint_every", "keep_every")):
    if config.training[seldom] % config.training[often]:
      raise ConfigError(
        f"training.{seldom} = {config.training[seldom]} must be a multiple of "
        f"training.{often} = {config.training[often]}"
      )
  if config.training.sharding is not None:
    choose(named(SHARDINGS), config.training.sharding, "training.sharding", "sharding")
  if config.evaluation.ema and config.evaluation.ema not in config.optimizer.ema_decays:
    raise ConfigError(
      f"evaluation.ema = {config.evaluation.ema} is not in optimizer.ema_decays = "
      f"{config.optimizer.ema_decays}"
    )
  monitors = ("val_loss", "score_error")
  choose(named(monitors), config.training.monitor, "training.monitor", "validation")
  if config.training.monitor == "score_error" and components.loss_levels is None:
    raise ConfigError(
      f"training.monitor = 'score_error' needs a loss of levels, not {config.loss.name!r}"
    )
  observation = make_observation(config, target)
  plans = plan_rows_of(config, numbers, observation)
  return Experiment(
    config=json.loads(config.to_json()) | ({"data": data} if (data := record(target)) else {}),
    target=target,
    **vars(components),
    data={},  # set by with_points: they are drawn with the experiment's keys
    validation={},
    evaluation=make_evaluation(config, target, components, plans, observation),
    changed_by=functools.partial(_changed_by, make_components, plans),
    numbers=dict(numbers),
  )


def _changed_by(
  make_components: Callable[[Numbers], Components],
  plans: Sequence[RowPlan],
  experiment: Experiment,
  numbers: Numbers,
) -> dict[str, Any]:
  """Returns the fields of an experiment that numbers change; what they do not reach stays."""
  sections = {field.partition(".")[0] for field in numbers}
  changed: dict[str, Any] = {"numbers": numbers}
  if sections & {"schedule", "loss", "parameterization"}:
    changed |= vars(make_components(numbers))
  elif "optimizer" in sections:
    changed["optimizer"] = make_components(numbers).optimizer
  if sections & {"schedule", "sampler"}:
    schedule, own = changed.get("schedule", experiment.schedule), numbers_of("sampler", numbers)
    rows = tuple(plan.make(schedule, own) for plan in plans)
    changed["evaluation"] = dataclasses.replace(experiment.evaluation, rows=rows)
  return changed


def with_points(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Experiment:
  """Returns the experiment with its train and validation sets; `draw` is its draw_data, jitted."""
  data, validation = _training_set(experiment, draw), _validation_set(experiment, draw)
  return dataclasses.replace(experiment, data=data, validation=validation)


def with_numbers(config: ConfigDict, numbers: Mapping[str, Any]) -> ConfigDict:
  """Returns a copy of the config with these numbers, by dotted field; they may be traced."""
  changed = config.copy_and_resolve_references()
  with changed.ignore_type():
    for field, number in numbers.items():
      section, name = field.split(".")
      changed[section][name] = (number,) if name == "ema_decays" else number
  return changed


def _training_set(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Batch:
  """Returns the target's own training points, or a fixed set drawn once, or {}."""
  num_train = experiment.config["target"]["num_train"]
  if own := _split(experiment, "train"):
    return own
  if not num_train:
    return {}
  return draw(experiment.key(Stream.TRAIN_SET, 0), num_train)


def _validation_set(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Batch:
  """Returns the target's own held-out points, or draws, repeated as configured, dequantised once.

  With stratified levels the copies of a point get evenly spaced levels: with T copies the
  validation loss is the mean over T levels of every point's loss.
  """
  target, training = experiment.target, experiment.config["training"]
  key = experiment.key(Stream.VALIDATION, 1)
  batch = _split(experiment, "validation")
  if not batch:
    batch = draw(key, training["num_validation"])
  repeats = training["validation_repeats"] or 1
  batch = jax.tree.map(lambda a: jnp.concatenate([a] * repeats), batch)
  if isinstance(target, DequantisedTarget):
    batch |= {"x": target.dequantise(key, batch["x"])}
  return batch


def _split(experiment: Experiment, name: str) -> Batch:
  """Returns a split of the target, with labels if the network takes them; {} without one."""
  splits = splits_of(experiment.target)
  if name not in splits:
    return {}
  if not experiment.conditional:
    return {"x": splits[name]}
  x, label = labelled_splits_of(experiment.target)[name]
  return {"x": x, "label": label}
