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
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import likelihood_evaluation
from scorelab.experiment import Experiment, Stream
from scorelab.metrics import Reference, girsanov, mode_score_error, score_error
from scorelab.rows import Row
from scorelab.run import StopFlag, Workdir, append_jsonl, write_json
from scorelab.schedules import uniform_log_snr
from scorelab.targets import splits_of
from scorelab.typing import Array, Key, Params, Predict

BUDGET = ("floor", "prior", "discretisation", "learning")
_GIRSANOV_STEPS = 48  # between the schedule's ends


def sample_row(
  row: Row, bind: Callable[[Params], Predict]
) -> Callable[[Params, Key, Array], tuple[Array, Array]]:
  """One row, jitted: `(params, keys [k], starts [k, n, *event]) -> (samples, nfe [])`."""

  @jax.jit
  def run(params: Params, keys: Key, starts: Array) -> tuple[Array, Array]:
    predict = bind(params)

    def one(inputs: tuple[Key, Array]) -> tuple[Array, Array]:
      samples = row.run(inputs[0], predict, inputs[1])
      return samples.x, jnp.asarray(samples.nfe)

    x, nfe = jax.lax.map(one, (keys, starts))
    return x, nfe[0]

  return run


def sample_in_batches(
  sample: Callable[[Params, Key, Array], tuple[Array, Array]],
  params: Params,
  keys: Key,
  starts: Array,
  size: int,
  stop: StopFlag,
) -> tuple[np.ndarray, Array]:
  """As `sample_row`, `size` samples at a time over all devices, each batch with a key of its own.

  What is in memory does not grow with the number of samples; the last batch is filled up.

  Args:
    sample: a row's.
    params: the network's.
    keys: [k].
    starts: [k, n, *event].
    size: at least 1; a multiple of the number of devices uses them all.
    stop: asked before every batch.

  Returns:
    Samples [k, n, *event] on the host, and nfe [].
  """
  devices = jax.devices()
  mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.sharding.PartitionSpec(None, "data" if size % len(devices) == 0 else None)
  sets, nfe = [], jnp.zeros((), int)
  for key, start in zip(keys, starts, strict=True):
    batches = []
    for i in range(0, len(start), size):
      stop.check()
      batch = start[i : i + size]
      full = jnp.concatenate([batch, jnp.zeros((size - len(batch), *batch.shape[1:]))])[None]
      full = jax.device_put(full, jax.sharding.NamedSharding(mesh, spread))
      x, nfe = sample(params, jax.random.fold_in(key, i)[None], full)
      batches.append(np.asarray(x[0, : len(batch)]))
    sets.append(np.concatenate(batches))
  return np.stack(sets), nfe


