"""A ConfigDict, checked and turned into the parts of an experiment. Nothing else reads a config.

Every mistake in a config is a ConfigError of one line that names the field, its value, what is
allowed and what was probably meant.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import enum
import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from scorelab.losses import LEVELS, LOSSES, UNIFORMS, WEIGHTINGS
from scorelab.metrics import METRICS
from scorelab.networks import ACTIVATIONS, NETWORKS
from scorelab.predictions import CONDITIONINGS, PARAMETERIZATIONS, Parameterization
from scorelab.samplers import SAMPLERS
from scorelab.schedules import GRIDS, SCHEDULES, Grid, Schedule
from scorelab.targets import TARGETS
from scorelab.typing import Array, Batch, Key, Loss, Params, Predict, Samples


class ConfigError(ValueError):
  """A config that makes no experiment; the message is one line without the config's name."""


class Stream(enum.IntEnum):
  """What a key is for: `fold_in(fold_in(root, stream), step)`. Never renumber."""

  INIT = 0
  DATA = 1
  LOSS = 2
  VALIDATION = 3
  TRAIN_SET = 4
  EVALUATION = 5
  SCORE_ERROR = 6


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the evaluation: a sampler on a grid.

  Attributes:
    sampler: its name.
    num_steps: N of the grid.
    options: what was set for the sampler and its grid, by name: for the table.
    grid: from noise to data.
    run: `(key, predict, x) -> Samples`; not jitted.
  """

  sampler: str
  num_steps: int
  options: dict[str, Any]
  grid: Grid
  run: Callable[[Key, Predict, Array], Samples]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What is measured; the fields are those of config.evaluation.

  Attributes:
    metrics: by name, `(key, samples, reference) -> float`.
  """

  rows: tuple[Row, ...]
  metrics: dict[str, Callable[..., float]]
  num_keys: int
  num_samples: int
  num_reference: int
  reference: str
  score_levels: tuple[float, ...]
  score_samples: int


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
    optimizer: optax's.
    data: the fixed training set {x [n, *event]}, or {} where the target is sampled afresh.
    validation: held-out points, {x [n, *event]}.
    evaluation: what is measured.
  """

  config: dict[str, Any]
  target: Any
  schedule: Schedule
  parameterization: Parameterization
  init_params: Callable[[Key], Params]
  loss: Loss
  optimizer: optax.GradientTransformation
  data: Batch
  validation: Batch
  evaluation: Evaluation

  @property
  def num_steps(self) -> int:
    """Training steps."""
    return self.config["training"]["num_steps"]

  @property
  def log_every(self) -> int:
    """Steps in a line of metrics.jsonl."""
    return self.config["training"]["log_every"]

  @property
  def checkpoint_every(self) -> int:
    """Steps between checkpoints, a multiple of log_every."""
    return self.config["training"]["checkpoint_every"]

  @property
  def ema_decays(self) -> tuple[float, ...]:
    """Decays of the averages that are kept."""
    return tuple(self.config["optimizer"]["ema_decays"])

  def key(self, stream: Stream, step: Array | int) -> Key:
    """The key of a stream at a step."""
    root = jax.random.key(self.config["seed"])
    return jax.random.fold_in(jax.random.fold_in(root, stream), step)

  def draw_batch(self, key: Key, data: Batch) -> Batch:
    """A training batch: drawn with replacement from `data`, or afresh from the target."""
    size = self.config["training"]["batch_size"]
    if not data:
      return {"x": self.target.sample(key, size)}
    index = jax.random.randint(key, (size,), 0, data["x"].shape[0])
    return jax.tree.map(lambda a: a[index], data)


PRECISIONS = {name: name for name in ("default", "bfloat16", "tensorfloat32", "float32")}


def build(config: ConfigDict) -> Experiment:
  """The experiment that a config describes.

  Raises:
    ConfigError: the config makes none.
  """
  check_bounds(config)
  choose(PRECISIONS, config.matmul_precision, "matmul_precision", "precision of matrix products")
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  target = _make(TARGETS, config.target, "target", "target", also=("num_train",))
  schedule = _make(SCHEDULES, config.schedule, "schedule", "schedule")
  network = _make_network(config.network)
  parameterization = _make_parameterization(config.parameterization, network.apply, target)
  loss = _make_loss(config, parameterization, schedule, target)
  optimizer = _make_optimizer(config)
  if config.training.checkpoint_every % config.training.log_every:
    raise ConfigError(
      f"training.checkpoint_every = {config.training.checkpoint_every} must be a multiple of "
      f"training.log_every = {config.training.log_every}"
    )

  def init_params(key: Key) -> Params:
    x = jnp.zeros((1, target.dim))
    return jax.jit(network.init)(key, x, jnp.zeros(1))["params"]

  experiment = Experiment(
    config=json.loads(config.to_json()),
    target=target,
    schedule=schedule,
    parameterization=parameterization,
    init_params=init_params,
    loss=loss,
    optimizer=optimizer,
    data={},
    validation={},
    evaluation=_make_evaluation(config, schedule),
  )
  num_train = config.target.num_train
  draw = jax.jit(target.sample, static_argnums=1)
  data = {"x": draw(experiment.key(Stream.TRAIN_SET, 0), num_train)} if num_train else {}
  held_out = draw(experiment.key(Stream.VALIDATION, 1), config.training.num_validation)
  return dataclasses.replace(experiment, data=data, validation={"x": held_out})


# The parts.


def _make_network(section: ConfigDict) -> Any:
  for field in ("activation", "output_activation"):
    if section[field] is not None:
      choose(ACTIVATIONS, section[field], f"network.{field}", "activation")
  network = _make(NETWORKS, section, "network", "network")
  norms, widths = getattr(network, "norms", ()), getattr(network, "widths", ())
  if len(norms) != len(widths):
    raise ConfigError(f"network.norms = {norms} must be as long as network.widths = {widths}")
  return network


def _make_parameterization(
  section: ConfigDict, apply: Callable[..., Any], target: Any
) -> Parameterization:
  conditioning = choose(
    CONDITIONINGS, section.conditioning, "parameterization.conditioning", "conditioning"
  )
  make = choose(PARAMETERIZATIONS, section.name, "parameterization.name", "parameterization")
  _refuse_unused(section, "parameterization", section.name, (make, conditioning), ("conditioning",))
  options = _options(make, section)
  if "data_std" in _accepted(make):
    options.setdefault("data_std", float(target.scale))
  conditioning = functools.partial(conditioning, **_options(conditioning, section))
  return make(apply, conditioning, event_ndim=1, **options)


def _make_loss(
  config: ConfigDict, parameterization: Parameterization, schedule: Schedule, target: Any
) -> Loss:
  section = config.loss
  make = choose(LOSSES, section.name, "loss.name", "loss")
  levels = choose(LEVELS, section.levels, "loss.levels", "level distribution")
  weighting = choose(WEIGHTINGS, section.weighting, "loss.weighting", "weighting")
  uniforms = choose(UNIFORMS, section.uniforms, "loss.uniforms", "way to draw levels")
  if section.spacing is not None:
    choose(GRIDS, section.spacing, "loss.spacing", "grid")
  named = f"{section.name}, {section.levels} and {section.weighting}"
  _refuse_unused(
    section, "loss", named, (make, levels, weighting), ("levels", "weighting", "uniforms")
  )
  drawn = config.training.batch_size * (section.levels_per_point or 1)
  if section.uniforms == "antithetic" and drawn % 2:
    raise ConfigError(
      f"training.batch_size = {config.training.batch_size} must be even for antithetic levels"
    )
  weighting_options = _options(weighting, section)
  if "data_std" in _accepted(weighting):
    weighting_options.setdefault("data_std", float(target.scale))
  own = {k: v for k, v in _options(make, section).items() if k not in ("levels", "weighting")}
  own["uniforms"] = uniforms
  return make(
    parameterization,
    schedule,
    levels=functools.partial(levels, **_options(levels, section)),
    weighting=functools.partial(weighting, **weighting_options),
    **own,
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.scale_by_adam,
  "lion": optax.scale_by_lion,
  "sgd": optax.identity,
}


def learning_rate_shape(config: ConfigDict) -> optax.Schedule:
  """step -> the learning rate as a share of its peak: a linear warm-up, then the decay to 0."""
  section = config.optimizer
  decays = {
    "constant": optax.constant_schedule(1.0),
    "cosine": optax.cosine_decay_schedule(
      1.0, max(config.training.num_steps - section.warmup_steps, 1)
    ),
  }
  decay = choose(decays, section.decay, "optimizer.decay", "decay")
  if not section.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, 1.0, section.warmup_steps)
  return optax.join_schedules([warmup, decay], [section.warmup_steps])


def _make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Clipping, the named rule, decoupled weight decay, and the learning rate."""
  section = config.optimizer
  rule = choose(OPTIMIZERS, section.name, "optimizer.name", "optimizer")
  known = ("learning_rate", "decay", "warmup_steps", "clip_norm", "weight_decay", "ema_decays")
  _refuse_unused(section, "optimizer", section.name, (rule,), known)
  return optax.chain(
    optax.clip_by_global_norm(section.clip_norm) if section.clip_norm else optax.identity(),
    rule(**_options(rule, section)),
    optax.add_decayed_weights(section.weight_decay) if section.weight_decay else optax.identity(),
    optax.scale_by_schedule(learning_rate_shape(config)),
    optax.scale(-section.learning_rate),  # apart, so that it may be traced
  )


