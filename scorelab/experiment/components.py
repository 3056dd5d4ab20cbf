"""Plans each component of an experiment from its section of a config, and builds it from numbers.

A plan reads names and options once, and returns a function of numbers. These may be traced: members
of an ensemble differ in them. A mistake is a ConfigError of one line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.config.options import (
  accepted_options,
  choose,
  config_errors,
  make,
  options_of,
  refuse_unused,
)
from scorelab.errors import ConfigError
from scorelab.experiment.compatibility import (
  check_consistency,
  check_labels,
  check_network,
)
from scorelab.experiment.spec import Components
from scorelab.losses import LEVELS, LOSSES, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES, NETWORKS
from scorelab.optimizers import DECAYS, RULES, make_optimizer
from scorelab.predictions import (
  CONDITIONINGS,
  PARAMETERIZATIONS,
  Exact,
  Parameterization,
)
from scorelab.schedules import GRIDS, SCHEDULES, Level, Schedule, Shifted
from scorelab.targets import splits_of, truth_of
from scorelab.typing import Array, Key, Loss, Params, Target

Numbers: TypeAlias = Mapping[str, Any]
"""Values of float fields that replace the config's, by dotted name; they may be traced."""
NO_NUMBERS: Numbers = MappingProxyType({})


def numbers_of(section: str, numbers: Numbers) -> dict[str, Any]:
  """Returns the numbers of a section, by field."""
  prefix = f"{section}."
  return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}


def plan_components(config: ConfigDict, target: Target) -> Callable[[Numbers], Components]:
  """Reads the sections of a config once and returns a function that makes the components.

  The function takes numbers and knows neither the config nor a name in it, so it may be called
  within a program that is being traced.

  Args:
    config: a checked config.
    target: the distribution to sample from.

  Raises:
    ConfigError: a name, an option or a combination is not allowed. Values are checked by the
      function, where the parts are made.
  """
  make_schedule = _plan_schedule(config.schedule)
  network = _make_network(config.network, config.parameterization.learned_variance)
  check_network(network, target)
  check_labels(config, target)
  label_dropout = 0.0
  if config.network.num_classes:  # a batch's labels are dropped, so the network drops none
    label_dropout, network = network.label_dropout, network.clone(label_dropout=0.0)
  make_parameterization = plan_parameterization(config.parameterization, target)
  check_consistency(config)
  make_loss = make_validation_loss = plan_loss(config, target)
  if config.loss.uniforms == "shared":
    spread = config.copy_and_resolve_references()
    spread.loss.uniforms = None
    make_validation_loss = plan_loss(spread, target)
  make_optimizer_of = plan_optimizer(config)

  def make_components(numbers: Numbers) -> Components:
    schedule = make_schedule(numbers_of("schedule", numbers))
    parameterization = make_parameterization(
      network.apply, schedule, numbers_of("parameterization", numbers)
    )
    own = numbers_of("loss", numbers)
    loss, levels = make_loss(parameterization, schedule, own)
    validation_loss = loss
    if make_validation_loss is not make_loss:
      validation_loss, _ = make_validation_loss(parameterization, schedule, own)

    def init_params(key: Key) -> Params:
      if isinstance(parameterization, Exact):
        return {}
      x = jnp.zeros((1, *target.event_shape))
      return jax.jit(network.init)(key, x, jnp.zeros(1))["params"]

    return Components(
      schedule=schedule,
      parameterization=parameterization,
      init_params=init_params,
      loss=loss,
      validation_loss=validation_loss,
      loss_levels=levels,
      optimizer=make_optimizer_of(numbers_of("optimizer", numbers)),
      label_dropout=label_dropout,
    )

  return make_components


def _plan_schedule(section: ConfigDict) -> Callable[[Numbers], Schedule]:
  settings = dict(section)
  construct = choose(SCHEDULES, section.name, "schedule.name", "schedule")
  refuse_unused(settings, "schedule", section.name, (construct,), ("shift",))

  def make_schedule(numbers: Numbers) -> Schedule:
    given = {**settings, **numbers}
    with config_errors("schedule"):
      schedule = construct(**options_of(construct, given))
    return schedule if given["shift"] is None else Shifted(schedule, given["shift"])

  return make_schedule


def _std_of(target: Target) -> float:
  """Returns the target's std as a number, even if numbers of the config are traced."""
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