def draw_sets(experiment: Experiment, params: Params, stop: StopFlag) -> dict[str, Any]:
  """Draws every set of samples that the budget compares.

  Returns:
    `reference` [k, m, *event]; `exact` [k, n, *event], which are training points where the target
    has a test set, and no more of them than there are; and `rows`: for each row its sets `network`
    and, where there is an exact score, `prior` and `true_start`, each [k, n, *event]; and its
    `nfe`.
  """
  protocol, target = experiment.evaluation, experiment.target
  root = experiment.key(Stream.EVALUATION, 0)
  reference_key, exact_key, data_key, start_key, sampler_key = jax.random.split(root, 5)

  def draw(key: Key, size: int) -> Array:
    return jax.lax.map(lambda k: target.sample(k, size), jax.random.split(key, protocol.num_keys))

  if protocol.reference == "fresh":
    reference = draw(reference_key, protocol.num_reference)
  else:  # the same points for every key
    train = protocol.reference == "train"
    points = experiment.data["x"] if train else splits_of(target)["test"]
    reference = jnp.broadcast_to(points, (protocol.num_keys, *points.shape))
  if "test" in splits_of(target):  # real points that are not those of the reference
    shuffle = jax.vmap(jax.random.permutation, in_axes=(0, None))
    shuffled = shuffle(jax.random.split(exact_key, protocol.num_keys), experiment.data["x"])
    exact = shuffled[:, : protocol.num_samples]
  else:
    exact = draw(exact_key, protocol.num_samples)
  data = draw(data_key, protocol.num_samples)
  start_keys = jax.random.split(start_key, protocol.num_keys)
  sampler_keys = jax.random.split(sampler_key, protocol.num_keys)

  rows = []
  for row in experiment.evaluation.rows:
    # One key for both on purpose: the same noise, with the data under it or without.
    prior = jax.vmap(lambda k, row=row: row.prior(k, data.shape[1:]))(start_keys)
    network = sample_row(row, experiment.parameterization.bind)
    runs = [("network", network, params, prior)]
    if protocol.comparable:
      true = jax.vmap(row.true_start)(start_keys, data)
      truth = sample_row(row, lambda _: target.predict)
      runs += [("prior", truth, {}, prior), ("true_start", truth, {}, true)]
    sets = {}
    for name, sample, given, starts in runs:
      stop.check()
      if protocol.batch_size is None:
        x, nfe = sample(given, sampler_keys, starts)
      else:
        size = protocol.batch_size
        x, nfe = sample_in_batches(sample, given, sampler_keys, starts, size, stop)
      sets |= {name: np.asarray(x), "nfe": int(nfe)}
    rows.append(sets)
  return {
    "reference": np.asarray(reference),
    "exact": np.asarray(exact),
    "rows": rows,
  }


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
    for m, metric in enumerate(protocol.metrics.values()):
      stop.check()
      table[:, m, 0, k] = metric(key, sets["exact"][k], reference)
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
    and where nothing exact can be compared with.
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
  return result


