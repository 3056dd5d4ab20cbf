"""The parts of an experiment, each made of its section of a config; a mistake is one clear line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.checks import (
  check_consistency,
  check_data_level,
  check_guidance,
  check_labels,
  check_network,
  check_pure_noise,
)
from scorelab.likelihood import METHODS
from scorelab.losses import LEVELS, LOSSES, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.metrics import (
  CLASS_METRICS,
  FEATURES,
  LABEL_METRICS,
  METRICS,
  MODE_METRICS,
  SUPPORT_METRICS,
  features_need,
  in_features,
  needed_by,
)
from scorelab.metrics.features import batched
from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES, NETWORKS
from scorelab.optimizers import DECAYS, RULES, make_optimizer
from scorelab.options import (
  ConfigError,
  accepted_options,
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
from scorelab.pretrained.files import PretrainedError
from scorelab.pretrained.inception import inception_features
from scorelab.rows import Row, distinct_rows, labelled, parse_changes
from scorelab.schedules import GRIDS, SCHEDULES, Level, Schedule, Shifted
from scorelab.targets import has_truth, splits_of, truth_of
from scorelab.typing import Array, Key, Loss, Params


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
    girsanov: whether it does at every level, so that its reverse SDE has Girsanov's bound.
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


def make_parts(config: ConfigDict, target: Any) -> dict[str, Any]:
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
    "optimizer": optimizer_of(config),
    "label_dropout": label_dropout,
  }


def make_rows(
  config: ConfigDict, schedule: Schedule, numbers: Collection[str] = ()
) -> tuple[Row, ...]:
  """Makes the rows that a config asks for, without labels: see `distinct_rows`.

  Args:
    config: the resolved config; its numbers may be traced.
    schedule: the forward process.
    numbers: the fields in which members of an ensemble differ, by dotted name.
  """
  main = {k: v for k, v in config.sampler.items() if v is not None}
  exact = config.parameterization.name == "exact"
  has_density = exact or bool(config.parameterization.energy)
  varied = {field.removeprefix("sampler.") for field in numbers if field.startswith("sampler.")}
  return distinct_rows(main, config.evaluation.rows, schedule, has_density, varied)


def named(names: tuple[str, ...]) -> dict[str, str]:
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
      choose(known, section[field], f"network.{field}", what, own=False)
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
    choose(GRIDS, section.spacing, "loss.spacing", "grid", own=False)
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
  names = " and ".join([section.name, *chosen])
  refuse_unused(section, "loss", names, (construct, *parts.values()))
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


def optimizer_of(config: ConfigDict) -> optax.GradientTransformation:
  """The rule of config.optimizer, its rate decaying over the training."""
  section = config.optimizer
  rule = choose(RULES, section.name, "optimizer.name", "optimizer")
  choose(DECAYS, section.decay, "optimizer.decay", "decay", own=False)
  own = accepted_options(make_optimizer) - {"num_steps"}
  refuse_unused(section, "optimizer", section.name, (rule,), {*own, "ema_decays"})
  return make_optimizer(
    rule(**options_of(rule, section)),
    num_steps=config.training.num_steps,
    **{k: v for k, v in options_of(make_optimizer, section).items() if k in own},
  )


def make_evaluation(
  config: ConfigDict, target: Any, parts: Mapping[str, Any], numbers: Collection[str] = ()
) -> Evaluation:
  """Makes what config.evaluation asks for.

  Args:
    config: the resolved config.
    target: the distribution to sample from.
    parts: what `make_parts` has made.
    numbers: as for `make_rows`.
  """
  section = config.evaluation
  loss_levels, label_dropout = parts["loss_levels"], parts["label_dropout"]
  metrics: dict[str, Callable[..., float]] = {}
  for spec in section.metrics:
    name, *changes = spec.split(":")
    metric = choose(METRICS, name, "evaluation.metrics", "metric")
    own = parse_changes(changes, f"evaluation.metrics, {spec!r}")
    features = own.pop("features", None)
    label = spec
    if features is not None and section.features is not None:
      label = spec.replace(f"features={features}", f"features={section.features}")
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
      path = f"evaluation.metrics, {label!r}"
      metric = _in_features(metric, str(features), path, target, section.inception_path)
    metrics[label] = functools.partial(metric, **options)
  choose(named(("fresh", "train", "test")), section.reference, "evaluation.reference", "reference")
  choose(named(("last", "best")), section.checkpoint, "evaluation.checkpoint", "checkpoint")
  exact = config.parameterization.name == "exact"
  comparable = has_truth(target) and config.parameterization.name != "consistency"
  rows = labelled(make_rows(config, parts["schedule"], numbers))
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
    many_levels = bool(low != high)
    if low == jnp.inf:
      check_data_level(config)
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
    # The function takes images [n, h, w, c] in float32, -1 to 1, gives features [n, d], and is
    # jitted: it reads its weights where it is traced.
    own = choose({"": batched}, name, f"{path}: features", "function of images")
    extract = batched(jax.jit(own))
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
  return choose(named(("data", "uniform", *classes)), asked, "evaluation.labels", "choice")


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
  choose(named((*METHODS, "adaptive")), protocol.method, f"{path}_method", "method")
  divergences = named(("exact", "hutchinson"))
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
