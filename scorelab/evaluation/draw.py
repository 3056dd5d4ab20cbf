"""Draws the sample sets that an error budget compares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.evaluation import non_finite
from scorelab.evaluation.guided import TiltedDraws, known_law
from scorelab.experiment.keys import Stream
from scorelab.experiment.row import Row
from scorelab.experiment.spec import Experiment
from scorelab.predictions import Exact
from scorelab.runs.distributed import any_process
from scorelab.runs.sharding import Layout, make_layout
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.targets import num_classes_of, splits_of, truth_of
from scorelab.typing import Array, Batch, ConditionalTarget, Key, Params, Predict, Target

Programs: TypeAlias = dict[str, Any]
"""Jitted functions by name, which take an experiment's keys and numbers.

Experiments of an ensemble share them, so that each is compiled once."""


def sample_row(
  row: Row, bind: Callable[..., Predict], target: Target | None = None
) -> Callable[..., tuple[Array, Array]]:
  """Returns a jitted sampler: `(params, keys [k], starts [k, n, *event]) -> (samples, nfe [])`.

  Two more arguments follow: `labels` [k, n], the classes requested from a conditional network, and
  `weak`, the parameters of the weaker model if the row is guided by one. `target` is used for
  guidance only.
  """
  return jax.jit(functools.partial(_sample_row, row, bind, target))


def _sample_row(
  row: Row,
  bind: Callable[..., Predict],
  target: Target | None,
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
  """Draws a row's samples in batches of `size` over the devices, each batch with its own key.

  Memory use does not grow with the number of samples. The last batch is filled up with the first
  rows. The samples depend on the devices only through rounding.

  Args:
    sample: the row's sampler: see `sample_row`.
    params: the network's parameters.
    keys: [k].
    starts: [k, n, *event].
    size: batch size, at least 1. If the devices do not divide it, each draws the whole batch.
    stop: checked before every batch.
    labels: [k, n], or None; passed to the sampler, as is weak.
    weak: parameters of the weaker model, or None.
    layout: the devices; by default all of this process. If it is shared, all processes must call
      with the same arguments, and each draws its part of every batch.

  Returns:
    Samples [k, n, *event] on the host, in every process, and nfe [].
  """
  layout = make_layout(own=True) if layout is None else layout
  params, weak = layout.place(params), layout.place(weak)
  sets, nfe = [], jnp.zeros((), int)

  def batch_of(values: Array, k: int, i: int) -> Array:
    # The last batch is filled up from its own set: samplers may average over a batch.
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
  """Draws every set of samples that the error budget compares.

  Args:
    experiment: the experiment.
    params: the evaluated parameters.
    stop: checked between sets.
    weak: the parameters of weaker models, by `Row.weak`.
    programs: a cache of jitted samplers that experiments of one ensemble share; may be empty.
    layout: the layout of samples that are drawn in batches: see `sample_in_batches`.

  Returns:
    `reference` [k, m, *event]; `exact` [k, n, *event], which are training points if the target has
    a test set, and then no more than there are; and `rows`. Each row has its `nfe` and the sets
    `network` and, if there is an exact score, `prior` and `true_start`, each [k, n, *event]; given
    an observation also `method`, of the exact score of the target, and `largest`, the same with
    more particles. A row that is guided towards a known law has its own `reference` and `exact`, of
    that law, and `refined`: the exact guided score on a finer grid, from the noised law. A
    conditional network adds `labels` [k, n], the requested classes, and `exact_labels`, those of
    the exact samples.
  """
  protocol, target, law = experiment.evaluation, experiment.target, experiment.law
  programs = {} if programs is None else programs
  root = experiment.key(Stream.EVALUATION, 0)
  reference_key, exact_key, data_key, start_key, sampler_key = jax.random.split(root, 5)

  def draw(name: str, key: Key, size: int, one: Callable[[Key, int], Batch]) -> Batch:
    run = programs.setdefault(name, jax.jit(lambda keys: jax.lax.map(lambda k: one(k, size), keys)))
    return run(jax.random.split(key, protocol.num_keys))

  given_y = protocol.observation is not None and law is not None
  requested_law = functools.partial(_draw_requested, experiment)
  draw_law = (lambda key, n: {"x": law.sample(key, n)}) if given_y else requested_law

  if protocol.reference == "fresh":
    reference = draw("reference", reference_key, protocol.num_reference, draw_law)
  else:  # the same points for every key
    train = protocol.reference == "train"
    points = experiment.data if train else {"x": splits_of(target)["test"]}
    reference = jax.tree.map(lambda a: jnp.broadcast_to(a, (protocol.num_keys, *a.shape)), points)
  if "test" in splits_of(target):  # real points that are not those of the reference
    shuffle = jax.vmap(jax.random.permutation, in_axes=(0, None))
    keys = jax.random.split(exact_key, protocol.num_keys)
    shuffled = jax.tree.map(lambda a: shuffle(keys, a), experiment.data)  # in the same order
    exact = jax.tree.map(lambda a: a[:, : protocol.num_samples], shuffled)
  else:
    exact = draw("exact", exact_key, protocol.num_samples, draw_law)
  requested = draw("asked", data_key, protocol.num_samples, draw_law)
  data, labels = requested["x"], requested.get("label")
  start_keys = jax.random.split(start_key, protocol.num_keys)
  sampler_keys = jax.random.split(sampler_key, protocol.num_keys)

  def sampler(index: int, source: str) -> Callable[..., tuple[Array, Array]]:
    def run(numbers: Mapping[str, Array], *given: Any) -> tuple[Array, Array]:
      row, bind = of_source(experiment.at(numbers), index, source)
      return _sample_row(row, bind, target, *given)

    name = f"row {index}, {source}"
    return functools.partial(programs.setdefault(name, jax.jit(run)), experiment.numbers)

  def draw_tilted(law: TiltedDraws) -> dict[str, Array]:
    """The row's own `reference` and `exact` sets, of the same labels, and `data` to start from."""
    assert labels is not None  # guidance needs classes
    asked = {"reference": (reference_key, reference["label"]), "exact": (exact_key, exact["label"])}
    return {
      name: jax.lax.map(lambda each: law(*each), (jax.random.split(key, len(label)), label))
      for name, (key, label) in (asked | {"data": (data_key, labels)}).items()
    }

  rows = []
  for index, row in enumerate(experiment.evaluation.rows):
    # One key for both on purpose: the same noise, with the data under it or without.
    prior = jax.vmap(lambda k, row=row: row.prior(k, data.shape[1:]))(start_keys)
    weaker = None if row.weak is None else weak[row.weak]
    runs = [("network", "network", params, prior, weaker)]
    own: dict[str, Array] = {}
    if protocol.comparable:
      start, law_of_row = data, known_law(experiment, index)
      if law_of_row is not None:
        own = draw_tilted(law_of_row)
        start = own.pop("data")
        fine = of_source(experiment.at(experiment.numbers), index, "refined")[0]
        runs += [("refined", "refined", {}, jax.vmap(fine.true_start)(start_keys, start), {})]
      true = jax.vmap(row.true_start)(start_keys, start)
      runs += [("prior", "truth", {}, prior, {}), ("true_start", "truth", {}, true, {})]
    learned = not isinstance(experiment.parameterization, Exact)
    if protocol.comparable and not row.samples_prior:
      runs += [("method", "method", {}, prior, None)] if learned else []
      runs += [("largest", "largest", {}, prior, None)] if row.largest_run else []
    sets, nfes = {}, {}
    for name, source, given, starts, weaker in runs:
      sample = sampler(index, source)
      if protocol.batch_size is None:
        stop.check()
        x, nfe = sample(given, sampler_keys, starts, labels, weaker)
      else:
        x, nfe = sample_in_batches(
          sample, given, sampler_keys, starts, protocol.batch_size, stop, labels, weaker, layout
        )
      sets[name], nfes[name] = np.asarray(x), int(nfe)
      if not (finite := np.isfinite(sets[name]).reshape(len(x), -1).all(1)).all():
        k, here = int(np.argmin(finite)), experiment.at(experiment.numbers)
        run, bind = of_source(here, index, source)
        label = None if labels is None else labels[k]
        predict = run.predict(bind, given, label, weaker, target)
        lost = sets.setdefault("lost", {})
        lost[name] = non_finite.first_level(run, sampler_keys[k], predict, starts[k])
    if "prior" in sets and protocol.observation is not None:
      sets.setdefault("method", sets["network"])  # without a network
      sets.setdefault("largest", sets["method"])  # a method without particles
    sets |= {name: np.asarray(values) for name, values in own.items()}
    rows.append(sets | {"nfe": nfes["network"]})
  drawn = {"reference": np.asarray(reference["x"]), "exact": np.asarray(exact["x"]), "rows": rows}
  if labels is not None:
    drawn |= {"labels": np.asarray(labels), "exact_labels": np.asarray(exact["label"])}
  return drawn


