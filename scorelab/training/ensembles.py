r"""Several trainings in one program: seeds, crossed with values of numeric config fields.

  python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=16
  python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=4 \
    --config.ensemble.over="optimizer.learning_rate=1e-3,3e-3,1e-2 sampler.sigma_min=0.02,0.05"

`ensemble.seeds` = n takes the seeds seed, seed + 1, ..., seed + n - 1. `ensemble.over` names fields
and their values; fields are separated by spaces or semicolons. Every combination of values is
trained with every seed. A number can be varied if the program does not depend on its value: the
numbers of the optimizer, schedule, loss, parameterization and sampler, and optimizer.ema_decays
with one average. Fields that change a shape or the program are refused; scorelab-sweep sweeps
them with one run per value.

Each member equals the single run with its seed and values, from the same keys, up to the order of
sums and the rounding to float32 of numbers that are arguments of the program. All members step
together, on a leading axis of the state that is sharded over the devices if they divide it. They
share one checkpoint. A NaN in any member stops the run, and the message names the member. Members
that differ only in their samplers share a training, and --mode=eval can add them to a finished run.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from scorelab.config.fields import add_unlisted
from scorelab.config.options import check_bound, check_bounds
from scorelab.errors import ConfigError, RunError, did_you_mean
from scorelab.experiment.build import assemble, with_numbers, with_points
from scorelab.experiment.build import build as build_single
from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.spec import Experiment
from scorelab.runs.sharding import Layout
from scorelab.targets import is_streamed, splits_of
from scorelab.training.batches import Feed
from scorelab.training.loop import Program
from scorelab.training.progress import check_finite, summarise
from scorelab.training.state import TrainState, evaluated_params, init_state
from scorelab.training.step import repeated, train_step
from scorelab.typing import Array, Batch, Context, DequantisedTarget, Key, Metrics

_SECTIONS = ("optimizer", "schedule", "loss", "parameterization", "sampler")
_SWEEP = "sweep it with scorelab-sweep"


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
  """One ensemble member: a seed and the values of the swept fields.

  Attributes:
    name: values and seed, as 'learning_rate=0.003,seed=1'.
    seed: its seed.
    over: the values of the varied fields, by dotted name.
    experiment: the experiment of its single run, with these values as `numbers`.
    slot: index of its training on the state's leading axis.
  """

  name: str
  seed: int
  over: dict[str, float]
  experiment: Experiment
  slot: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
  """The members that a config with an `ensemble` section describes.

  Attributes:
    experiment: the shared experiment; its config is the ensemble's.
    members: for each combination of values all seeds, in the order of the config.
    trained: the members whose trainings form the state's leading axis, one per slot.
  """

  experiment: Experiment
  members: tuple[Member, ...]
  trained: tuple[Member, ...]


def is_ensemble(config: ConfigDict) -> bool:
  """Returns True if the config describes more than one run; `seeds = 1` alone is a single run."""
  return bool(config.ensemble.over) or config.ensemble.seeds not in (None, 1)


def parse_over(config: ConfigDict) -> dict[str, tuple[float, ...]]:
  """Parses config.ensemble.over into values by dotted field name.

  Raises:
    ConfigError: the syntax is wrong, or a field cannot be varied in one program.
  """
  over: dict[str, tuple[float, ...]] = {}
  for part in (config.ensemble.over or "").replace(";", " ").split():
    field, sign, text = part.partition("=")
    try:
      values = tuple(float(value) for value in text.split(",")) if sign else ()
    except ValueError:
      values = ()
    _check_field(config, field)
    if not (values and np.isfinite(values).all()) or len({*values}) < len(values) or field in over:
      raise ConfigError(
        f"ensemble.over = {config.ensemble.over!r}: {part!r} must read field=number,number, the "
        "numbers and the fields all different"
      )
    if field == "optimizer.clip_norm" and 0 in values:
      raise ConfigError(f"ensemble.over: clip_norm = 0 is a program without clipping; {_SWEEP}")
    over[field] = values
  return over


def _check_field(config: ConfigDict, field: str) -> None:
  section = field.partition(".")[0]
  fields = {
    f"{path}.{key}": part.get_type(key)
    for path, part in config.items()
    if isinstance(part, ConfigDict)
    for key in part
  }
  if field == "seed":
    raise ConfigError("ensemble.over: seeds are varied by ensemble.seeds")
  if field not in fields:
    raise ConfigError(f"ensemble.over: {field!r} is not a field{did_you_mean(field, fields)}")
  varied = fields[field] is float or field == "optimizer.ema_decays"
  if section not in _SECTIONS or not varied:
    raise ConfigError(f"ensemble.over: {field} cannot be varied within one program; {_SWEEP}")


def build(config: ConfigDict) -> Ensemble:
  """Builds the ensemble that a config describes.

  Raises:
    ConfigError: the config is invalid, or its members do not fit into one program.
  """
  check_bounds(config)
  add_unlisted(config)
  over, num_seeds = parse_over(config), config.ensemble.seeds or 1
  check_bound("seed", config.seed + num_seeds - 1)
  single = config.copy_and_resolve_references()
  single.ensemble.update(seeds=None, over=None)
  _refuse(single)
  shared = build_single(single)
  if is_streamed(shared.target):
    raise ConfigError(
      f"ensemble: images are streamed in an order of each seed's own; {_SWEEP}, or raise "
      "target.cache_gib"
    )
  draw = jax.jit(shared.draw_data, static_argnums=1)
  seeds = range(config.seed, config.seed + num_seeds)
  points = {seed: with_points(_with_seed(shared, seed), draw) for seed in seeds}
  members, slots = [], {}
  for values in itertools.product(*over.values()):
    numbers = dict(zip(over, values, strict=True))
    changed = with_numbers(single, numbers)
    check_bounds(changed)
    assembled = assemble(changed, shared.target, numbers)
    own = tuple(v for field, v in numbers.items() if not field.startswith("sampler."))
    for seed in seeds:
      member = dataclasses.replace(
        _with_seed(assembled, seed), data=points[seed].data, validation=points[seed].validation
      )
      slot = slots.setdefault((own, seed), len(slots))
      members.append(Member(_name(numbers, seed), seed, numbers, member, slot))
  first = {member.slot: member for member in reversed(members)}
  for field in over:
    _check_traced(shared, field, over[field][0])
  record = shared.config | {"ensemble": config.ensemble.to_dict()}
  common = dataclasses.replace(members[0].experiment, config=record)
  return Ensemble(common, tuple(members), tuple(first[slot] for slot in sorted(first)))


def _refuse(config: ConfigDict) -> None:
  """Raises ConfigError for settings that an ensemble does not support."""
  if config.pretrained.path is not None:
    raise ConfigError("ensemble: a pretrained model is not trained, so it has no seeds")
  for given, path, value in (
    (config.training.patience > 0, "training.patience", 0),
    (config.evaluation.checkpoint == "best", "evaluation.checkpoint", "last"),
    (config.training.sharding == "fsdp", "training.sharding", "replicated"),
  ):
    if given:
      section, name = path.split(".")
      raise ConfigError(
        f"{path} = {config[section][name]!r} must be {value!r} in an ensemble, whose members go "
        f"step by step together; {_SWEEP}"
      )


def _check_traced(experiment: Experiment, field: str, value: float) -> None:
  """Raises ConfigError if the program needs the value of a field; traces all code that uses it."""

  def trained(value: Array) -> Any:
    here = experiment.at({field: value})
    state = init_state(experiment)
    return train_step(here, experiment.root, state, experiment.data)

  def sampled(value: Array) -> Any:
    here = experiment.at({field: value})
    params, label = experiment.init_params(experiment.root), None
    if experiment.conditional:
      label = jnp.zeros(1, int)
    samples = []
    for row in here.evaluation.rows:
      x = row.prior(experiment.root, (1, *experiment.target.event_shape))
      predict = row.predict(here.parameterization.bind, params, label, params, experiment.target)
      samples.append(row.run(experiment.root, predict, x).x)
    return samples

  try:
    if not field.startswith("sampler."):
      jax.eval_shape(trained, value)
    if not field.startswith("optimizer."):
      jax.eval_shape(sampled, value)
  except (TypeError, ValueError) as error:
    raise ConfigError(
      f"ensemble.over: {field} cannot be varied within one program; {_SWEEP}"
    ) from error


def _with_seed(experiment: Experiment, seed: int) -> Experiment:
  return dataclasses.replace(experiment, config=experiment.config | {"seed": seed})


def _name(numbers: Mapping[str, float], seed: int) -> str:
  named = short(numbers) | {"seed": seed}
  return ",".join(f"{name}={value:.10g}" for name, value in named.items())


def short(numbers: Mapping[str, float]) -> dict[str, float]:
  """Returns values by the last part of their field names, if these differ; else by full names."""
  names = [field.split(".")[1] for field in numbers]
  unique = len(set(names)) == len(names)
  return dict(zip(names if unique else numbers, numbers.values(), strict=True))


# Training.


def make_program(ensemble: Ensemble, layout: Layout) -> Program:
  """Returns the program of all trainings: `train_step` over a leading axis of the state."""
  experiment, trained = ensemble.experiment, ensemble.trained
  divides = len(trained) % layout.num_devices == 0
  spread = layout.split if divides else layout.whole
  given = layout.place(_member_inputs(trained), split=divides)
  data = _stacked([member.experiment.data for member in trained], _shared(experiment, "train"))
  held_out = _stacked(
    [member.experiment.validation for member in trained],
    _shared(experiment, "validation") and not isinstance(experiment.target, DequantisedTarget),
  )
  data, data_axis = layout.place(data[0], split=divides and data[1] == 0), data[1]
  validation = layout.place(held_out[0], split=divides and held_out[1] == 0)

  def step(
    given: _MemberInputs, state: TrainState, data: Batch, read: None
  ) -> tuple[TrainState, Metrics]:
    del read

    def one(given: _MemberInputs, state: TrainState, data: Batch) -> tuple[TrainState, Metrics]:
      root, numbers = given
      return train_step(experiment.at(numbers), root, state, data)

    state, metrics = jax.vmap(one, (0, 0, data_axis))(given, state, data)
    return spread(state), layout.whole(metrics)

  @jax.jit
  def validate(given: _MemberInputs, state: TrainState, batch: Batch) -> dict[str, Array]:
    def one(given: _MemberInputs, state: TrainState, batch: Batch) -> dict[str, Array]:
      root, numbers = given
      params, key = evaluated_params(state), stream_key(root, Stream.VALIDATION, 0)
      context = Context(state.step, state.ema)
      return experiment.at(numbers).validate(params, key, batch, context)

    return layout.whole(jax.vmap(one, (0, 0, held_out[1]))(given, state, batch))

  def init_all(given: _MemberInputs) -> TrainState:
    def one(root: Key) -> TrainState:
      return init_state(experiment, root=root)

    return spread(jax.vmap(one)(given[0]))

  def line(metrics: Metrics, last: int, found: dict[str, np.ndarray]) -> dict[str, Any]:
    lines = []
    for slot, member in enumerate(trained):
      own = jax.tree.map(lambda a, slot=slot: a[:, slot], metrics)
      own_found = {name: float(values[slot]) for name, values in found.items()}
      try:
        check_finite(own, last, own_found)
      except RunError as error:
        raise RunError(f"member {member.name}: {error}") from error
      lines.append({**summarise(own), **own_found})
    return mean_line(lines)

  return Program(
    init=functools.partial(jax.jit(init_all), given),
    chunk=functools.partial(repeated(step, experiment), given),
    feed=lambda state: Feed(data),
    validate=lambda state: validate(given, state, validation),
    line=line,
    num_runs=len(trained),
  )


_MemberInputs = tuple[Key, dict[str, Array]]
"""Root keys and numbers: of all trainings, or of one."""


def _member_inputs(trained: Sequence[Member]) -> _MemberInputs:
  roots = jnp.stack([member.experiment.root for member in trained])
  fields = [field for field in trained[0].over if not field.startswith("sampler.")]
  return roots, {f: jnp.array([member.over[f] for member in trained], float) for f in fields}


def _shared(experiment: Experiment, name: str) -> bool:
  """Returns True if these points are a split of the target, the same for every seed."""
  return name in splits_of(experiment.target)


def _stacked(batches: Sequence[Batch], shared: bool) -> tuple[Batch, int | None]:
  """Returns the members' points, stacked, and their axis; shared points once, with None."""
  if shared or not batches[0]:
    return batches[0], None
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), 0


def mean_line(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Combines the trainings' lines of metrics.jsonl into one.

  Each name has the mean over the trainings, or null if one of them has null. `members` has the
  values of each training as lists, in the order of `evaluation.json`'s trainings.
  """
  members = {name: [line[name] for line in lines] for name in lines[0]}

  def mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
      return [mean(column) for column in zip(*values, strict=True)]
    return None if None in values else float(np.mean(values))

  return {**{name: mean(values) for name, values in members.items()}, "members": members}


def state_of(state: Any, member: Member) -> Any:
  """Returns one member's slice of arrays that have a leading axis of trainings."""
  return jax.tree.map(lambda a: a[member.slot], state)