def _make_evaluation(config: ConfigDict, schedule: Schedule) -> Evaluation:
  section = config.evaluation
  metrics = {}
  for name in section.metrics:
    metric = choose(METRICS, name, "evaluation.metrics", "metric")
    metrics[name] = functools.partial(metric, **_options(metric, section))
  references = ("fresh", "train")
  choose(
    {name: name for name in references}, section.reference, "evaluation.reference", "reference"
  )
  if section.reference == "train" and not config.target.num_train:
    raise ConfigError("evaluation.reference = 'train' needs target.num_train > 0")
  main = {k: v for k, v in config.sampler.items() if v is not None}
  rows = [_make_row(main, "sampler", schedule)]
  for index, spec in enumerate(section.rows):
    path = f"evaluation.rows[{index}]"
    rows.append(_make_row(_parse_row(spec, main, path), path, schedule))
  return Evaluation(
    rows=tuple(rows),
    metrics=metrics,
    **{
      field: section[field] for field in ("num_keys", "num_samples", "num_reference", "reference")
    },
    score_levels=tuple(section.score_levels),
    score_samples=section.score_samples,
  )


def _parse_row(spec: str, main: Mapping[str, Any], path: str) -> dict[str, Any]:
  """'name:num_steps:field=value:...' as sampler settings, on the main sampler's grid.

  The main sampler's own options are kept where the row names the same sampler.
  """
  parts = str(spec).split(":")
  if len(parts) < 2 or not parts[1].isdigit():
    raise ConfigError(
      f"{path} = {spec!r} must read 'name:num_steps' or 'name:num_steps:field=value'"
    )
  name, num_steps, *changes = parts
  choose(SAMPLERS, name, path, "sampler")
  of_grid = _accepted(*GRIDS.values()) | {"grid"}
  kept = {k: v for k, v in main.items() if name == main["name"] or k in of_grid}
  row = {**kept, "name": name, "num_steps": int(num_steps)}
  for change in changes:
    field, sign, text = change.partition("=")
    if not sign:
      raise ConfigError(f"{path} = {spec!r}: {change!r} must read field=value")
    try:
      row[field] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      row[field] = text
  return row


