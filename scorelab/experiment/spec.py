"""Data classes of an experiment and its evaluation. `build` creates them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.row import Row
from scorelab.inverse import Observation
from scorelab.metrics import SPREAD, ScoreError, class_score_error, score_error
from scorelab.predictions import Exact, Parameterization
from scorelab.schedules import Level, Schedule
from scorelab.targets import has_truth, num_classes_of
from scorelab.typing import (
  Array,
  AugmentedTarget,
  Batch,
  Context,
  DecodedTarget,
  DequantisedTarget,
  ExactLabelledTarget,
  ExactTarget,
  Key,
  LabelledTarget,
  Loss,
  Params,
  Target,
)


@dataclasses.dataclass(frozen=True)
class LikelihoodProtocol:
  """Settings of the held-out likelihood; the fields are those of config.evaluation.

  Attributes:
    num_points: held-out points.
    method: solver of the flow, 'heun', 'rk4' or 'adaptive'.
    num_steps: steps of 'heun' and 'rk4' between the schedule's ends.
    divergence: 'exact' or 'hutchinson'.
    num_probes: probes of 'hutchinson'.
    tolerance: relative and absolute tolerance of 'adaptive'.
    bound_steps: noisy levels of the variational bound's chain.
    variance: variance of the chain's steps.
  """

  num_points: int
  method: str = "rk4"
  num_steps: int = 64
  divergence: str = "exact"
  num_probes: int = 1
  tolerance: float = 1e-4
  bound_steps: int = 100
  variance: str = "large"


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Settings of an evaluation; the fields are those of config.evaluation.

  Attributes:
    metrics: by name, `(key, samples, reference) -> float`.
    checkpoint: the evaluated checkpoint, 'last' or 'best'.
    batch_size: samples drawn at a time, or None for all of a key's.
    labels: the labels requested from a conditional network: 'data' (classes in the data's
      proportions), 'uniform', or one class; None for an unconditional network.
    ema: decay of the evaluated average; None is the slowest, 0 the parameters themselves.
    observation: samples are of the law of points given it; None for the target itself.
    posterior: the target given the observation; None if that is not known.
    comparable: True if there is an exact score of the law of samples, and the network has a score
      too, so that the exact one can replace it.
    girsanov: True if that holds at every level, so that its reverse SDE has Girsanov's bound.
    likelihood: settings of the likelihood, or None if it is not evaluated.
    exact: True if the exact laws of the samplers are evaluated.
  """

  rows: tuple[Row, ...]
  metrics: dict[str, Callable[..., float]]
  checkpoint: str
  ema: float | None
  num_keys: int
  num_samples: int
  batch_size: int | None
  num_reference: int
  reference: str
  score_levels: tuple[float, ...]
  score_samples: int
  labels: str | None
  observation: Observation | None
  posterior: Target | None
  comparable: bool
  girsanov: bool
  likelihood: LikelihoodProtocol | None
  exact: bool


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Components:
  """Components that depend on numbers of the config.

  Attributes:
    schedule: the forward process.
    parameterization: reads the network.
    init_params: key -> the network's first parameters.
    loss: `(params, key, batch, context) -> (scalar, metrics)`.
    validation_loss: the same but that a level which a whole training batch shares is not: held-out
      points always see the same draw, and so would see one level alone.
    loss_levels: quantile function of the levels that the loss draws, `u [n] -> Level [n]`; None
      where it has none.
    optimizer: optax's.
    label_dropout: share of a batch's labels that training replaces by none.
  """

  schedule: Schedule
  parameterization: Parameterization | Exact
  init_params: Callable[[Key], Params]
  loss: Loss
  validation_loss: Loss
  loss_levels: Callable[[Array], Level] | None
  optimizer: optax.GradientTransformation
  label_dropout: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Experiment(Components):
  """The parts that a config names.

  Attributes:
    config: the resolved config, JSON values; of data in files also their fingerprint, `data`.
    target: the distribution to sample from.
    data: the fixed training set {x [n, *event]}, drawn once or the target's own, or {} where the
      target is sampled at every step.
    validation: held-out points, {x [n, *event]}. Both have `label` [n] where the network takes it.
    evaluation: what is measured.
    changed_by: `(experiment, numbers) -> fields` that numbers change, for `at`; made once, by
      `build`, and without the config.
    numbers: fields in which members of an ensemble differ, by dotted name: arguments of compiled
      programs, where all other numbers are their constants.
  """

  config: dict[str, Any]
  target: Target
  data: Batch
  validation: Batch
  evaluation: Evaluation
  changed_by: Callable[[Experiment, Mapping[str, float | Array]], dict[str, Any]]
  numbers: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

  @property
  def num_steps(self) -> int:
    """Training steps."""
    return self.config["training"]["num_steps"]

  @property
  def law(self) -> Target | None:
    """Law that samples are compared with: the target, or its posterior; None if not known."""
    return self.target if self.evaluation.observation is None else self.evaluation.posterior

  @property
  def conditional(self) -> bool:
    """True if the network is conditioned on labels: network.num_classes is set."""
    return bool(self.config["network"]["num_classes"])

  @property
  def batch_size(self) -> int:
    """Points in a training step, over all devices."""
    return self.config["training"]["batch_size"] or self.data["x"].shape[0]

  @property
  def accumulate(self) -> int:
    """Number of sequential parts that a batch is split into; 1 processes it as a whole."""
    return self.config["training"]["accumulate"] or 1

  @property
  def compute_dtype(self) -> str:
    """Dtype of the network's computations."""
    return self.config["network"]["dtype"] or "float32"

  @property
  def sharding(self) -> str | None:
    """Sharding of the parameters over the devices; see `scorelab.runs.sharding`."""
    return self.config["training"]["sharding"]

  @property
  def log_every(self) -> int:
    """Steps per line of metrics.jsonl."""
    return self.config["training"]["log_every"]

  @property
  def checkpoint_every(self) -> int:
    """Steps between checkpoints, a multiple of log_every."""
    return self.config["training"]["checkpoint_every"]

  @property
  def keep_every(self) -> int:
    """Steps between checkpoints that are never deleted; 0 for none.

    A multiple of checkpoint_every.
    """
    return self.config["training"]["keep_every"]

  @property
  def monitor(self) -> str:
    """Name of the `validate` value whose minimum selects the best checkpoint."""
    return self.config["training"]["monitor"]

  @property
  def patience(self) -> int:
    """Number of validations without improvement after which training stops; 0 for never."""
    return self.config["training"]["patience"]

  @property
  def ema_decays(self) -> dict[str, float | Array]:
    """Decays of the parameter averages, by their name in the state."""
    decays = self.config["optimizer"]["ema_decays"]
    return {str(decay): self.numbers.get("optimizer.ema_decays", decay) for decay in decays}

  @property
  def root(self) -> Key:
    """The root key, from which all others are derived."""
    return jax.random.key(self.config["seed"])

  def key(self, stream: Stream, step: Array | int) -> Key:
    """The key of a stream at a step."""
    return stream_key(self.root, stream, step)

  def at(self, numbers: Mapping[str, float | Array]) -> Experiment:
    """Returns the same experiment with these numbers, by dotted field; they may be traced.

    Components that depend on the numbers are built again. Things that their values decided, the
    points and the evaluation, are kept. Without numbers the experiment itself is returned.
    """
    return dataclasses.replace(self, **self.changed_by(self, numbers)) if numbers else self

  def draw_batch(self, key: Key, data: Batch) -> Batch:
    """Draws a training batch: from `data`, with replacement or all of it, or from the target.

    For a conditional network it has labels; a share `label_dropout` of them is replaced by
    num_classes, which means no label.
    """
    if not self.conditional:
      return self._draw_batch(key, data)
    key, drop_key = jax.random.split(key)
    return self._drop_labels(drop_key, self._draw_batch(key, data))

  def _drop_labels(self, key: Key, batch: Batch) -> Batch:
    dropped = jax.random.bernoulli(key, self.label_dropout, batch["label"].shape)
    return batch | {"label": jnp.where(dropped, num_classes_of(self.target), batch["label"])}

  def _draw_batch(self, key: Key, data: Batch) -> Batch:
    if not isinstance(self.target, (DequantisedTarget, AugmentedTarget)):
      return self._draw_points(key, data)
    key, change_key = jax.random.split(key)
    return self._changed(change_key, self._draw_points(key, data))

  def read_batch(self, key: Key, read: Batch) -> Batch:
    """Makes a training batch from streamed bytes `x` [n, *event] and, if present, `label` [n]."""
    assert isinstance(self.target, DecodedTarget)  # a stream is one's
    batch = read | {"x": self.target.scaled(read["x"])}
    if not self.conditional:
      return self._changed(key, batch)
    key, drop_key = jax.random.split(key)
    return self._changed(key, self._drop_labels(drop_key, batch))

  def _changed(self, key: Key, batch: Batch) -> Batch:
    """Augments and dequantises a batch."""
    x = batch["x"]
    if isinstance(self.target, AugmentedTarget):
      key, augment_key = jax.random.split(key)
      x = self.target.augment(augment_key, x)
    if isinstance(self.target, DequantisedTarget):
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
    """Draws new points {x [n, *event]}, and `label` [n] if the network takes it; n is static."""
    if not self.conditional:
      return {"x": self.target.sample(key, n)}
    assert isinstance(self.target, LabelledTarget)  # checked at build
    x, label = self.target.sample_with_labels(key, n)
    return {"x": x, "label": label}

  def validate(self, params: Params, key: Key, batch: Batch, context: Context) -> dict[str, Array]:
    """Computes the validation metrics of a checkpoint; takes the arguments of a loss.

    Returns:
      val_loss, the loss of the held-out points; and, if there is an exact score, score_error: the
      relative score error, averaged over eight quantiles of the loss's levels. A network that takes
      labels gets them.
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
    """Returns `metrics.score_error` of the network, with each draw's label if it takes one."""
    bind, target = self.parameterization.bind, self.target
    assert isinstance(target, ExactTarget)  # asked for where there is a truth
    if not self.conditional:
      return score_error(key, target, bind(params), levels, num_samples, spread=spread)
    assert isinstance(target, ExactLabelledTarget)  # checked at build
    bound = functools.partial(bind, params)
    return class_score_error(key, target, bound, levels, num_samples, spread=spread)