def evaluate(
  experiment: Experiment, params: Params, workdir: Workdir, stop: StopFlag
) -> dict[str, Any]:
  """Measures the network and writes evaluation.json and samples.npz.

  Returns:
    What evaluation.json holds.

  Raises:
    Preempted: a stop was requested; nothing is written.
  """
  begun = time.monotonic()
  protocol = experiment.evaluation
  sets = draw_sets(experiment, params, stop)
  measured = measure(experiment, sets, stop)
  rows = [
    {
      "sampler": row.sampler,
      "options": row.options,
      "num_steps": row.num_steps,
      "nfe": drawn["nfe"],
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
  if protocol.comparable:
    result["score_error"] = measure_scores(experiment, params)
  if protocol.girsanov:
    result["girsanov"] = measure_girsanov(experiment, params)
  if protocol.likelihood:
    result["likelihood"] = likelihood_evaluation.measure_likelihood(
      experiment, params, protocol.likelihood, stop
    )
  labelled = zip(row_labels(rows), sets["rows"], strict=True)
  arrays = {label: drawn["network"][0] for label, drawn in labelled}
  np.savez(workdir.samples, exact=sets["exact"][0], reference=sets["reference"][0], **arrays)
  write_json(workdir.evaluation, result)
  append_jsonl(workdir.timings, {"evaluation_seconds": time.monotonic() - begun, "step": None})
  return result


def read(workdir: Workdir) -> dict[str, Any]:
  """What a finished evaluation found."""
  return json.loads(workdir.evaluation.read_text())


def measure_scores(experiment: Experiment, params: Params) -> dict[str, list[float]]:
  """The score error at each of config.evaluation.score_levels, as lists by name.

  For a mixture also `relative_by_mode` [k], at the first of the levels.
  """
  protocol, target = experiment.evaluation, experiment.target
  levels = experiment.schedule.at_ratio(jnp.asarray(protocol.score_levels))

  @jax.jit
  def measure_all(params: Params, root: Key) -> dict[str, Array]:
    key, mode_key = jax.random.split(root)
    predict = experiment.parameterization.bind(params)
    absolute, relative = score_error(key, target, predict, levels, protocol.score_samples)
    errors = {"absolute": absolute, "relative": relative}
    if hasattr(target, "sample_with_components"):
      first = jax.tree.map(lambda a: a[0], levels)
      size = 10 * protocol.score_samples
      errors["relative_by_mode"] = mode_score_error(mode_key, target, predict, first, size)
    return errors

  errors = jax.tree.map(
    lambda a: a.tolist(), measure_all(params, experiment.key(Stream.SCORE_ERROR, 0))
  )
  return {"sigma": list(protocol.score_levels), **errors}


def measure_girsanov(experiment: Experiment, params: Params) -> dict[str, Any]:
  """Girsanov's bound between the schedule's ends: sigma / alpha, noisiest first, and its parts.

  Numbers and lists by name, None where one is not finite.
  """

  @jax.jit
  def run(params: Params, key: Key) -> dict[str, Array]:
    grid = uniform_log_snr(experiment.schedule, _GIRSANOV_STEPS, to_data=False)
    found = girsanov(
      key,
      experiment.target,
      experiment.parameterization.bind(params),
      grid.levels,
      experiment.schedule.prior_std(grid[0]),
      experiment.evaluation.score_samples,
    )
    return {"sigma": grid.levels.sigma / grid.levels.alpha, **found._asdict()}

  def finite(number: float) -> float | None:
    return number if np.isfinite(number) else None

  found = jax.tree.map(
    lambda a: np.asarray(a).tolist(), run(params, experiment.key(Stream.SCORE_ERROR, 1))
  )
  return jax.tree.map(finite, found)


def row_labels(rows: list[dict[str, Any]]) -> list[str]:
  """Rows' names for people and for samples.npz, 'ddim-32-eta=1.0': with what tells them apart."""
  first, *others = (row["options"] for row in rows)
  shared = {k for k, v in first.items() if others and all(o.get(k) == v for o in others)}
  if len({row["options"].get("grid") for row in rows} - {None}) < 2:
    shared.add("grid")
  labels = []
  for row in rows:
    own = [f"{k}={v}" for k, v in row["options"].items() if k not in shared]
    labels.append("-".join([row["sampler"], str(row["num_steps"]), *own]))
  return labels


def format_table(result: dict[str, Any]) -> str:
  """evaluation.json as aligned text: a block for each metric, a line for each row."""
  blocks, labels = [], row_labels(result["rows"])
  for name in result["rows"][0]["metrics"]:
    cells = [["sampler", "NFE", name, "", "/ floor", *BUDGET]]
    for label, row in zip(labels, result["rows"], strict=True):
      numbers = row["metrics"][name]
      value, floor = numbers["value"], numbers["floor"]
      ratio = f"{value / floor:.2f}" if value is not None and floor else "-"
      cells.append(
        [
          label,
          str(row["nfe"]),
          _number(value),
          f"+- {_number(numbers['sem'])}",
          ratio,
          *(_number(numbers[part], signed=part != "floor") for part in BUDGET),
        ]
      )
    blocks.append(cells)
  errors = result.get("score_error", {})
  if errors:
    cells = [["sigma", *(f"{s:g}" for s in errors["sigma"])]]
    cells.append(["relative score error", *(f"{e:.4f}" for e in errors["relative"])])
    blocks.append(cells)
  if "relative_by_mode" in errors:
    by_mode = errors["relative_by_mode"]
    cells = [["mode", *map(str, range(1, len(by_mode) + 1))]]
    cells.append([f"at sigma = {errors['sigma'][0]:g}", *(f"{e:.4f}" for e in by_mode)])
    blocks.append(cells)
  if "girsanov" in result:
    bound, parts = result["girsanov"], ("prior", "learning", "total")
    cells = [["bound on KL, nats", *parts], ["by Girsanov's theorem"]]
    cells[1] += [f"{_number(bound[part])} +- {_number(bound[f'{part}_sem'])}" for part in parts]
    blocks.append(cells)
  if "likelihood" in result:
    blocks.append(likelihood_evaluation.table(result["likelihood"], result.get("girsanov")))
  return "\n\n".join(map(align, blocks))


def _number(value: float | None, signed: bool = False) -> str:
  """Four significant digits at most, or '-' where there is none."""
  if value is None:
    return "-"
  return f"{value:+.4f}" if signed else f"{value:.4f}"


def align(cells: list[list[str]]) -> str:
  """Columns of text: the first flush left, the others flush right."""
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  )
