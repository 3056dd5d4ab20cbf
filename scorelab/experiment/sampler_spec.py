"""Rows of an evaluation: a sampler on a grid, or a Langevin kernel, with its start."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scorelab.config.options import (
  accepted_options,
  check_bound,
  choose,
  literal,
  options_of,
  refuse_unused,
)
from scorelab.errors import ConfigError
from scorelab.predictions import noised
from scorelab.predictions.clipping import CLIPPINGS
from scorelab.predictions.guidance import GUIDANCES, Guidance, Sources
from scorelab.samplers import KERNELS, SAMPLERS
from scorelab.schedules import GRIDS, Grid, Schedule
from scorelab.targets import num_classes_of
from scorelab.typing import Array, ClassifiedTarget, Key, Params, Predict, Sampler, Samples, Target
from scorelab.validation import is_traced

_PREDICTION_FIELDS = {"guidance", "guidance_weak", "clipping"} | accepted_options(
  *(guidance.options for guidance in GUIDANCES.values()), *CLIPPINGS.values()
)


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the evaluation: a sampler on a grid, or a Langevin kernel.

  Attributes:
    sampler: name of the sampler.
    num_steps: N of the grid, or the steps of a chain.
    options: options set for the sampler and its grid, by name; shown in the table.
    prior: `(key, shape) -> x`, a draw of the starting point.
    true_start: `(key, data) -> x`, a start from the exact law of noised data; with the same key it
      uses the same noise as the prior.
    run: `(key, predict, x) -> Samples`; not jitted.
    grid: levels from noise to data; None for a kernel.
    method: the sampler with its options, which `run` runs on the grid; None for a kernel.
    clip: `(predict, event_ndim=) -> predict`, as in `run`; None for no clipping.
    guidance: changes predictions before the sampler sees them; None for no guidance.
    guidance_options: options of the guidance.
    weak: the weaker model that guidance needs: an average's decay, or an earlier step; None for
      none.
    label: unique name in tables, files and figures; '' for a row made of traced numbers.
  """

  sampler: str
  num_steps: int
  options: dict[str, Any]
  prior: Callable[[Key, tuple[int, ...]], Array]
  true_start: Callable[[Key, Array], Array]
  run: Callable[[Key, Predict, Array], Samples]
  grid: Grid | None = None
  method: Sampler | None = None
  clip: Callable[..., Predict] | None = None
  guidance: Guidance | None = None
  guidance_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  weak: float | None = None
  label: str = ""

  @property
  def network_calls(self) -> int:
    """Network calls per call of the predict function that the sampler gets."""
    return self.guidance.network_calls if self.guidance else 1

  def predict(
    self,
    bind: Callable[..., Predict],
    params: Params,
    label: Array | None = None,
    weak: Params = None,
    target: Target | None = None,
  ) -> Predict:
    """Returns the predict function of this row, with guidance and clipping applied.

    Args:
      bind: binds a network or the exact score: `(params[, label]) -> predict`.
      params: the network's parameters.
      label: the requested classes, of x's batch shape; None for an unconditional network.
      weak: parameters of the weaker model, if the row needs one.
      target: the target, for guidance by the classes of points.
    """

    def conditioned(params: Params, label: Array | None) -> Predict:
      return bind(params) if label is None else bind(params, label)

    if self.guidance is None:
      return conditioned(params, label)
    sources = Sources(
      functools.partial(conditioned, params),
      label,
      None if self.weak is None else conditioned(weak, label),
      num_classes_of(target),
      target.log_class_prob if isinstance(target, ClassifiedTarget) else None,
      0 if target is None else len(target.event_shape),
    )
    return self.guidance.make(sources, **self.guidance_options)


