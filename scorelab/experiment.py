"""A ConfigDict, checked and turned into the parts of an experiment. Nothing else reads a config."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.checks import (
  check_consistency,
  check_guidance,
  check_labels,
  check_network,
  check_pure_noise,
  check_sizes,
  check_target,
)
from scorelab.data import FILES
from scorelab.likelihood import METHODS
from scorelab.losses import LEVELS, LOSSES, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.metrics import (
  CLASS_METRICS,
  FEATURES,
  LABEL_METRICS,
  METRICS,
  MODE_METRICS,
  SUPPORT_METRICS,
  class_score_error,
  features_need,
  in_features,
  needed_by,
  score_error,
)
from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES, NETWORKS
from scorelab.optimizers import DECAYS, RULES, make_optimizer
from scorelab.options import (
  ConfigError,
  accepted_options,
  check_bounds,
  choose,
  is_traced,
  make,
  options_of,
  refuse_unused,
)
from scorelab.predictions import (
  CONDITIONINGS,
  PARAMETERIZATIONS,
  Exact,
  Parameterization,
)
from scorelab.pretrained.features import imported_features
from scorelab.pretrained.files import PretrainedError
from scorelab.pretrained.inception import inception_features
from scorelab.rows import Row, make_row, parse_changes, parse_row
from scorelab.schedules import GRIDS, SCHEDULES, Level, Schedule, Shifted
from scorelab.sharding import SHARDINGS
from scorelab.targets import TARGETS, has_truth, labelled_splits_of, splits_of, truth_of
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


@dataclasses.dataclass(frozen=True)
class LikelihoodProtocol:
  """How held-out likelihood is measured; the fields are those of config.evaluation.

  Attributes:
    num_points: held-out points.
    method: of the flow, 'heun', 'rk4' or 'adaptive'.
    num_steps: of the first two, between the schedule's ends.
    divergence: 'exact' or 'hutchinson'.
    num_probes: of the latter.
    tolerance: of 'adaptive', relative and absolute.
    bound_steps: noisy levels of the variational bound's chain.
    variance: of its steps.
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
  """What is measured; the fields are those of config.evaluation.

  Attributes:
    metrics: by name, `(key, samples, reference) -> float`.
    checkpoint: which is measured, 'last' or 'best'.
    batch_size: of the samples drawn at a time, or None for all of a key's.
    labels: what a conditional network is asked for: 'data', classes in the data's shares,
      'uniform', or the number of one; None for an unconditional network.
    ema: decay of the average that is measured; None is the slowest, 0 the parameters themselves.
    comparable: whether there is an exact score and the network says one too, so that the truth can
      stand in its place.
    girsanov: whether it does at every level, so that Girsanov's bound is one on it.
    likelihood: how it is measured, or None where it is not.
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
  comparable: bool
  girsanov: bool
  likelihood: LikelihoodProtocol | None


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """The parts that a config names.

  Attributes:
    config: the resolved config, JSON values.
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
      changed |= _make_parts(config, self.target)
    elif "optimizer" in sections:
      changed["optimizer"] = _make_optimizer(config)
    if sections & {"schedule", "sampler"}:
      rows = _make_rows(config, changed.get("schedule", self.schedule))
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
      numbers["score_error"] = jnp.mean(self.score_error(score_key, params, levels, 512)[1])
    return numbers

  def score_error(
    self, key: Key, params: Params, levels: Level, num_samples: int
  ) -> tuple[Array, Array]:
    """`metrics.score_error` of the network; of every draw given its label, where it takes one."""
    bind, target = self.parameterization.bind, self.target
    if not self.conditional:
      return score_error(key, target, bind(params), levels, num_samples)
    return class_score_error(key, target, functools.partial(bind, params), levels, num_samples)


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
  choose(_named(precisions), config.matmul_precision, "matmul_precision", "precision")
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  target = make(TARGETS | FILES, config.target, "target", "target", also=("num_train",))
  check_target(config, target)
  experiment = assemble(config, target)
  check_sizes(experiment)
  return with_points(experiment, jax.jit(experiment.draw_data, static_argnums=1))


