"""A ConfigDict, checked and turned into an experiment, whose parts `scorelab.parts` makes.

Nothing else reads a config.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.checks import check_sizes, check_target
from scorelab.data import FILES
from scorelab.fingerprints import record
from scorelab.metrics import SPREAD, ScoreError, class_score_error, score_error
from scorelab.options import (
  ConfigError,
  check_bounds,
  choose,
  make,
)
from scorelab.parts import (
  Evaluation,
  make_evaluation,
  make_parts,
  make_rows,
  named,
  optimizer_of,
)
from scorelab.predictions import Exact, Parameterization
from scorelab.schedules import Level, Schedule
from scorelab.sharding import SHARDINGS
from scorelab.targets import TARGETS, has_truth, labelled_splits_of, splits_of
from scorelab.typing import Array, Batch, Context, Key, Loss, Params


class Stream(enum.IntEnum):
  """What a key is for: see `stream_key`. Never renumber."""

  INIT = 0
  DATA = 1
  LOSS = 2
  VALIDATION = 3
  TRAIN_SET = 4
  EVALUATION = 5
  SCORE_ERROR = 6
  LIKELIHOOD = 7


def stream_key(root: Key, stream: Stream, step: Array | int) -> Key:
  """The key of a stream at a step, of a run's root key: `fold_in(fold_in(root, stream), step)`."""
  return jax.random.fold_in(jax.random.fold_in(root, stream), step)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """The parts that a config names.

  Attributes:
    config: the resolved config, JSON values; of data in files also their fingerprint, `data`.
    target: the distribution to sample from.
    schedule: the forward process.
    parameterization: reads the network.
    init_params: key -> the network's first parameters.
    loss: `(params, key, batch, context) -> (scalar, metrics)`.
    validation_loss: the same but that a level which a whole training batch shares is not: held-out
      points always see the same draw, and so would see one level alone.
    loss_levels: quantile function of the levels that the loss draws, `u [n] -> Level [n]`; None
      where it has none.
    optimizer: optax's.
    data: the fixed training set {x [n, *event]}, drawn once or the target's own, or {} where the
      target is sampled afresh.
    validation: held-out points, {x [n, *event]}. Both have `label` [n] where the network takes it.
    label_dropout: share of a batch's labels that training replaces by none.
    evaluation: what is measured.
    source: the config itself, for `at`.
    numbers: fields in which members of an ensemble differ, by dotted name: arguments of compiled
      programs, where all other numbers are their constants.
  """

  config: dict[str, Any]
  target: Any
  schedule: Schedule
  parameterization: Parameterization | Exact
  init_params: Callable[[Key], Params]
  loss: Loss
  validation_loss: Loss
  loss_levels: Callable[[Array], Level] | None
  optimizer: optax.GradientTransformation
  data: Batch
  validation: Batch
  label_dropout: float
  evaluation: Evaluation
  source: ConfigDict
  numbers: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

  @property
  def num_steps(self) -> int:
    """Training steps."""
    return self.config["training"]["num_steps"]

  @property
  def conditional(self) -> bool:
    """Whether the network is told labels: network.num_classes is set."""
    return bool(self.config["network"]["num_classes"])

  @property
  def batch_size(self) -> int:
    """Points in a training step, over all devices."""
    return self.config["training"]["batch_size"] or self.data["x"].shape[0]

  @property
  def accumulate(self) -> int:
    """Parts of a batch that are worked on one after the other; 1: it is worked on as a whole."""
    return self.config["training"]["accumulate"] or 1

  @property
  def compute_dtype(self) -> str:
    """What the network computes in."""
    return self.config["network"]["dtype"] or "float32"

  @property
  def sharding(self) -> str | None:
    """How parameters lie over the devices; see `scorelab.sharding`."""
    return self.config["training"]["sharding"]

  @property
  def log_every(self) -> int:
    """Steps in a line of metrics.jsonl."""
    return self.config["training"]["log_every"]

  @property
  def checkpoint_every(self) -> int:
    """Steps between checkpoints, a multiple of log_every."""
    return self.config["training"]["checkpoint_every"]

  @property
  def keep_every(self) -> int:
    """Steps between checkpoints that are kept for good, a multiple of checkpoint_every; 0: none."""
    return self.config["training"]["keep_every"]

  @property
  def monitor(self) -> str:
    """The number of `validate` whose least value tells the best checkpoint."""
    return self.config["training"]["monitor"]

  @property
  def patience(self) -> int:
    """Validations without a better one after which training stops; 0 for never."""
    return self.config["training"]["patience"]

  @property
  def ema_decays(self) -> dict[str, float | Array]:
    """Decays of the averages that are kept, by the name that the state has for each."""
    decays = self.config["optimizer"]["ema_decays"]
    return {str(decay): self.numbers.get("optimizer.ema_decays", decay) for decay in decays}

  @property
  def root(self) -> Key:
    """The key that all others come from."""
    return jax.random.key(self.config["seed"])

  def key(self, stream: Stream, step: Array | int) -> Key:
    """The key of a stream at a step."""
    return stream_key(self.root, stream, step)

  def at(self, numbers: Mapping[str, float | Array]) -> Experiment:
    """The same experiment with these numbers, by dotted field: for use where they are traced.

    What is made of them is made anew; what their values decided stays: the points and what is
    measured. Without numbers it is this experiment itself.
    """
    if not numbers:
      return self
    config, sections = with_numbers(self.source, numbers), {f.split(".")[0] for f in numbers}
    changed: dict[str, Any] = {"numbers": numbers}
    if sections & {"schedule", "loss", "parameterization"}:
      changed |= make_parts(config, self.target)
    elif "optimizer" in sections:
      changed["optimizer"] = optimizer_of(config)
    if sections & {"schedule", "sampler"}:
      rows = make_rows(config, changed.get("schedule", self.schedule), numbers)
      changed["evaluation"] = dataclasses.replace(self.evaluation, rows=rows)
    return dataclasses.replace(self, **changed)

  def draw_batch(self, key: Key, data: Batch) -> Batch:
    """A training batch: from `data`, with replacement or all of it, or afresh from the target.

    Of a conditional network it has labels, `label_dropout` of them replaced by num_classes: none.
    """
    if not self.conditional:
      return self._draw_batch(key, data)
    key, drop_key = jax.random.split(key)
    return self._drop_labels(drop_key, self._draw_batch(key, data))

  def _drop_labels(self, key: Key, batch: Batch) -> Batch:
    dropped = jax.random.bernoulli(key, self.label_dropout, batch["label"].shape)
    return batch | {"label": jnp.where(dropped, self.target.num_classes, batch["label"])}

  def _draw_batch(self, key: Key, data: Batch) -> Batch:
    if not (hasattr(self.target, "dequantise") or hasattr(self.target, "augment")):
      return self._draw_points(key, data)
    key, change_key = jax.random.split(key)
    return self._changed(change_key, self._draw_points(key, data))

  def read_batch(self, key: Key, read: Batch) -> Batch:
    """A training batch of what a stream has read: bytes `x` [n, *event] and perhaps `label` [n]."""
    batch = read | {"x": self.target.scaled(read["x"])}
    if not self.conditional:
      return self._changed(key, batch)
    key, drop_key = jax.random.split(key)
    return self._changed(key, self._drop_labels(drop_key, batch))

  def _changed(self, key: Key, batch: Batch) -> Batch:
    """The batch as it is shown this once: augmented, dequantised."""
    x = batch["x"]
    if hasattr(self.target, "augment"):
      key, augment_key = jax.random.split(key)
      x = self.target.augment(augment_key, x)
    if hasattr(self.target, "dequantise"):
      x = self.target.dequantise(key, x)
    return batch | {"x": x}

  def _draw_points(self, key: Key, data: Batch) -> Batch:
    size = self.config["training"]["batch_size"]
    if not data:
      return self.draw_data(key, size)
    num = data["x"].shape[0]
    # The whole set is shuffled: levels may be drawn in order.
    index = jax.random.randint(key, (size,), 0, num) if size else jax.random.permutation(key, num)
    return jax.tree.map(lambda a: a[index], data)

  def draw_data(self, key: Key, n: int) -> Batch:
    """Fresh draws {x [n, *event]}, and `label` [n] where the network takes it; n static."""
    if not self.conditional:
      return {"x": self.target.sample(key, n)}
    x, label = self.target.sample_with_labels(key, n)
    return {"x": x, "label": label}

  def validate(self, params: Params, key: Key, batch: Batch, context: Context) -> dict[str, Array]:
    """What is measured at every checkpoint; takes what a loss takes.

    Returns:
      val_loss, the loss of the held-out points; and score_error, the mean over eight quantiles of
      the loss's levels of the relative score error, where there is a truth; given the label, where
      the network takes it.
    """
    loss_key, score_key = jax.random.split(key)
    numbers = {"val_loss": self.validation_loss(params, loss_key, batch, context)[0]}
    if self.loss_levels is not None and has_truth(self.target):
      levels = self.loss_levels((jnp.arange(8) + 0.5) / 8)
      found = self.score_error(score_key, params, levels, 512, spread=1.0)
      numbers["score_error"] = jnp.mean(found.relative)
    return numbers

  def score_error(
    self, key: Key, params: Params, levels: Level, num_samples: int, *, spread: float = SPREAD
  ) -> ScoreError:
    """Returns `metrics.score_error` of the network, given each draw's label if it takes one."""
    bind, target = self.parameterization.bind, self.target
    if not self.conditional:
      return score_error(key, target, bind(params), levels, num_samples, spread=spread)
    bound = functools.partial(bind, params)
    return class_score_error(key, target, bound, levels, num_samples, spread=spread)