@dataclasses.dataclass(frozen=True)
class RowPlan:
  """Row with its names and options read, whose numbers may still change.

  Attributes:
    settings: values by field; only those that are set.
    inherited: returns True for a field that the row takes from the main sampler.
    build: `(schedule, numbers) -> Row`; numbers by field, in place of the settings.
  """

  settings: Mapping[str, Any]
  inherited: Callable[[str], bool]
  build: Callable[[Schedule, Mapping[str, Any]], Row]

  def make(self, schedule: Schedule, numbers: Mapping[str, Any]) -> Row:
    """Returns the row, without a label.

    Args:
      schedule: the forward process.
      numbers: of the main sampler, by field; they may be traced.
    """
    return self.build(schedule, {k: v for k, v in numbers.items() if self.inherited(k)})


def plan_rows(
  main: Mapping[str, Any], specs: Sequence[str], has_density: bool, varied: Collection[str] = ()
) -> tuple[RowPlan, ...]:
  """Plans the main sampler's row and those of config.evaluation.rows.

  A row with the settings of an earlier one is dropped: it would have the same samples.

  Args:
    main: settings of the main sampler; only those that are set.
    specs: config.evaluation.rows.
    has_density: True if predictions have a log_density.
    varied: the sampler's fields that differ between members of an ensemble. A value inherited from
      such a field never equals a value that a row sets itself, so that all members have the same
      rows.

  Raises:
    ConfigError: a name, an option or a number is not allowed.
  """
  plans: list[RowPlan] = []
  found: list[dict[str, Any]] = []
  for index, spec in enumerate(("", *specs)):
    path, settings = "sampler", dict(main)
    inherited: Callable[[str], bool] = lambda field: True  # noqa: E731
    if index:
      path = f"evaluation.rows[{index - 1}]"
      settings = parse_row(spec, main, path)
      own = {part.partition("=")[0] for part in spec.split(":")}
      inherited = functools.partial(_inherits, settings["name"], main["name"], own)
    plan = RowPlan(settings, inherited, plan_row(settings, path, has_density))
    from_main = {k: f"sampler.{k}" for k in settings if k in varied and inherited(k)}
    identity = json.loads(json.dumps(settings | from_main))
    if identity not in found:
      found.append(identity)
      plans.append(plan)
  return tuple(plans)


def _inherits(name: str, main: str, own: Collection[str], field: str) -> bool:
  """Returns True if a row of this sampler takes a field from the main sampler."""
  return field not in own and (name == main or field in _shared_fields(name))


def _shared_fields(name: str) -> set[str]:
  """Returns the fields that a row takes from a main sampler of another name."""
  if _is_kernel(choose(SAMPLERS | KERNELS, name, "sampler", "sampler")):
    return set()
  return accepted_options(*GRIDS.values()) | {"grid"} | _PREDICTION_FIELDS


def labelled(rows: Sequence[Row]) -> tuple[Row, ...]:
  """Returns the rows with their labels."""
  labels = make_labels([(row.sampler, row.num_steps, row.options) for row in rows])
  return tuple(
    dataclasses.replace(row, label=label) for row, label in zip(rows, labels, strict=True)
  )


def make_labels(rows: Sequence[tuple[str, int, Mapping[str, Any]]]) -> list[str]:
  """Labels rows by sampler, steps and the options that tell them apart: 'ddim-32-eta=1.0'.

  Args:
    rows: sampler, number of steps and options of each.

  Returns:
    A unique label for each row: if the options do not tell two rows apart, the later label ends in
    '-2'.
  """
  first, *others = (options for _, _, options in rows)
  shared = {k for k, v in first.items() if others and all(o.get(k) == v for o in others)}
  if len({options.get("grid") for _, _, options in rows} - {None}) < 2:
    shared.add("grid")
  labels: list[str] = []
  for sampler, num_steps, options in rows:
    own = [f"{k}={v}" for k, v in options.items() if k not in shared]
    label = "-".join([sampler, str(num_steps), *own])
    same = (f"{label}-{number}" for number in itertools.count(2))
    labels.append(next(name for name in itertools.chain([label], same) if name not in labels))
  return labels


