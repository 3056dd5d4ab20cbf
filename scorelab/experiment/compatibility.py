"""Checks for incompatible combinations of components.

Each raises a ConfigError of one line, before anything is computed or written.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from scorelab.config.swaps import has_data_score
from scorelab.data.memory import check_memory
from scorelab.errors import ConfigError
from scorelab.experiment.row import Row
from scorelab.inverse import Observation
from scorelab.metrics import CLASS_METRICS, LABEL_METRICS, Reference
from scorelab.metrics.wasserstein import MAX_EXACT_POINTS
from scorelab.predictions import Exact
from scorelab.targets import has_truth, is_streamed, num_classes_of, splits_of, truth_of
from scorelab.typing import Array, ClassifiedTarget, EventNetwork, FileTarget, Predict, Target

if TYPE_CHECKING:
  from scorelab.experiment.spec import Experiment


def check_target(config: ConfigDict, target: Target) -> None:
  """Raises ConfigError if a config needs an exact score, or points, that its target lacks."""
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
  if config.training.batch_size == 0 and is_streamed(target):
    raise ConfigError("training.batch_size = 0 needs all images in memory: raise target.cache_gib")
  if config.evaluation.reference == "test" and "test" not in splits:
    raise ConfigError(f"evaluation.reference = 'test', and {name} has no test points: use 'fresh'")


def check_network(network: Any, target: Target) -> None:
  """Raises ConfigError if a network does not take the target's event shape."""
  if isinstance(network, EventNetwork):
    try:
      network.check_event(target.event_shape)
    except ValueError as error:
      raise ConfigError(f"network: {error}") from error


def check_labels(config: ConfigDict, target: Target) -> None:
  """Raises ConfigError if a network has other classes than the target."""
  requested, known = config.network.num_classes, num_classes_of(target)
  if requested and requested != known:
    has = f"{known} classes" if known else "no classes"
    if names := getattr(target, "class_names", ()):
      has += f" ({', '.join(names[:12])}{', ...' if len(names) > 12 else ''})"
    files = config.target.name == "images" and not config.target.labelled
    raise ConfigError(
      f"network.num_classes = {requested}, and target.name = {config.target.name!r} has {has}"
      + (": set target.labelled" if files else "")
    )


def check_guidance(
  config: ConfigDict, rows: Sequence[Row], target: Target, label_dropout: float
) -> None:
  """Raises ConfigError if a row's guidance lacks a model or score that it combines."""
  exact = config.parameterization.name == "exact"
  for row in rows:
    needs = row.guidance.needs if row.guidance else frozenset()
    named = f"{row.sampler}: guidance = {row.options.get('guidance')!r}"
    if "classes" in needs and not config.network.num_classes:
      raise ConfigError(f"{named} needs a network of classes: set network.num_classes")
    if "classes" in needs and not (exact or label_dropout):
      raise ConfigError(
        f"{named} needs a network that is also trained without labels: label_dropout > 0"
      )
    if "classifier" in needs and not isinstance(target, ClassifiedTarget):
      raise ConfigError(
        f"{named} needs a classifier, and target.name = {config.target.name!r} has none: use "
        "'classifier_free'"
      )
    if "variance" in needs and not exact:
      raise ConfigError(
        f"{named} needs the variance of x_0 given x, which only parameterization.name = 'exact' has"
      )
    decays = (0.0, *config.optimizer.ema_decays)
    if row.weak is None or exact or row.weak in decays:
      continue
    every = config.training.keep_every
    if row.weak < 1 or not every or row.weak % every or row.weak > config.training.num_steps:
      raise ConfigError(
        f"{row.sampler}: guidance_weak = {row.weak} must be 0, the parameters themselves, one of "
        f"optimizer.ema_decays = {tuple(config.optimizer.ema_decays)}, or a step at which "
        f"training.keep_every = {every} keeps a checkpoint"
      )


def check_observation(
  config: ConfigDict, rows: Sequence[Row], observation: Observation | None
) -> None:
  """Raises ConfigError for parts of a config that do not go with an observation."""
  if observation is None:
    return
  if config.network.num_classes:
    raise ConfigError(
      f"network.num_classes = {config.network.num_classes} does not go with an observation"
    )
  if config.evaluation.exact:
    raise ConfigError("evaluation.exact = True does not go with an observation")
  for row in rows:
    if row.grid is None:
      raise ConfigError(f"{row.sampler} follows no grid, and does not go with an observation")
    if row.samples_prior and config.parameterization.name != "exact":
      raise ConfigError(
        f"{row.sampler} of a network does not use the observation: set sampler.posterior"
      )


def check_consistency(config: ConfigDict) -> None:
  """Raises ConfigError for a consistency network with a loss that learns a posterior mean."""
  loss, read = config.loss.name, config.parameterization.name
  if (loss == "consistency") != (read == "consistency"):
    raise ConfigError(
      f"loss.name = {loss!r} and parameterization.name = {read!r}: 'consistency' goes with itself"
    )


def check_data_level(config: ConfigDict) -> None:
  """Raises ConfigError for a loss at sigma = 0 if the network has no score there."""
  if not has_data_score(config):
    section = config.parameterization
    raise ConfigError(
      f"loss.name = {config.loss.name!r} learns at the data, sigma = 0, where parameterization.name"
      f" = {section.name!r} of conditioning = {section.conditioning!r} has no score: set "
      "loss.levels, or use 'scaled_score' of conditioning = 'none'"
    )