def of_source(here: Experiment, index: int, source: str) -> tuple[Row, Callable[..., Predict]]:
  """Returns what samples a set: a row, and what binds its prediction.

  Args:
    here: the experiment, with its numbers.
    index: of the row.
    source: 'network'; 'truth', the exact score of the law; 'refined', the same with more steps; or,
      given an observation, 'method', the posterior method with the exact score of the prior, and
      'largest', with more particles.
  """
  row, law = here.evaluation.rows[index], here.law
  given_y = here.evaluation.observation is not None
  if source == "network" and not (given_y and row.samples_prior):
    return row, here.parameterization.bind
  if source == "refined":
    assert row.refined is not None
    return row.refined(), truth_of(here.target).bind
  if source in ("network", "truth"):  # a row of an exact parameterization, if the network
    assert law is not None
    return row.with_exact_score() if given_y else row, truth_of(law).bind
  bind = truth_of(here.target).bind
  return row.with_largest_cloud() if source == "largest" else row, bind


def _draw_requested(experiment: Experiment, key: Key, size: int) -> Batch:
  """Draws points with the requested labels.

  They are draws from the target, or of classes that are drawn separately.
  """
  requested = experiment.evaluation.labels
  if requested in (None, "data"):
    return experiment.draw_data(key, size)
  label_key, key = jax.random.split(key)
  if requested == "uniform":
    label = jax.random.randint(label_key, (size,), 0, num_classes_of(experiment.target))
  else:
    label = jnp.full((size,), int(requested))
  assert isinstance(experiment.target, ConditionalTarget)  # checked at build
  return {"x": experiment.target.sample_of_class(key, label), "label": label}