def _make_row(settings: Mapping[str, Any], path: str, schedule: Schedule) -> Row:
  name, num_steps = settings["name"], settings["num_steps"]
  sampler = choose(SAMPLERS, name, f"{path}.name", "sampler")
  make_grid = choose(GRIDS, settings["grid"], f"{path}.grid", "grid")
  for field, value in settings.items():
    check_bound(f"sampler.{field}", value, shown=f"{path}.{field}")
  _refuse_unused(
    settings,
    path,
    f"{name} on the {settings['grid']} grid",
    (sampler, make_grid),
    ("num_steps", "grid"),
  )
  options = _options(sampler, settings)
  grid = jax.jit(
    functools.partial(make_grid, schedule, num_steps, **_options(make_grid, settings))
  )()
  ratios = grid.levels.sigma / grid.levels.alpha
  if not (ratios[1:] < ratios[:-1]).all():
    shown = ", ".join(f"{ratio:g}" for ratio in ratios[:3])
    raise ConfigError(f"{path}: the grid's sigma / alpha must fall towards the data: {shown}, ...")
  shown = {k: v for k, v in settings.items() if k not in ("name", "num_steps")}

  def run(key: Key, predict: Predict, x: Array) -> Samples:
    return sampler(key, predict, x, grid, **options)

  return Row(name, num_steps, shown, grid, run)