def check_pure_noise(config: ConfigDict, rows: Sequence[Row]) -> None:
  """Raises ConfigError for a grid that starts at alpha = 0 if the network gives no x0 there."""
  section = config.parameterization
  for field, refused, instead in (
    ("name", ("noise", "score", "scaled_score"), "x0, v, flow or edm"),
    ("conditioning", ("log_sigma", "sigma"), "signal_level or time"),
  ):
    for row in rows:
      starts_in_noise = row.grid is not None and not np.asarray(row.grid.levels.alpha)[0]
      if starts_in_noise and section.name != "exact" and section[field] in refused:
        raise ConfigError(
          f"parameterization.{field} = {section[field]!r} has no value at alpha = 0, where the "
          f"grid of {row.sampler} starts: use {instead}, or a sampler.t_max below 1"
        )


def check_rows(experiment: Experiment) -> None:
  """Raises ConfigError for a row that cannot run. Traces each row, some tenths of a second."""
  key = experiment.root

  def run(row: Row, bind: Callable[..., Predict]) -> Array:
    x = row.prior(key, (1, *experiment.target.event_shape))
    params = experiment.init_params(key)
    label = jnp.zeros(1, int) if experiment.conditional else None
    predict = row.predict(bind, params, label, params, experiment.target)
    return row.run(key, predict, x).x

  binds: list[Callable[..., Predict]] = [experiment.parameterization.bind]
  if experiment.evaluation.comparable and not isinstance(experiment.parameterization, Exact):
    binds.append(truth_of(experiment.target).bind)
  for row in experiment.evaluation.rows:
    for bind in binds:
      try:
        jax.eval_shape(functools.partial(run, row, bind))
      except ValueError as error:
        raise ConfigError(f"{row.sampler}: {error}") from error


def check_metrics(experiment: Experiment) -> None:
  """Raises ConfigError for a metric that fails on held-out points of the configured number.

  Metrics on features are tried on coordinates instead of features, to avoid loading or training a
  network. Metrics on classes are not tried, for the same reason.
  """
  protocol, target = experiment.evaluation, experiment.target
  given = protocol.reference in splits_of(target)
  if protocol.reference == "fresh":
    against = protocol.num_reference
  else:
    against = len(splits_of(target).get(protocol.reference, experiment.data.get("x", ())))
  sizes = protocol.num_samples, against
  points = np.asarray(experiment.validation["x"])
  x, y = (np.resize(points, (min(size, 512), *points.shape[1:])) for size in sizes)
  reference = Reference(y, target, observation=protocol.observation)
  in_features = x.reshape(len(x), -1)[:, :8], Reference(y.reshape(len(y), -1)[:, :8], target)
  for spec, metric in protocol.metrics.items():
    name = spec.partition(":")[0]
    if name in {**CLASS_METRICS, **LABEL_METRICS}:
      continue
    try:
      if name == "wasserstein" and max(sizes) > MAX_EXACT_POINTS:
        raise ValueError(f"{max(sizes)} points are more than {MAX_EXACT_POINTS}")
      if "features=" in spec:
        bound: Any = metric  # in_features(...) with its options
        bound.func.of_points(experiment.root, *in_features, **bound.keywords)
      else:
        metric(experiment.root, x, reference)
    except (TypeError, ValueError) as error:
      few = f" (the {protocol.reference} split has {against})" if given else ""
      of_files = isinstance(target, FileTarget) and target.fingerprint
      if given and protocol.reference == "test" and of_files:
        few += ": raise target.test_fraction"
      raise ConfigError(f"evaluation.metrics, {spec!r}: {error}{few}") from error


def check_sizes(experiment: Experiment) -> None:
  """Raises ConfigError if the points or the network are larger than the machine's memory."""
  config, event_size = experiment.config, math.prod(experiment.target.event_shape)
  training, repeats = config["training"], config["training"]["validation_repeats"] or 1
  for path, number in (
    ("target.num_train", config["target"]["num_train"]),
    ("training.batch_size", training["batch_size"]),
    ("training.num_validation", training["num_validation"] * repeats),
  ):
    check_memory(4 * number * event_size, f"{path} = {number} points")
  if any(isinstance(field, int) and field > 10_000 for field in _sizes(config["network"])):
    params = jax.eval_shape(experiment.init_params, experiment.root)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    check_memory(4 * size, "network: training it")  # with its gradient and Adam's averages


def _sizes(section: Mapping[str, Any]) -> Iterator[Any]:
  for value in section.values():
    yield from value if isinstance(value, list) else (value,)


def check_devices(experiment: Experiment, devices: int | None = None) -> None:
  """Raises ConfigError if the devices, or the accumulated parts, do not divide the batch.

  By default all devices count.
  """
  size, parts, devices = experiment.batch_size, experiment.accumulate, devices or jax.device_count()
  for share, what in (
    (parts, f"training.accumulate = {parts}"),
    (parts * devices, f"{devices} devices" + (f" x training.accumulate = {parts}" * (parts > 1))),
  ):
    if size % share:
      given = experiment.config["training"]["batch_size"]
      whole = "" if given else f", {size} points,"
      raise ConfigError(f"training.batch_size = {given}{whole} must be a multiple of {what}")
