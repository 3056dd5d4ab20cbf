"""Plans the rows of an evaluation from the settings of samplers and kernels."""

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
from scorelab.experiment.row import LARGEST, REFINED, Row
from scorelab.inverse import POSTERIOR_SAMPLERS, POSTERIORS, Observation
from scorelab.predictions import noised
from scorelab.predictions.clipping import CLIPPINGS
from scorelab.predictions.guidance import GUIDANCES
from scorelab.samplers import KERNELS, SAMPLERS, ancestral
from scorelab.samplers.noise import Noise
from scorelab.schedules import GRIDS, Grid, Schedule
from scorelab.signatures import option_defaults
from scorelab.typing import Array, Key, Predict, Sampler, Samples
from scorelab.validation import is_traced

_SAMPLERS = SAMPLERS | KERNELS | POSTERIOR_SAMPLERS
_PREDICTION_FIELDS = {"guidance", "guidance_weak", "clipping"} | accepted_options(
  *(guidance.options for guidance in GUIDANCES.values()), *CLIPPINGS.values()
)


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
  main: Mapping[str, Any],
  specs: Sequence[str],
  has_density: bool,
  varied: Collection[str] = (),
  observation: Observation | None = None,
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
    observation: samples are of the law given it; None for the law itself.

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
    make = plan_row(settings, path, has_density, observation)
    plan = RowPlan(settings, inherited, make)
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
  part = choose(_SAMPLERS, name, "sampler", "sampler")
  if _is_kernel(part):
    return set()
  shared = accepted_options(*GRIDS.values()) | {"grid"} | _PREDICTION_FIELDS
  if _takes(part, "observation"):
    return shared
  return shared | {"posterior"} | accepted_options(*POSTERIORS.values())


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
  choose(_SAMPLERS, name, path, "sampler")
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
  settings: Mapping[str, Any],
  path: str,
  has_density: bool,
  observation: Observation | None = None,
) -> Callable[[Schedule, Mapping[str, Any]], Row]:
  """Reads the settings of a row and returns a function that makes it.

  Args:
    settings: name, num_steps, grid and options, by name; only those that are set.
    path: their place in the config, for messages.
    has_density: True if predictions have a log_density, which MALA needs.
    observation: samples are of the law given it; None for the law itself.

  Returns:
    `(schedule, numbers) -> Row`; numbers take the place of settings, and may be traced.

  Raises:
    ConfigError: a name, an option or a number is not allowed.
  """
  for field, value in settings.items():
    check_bound(f"sampler.{field}", value, shown=f"{path}.{field}", settings=settings)
  part = choose(_SAMPLERS, settings["name"], f"{path}.name", "sampler")
  if _is_kernel(part):
    return _plan_chain_row(part, settings, path, has_density)
  return _plan_grid_row(part, settings, path, observation)


def _is_kernel(part: Callable[..., Any]) -> bool:
  """Returns True for a Langevin kernel, which takes a score and no grid."""
  return _takes(part, "score")


def _takes(part: Callable[..., Any], argument: str) -> bool:
  return argument in inspect.signature(part).parameters


def _plan_grid_row(
  sampler: Callable[..., Samples],
  settings: Mapping[str, Any],
  path: str,
  observation: Observation | None,
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
  posterior = None
  if (kind_of_posterior := settings.get("posterior")) is not None:
    posterior = choose(POSTERIORS, kind_of_posterior, f"{path}.posterior", "posterior method")
    named, parts = f"{named} and the posterior method {kind_of_posterior}", [*parts, posterior]
  if (twist := settings.get("twist")) is not None:
    twist = choose(POSTERIORS, twist, f"{path}.twist", "posterior method")
  of_posteriors = _takes(sampler, "observation")
  _check_posterior(settings, path, observation, of_posteriors)
  own = ("num_steps", "grid", "guidance", "guidance_weak", "clipping", "posterior")
  refuse_unused(settings, path, named, parts, own)

  def make(schedule: Schedule, numbers: Mapping[str, Any]) -> Row:
    given = {**settings, **numbers}
    grid = _make_grid(make_grid, schedule, num_steps, options_of(make_grid, given), path)
    refined = (lambda: on_grid(given, grid.refined(REFINED))) if guidance else None
    return dataclasses.replace(on_grid(given, grid), refined=refined)

  def on_grid(given: Mapping[str, Any], grid: Grid) -> Row:
    clipped = functools.partial(clip, **options_of(clip, given)) if clip else None
    options = options_of(sampler, given) | ({} if twist is None else {"twist": twist})

    def run(key: Key, predict: Predict, x: Array, method: Sampler) -> Samples:
      predict = clipped(predict, event_ndim=x.ndim - 1) if clipped else predict
      samples = method(key, predict, x, grid)
      calls = guidance.network_calls * samples.nfe if guidance else samples.network_calls
      return samples._replace(network_calls=calls)

    method: Sampler = functools.partial(sampler, **options)
    alternatives: dict[str, Any] = {}
    if of_posteriors:
      method = _given(observation, method)
      alternatives["exact_run"] = functools.partial(run, method=ancestral)
      if number := (option_defaults(sampler) | options).get("particles"):
        many = functools.partial(sampler, **options | {"particles": LARGEST * number})
        alternatives["largest_run"] = functools.partial(run, method=_given(observation, many))

    def true_start(key: Key, data: Array) -> Array:
      return noised(key, data, grid[0])[0]

    return Row(
      sampler=name,
      num_steps=grid.num_steps,
      options={k: v for k, v in given.items() if k not in ("name", "num_steps")},
      prior=grid.prior,
      true_start=true_start,
      run=functools.partial(run, method=method),
      grid=grid,
      method=method,
      clip=clipped,
      guidance=guidance,
      guidance_options=options_of(guidance.options, given) if guidance else {},
      weak=given.get("guidance_weak"),
      posterior=posterior
      and functools.partial(posterior, observation=observation, **options_of(posterior, given)),
      **alternatives,
    )

  return make


def _given(observation: Observation | None, sampler: Callable[..., Samples]) -> Sampler:
  """Returns a sampler of posteriors with its observation."""

  def method(key: Key | Noise, predict: Predict, x: Array, grid: Grid) -> Samples:
    return sampler(key, predict, x, grid, observation)

  return method


def _check_posterior(
  settings: Mapping[str, Any], path: str, observation: Observation | None, of_posteriors: bool
) -> None:
  """Raises ConfigError for a row that an observation is not given to, or that does not use it."""
  name, posterior = settings["name"], settings.get("posterior")
  if observation is None and (of_posteriors or posterior):
    what = f"name = {name!r}" if of_posteriors else f"posterior = {posterior!r}"
    raise ConfigError(f"{path}.{what} needs an observation: set observation.name")
  if of_posteriors and posterior:
    raise ConfigError(
      f"{path}.posterior = {posterior!r} is not for {name}, which samples posteriors itself"
    )
  if observation is not None and settings.get("guidance") is not None:
    raise ConfigError(f"{path}.guidance = {settings['guidance']!r} does not go with an observation")


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