# Reading sections.


def choose(known: Mapping[str, Any], name: Any, path: str, what: str) -> Any:
  """known[name].

  Raises:
    ConfigError: there is none; says which are, and which was probably meant.
  """
  if name in known:
    return known[name]
  article = "an" if what[0] in "aeiou" else "a"
  raise ConfigError(
    f"{path} = {name!r} is not {article} {what}{did_you_mean(str(name), known)} "
    f"(known: {', '.join(sorted(known))})"
  )


def did_you_mean(name: str, known: Collection[str]) -> str:
  """'; did you mean ...?' where some known name is close, else ''."""
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
  return f"; did you mean {close[0]!r}?" if close else ""


def _accepted(*functions: Callable[..., Any]) -> set[str]:
  """The keyword options of functions or classes, apart from what experiment.py itself gives."""
  given = {"parent", "name", "kind", "event_ndim"}
  names: set[str] = set()
  for function in functions:
    for parameter in inspect.signature(function).parameters.values():
      has_default = parameter.default is not inspect.Parameter.empty
      if parameter.kind is inspect.Parameter.KEYWORD_ONLY or has_default:
        names.add(parameter.name)
  return names - given


def _options(function: Callable[..., Any], section: Mapping[str, Any]) -> dict[str, Any]:
  """The options of a function that a section sets."""
  accepted = _accepted(function)
  return {k: v for k, v in section.items() if k in accepted and v is not None}


def _refuse_unused(
  section: Mapping[str, Any],
  path: str,
  named: str,
  functions: Iterable[Callable[..., Any]],
  also: Collection[str] = (),
) -> None:
  """Raises ConfigError for a value that is set and that none of the functions takes."""
  accepted = _accepted(*functions)
  for field, value in section.items():
    if value is not None and field != "name" and field not in accepted and field not in also:
      raise ConfigError(
        f"{path}.{field} = {value!r} is no option of {named}{did_you_mean(field, accepted)} "
        f"(options: {', '.join(sorted(accepted)) or 'none'})"
      )


def _make(
  known: Mapping[str, Callable[..., Any]],
  section: ConfigDict,
  path: str,
  what: str,
  also: Collection[str] = (),
) -> Any:
  """Calls the function that a section names with the options that it sets."""
  make = choose(known, section.name, f"{path}.name", what)
  _refuse_unused(section, path, section.name, (make,), also)
  try:
    return make(**_options(make, section))
  except (TypeError, ValueError) as error:
    raise ConfigError(f"{path}: {error}") from error


# What numbers are allowed: (the words, the test), by field.
Bound = tuple[str, Callable[[Any], bool]]


