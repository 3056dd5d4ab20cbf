"""Evaluates a trained network: a table of metrics, each with its error budget.

For a metric M and a sampler on a grid from its prior,

    floor           M(exact samples, reference)
    discretisation  M(exact score, from the true p_T) - floor
    prior           M(exact score, from the prior) - M(exact score, from the true p_T)
    learning        M(network, from the prior) - M(exact score, from the prior)

which add up to M(network, from the prior). Each may be negative. For each key the four share the
reference, the projections, the noise of the start and the sampler's noise, so the standard errors
are those of paired differences. Without an exact score, or if the network gives no score, there
are only a value and a floor; the other three are null.

A conditional network is evaluated on the classes of draws from the target, or on given classes. The
exact score is then that of the same class. If a row is guided, so is its exact score. If the law
that it is guided towards is known, p(x)^(1-w) p(x | c)^w, the floor, the reference and the true p_T
are of that law, and there is one part more:

    guidance        M(exact guided score, from the true p_T, on a finer grid) - floor
    discretisation  M(exact guided score, from the true p_T) - M(the same, on a finer grid)

Guidance is then the bias that steps do not remove. If that law is not known, the row is compared
with the law of the classes, and what guidance changes is part of its discretisation.

Given an observation, samples are of the posterior, whose exact score takes the place of the
target's, and there are two parts more:

    likelihood      M(method, exact score of the target, most particles) - M(exact posterior score)
    particles       M(method, exact score of the target) - M(the same, most particles)
    learning        M(method, network) - M(method, exact score of the target)

all from the prior and on the same grid. A posterior that is not known has a value only, and the
floor is that of points of the target, without the observation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from scorelab.evaluation import exact_laws, non_finite
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.evaluation.draw import Programs, draw_sets
from scorelab.evaluation.scores import measure_girsanov, measure_scores
from scorelab.experiment.keys import Stream
from scorelab.experiment.spec import Experiment
from scorelab.metrics import Reference
from scorelab.metrics.budget import budget
from scorelab.runs.distributed import is_leader
from scorelab.runs.files import append_jsonl, write_json
from scorelab.runs.sharding import Layout
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.typing import Params

SETS = ("true_start", "prior", "network")
GUIDED_SETS = ("refined", *SETS)
TILTED = "p(x)^(1-w) p(x | c)^w"
POSTERIOR_SETS = ("true_start", "prior", "largest", "method", "network")


def measure(experiment: Experiment, sets: dict[str, Any], stop: StopFlag) -> list[np.ndarray]:
  """Computes every metric of every row's sets: [metrics, 1 + sets, k] for each row.

  The first is the floor, the others are SETS; GUIDED_SETS of a row that is guided towards a known
  law; or POSTERIOR_SETS given an observation whose posterior is known; nan if a set does not exist.
  """
  protocol = experiment.evaluation
  keys = jax.random.split(experiment.key(Stream.EVALUATION, 1), protocol.num_keys)
  usual = POSTERIOR_SETS if protocol.observation and protocol.comparable else SETS
  names = [GUIDED_SETS if "refined" in row else usual for row in sets["rows"]]
  tables = [
    np.full((len(protocol.metrics), 1 + len(own), protocol.num_keys), np.nan) for own in names
  ]
  target = experiment.law or experiment.target

  def references(points: np.ndarray, k: int) -> tuple[Reference, Reference]:
    """Returns the references of exact samples and of rows."""
    reference = Reference(points[k], target, observation=protocol.observation)
    if "labels" not in sets:
      return reference, reference
    exact, drawn = (reference.with_labels(sets[name][k]) for name in ("exact_labels", "labels"))
    return exact, drawn

  for k, key in enumerate(keys):
    # Keys outermost: one key's sorted projections are in memory at a time.
    shared = references(sets["reference"], k)
    against = [
      references(row["reference"], k) if "reference" in row else shared for row in sets["rows"]
    ]
    for m, metric in enumerate(protocol.metrics.values()):
      stop.check()
      floor = metric(key, sets["exact"][k], shared[0])
      for r, row in enumerate(sets["rows"]):
        exact, drawn = against[r]
        tables[r][m, 0, k] = metric(key, row["exact"][k], exact) if "exact" in row else floor
        for s, name in enumerate(names[r], start=1):
          if name in row:
            tables[r][m, s, k] = metric(key, row[name][k], drawn)
  return tables


def evaluate(
  experiment: Experiment,
  params: Params,
  workdir: Workdir,
  stop: StopFlag,
  weak: Mapping[float, Params] = MappingProxyType({}),
  programs: Programs | None = None,
  layout: Layout | None = None,
) -> dict[str, Any]:
  """Evaluates the network and writes evaluation.json and samples.npz.

  If the layout is shared, all processes must call; process 0 measures and writes.

  Args:
    experiment, params, stop, weak, programs, layout: as for `draw_sets`.
    workdir: the run's directory.

  Returns:
    The contents of evaluation.json, with `non_finite` only if some number is not finite. {} in
    processes other than 0.

  Raises:
    Preempted: a stop was requested; nothing is written.
  """
  begun = time.monotonic()
  protocol = experiment.evaluation
  programs = {} if programs is None else programs
  helps = layout is not None and layout.shared and not is_leader()
  if helps and protocol.batch_size is None:  # process 0 draws alone
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
      **({"law": TILTED} if "refined" in drawn else {}),
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
  if protocol.exact:  # after the search for numbers that are not finite: these have their reasons
    exact_laws.add_exact(experiment, params, weak, rows, stop)
    if protocol.girsanov and (found := exact_laws.measure_certificate(experiment, params)):
      result["flow"] = found
    if protocol.girsanov and (found := exact_laws.measure_chain(experiment, params)):
      result["ancestral"] = found
  np.savez(workdir.samples, exact=sets["exact"][0], reference=sets["reference"][0], **arrays)
  write_json(workdir.evaluation, result)
  append_jsonl(workdir.timings, {"evaluation_seconds": time.monotonic() - begun, "step": None})
  return result


def read(workdir: Workdir) -> dict[str, Any]:
  """Reads the evaluation.json of a finished evaluation."""
  return json.loads(workdir.evaluation.read_text())