def assemble(config: ConfigDict, target: Any) -> Experiment:
  """As `build`, of a target that is there already, without training and held-out points."""
  parts = _make_parts(config, target)
  for often, seldom in (("log_every", "checkpoint_every"), ("checkpoint_every", "keep_every")):
    if config.training[seldom] % config.training[often]:
      raise ConfigError(
        f"training.{seldom} = {config.training[seldom]} must be a multiple of "
        f"training.{often} = {config.training[often]}"
      )
  if config.training.sharding is not None:
    choose(_named(SHARDINGS), config.training.sharding, "training.sharding", "sharding")
  if config.evaluation.ema and config.evaluation.ema not in config.optimizer.ema_decays:
    raise ConfigError(
      f"evaluation.ema = {config.evaluation.ema} is not in optimizer.ema_decays = "
      f"{config.optimizer.ema_decays}"
    )
  monitors = ("val_loss", "score_error")
  choose(_named(monitors), config.training.monitor, "training.monitor", "validation")
  if config.training.monitor == "score_error" and parts["loss_levels"] is None:
    raise ConfigError(
      f"training.monitor = 'score_error' needs a loss of levels, not {config.loss.name!r}"
    )
  return Experiment(
    config=json.loads(config.to_json()),
    target=target,
    **parts,
    data={},  # both later: they are drawn with the experiment's keys
    validation={},
    evaluation=_make_evaluation(config, target, parts),
    source=config.copy_and_resolve_references(),
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


# The parts.


def _make_parts(config: ConfigDict, target: Any) -> dict[str, Any]:
  """The parts of an Experiment that numbers of its config make, which may be traced."""
  schedule = make(SCHEDULES, config.schedule, "schedule", "schedule", also=("shift",))
  if config.schedule.shift is not None:
    schedule = Shifted(schedule, config.schedule.shift)
  network = _make_network(config.network, config.parameterization.learned_variance)
  check_network(network, target)
  check_labels(config, target)
  label_dropout = 0.0
  if config.network.num_classes:  # a batch's labels are dropped, so the network drops none
    label_dropout, network = network.label_dropout, network.clone(label_dropout=0.0)
  parameterization = _make_parameterization(
    config.parameterization, network.apply, target, schedule
  )
  check_consistency(config)
  loss, loss_levels = _make_loss(config, parameterization, schedule, target)
  validation_loss = loss
  if config.loss.uniforms == "shared":
    spread = config.copy_and_resolve_references()
    spread.loss.uniforms = None
    validation_loss, _ = _make_loss(spread, parameterization, schedule, target)

  def init_params(key: Key) -> Params:
    if isinstance(parameterization, Exact):
      return {}
    x = jnp.zeros((1, *target.event_shape))
    return jax.jit(network.init)(key, x, jnp.zeros(1))["params"]

  return {
    "schedule": schedule,
    "parameterization": parameterization,
    "init_params": init_params,
    "loss": loss,
    "validation_loss": validation_loss,
    "loss_levels": loss_levels,
    "optimizer": _make_optimizer(config),
    "label_dropout": label_dropout,
  }


def _make_rows(config: ConfigDict, schedule: Schedule) -> tuple[Row, ...]:
  """The main sampler's row, and those of evaluation.rows."""
  main = {k: v for k, v in config.sampler.items() if v is not None}
  exact = config.parameterization.name == "exact"
  has_density = exact or bool(config.parameterization.energy)
  rows = [make_row(main, "sampler", schedule, has_density)]
  for index, spec in enumerate(config.evaluation.rows):
    path = f"evaluation.rows[{index}]"
    rows.append(make_row(parse_row(spec, main, path), path, schedule, has_density))
  return tuple(rows)


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


def _named(names: tuple[str, ...]) -> dict[str, str]:
  """Names that stand for themselves, for `choose`."""
  return {name: name for name in names}


def _std_of(target: Any) -> float:
  """The target's std: its value, also where numbers of the config are traced."""
  with jax.ensure_compile_time_eval():
    std = float(target.scale)
  if not std > 0:
    raise ConfigError(f"data_std is {std}, the target's own, and must be above 0: set it")
  return std


def _make_network(section: ConfigDict, learned_variance: bool | None) -> Any:
  for field, known, what in (
    ("activation", ACTIVATIONS, "activation"),
    ("output_activation", ACTIVATIONS, "activation"),
    ("level_features", LEVEL_FEATURES, "kind of features"),
  ):
    if section[field] is not None:
      choose(known, section[field], f"network.{field}", what)
  network = make(NETWORKS, section, "network", "network")
  norms, widths = getattr(network, "norms", None), getattr(network, "widths", ())
  if norms is not None and len(norms) != len(widths):
    raise ConfigError(f"network.norms = {norms} must be as long as network.widths = {widths}")
  return network.clone(outputs=2) if learned_variance else network


def _make_parameterization(
  section: ConfigDict, apply: Callable[..., Any], target: Any, schedule: Schedule
) -> Parameterization | Exact:
  if section.name == "exact":
    return truth_of(target)
  conditioning = choose(
    CONDITIONINGS, section.conditioning, "parameterization.conditioning", "conditioning"
  )
  construct = choose(
    PARAMETERIZATIONS | {"exact": Exact}, section.name, "parameterization.name", "parameterization"
  )
  refuse_unused(
    section, "parameterization", section.name, (construct, conditioning), ("conditioning",)
  )
  options = options_of(construct, section)
  if "data_std" in accepted_options(construct) and "data_std" not in options:
    options["data_std"] = _std_of(target)
  if "schedule" in inspect.signature(construct).parameters:
    options["schedule"] = schedule
  conditioning = functools.partial(conditioning, **options_of(conditioning, section))
  try:
    return construct(apply, conditioning, event_ndim=len(target.event_shape), **options)
  except ValueError as error:
    raise ConfigError(f"parameterization: {error}") from error


def _make_loss(
  config: ConfigDict, parameterization: Parameterization | Exact, schedule: Schedule, target: Any
) -> tuple[Loss, Callable[[Array], Level] | None]:
  """The loss, and its levels by quantile."""
  section = config.loss
  construct = choose(LOSSES, section.name, "loss.name", "loss")
  if section.spacing is not None:
    choose(GRIDS, section.spacing, "loss.spacing", "grid")
  for low, high in (("sigma_min", "sigma_max"), ("t_min", "t_max")):
    ends = section[low], section[high]
    if None not in ends and not any(map(is_traced, ends)) and ends[0] >= ends[1]:
      raise ConfigError(
        f"loss: {low} = {ends[0]} and {high} = {ends[1]} must satisfy {low} < {high}"
      )
  parts: dict[str, Callable[..., Any]] = {}
  for field, known, what in (
    ("levels", LEVELS, "level distribution"),
    ("uniforms", UNIFORMS, "way to draw levels"),
    ("weighting", WEIGHTINGS, "weighting"),
    ("score_weighting", SCORE_WEIGHTINGS, "score weighting"),
  ):
    default = inspect.signature(construct).parameters.get(field)
    if section[field] is not None:
      parts[field] = choose(known, section[field], f"loss.{field}", what)
    elif default is not None:
      parts[field] = default.default
  chosen = (section[field] for field in parts if section[field] is not None)
  named = " and ".join([section.name, *chosen])
  refuse_unused(section, "loss", named, (construct, *parts.values()))
  size = config.training.batch_size
  points = size or config.target.num_train or len(splits_of(target)["train"])
  if section.uniforms == "antithetic" and points * (section.levels_per_point or 1) % 2:
    whole = "" if size else f", {points} points,"
    raise ConfigError(f"training.batch_size = {size}{whole} must be even for antithetic levels")

  def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = options_of(function, section)
    if "data_std" in accepted_options(function) and "data_std" not in options:
      options["data_std"] = _std_of(target)
    own = inspect.signature(function).parameters.get("schedule")
    if own is not None and own.kind is inspect.Parameter.KEYWORD_ONLY:
      options["schedule"] = schedule
    return functools.partial(function, **options)

  own = {k: v for k, v in options_of(construct, section).items() if k not in parts}
  given = {field: with_options(function) for field, function in parts.items()}
  try:
    loss = construct(parameterization, schedule, **given, **own)
  except ValueError as error:
    raise ConfigError(f"loss: {error}") from error
  if "num_levels" in accepted_options(construct):
    given["levels"] = with_options(LEVELS["grid"])  # a chain's
  levels = functools.partial(given["levels"], schedule) if "levels" in given else None
  return loss, levels


def _make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  section = config.optimizer
  rule = choose(RULES, section.name, "optimizer.name", "optimizer")
  choose(DECAYS, section.decay, "optimizer.decay", "decay")
  own = accepted_options(make_optimizer) - {"num_steps"}
  refuse_unused(section, "optimizer", section.name, (rule,), {*own, "ema_decays"})
  return make_optimizer(
    rule(**options_of(rule, section)),
    num_steps=config.training.num_steps,
    **{k: v for k, v in options_of(make_optimizer, section).items() if k in own},
  )


def _make_evaluation(config: ConfigDict, target: Any, parts: Mapping[str, Any]) -> Evaluation:
  section = config.evaluation
  loss_levels, label_dropout = parts["loss_levels"], parts["label_dropout"]
  metrics: dict[str, Callable[..., float]] = {}
  for spec in section.metrics:
    name, *changes = spec.split(":")
    metric = choose(METRICS, name, "evaluation.metrics", "metric")
    own = parse_changes(changes, f"evaluation.metrics, {spec!r}")
    features = own.pop("features", None)
    named = spec
    if features is not None and section.features is not None:
      named = spec.replace(f"features={features}", f"features={section.features}")
      features = section.features
    refuse_unused(own, f"evaluation.metrics, {spec!r}", name, (metric,))
    if needed := needed_by(name, target):
      allowed = ", ".join(sorted(known for known in METRICS if not needed_by(known, target)))
      raise ConfigError(
        f"evaluation.metrics = {name!r} needs {needed}, and target.name = {config.target.name!r} "
        f"has none (allowed: {allowed})"
      )
    if name in LABEL_METRICS and not config.network.num_classes:
      raise ConfigError(f"evaluation.metrics = {name!r} needs a network of classes: num_classes")
    options = options_of(metric, section) | own
    if features is not None:
      if name in {**MODE_METRICS, **CLASS_METRICS, **LABEL_METRICS, **SUPPORT_METRICS}:
        raise ConfigError(f"evaluation.metrics = {spec!r}: features are for metrics of points")
      path = f"evaluation.metrics, {named!r}"
      metric = _in_features(metric, str(features), path, target, section.inception_path)
    metrics[named] = functools.partial(metric, **options)
  choose(_named(("fresh", "train", "test")), section.reference, "evaluation.reference", "reference")
  choose(_named(("last", "best")), section.checkpoint, "evaluation.checkpoint", "checkpoint")
  exact = config.parameterization.name == "exact"
  comparable = has_truth(target) and config.parameterization.name != "consistency"
  rows = _make_rows(config, parts["schedule"])
  check_pure_noise(config, rows)
  check_guidance(config, rows, target, label_dropout)
  # What the network says where it is told no class.
  unconditional = exact or not config.network.num_classes or label_dropout > 0
  if section.likelihood_points and not unconditional:
    raise ConfigError(
      f"evaluation.likelihood_points = {section.likelihood_points} needs a network that is also "
      "told no class: network.label_dropout > 0"
    )
  many_levels = True
  if loss_levels is not None:  # one program: op by op, each would be compiled
    low, high = jax.jit(lambda u: loss_levels(u).log_snr)(jnp.array([0.25, 0.75]))
    many_levels = bool(low != high)  # infinite at the data
  return Evaluation(
    rows=rows,
    metrics=metrics,
    checkpoint=section.checkpoint,
    ema=section.ema,
    num_keys=section.num_keys,
    num_samples=section.num_samples,
    batch_size=section.batch_size,
    num_reference=section.num_reference,
    reference=section.reference,
    score_levels=tuple(section.score_levels),
    score_samples=section.score_samples,
    labels=_asked_labels(config, target),
    comparable=comparable,
    girsanov=comparable and not exact and many_levels and unconditional,
    likelihood=_make_likelihood(config, exact or many_levels),
  )


def _in_features(
  metric: Callable[..., float], name: str, path: str, target: Any, inception_path: str | None
) -> Callable[..., float]:
  """The metric in the features of this name, or of a function by its dotted name."""
  if "." in name:
    try:
      extract = imported_features(name)
    except ValueError as error:
      raise ConfigError(f"{path}: {error}") from error
    return in_features(metric, name, lambda _: extract)
  known = {**FEATURES, "inception": lambda _: inception_features(inception_path)}
  make_extractor = choose(known, name, f"{path}: features", "network of features")
  if needed := features_need(name, target):
    raise ConfigError(f"{path}: features = {name!r} needs {needed}, and the target has none")
  if name == "inception":  # read now: a mistake is found before training
    try:
      inception_features(inception_path)
    except PretrainedError as error:
      raise ConfigError(f"evaluation.inception_path = {inception_path!r}: {error}") from error
  return in_features(metric, name, make_extractor)


def _asked_labels(config: ConfigDict, target: Any) -> str | None:
  """config.evaluation.labels, by default 'data' for a conditional network."""
  num_classes, asked = config.network.num_classes, config.evaluation.labels
  if not num_classes:
    if asked is not None:
      raise ConfigError(
        f"evaluation.labels = {asked!r} needs a network of classes: set network.num_classes"
      )
    return None
  asked = "data" if asked is None else str(asked)
  classes = tuple(str(label) for label in range(num_classes))
  return choose(_named(("data", "uniform", *classes)), asked, "evaluation.labels", "choice")


def _make_likelihood(config: ConfigDict, has_flow: bool) -> LikelihoodProtocol | None:
  section, path = config.evaluation, "evaluation.likelihood"
  if not section.likelihood_points:
    return None
  if not has_flow:
    raise ConfigError(
      f"{path}_points = {section.likelihood_points} needs a network of every level, and "
      f"loss.name = {config.loss.name!r} trains one of a single level"
    )
  given = {
    name: section[f"likelihood_{name}"]
    for name in ("method", "num_steps", "divergence", "num_probes", "tolerance", "bound_steps")
    if section[f"likelihood_{name}"] is not None
  }
  variance = "learned" if config.parameterization.learned_variance else "large"
  protocol = LikelihoodProtocol(section.likelihood_points, variance=variance, **given)
  adaptive = protocol.method == "adaptive"
  choose(_named((*METHODS, "adaptive")), protocol.method, f"{path}_method", "method")
  divergences = _named(("exact", "hutchinson"))
  choose(divergences, protocol.divergence, f"{path}_divergence", "divergence")
  for field, unused, by in (
    ("num_steps", adaptive, "method"),
    ("tolerance", not adaptive, "method"),
    ("num_probes", protocol.divergence == "exact", "divergence"),
  ):
    if unused and field in given:
      raise ConfigError(
        f"{path}_{field} = {given[field]!r} is no option of {path}_{by} = {getattr(protocol, by)!r}"
      )
  return protocol
