"""Builds each component of an experiment from its section of a config.

A mistake is a ConfigError of one line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.config.options import (
  accepted_options,
  choose,
  is_traced,
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
from scorelab.experiment.optimizers import DECAYS, RULES, make_optimizer
from scorelab.losses import LEVELS, LOSSES, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES, NETWORKS
from scorelab.predictions import (
  CONDITIONINGS,
  PARAMETERIZATIONS,
  Exact,
  Parameterization,
)
from scorelab.schedules import GRIDS, SCHEDULES, Level, Schedule, Shifted
from scorelab.targets import splits_of, truth_of
from scorelab.typing import Array, Key, Loss, Params, Target


def make_parts(config: ConfigDict, target: Target) -> dict[str, Any]:
  """Builds the components that depend on numbers of the config, which may be traced."""
  schedule = make(SCHEDULES, config.schedule, "schedule", "schedule", also=("shift",))
  if config.schedule.shift is not None:
    schedule = Shifted(schedule, config.schedule.shift)
  network = _make_network(config.network, config.parameterization.learned_variance)
  check_network(network, target)
  check_labels(config, target)
  label_dropout = 0.0
  if config.network.num_classes:  # the batch drops labels, so the network must not
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


def _make_parameterization(
  section: ConfigDict, apply: Callable[..., Any], target: Target, schedule: Schedule
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
  config: ConfigDict, parameterization: Parameterization | Exact, schedule: Schedule, target: Target
) -> tuple[Loss, Callable[[Array], Level] | None]:
  """Builds the loss, and the quantile function of its levels."""
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
  """Builds the optimizer of config.optimizer, with its learning-rate schedule."""
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