def plan_parameterization(
  section: ConfigDict, target: Target
) -> Callable[[Callable[..., Any], Schedule, Numbers], Parameterization | Exact]:
  """Returns a function of the network's `apply`, the schedule and numbers."""
  if section.name == "exact":
    return lambda apply, schedule, numbers: truth_of(target)
  settings = dict(section)
  conditioning = choose(
    CONDITIONINGS, section.conditioning, "parameterization.conditioning", "conditioning"
  )
  construct = choose(
    PARAMETERIZATIONS | {"exact": Exact}, section.name, "parameterization.name", "parameterization"
  )
  refuse_unused(
    settings, "parameterization", section.name, (construct, conditioning), ("conditioning",)
  )
  data_std = _data_std(construct, settings, target)
  takes_schedule = "schedule" in inspect.signature(construct).parameters

  def make_parameterization(
    apply: Callable[..., Any], schedule: Schedule, numbers: Numbers
  ) -> Parameterization | Exact:
    given = {**settings, **numbers}
    options = data_std | options_of(construct, given)
    if takes_schedule:
      options["schedule"] = schedule
    conditioned = functools.partial(conditioning, **options_of(conditioning, given))
    with config_errors("parameterization"):
      return construct(apply, conditioned, event_ndim=len(target.event_shape), **options)

  return make_parameterization


def _data_std(
  function: Callable[..., Any], settings: Mapping[str, Any], target: Target
) -> dict[str, float]:
  """Returns the default of an option `data_std`, the target's own; {} for a function without it."""
  needed = "data_std" in accepted_options(function) and settings.get("data_std") is None
  return {"data_std": _std_of(target)} if needed else {}


def plan_loss(
  config: ConfigDict, target: Target
) -> Callable[
  [Parameterization | Exact, Schedule, Numbers], tuple[Loss, Callable[[Array], Level] | None]
]:
  """Returns a function that makes the loss, and its levels by quantile."""
  section, settings = config.loss, dict(config.loss)
  construct = choose(LOSSES, section.name, "loss.name", "loss")
  if section.spacing is not None:
    choose(GRIDS, section.spacing, "loss.spacing", "grid", own=False)
  for low, high in (("sigma_min", "sigma_max"), ("t_min", "t_max")):
    ends = section[low], section[high]
    if None not in ends and ends[0] >= ends[1]:
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
  refuse_unused(settings, "loss", names, (construct, *parts.values()))
  size = config.training.batch_size
  points = size or config.target.num_train or len(splits_of(target)["train"])
  if section.uniforms == "antithetic" and points * (section.levels_per_point or 1) % 2:
    whole = "" if size else f", {points} points,"
    raise ConfigError(f"training.batch_size = {size}{whole} must be even for antithetic levels")
  of_chain = "num_levels" in accepted_options(construct)
  functions = {**parts, **({"levels": LEVELS["grid"]} if of_chain else {})}
  data_std = {f: _data_std(function, settings, target) for f, function in functions.items()}

  def make_loss(
    parameterization: Parameterization | Exact, schedule: Schedule, numbers: Numbers
  ) -> tuple[Loss, Callable[[Array], Level] | None]:
    given = {**settings, **numbers}

    def with_options(field: str) -> Callable[..., Any]:
      function = functions[field]
      options = data_std[field] | options_of(function, given)
      own = inspect.signature(function).parameters.get("schedule")
      if own is not None and own.kind is inspect.Parameter.KEYWORD_ONLY:
        options["schedule"] = schedule
      return functools.partial(function, **options)

    own = {k: v for k, v in options_of(construct, given).items() if k not in parts}
    with config_errors("loss"):
      loss = construct(parameterization, schedule, **{f: with_options(f) for f in parts}, **own)
    levels = functools.partial(with_options("levels"), schedule) if "levels" in functions else None
    return loss, levels

  return make_loss


def plan_optimizer(config: ConfigDict) -> Callable[[Numbers], optax.GradientTransformation]:
  """Returns a function that makes the rule of config.optimizer, its rate decaying over training."""
  section, settings = config.optimizer, dict(config.optimizer)
  rule = choose(RULES, section.name, "optimizer.name", "optimizer")
  choose(DECAYS, section.decay, "optimizer.decay", "decay", own=False)
  own = accepted_options(make_optimizer) - {"num_steps"}
  refuse_unused(settings, "optimizer", section.name, (rule,), {*own, "ema_decays"})
  num_steps = config.training.num_steps

  def make_rule(numbers: Numbers) -> optax.GradientTransformation:
    given = {**settings, **numbers}
    options = options_of(make_optimizer, given)
    return make_optimizer(
      rule(**options_of(rule, given)),
      num_steps=num_steps,
      **{k: v for k, v in options.items() if k in own},
    )

  return make_rule
