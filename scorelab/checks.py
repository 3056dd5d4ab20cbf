"""What no single part of an experiment can refuse: parts that do not go together.

Each raises a ConfigError of one line, before anything is computed or written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from scorelab.options import ConfigError
from scorelab.predictions import Exact
from scorelab.rows import Row
from scorelab.targets import has_truth, splits_of
from scorelab.typing import Array, Params, Predict

if TYPE_CHECKING:
  from scorelab.experiment import Experiment


def check_target(config: ConfigDict, target: Any) -> None:
  """Refuses a config that asks its target for an exact score, or for points, that it lacks."""
  name = f"target.name = {config.target.name!r}"
  for path, given, refused, instead in (
    ("parameterization.name", config.parameterization.name, "exact", "another parameterization"),
    ("training.monitor", config.training.monitor, "score_error", "'val_loss'"),
  ):
    if given == refused and not has_truth(target):
      raise ConfigError(
        f"{path} = {given!r} needs an exact score, and {name} has none: use {instead}"
      )
  splits = splits_of(target)
  num_train, own = config.target.num_train, "train" in splits
  if num_train and own:
    raise ConfigError(
      f"target.num_train = {num_train} must be 0: {name} has its own training points"
    )
  if not (num_train or own):
    if config.training.batch_size == 0:
      raise ConfigError(
        f"training.batch_size = 0, all training points, and {name} has no fixed ones"
      )
    if config.evaluation.reference == "train":
      raise ConfigError("evaluation.reference = 'train' needs target.num_train > 0")
  if config.training.batch_size == 0 and getattr(target, "stream", None) is not None:
    raise ConfigError("training.batch_size = 0 needs all images in memory: raise target.cache_gib")
  if config.evaluation.reference == "test" and "test" not in splits:
    raise ConfigError(f"evaluation.reference = 'test', and {name} has no test points: use 'fresh'")


def check_network(network: Any, target: Any) -> None:
  """Refuses a network that does not take the target's events."""
  if hasattr(network, "check_event"):
    try:
      network.check_event(target.event_shape)
    except ValueError as error:
      raise ConfigError(f"network: {error}") from error


def check_consistency(config: ConfigDict) -> None:
  """Refuses a consistency network with another loss, which would ask for a posterior mean."""
  loss, read = config.loss.name, config.parameterization.name
  if (loss == "consistency") != (read == "consistency"):
    raise ConfigError(
      f"loss.name = {loss!r} and parameterization.name = {read!r}: 'consistency' goes with itself"
    )


def check_pure_noise(config: ConfigDict, rows: Sequence[Row]) -> None:
  """Refuses a grid that starts at alpha = 0 where the network cannot say x0 there."""
  section = config.parameterization
  for field, refused, instead in (
    ("name", ("noise", "score", "scaled_score"), "x0, v, flow or edm"),
    ("conditioning", ("log_sigma",), "signal_level or time"),
  ):
    for row in rows:
      starts_in_noise = row.grid is not None and not row.grid.levels.alpha[0]
      if starts_in_noise and section.name != "exact" and section[field] in refused:
        raise ConfigError(
          f"parameterization.{field} = {section[field]!r} has no value at alpha = 0, where the "
          f"grid of {row.sampler} starts: use {instead}, or a sampler.t_max below 1"
        )


def check_rows(experiment: Experiment) -> None:
  """Refuses a row that cannot run, by tracing it, which takes tenths of a second for each."""
  key = experiment.root

  def run(row: Row, bind: Callable[[Params], Predict]) -> Array:
    x = row.prior(key, (1, *experiment.target.event_shape))
    return row.run(key, bind(experiment.init_params(key)), x).x

  binds: list[Callable[[Params], Predict]] = [experiment.parameterization.bind]
  if has_truth(experiment.target) and not isinstance(experiment.parameterization, Exact):
    binds.append(lambda _: experiment.target.predict)
  for row in experiment.evaluation.rows:
    for bind in binds:
      try:
        jax.eval_shape(functools.partial(run, row, bind))
      except ValueError as error:
        raise ConfigError(f"{row.sampler}: {error}") from error


def check_devices(experiment: Experiment) -> None:
  """Refuses a batch that is not dealt out evenly, to the devices and to accumulated parts."""
  size, parts, devices = experiment.batch_size, experiment.accumulate, jax.device_count()
  for share, what in (
    (parts, f"training.accumulate = {parts}"),
    (parts * devices, f"{devices} devices" + (f" x training.accumulate = {parts}" * (parts > 1))),
  ):
    if size % share:
      given = experiment.config["training"]["batch_size"]
      whole = "" if given else f", {size} points,"
      raise ConfigError(f"training.batch_size = {given}{whole} must be a multiple of {what}")