def _at_least(low: float) -> Bound:
  return f"at least {low}", lambda v: v >= low


_POSITIVE: Bound = ("above 0", lambda v: v > 0)
_DECAY: Bound = ("in [0, 1)", lambda v: 0 <= v < 1)

BOUNDS: dict[str, Bound] = {
  "seed": ("from 0 to 4294967295", lambda v: 0 <= v < 2**32),
  "target.num_train": _at_least(0),
  "target.num_modes": _at_least(1),
  "target.dim": _at_least(1),
  "target.radius": _POSITIVE,
  "target.std": _POSITIVE,
  "target.weights": _at_least(0),
  "target.weight": ("in (0, 1)", lambda v: 0 < v < 1),
  "schedule.sigma_min": _POSITIVE,
  "schedule.sigma_max": _POSITIVE,
  "schedule.rho": _POSITIVE,
  "schedule.beta_min": _POSITIVE,
  "schedule.beta_max": _POSITIVE,
  "network.widths": _at_least(1),
  "network.width": _at_least(1),
  "network.depth": _at_least(1),
  "network.num_features": _at_least(1),
  "network.point_scale": _POSITIVE,
  "network.level_scale": _POSITIVE,
  "parameterization.data_std": _POSITIVE,
  "parameterization.num_train_steps": _at_least(1),
  "loss.sigma_min": _POSITIVE,
  "loss.sigma_max": _POSITIVE,
  "loss.level_std": _POSITIVE,
  "loss.num_levels": _at_least(1),
  "loss.levels_per_point": _at_least(1),
  "loss.gamma": _POSITIVE,
  "loss.data_std": _POSITIVE,
  "loss.num_bands": _at_least(1),
  "optimizer.learning_rate": _POSITIVE,
  "optimizer.warmup_steps": _at_least(0),
  "optimizer.clip_norm": _at_least(0),
  "optimizer.b1": _DECAY,
  "optimizer.b2": _DECAY,
  "optimizer.eps": _POSITIVE,
  "optimizer.weight_decay": _at_least(0),
  "optimizer.ema_decays": _DECAY,
  "training.num_steps": _at_least(0),
  "training.batch_size": _at_least(1),
  "training.log_every": _at_least(1),
  "training.checkpoint_every": _at_least(1),
  "training.num_validation": _at_least(1),
  "sampler.num_steps": _at_least(1),
  "sampler.sigma_min": _POSITIVE,
  "sampler.sigma_max": _POSITIVE,
  "sampler.rho": _POSITIVE,
  "sampler.eta": _at_least(0),
  "sampler.churn": _at_least(0),
  "sampler.s_tmin": _at_least(0),
  "sampler.s_tmax": _POSITIVE,
  "sampler.s_noise": _POSITIVE,
  "sampler.steps_per_level": _at_least(1),
  "sampler.step_size": _POSITIVE,
  "evaluation.num_keys": _at_least(1),
  "evaluation.num_samples": _at_least(1),
  "evaluation.num_reference": _at_least(1),
  "evaluation.num_projections": _at_least(1),
  "evaluation.score_levels": _POSITIVE,
  "evaluation.score_samples": _at_least(1),
}


def check_bound(field: str, value: Any, shown: str | None = None) -> None:
  """Raises ConfigError where a number, or one of a tuple's, is outside what its field allows."""
  if field not in BOUNDS or value is None:
    return
  words, allowed = BOUNDS[field]
  for number in value if isinstance(value, tuple) else (value,):
    if not isinstance(number, (int, float)) or not allowed(number):
      raise ConfigError(f"{shown or field} = {value!r}, must be {words}")


def check_bounds(config: ConfigDict) -> None:
  """Raises ConfigError for the first number of the config that is out of range."""
  check_bound("seed", config.seed)
  for name, section in config.items():
    if isinstance(section, ConfigDict):
      for field, value in section.items():
        check_bound(f"{name}.{field}", value)
