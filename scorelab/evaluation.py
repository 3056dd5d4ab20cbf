"""A trained network against the truth: the table of metrics, each with its error budget.

For a metric M and a sampler on a grid from its prior,

    floor           M(exact samples, reference)
    discretisation  M(exact score, from the true p_T) - floor
    prior           M(exact score, from the prior) - M(exact score, from the true p_T)
    learning        M(network, from the prior) - M(exact score, from the prior)

which add up to M(network, from the prior). Each may be negative. For each key the four share the
reference, the projections, the start's noise and the sampler's noise, so the standard errors are
those of paired differences. Where no exact score exists, or the network says none, there are a
value and a floor; the other three are null.

A conditional network is asked for the classes of draws from the target, or for others, and the
truth with it: then the exact score is that of each class. Where a row is guided, so is its exact
score; what guidance itself changes is part of its discretisation.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import likelihood_evaluation, non_finite
from scorelab.experiment import Experiment, Stream
from scorelab.metrics import Reference, girsanov, mode_score_error
from scorelab.metrics.ratios import ratio_of_means
from scorelab.rows import Row
from scorelab.run import Preempted, StopFlag, Workdir, append_jsonl, leads, write_json
from scorelab.schedules import uniform_log_snr
from scorelab.sharding import Layout, any_process, make_layout
from scorelab.targets import splits_of, truth_of
from scorelab.typing import Array, Batch, Key, Params, Predict

Programs: TypeAlias = dict[str, Any]
"""Jitted functions by name, which take an experiment's keys and numbers: experiments of an ensemble
share them, so that each is compiled once."""
_GIRSANOV_STEPS = 48  # between the schedule's ends


def sample_row(
  row: Row, bind: Callable[..., Predict], target: Any = None
) -> Callable[..., tuple[Array, Array]]:
  """One row, jitted: `(params, keys [k], starts [k, n, *event]) -> (samples, nfe [])`.

  Two more arguments: `labels` [k, n], the classes asked of a conditional network; and `weak`, the
  parameters of the weaker model where the row is guided by one. The target is for guidance alone.
  """
  return jax.jit(functools.partial(_sample_row, row, bind, target))


def _sample_row(
  row: Row,
  bind: Callable[..., Predict],
  target: Any,
  params: Params,
  keys: Key,
  starts: Array,
  labels: Array | None = None,
  weak: Params = None,
) -> tuple[Array, Array]:
  def one(inputs: tuple[Key, Array, Array | None]) -> tuple[Array, Array]:
    key, start, label = inputs
    samples = row.run(key, row.predict(bind, params, label, weak, target), start)
    return samples.x, jnp.asarray(samples.nfe)

  x, nfe = jax.lax.map(one, (keys, starts, labels))
  return x, nfe[0]


def sample_in_batches(
  sample: Callable[..., tuple[Array, Array]],
  params: Params,
  keys: Key,
  starts: Array,
  size: int,
  stop: StopFlag,
  labels: Array | None = None,
  weak: Params = None,
  layout: Layout | None = None,
) -> tuple[np.ndarray, Array]:
  """As `sample_row`, `size` samples at a time over the devices, each batch with a key of its own.

  What is in memory does not grow with the number of samples. The last batch is filled with rows of
  the first ones. The numbers depend on the devices by rounding alone.

  Args:
    sample: a row's.
    params: the network's.
    keys: [k].
    starts: [k, n, *event].
    size: at least 1; where the devices do not divide it, each draws the whole batch.
    stop: asked before every batch.
    labels: [k, n], or None; and weak: as for the row's sampler.
    layout: whose devices; by default all of this process. Where it is shared all processes must
      call, with the same arguments, and each draws its part of every batch.

  Returns:
    Samples [k, n, *event] on the host, in every process, and nfe [].
  """
  layout = make_layout(own=True) if layout is None else layout
  params, weak = layout.place(params), layout.place(weak)
  sets, nfe = [], jnp.zeros((), int)

  def batch_of(values: Array, k: int, i: int) -> Array:
    # The last batch is filled with rows of its own set: samplers may average over a batch.
    rows = np.arange(i, i + size) % values.shape[1]
    return layout.place(values[k, rows][None], split=True, axis=1)

  for k, key in enumerate(keys):
    batches = []
    for i in range(0, starts.shape[1], size):
      if any_process(stop.requested) if layout.shared else stop.requested:
        raise Preempted
      label = None if labels is None else batch_of(labels, k, i)
      batch_key = layout.place(jax.random.fold_in(key, i)[None])
      x, nfe = layout.fetch(sample(params, batch_key, batch_of(starts, k, i), label, weak))
      batches.append(x[0, : starts.shape[1] - i])
    sets.append(np.concatenate(batches))
  return np.stack(sets), nfe


def draw_sets(
  experiment: Experiment,
  params: Params,
  stop: StopFlag,
  weak: Mapping[float, Params] = MappingProxyType({}),
  programs: Programs | None = None,
  layout: Layout | None = None,
) -> dict[str, Any]:
  """Draws every set of samples that the budget compares.

  Args:
    experiment: the parts.
    params: the evaluated parameters.
    stop: asked between sets.
    weak: the parameters of weaker models, by the name that rows have for them.
    programs: those of another experiment of the same ensemble, or an empty one to be filled.
    layout: of samples that are drawn in batches: see `sample_in_batches`.

  Returns:
    `reference` [k, m, *event]; `exact` [k, n, *event], which are training points where the target
    has a test set, and no more of them than there are; and `rows`: for each row its sets `network`
    and, where there is an exact score, `prior` and `true_start`, each [k, n, *event]; and its
    `nfe`. Of a conditional network also `labels` [k, n], the classes asked for, and those of the
    exact samples, `exact_labels`.
  """
  protocol, target = experiment.evaluation, experiment.target
  programs = {} if programs is None else programs
  root = experiment.key(Stream.EVALUATION, 0)
  reference_key, exact_key, data_key, start_key, sampler_key = jax.random.split(root, 5)

  def draw(name: str, key: Key, size: int, one: Callable[[Key, int], Batch]) -> Batch:
    run = programs.setdefault(name, jax.jit(lambda keys: jax.lax.map(lambda k: one(k, size), keys)))
    return run(jax.random.split(key, protocol.num_keys))

  if protocol.reference == "fresh":
    reference = draw("reference", reference_key, protocol.num_reference, experiment.draw_data)["x"]
  else:  # the same points for every key
    train = protocol.reference == "train"
    points = experiment.data["x"] if train else splits_of(target)["test"]
    reference = jnp.broadcast_to(points, (protocol.num_keys, *points.shape))
  if "test" in splits_of(target):  # real points that are not those of the reference
    shuffle = jax.vmap(jax.random.permutation, in_axes=(0, None))
    keys = jax.random.split(exact_key, protocol.num_keys)
    shuffled = jax.tree.map(lambda a: shuffle(keys, a), experiment.data)  # in the same order
    exact = jax.tree.map(lambda a: a[:, : protocol.num_samples], shuffled)
  else:
    exact = draw("exact", exact_key, protocol.num_samples, experiment.draw_data)
  draw_asked = functools.partial(_draw_asked, experiment)
  asked = draw("asked", data_key, protocol.num_samples, draw_asked)
  data, labels = asked["x"], asked.get("label")
  start_keys = jax.random.split(start_key, protocol.num_keys)
  sampler_keys = jax.random.split(sampler_key, protocol.num_keys)

  def sampler(index: int, truth: bool) -> Callable[..., tuple[Array, Array]]:
    def run(numbers: Mapping[str, Array], *given: Any) -> tuple[Array, Array]:
      here = experiment.at(numbers)
      bind = truth_of(target).bind if truth else here.parameterization.bind
      return _sample_row(here.evaluation.rows[index], bind, target, *given)

    name = f"row {index}, {'truth' if truth else 'network'}"
    return functools.partial(programs.setdefault(name, jax.jit(run)), experiment.numbers)

  rows = []
  for index, row in enumerate(experiment.evaluation.rows):
    # One key for both on purpose: the same noise, with the data under it or without.
    prior = jax.vmap(lambda k, row=row: row.prior(k, data.shape[1:]))(start_keys)
    network = sampler(index, truth=False)
    weaker = None if row.weak is None else weak[row.weak]
    runs = [("network", network, params, prior, weaker)]
    if protocol.comparable:
      true = jax.vmap(row.true_start)(start_keys, data)
      truth = sampler(index, truth=True)
      runs += [("prior", truth, {}, prior, {}), ("true_start", truth, {}, true, {})]
    sets = {}
    for name, sample, given, starts, weaker in runs:
      if protocol.batch_size is None:
        stop.check()
        x, nfe = sample(given, sampler_keys, starts, labels, weaker)
      else:
        x, nfe = sample_in_batches(
          sample, given, sampler_keys, starts, protocol.batch_size, stop, labels, weaker, layout
        )
      sets |= {name: np.asarray(x), "nfe": int(nfe)}
      if not (finite := np.isfinite(sets[name]).reshape(len(x), -1).all(1)).all():
        k, here = int(np.argmin(finite)), experiment.at(experiment.numbers)
        bind = here.parameterization.bind if name == "network" else truth_of(target).bind
        label = None if labels is None else labels[k]
        predict = here.evaluation.rows[index].predict(bind, given, label, weaker, target)
        lost = sets.setdefault("lost", {})
        lost[name] = non_finite.first_level(row, sampler_keys[k], predict, starts[k])
    rows.append(sets)
  drawn = {"reference": np.asarray(reference), "exact": np.asarray(exact["x"]), "rows": rows}
  if labels is not None:
    drawn |= {"labels": np.asarray(labels), "exact_labels": np.asarray(exact["label"])}
  return drawn


def _draw_asked(experiment: Experiment, key: Key, size: int) -> Batch:
  """Draws of what the rows are asked for: from the target, or of classes that are chosen apart."""
  asked = experiment.evaluation.labels
  if asked in (None, "data"):
    return experiment.draw_data(key, size)
  label_key, key = jax.random.split(key)
  if asked == "uniform":
    label = jax.random.randint(label_key, (size,), 0, experiment.target.num_classes)
  else:
    label = jnp.full((size,), int(asked))
  return {"x": experiment.target.sample_of_class(key, label), "label": label}


def measure(experiment: Experiment, sets: dict[str, Any], stop: StopFlag) -> np.ndarray:
  """Every metric of every row's sets: [rows, metrics, 4, k].

  The four are floor, true_start, prior and network; nan where there is no such set.
  """
  protocol = experiment.evaluation
  keys = jax.random.split(experiment.key(Stream.EVALUATION, 1), protocol.num_keys)
  table = np.full((len(protocol.rows), len(protocol.metrics), 4, protocol.num_keys), np.nan)
  for k, key in enumerate(keys):
    # Keys outermost: one reference's sorted projections are in memory at a time.
    reference = Reference(sets["reference"][k], experiment.target)
    exact_reference = reference
    if "labels" in sets:
      exact_reference = reference.asking(sets["exact_labels"][k])
      reference = reference.asking(sets["labels"][k])
    for m, metric in enumerate(protocol.metrics.values()):
      stop.check()
      table[:, m, 0, k] = metric(key, sets["exact"][k], exact_reference)
      for r, row in enumerate(sets["rows"]):
        for s, name in enumerate(("true_start", "prior", "network"), start=1):
          if name in row:
            table[r, m, s, k] = metric(key, row[name][k], reference)
  return table


def budget(measured: np.ndarray) -> dict[str, float | None]:
  """The budget of one metric from its [4, k] values: floor, true_start, prior, network.

  Returns:
    value, the four parts that add up to it, and the standard error of each over the keys: `sem`
    for the value, `<part>_sem` for a part; None where there is one key, where a value is not finite
    and where nothing exact can be compared with. `over_floor` is value / floor, its error that of
    the ratio paired by key.
  """
  floor, true_start, prior, network = measured
  parts = {
    "value": network,
    "floor": floor,
    "prior": prior - true_start,
    "discretisation": true_start - floor,
    "learning": network - prior,
  }
  result: dict[str, float | None] = {}
  for name, values in parts.items():
    sem = np.std(values, ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    for field, number in (
      (name, values.mean()),
      ("sem" if name == "value" else f"{name}_sem", sem),
    ):
      result[field] = float(number) if np.isfinite(number) else None
  ratio = zip(("over_floor", "over_floor_sem"), ratio_of_means(network, floor), strict=True)
  return result | {name: number if np.isfinite(number) else None for name, number in ratio}


def evaluate(
  experiment: Experiment,
  params: Params,
  workdir: Workdir,
  stop: StopFlag,
  weak: Mapping[float, Params] = MappingProxyType({}),
  programs: Programs | None = None,
  layout: Layout | None = None,
) -> dict[str, Any]:
  """Measures the network and writes evaluation.json and samples.npz.

  Where the layout is shared all processes must call; the first one measures and writes.

  Args:
    experiment, params, stop, weak, programs, layout: as for `draw_sets`.
    workdir: the run's.

  Returns:
    What evaluation.json holds, with `non_finite` only if some number is not finite; {} in a process
    that only helped to draw.

  Raises:
    Preempted: a stop was requested; nothing is written.
  """
  begun = time.monotonic()
  protocol = experiment.evaluation
  programs = {} if programs is None else programs
  helps = layout is not None and layout.shared and not leads()
  if helps and protocol.batch_size is None:  # the first one draws alone
    return {}
  sets = draw_sets(experiment, params, stop, weak, programs, layout)
  if helps:
    return {}
  measured = measure(experiment, sets, stop)
  rows = [
    {
      "label": row.label,
      "sampler": row.sampler,
      "options": row.options,
      "num_steps": row.num_steps,
      "nfe": drawn["nfe"],
      **({"network_calls": row.network_calls * drawn["nfe"]} if row.network_calls > 1 else {}),
      "metrics": {
        name: budget(values) for name, values in zip(protocol.metrics, values_of_row, strict=True)
      },
    }
    for row, drawn, values_of_row in zip(protocol.rows, sets["rows"], measured, strict=True)
  ]
  result: dict[str, Any] = {
    "protocol": {
      "num_keys": protocol.num_keys,
      "num_samples": protocol.num_samples,
      "num_reference": sets["reference"].shape[1],
      "reference": protocol.reference,
      "num_projections": experiment.config["evaluation"]["num_projections"],
    },
    "rows": rows,
  }
  if protocol.comparable and protocol.score_levels:
    result["score_error"] = measure_scores(experiment, params, programs)
  if protocol.girsanov:
    result["girsanov"] = measure_girsanov(experiment, params, programs)
  if protocol.likelihood:
    result["likelihood"] = likelihood_evaluation.measure_likelihood(
      experiment, params, protocol.likelihood, stop, programs
    )
  if protocol.labels:
    result["protocol"]["labels"] = protocol.labels
  if (num_exact := sets["exact"].shape[1]) != protocol.num_samples:
    result["protocol"]["num_exact"] = num_exact
  drawn_by = zip(protocol.rows, sets["rows"], strict=True)
  arrays = {row.label: drawn["network"][0] for row, drawn in drawn_by}
  if "labels" in sets:
    arrays["labels"] = sets["labels"][0]
  by_label = dict(zip((row.label for row in protocol.rows), sets["rows"], strict=True))
  faults = non_finite.find(result, by_label, exact=protocol.comparable)
  if faults := faults + non_finite.find_in_tables(experiment, params, result):
    result["non_finite"] = faults
  np.savez(workdir.samples, exact=sets["exact"][0], reference=sets["reference"][0], **arrays)
  write_json(workdir.evaluation, result)
  append_jsonl(workdir.timings, {"evaluation_seconds": time.monotonic() - begun, "step": None})
  return result


def read(workdir: Workdir) -> dict[str, Any]:
  """What a finished evaluation found."""
  return json.loads(workdir.evaluation.read_text())


def measure_scores(
  experiment: Experiment, params: Params, programs: Programs
) -> dict[str, list[float | None]]:
  """Returns the score error at each of config.evaluation.score_levels, as lists by name.

  Each has its standard error beside it, `<name>_sem`; None where one is not finite. For a mixture
  also `relative_by_mode` [k], at the first of the levels. A conditional network is told the class
  of every draw, and compared with the truth of that class.
  """
  protocol, target = experiment.evaluation, experiment.target

  @jax.jit
  def measure_all(numbers: Mapping[str, Array], params: Params, root: Key) -> dict[str, Array]:
    here = experiment.at(numbers)
    levels = here.schedule.at_ratio(jnp.asarray(protocol.score_levels))
    key, mode_key = jax.random.split(root)
    errors = here.score_error(key, params, levels, protocol.score_samples)._asdict()
    if hasattr(target, "sample_with_components") and not experiment.conditional:
      predict = here.parameterization.bind(params)
      first = jax.tree.map(lambda a: a[0], levels)
      size = 10 * protocol.score_samples
      by_mode, sem = mode_score_error(mode_key, target, predict, first, size)
      errors |= {"relative_by_mode": by_mode, "relative_by_mode_sem": sem}
    return errors

  measure_all = programs.setdefault("scores", measure_all)
  key = experiment.key(Stream.SCORE_ERROR, 0)
  errors = _as_json(measure_all(experiment.numbers, params, key))
  return {"sigma": list(protocol.score_levels), **errors}


def measure_girsanov(experiment: Experiment, params: Params, programs: Programs) -> dict[str, Any]:
  """Girsanov's bound between the schedule's ends: sigma / alpha, noisiest first, and its parts.

  Numbers and lists by name, None where one is not finite.
  """

  @jax.jit
  def run(numbers: Mapping[str, Array], params: Params, key: Key) -> dict[str, Array]:
    here = experiment.at(numbers)
    grid = uniform_log_snr(here.schedule, _GIRSANOV_STEPS, to_data=False)
    found = girsanov(
      key,
      experiment.target,
      here.parameterization.bind(params),
      grid.levels,
      here.schedule.prior_std(grid[0]),
      experiment.evaluation.score_samples,
    )
    return {"sigma": grid.levels.sigma / grid.levels.alpha, **found._asdict()}

  run = programs.setdefault("girsanov", run)
  key = experiment.key(Stream.SCORE_ERROR, 1)
  return _as_json(run(experiment.numbers, params, key))


def _as_json(found: Mapping[str, Array]) -> dict[str, Any]:
  """Returns numbers and lists by name; None where a number is not finite."""
  values = jax.tree.map(lambda a: np.asarray(a).tolist(), dict(found))
  return jax.tree.map(lambda number: number if np.isfinite(number) else None, values)