def parse_row(spec: str, main: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Parses 'name:num_steps:field=value:...' into sampler settings, on the main sampler's grid.

  Guidance and clipping are the main sampler's too. A row with the main sampler's name also keeps
  its other options.
  """
  parts = str(spec).split(":")
  if len(parts) < 2 or not parts[1].isdigit():
    raise ConfigError(
      f"{path} = {spec!r} must read 'name:num_steps' or 'name:num_steps:field=value'"
    )
  name, num_steps, *changes = parts
  choose(SAMPLERS | KERNELS, name, path, "sampler")
  shared = _shared_fields(name)
  kept = {k: v for k, v in main.items() if name == main["name"] or k in shared}
  row = {**kept, "name": name, "num_steps": int(num_steps)}
  return row | parse_changes(changes, f"{path} = {spec!r}")


def parse_changes(changes: Sequence[str], path: str) -> dict[str, Any]:
  """Parses ['field=value', ...] into options; a value is a Python literal, else text."""
  options: dict[str, Any] = {}
  for change in changes:
    field, sign, text = change.partition("=")
    if not sign:
      raise ConfigError(f"{path}: {change!r} must read field=value")
    options[field] = literal(text)
  return options


def make_row(settings: Mapping[str, Any], path: str, schedule: Schedule, has_density: bool) -> Row:
  """Makes the row that these settings describe: see `plan_row`."""
  return plan_row(settings, path, has_density)(schedule, {})


def plan_row(
  settings: Mapping[str, Any], path: str, has_density: bool
) -> Callable[[Schedule, Mapping[str, Any]], Row]:
  """Reads the settings of a row and returns a function that makes it.

  Args:
    settings: name, num_steps, grid and options, by name; only those that are set.
    path: their place in the config, for messages.
    has_density: True if predictions have a log_density, which MALA needs.

  Returns:
    `(schedule, numbers) -> Row`; numbers take the place of settings, and may be traced.

  Raises:
    ConfigError: a name, an option or a number is not allowed.
  """
  for field, value in settings.items():
    check_bound(f"sampler.{field}", value, shown=f"{path}.{field}", settings=settings)
  part = choose(SAMPLERS | KERNELS, settings["name"], f"{path}.name", "sampler")
  if _is_kernel(part):
    return _plan_chain_row(part, settings, path, has_density)
  return _plan_grid_row(part, settings, path)


def _is_kernel(part: Callable[..., Any]) -> bool:
  """Returns True for a Langevin kernel, which takes a score and no grid."""
  return "score" in inspect.signature(part).parameters


def _plan_grid_row(
  sampler: Callable[..., Samples], settings: Mapping[str, Any], path: str
) -> Callable[[Schedule, Mapping[str, Any]], Row]:
  name, num_steps = settings["name"], settings["num_steps"]
  make_grid = choose(GRIDS, settings["grid"], f"{path}.grid", "grid")
  guidance = None
  named, parts = f"{name} on the {settings['grid']} grid", [sampler, make_grid]
  if (kind := settings.get("guidance")) is not None:
    guidance = choose(GUIDANCES, kind, f"{path}.guidance", "guidance")
    named, parts = f"{name} with {kind} guidance", [*parts, guidance.options]
  clip = None
  if (kind_of_clip := settings.get("clipping")) is not None:
    clip = choose(CLIPPINGS, kind_of_clip, f"{path}.clipping", "clipping")
    named, parts = f"{named} and {kind_of_clip} clipping", [*parts, clip]
  weak = settings.get("guidance_weak")
  if (weak is not None) != (guidance is not None and "weak" in guidance.needs):
    raise ConfigError(
      f"{path}.guidance_weak = {weak!r} and {path}.guidance = {kind!r}: 'autoguidance' needs one, "
      "no other guidance takes it"
    )
  own = ("num_steps", "grid", "guidance", "guidance_weak", "clipping")
  refuse_unused(settings, path, named, parts, own)

  def make(schedule: Schedule, numbers: Mapping[str, Any]) -> Row:
    given = {**settings, **numbers}
    grid = _make_grid(make_grid, schedule, num_steps, options_of(make_grid, given), path)
    clipped = functools.partial(clip, **options_of(clip, given)) if clip else None
    method = functools.partial(sampler, **options_of(sampler, given))

    def run(key: Key, predict: Predict, x: Array) -> Samples:
      predict = clipped(predict, event_ndim=x.ndim - 1) if clipped else predict
      samples = method(key, predict, x, grid)
      calls = guidance.network_calls * samples.nfe if guidance else samples.network_calls
      return samples._replace(network_calls=calls)

    def true_start(key: Key, data: Array) -> Array:
      return noised(key, data, grid[0])[0]

    return Row(
      sampler=name,
      num_steps=num_steps,
      options={k: v for k, v in given.items() if k not in ("name", "num_steps")},
      prior=grid.prior,
      true_start=true_start,
      run=run,
      grid=grid,
      method=method,
      clip=clipped,
      guidance=guidance,
      guidance_options=options_of(guidance.options, given) if guidance else {},
      weak=given.get("guidance_weak"),
    )

  return make


def _make_grid(
  construct: Callable[..., Grid],
  schedule: Schedule,
  num_steps: int,
  options: Mapping[str, Any],
  path: str,
) -> Grid:
  """Makes a grid, and refuses one whose levels do not fall; traced ones are not checked."""
  try:
    grid = jax.jit(functools.partial(construct, schedule, num_steps, **options))()
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from error
  sigma, alpha = grid.levels.sigma, grid.levels.alpha
  if not (is_traced(sigma) or is_traced(alpha)):
    with np.errstate(divide="ignore"):  # pure noise
      ratios = np.asarray(sigma) / np.asarray(alpha)  # on the host, which compiles nothing
    if not (ratios[1:] < ratios[:-1]).all():
      shown = ", ".join(f"{ratio:g}" for ratio in ratios[:3])
      raise ConfigError(
        f"{path}: the grid's sigma / alpha must fall towards the data: {shown}, ..."
      )
  return grid


def _plan_chain_row(
  kernel: Callable[..., Any], settings: Mapping[str, Any], path: str, has_density: bool
) -> Callable[[Schedule, Mapping[str, Any]], Row]:
  """Plans the row of a Langevin kernel on the law at one level: `sigma`, or 0, the data."""
  name, num_steps = settings["name"], settings["num_steps"]
  own = {"num_steps", "start_std", "sigma"}
  refuse_unused(settings, path, name, (kernel,), {*own, "grid"})
  if "step_size" not in settings:
    raise ConfigError(f"{path}.step_size must be set for {name}")
  needs_density = "log_prob" in inspect.signature(kernel).parameters
  if needs_density and not has_density:
    raise ConfigError(
      f"{path}.name = {name!r} needs parameterization.name = 'exact' or parameterization.energy ="
      " True: a score alone has no density"
    )

  def make(schedule: Schedule, numbers: Mapping[str, Any]) -> Row:
    given = {**settings, **numbers}
    sigma, start_std = given.get("sigma", 0.0), given.get("start_std", 1.0)
    level = schedule.at_ratio(sigma)
    options = options_of(kernel, given)

    def prior(key: Key, shape: tuple[int, ...]) -> Array:
      return start_std * jax.random.normal(key, shape)

    def true_start(key: Key, data: Array) -> Array:
      return noised(key, data, level)[0]

    def run(key: Key, predict: Predict, x: Array) -> Samples:
      functions: dict[str, Any] = {"score": lambda x: predict(x, level).score, "x": x}
      if needs_density:  # XLA merges what the two predictions share
        functions["log_prob"] = lambda x: predict(x, level).log_density
      chain = kernel(key, **functions, **options)
      return Samples(chain.x, chain.path, chain.nfe)

    shown = {k: v for k, v in given.items() if k not in ("name", "num_steps", "grid")}
    return Row(name, num_steps, shown, prior, true_start, run)

  return make
