r"""Several trainings in one program: seeds, crossed with values of a config's numbers.

  python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=16
  python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=4 \
    --config.ensemble.over="optimizer.learning_rate=1e-3,3e-3,1e-2 sampler.sigma_min=0.02,0.05"

`ensemble.seeds` = n takes the seeds seed, seed + 1, ..., seed + n - 1. `ensemble.over` names fields
and their values, several fields between spaces or semicolons; every combination is trained with
every seed. A number can be varied where the program does not depend on its value: those of the
optimiser, the schedule, the loss, the parameterization and the sampler; and optimizer.ema_decays,
of one average. What changes a shape or the program itself is refused, and swept with
scripts/sweep.py: a run for each value.

Each member is the single run of its seed and numbers, from the same keys; only the order of sums
differs, and a number that is an argument of the program is rounded to float32 first. All go one
step at a time, on a leading axis of the state that the devices share where they divide it, and they
are checkpointed as one; a NaN in any one stops the run and names it. Members that differ in their
samplers alone share a training, and may be added to a finished one by --mode=eval.
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

from scorelab.config.options import check_bound, check_bounds
from scorelab.errors import ConfigError, RunError, did_you_mean
from scorelab.experiment.build import assemble, with_numbers, with_points
from scorelab.experiment.build import build as build_single
from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.spec import Experiment
from scorelab.runs.sharding import Layout
from scorelab.targets import splits_of
from scorelab.training.batches import Feed
from scorelab.training.loop import Program
from scorelab.training.progress import check_finite, summarise
from scorelab.training.state import TrainState, evaluated_params, init_state
from scorelab.training.step import repeated, train_step
from scorelab.typing import Array, Batch, Context, Key, Metrics

_SECTIONS = ("optimizer", "schedule", "loss", "parameterization", "sampler")
_SWEEP = "sweep it with scripts/sweep.py"


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
  """One of an ensemble.

  Attributes:
    name: 'learning_rate=0.003,seed=1', of its values and its seed.
    seed: its own.
    over: the values of the fields that are varied, by dotted name.
    experiment: that of its single run, with these values as `numbers`.
    slot: where its training is on the state's leading axis.
  """

  name: str
  seed: int
  over: dict[str, float]
  experiment: Experiment
  slot: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
  """What a config with an `ensemble` describes.

  Attributes:
    experiment: what all members share; its config is the ensemble's.
    members: seeds within values, in the order in which they were given.
    trained: the members whose trainings make the state's leading axis, one for each slot.
  """

  experiment: Experiment
  members: tuple[Member, ...]
  trained: tuple[Member, ...]


def asked(config: ConfigDict) -> bool:
  """Whether the config describes more than one run; `seeds = 1` alone is the single run."""
  return bool(config.ensemble.over) or config.ensemble.seeds not in (None, 1)


def parse_over(config: ConfigDict) -> dict[str, tuple[float, ...]]:
  """config.ensemble.over as values by dotted field.

  Raises:
    ConfigError: it does not read so, or names what cannot be varied in one program.
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
  """The ensemble that a config describes.

  Raises:
    ConfigError: it makes none, or one that is no single program.
  """
  check_bounds(config)
  over, num_seeds = parse_over(config), config.ensemble.seeds or 1
  check_bound("seed", config.seed + num_seeds - 1)
  single = config.copy_and_resolve_references()
  single.ensemble.update(seeds=None, over=None)
  _refuse(single)
  shared = build_single(single)
  if getattr(shared.target, "stream", None) is not None:
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
  """Refuses what members cannot do together."""
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
  """Refuses a field whose value a program must know, by tracing all that it is part of."""

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
  """Values by the fields' last names, where these tell the fields apart."""
  names = [field.split(".")[1] for field in numbers]
  unique = len(set(names)) == len(names)
  return dict(zip(names if unique else numbers, numbers.values(), strict=True))


# Training.


def make_program(ensemble: Ensemble, layout: Layout) -> Program:
  """The program of all trainings: `train_step` over a leading axis of the state."""
  experiment, trained = ensemble.experiment, ensemble.trained
  divides = len(trained) % layout.num_devices == 0
  spread = layout.split if divides else layout.whole
  given = layout.place(_given(trained), split=divides)
  data = _stacked([member.experiment.data for member in trained], _shared(experiment, "train"))
  held_out = _stacked(
    [member.experiment.validation for member in trained],
    _shared(experiment, "validation") and not hasattr(experiment.target, "dequantise"),
  )
  data, data_axis = layout.place(data[0], split=divides and data[1] == 0), data[1]
  validation = layout.place(held_out[0], split=divides and held_out[1] == 0)

  def step(given: _Given, state: TrainState, data: Batch, read: None) -> tuple[TrainState, Metrics]:
    del read

    def one(given: _Given, state: TrainState, data: Batch) -> tuple[TrainState, Metrics]:
      root, numbers = given
      return train_step(experiment.at(numbers), root, state, data)

    state, metrics = jax.vmap(one, (0, 0, data_axis))(given, state, data)
    return spread(state), layout.whole(metrics)

  @jax.jit
  def validate(given: _Given, state: TrainState, batch: Batch) -> dict[str, Array]:
    def one(given: _Given, state: TrainState, batch: Batch) -> dict[str, Array]:
      root, numbers = given
      params, key = evaluated_params(state), stream_key(root, Stream.VALIDATION, 0)
      context = Context(state.step, state.ema)
      return experiment.at(numbers).validate(params, key, batch, context)

    return layout.whole(jax.vmap(one, (0, 0, held_out[1]))(given, state, batch))

  def init_all(given: _Given) -> TrainState:
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


_Given = tuple[Key, dict[str, Array]]
"""Root keys and numbers: of all trainings, or of one."""


def _given(trained: Sequence[Member]) -> _Given:
  roots = jnp.stack([member.experiment.root for member in trained])
  fields = [field for field in trained[0].over if not field.startswith("sampler.")]
  return roots, {f: jnp.array([member.over[f] for member in trained], float) for f in fields}


def _shared(experiment: Experiment, name: str) -> bool:
  """Whether these points are the target's own, the same for every seed."""
  return name in splits_of(experiment.target)


def _stacked(batches: Sequence[Batch], shared: bool) -> tuple[Batch, int | None]:
  """All members' points and their axis; those of one where all have the same."""
  if shared or not batches[0]:
    return batches[0], None
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), 0


def mean_line(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """A line of metrics.jsonl from the lines of each training.

  Every name has its mean over them, null where one has null; and `members` has all values, in
  lists in the order of `evaluation.json`'s trainings.
  """
  members = {name: [line[name] for line in lines] for name in lines[0]}

  def mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
      return [mean(column) for column in zip(*values, strict=True)]
    return None if None in values else float(np.mean(values))

  return {**{name: mean(values) for name, values in members.items()}, "members": members}


def state_of(state: Any, member: Member) -> Any:
  """A member's own part of what all trainings have on a leading axis."""
  return jax.tree.map(lambda a: a[member.slot], state)