def build(config: ConfigDict) -> Experiment:
  """The experiment that a config describes.

  Raises:
    ConfigError: the config makes none.
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


def assemble(
  config: ConfigDict, target: Any, numbers: Mapping[str, float] = MappingProxyType({})
) -> Experiment:
  """Like `build`, for an existing target; does not draw the training and held-out points.

  Args:
    config: one that has been checked.
    target: the distribution to sample from.
    numbers: those of the config in which members of an ensemble differ, by dotted field.
  """
  parts = make_parts(config, target)
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
  if config.training.monitor == "score_error" and parts["loss_levels"] is None:
    raise ConfigError(
      f"training.monitor = 'score_error' needs a loss of levels, not {config.loss.name!r}"
    )
  return Experiment(
    config=json.loads(config.to_json()) | ({"data": data} if (data := record(target)) else {}),
    target=target,
    **parts,
    data={},  # both later: they are drawn with the experiment's keys
    validation={},
    evaluation=make_evaluation(config, target, parts, numbers),
    source=config.copy_and_resolve_references(),
    numbers=dict(numbers),
  )


def with_points(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Experiment:
  """The experiment with its training and its held-out points; `draw` is its draw_data, jitted."""
  data, validation = _training_set(experiment, draw), _validation_set(experiment, draw)
  return dataclasses.replace(experiment, data=data, validation=validation)


def with_numbers(config: ConfigDict, numbers: Mapping[str, Any]) -> ConfigDict:
  """A copy of the config with these numbers, by dotted field; they may be traced."""
  changed = config.copy_and_resolve_references()
  with changed.ignore_type():
    for field, number in numbers.items():
      section, name = field.split(".")
      changed[section][name] = (number,) if name == "ema_decays" else number
  return changed


def _training_set(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Batch:
  """The target's own training points, those drawn once, or {}."""
  num_train = experiment.config["target"]["num_train"]
  if own := _split(experiment, "train"):
    return own
  if not num_train:
    return {}
  return draw(experiment.key(Stream.TRAIN_SET, 0), num_train)


def _validation_set(experiment: Experiment, draw: Callable[[Key, int], Batch]) -> Batch:
  """The target's own held-out points, or draws, as often as asked; dequantised once each.

  Stratified levels give the copies of a point levels evenly apart: with T of them the validation
  loss is the mean over T levels of every point's loss.
  """
  target, training = experiment.target, experiment.config["training"]
  key = experiment.key(Stream.VALIDATION, 1)
  batch = _split(experiment, "validation")
  if not batch:
    batch = draw(key, training["num_validation"])
  repeats = training["validation_repeats"] or 1
  batch = jax.tree.map(lambda a: jnp.concatenate([a] * repeats), batch)
  if hasattr(target, "dequantise"):
    batch |= {"x": target.dequantise(key, batch["x"])}
  return batch


def _split(experiment: Experiment, name: str) -> Batch:
  """The target's own points of this name, with their labels where the network takes them; or {}."""
  splits = splits_of(experiment.target)
  if name not in splits:
    return {}
  if not experiment.conditional:
    return {"x": splits[name]}
  x, label = labelled_splits_of(experiment.target)[name]
  return {"x": x, "label": label}
