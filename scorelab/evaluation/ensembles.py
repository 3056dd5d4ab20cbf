"""Evaluation of every member of an ensemble, and the combined table.

Each member is evaluated like its single run, into `members/<name>/evaluation.json` and
`samples.npz` next to it. A stopped evaluation resumes at the member where it stopped. The
ensemble's own evaluation.json has the keys of a single run's, in which

    a number        is the mean over the seeds,
    its `sem`       or `<name>_sem` is the standard error over the seeds (null for one seed), and
    protocol        also has `num_members`, the number of seeds, and `seeds`, the list of them.

With `ensemble.over`, `rows` has every row of every value; the row's options name the value.
Results that depend on the value but not on the row, `score_error`, `girsanov` and `likelihood`,
are then in `groups`: a list of {over, rows, score_error, ...}, one per combination of values.
`members` lists each member's name, seed, values and `slot`: the index of its training in
metrics.jsonl's lists. samples.npz has the samples of every row, of the first seed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scorelab.evaluation import evaluator as evaluation
from scorelab.experiment.sampler_spec import make_labels
from scorelab.metrics.statistics import mean_and_sem
from scorelab.runs.files import write_json
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.training.ensembles import Ensemble, Member, short, state_of
from scorelab.typing import Params


def evaluate(
  ensemble: Ensemble,
  params: Params,
  workdir: Workdir,
  stop: StopFlag,
  weak: Mapping[float, Params],
) -> dict[str, Any]:
  """Evaluates every member that is not evaluated yet, and writes the combined table.

  Args:
    ensemble: the ensemble.
    params: the evaluated parameters of all trainings, on a leading axis.
    workdir: the ensemble's directory.
    stop: checked between members and between parts of an evaluation.
    weak: parameters of weaker models by `Row.weak`, on a leading axis.

  Returns:
    The contents of evaluation.json.

  Raises:
    Preempted: a stop was requested; finished members are kept.
  """
  programs: evaluation.Programs = {}
  for number, member in enumerate(ensemble.members, 1):
    folder = folder_of(workdir, member)
    if _is_measured(folder, member):
      continue
    folder.path.mkdir(parents=True, exist_ok=True)
    given, weaker = state_of(params, member), state_of(dict(weak), member)
    evaluation.evaluate(member.experiment, given, folder, stop, weaker, programs)
    print(f"evaluated {member.name}, {number} of {len(ensemble.members)}", file=sys.stderr)
  tables = {m.name: evaluation.read(folder_of(workdir, m)) for m in ensemble.members}
  result = combine(ensemble.members, tables)
  arrays: dict[str, Any] = _samples(ensemble.members, workdir, result)
  np.savez(workdir.samples, **arrays)
  write_json(workdir.evaluation, result)
  return result


def _is_measured(folder: Workdir, member: Member) -> bool:
  """Returns True if the member has an evaluation with its current rows."""
  if not folder.evaluation.exists():
    return False
  return len(evaluation.read(folder)["rows"]) == len(member.experiment.evaluation.rows)


def folder_of(workdir: Workdir, member: Member) -> Workdir:
  """Output directory of one ensemble member."""
  return Workdir(workdir.members / member.name)


def combine(members: Sequence[Member], tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
  """Combines the members' evaluations, by name, into the ensemble's evaluation.json."""
  groups = [_combine_seeds(of_value, tables) for of_value in by_value(members)]
  first = tables[members[0].name]
  seeds = list(dict.fromkeys(member.seed for member in members))
  rows = [row for group in groups for row in group["rows"]]
  named = [(row["sampler"], row["num_steps"], row["options"]) for row in rows]
  for row, label in zip(rows, make_labels(named), strict=True):
    row["label"] = label
  result = {
    "protocol": first["protocol"] | {"num_members": len(seeds), "seeds": seeds},
    "rows": rows,
    "members": [{"name": m.name, "seed": m.seed, "over": m.over, "slot": m.slot} for m in members],
  }
  faults = {member.name: tables[member.name].get("non_finite", ()) for member in members}
  if any(faults.values()):
    named = [f"{name}: {fault}" for name, of_member in faults.items() for fault in of_member]
    result["non_finite"] = named
  if members[0].over:
    return result | {"groups": groups}
  del groups[0]["over"]
  return result | groups[0]


def by_value(members: Sequence[Member]) -> list[list[Member]]:
  """Groups members by their values: those of a group differ only in their seeds."""
  groups: dict[tuple[float, ...], list[Member]] = {}
  for member in members:
    groups.setdefault(tuple(member.over.values()), []).append(member)
  return list(groups.values())


def _combine_seeds(
  members: Sequence[Member], tables: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
  """Combines rows, score error, bound and likelihood of members that differ only in their seeds."""
  found = [tables[member.name] for member in members]
  over = members[0].over
  rows = []
  for of_seeds in zip(*(table["rows"] for table in found), strict=True):
    metrics = {
      name: average([row["metrics"][name] for row in of_seeds]) for name in of_seeds[0]["metrics"]
    }
    options = of_seeds[0]["options"] | _not_in(of_seeds[0]["options"], over)
    counts = {
      name: round(np.mean([row[name] for row in of_seeds]))
      for name in ("nfe", "network_calls")
      if name in of_seeds[0]
    }
    rows.append({**of_seeds[0], "options": options, **counts, "metrics": metrics})
  parts = {
    name: average([table[name] for table in found])
    for name in ("score_error", "girsanov", "flow", "ancestral", "likelihood")
    if name in found[0]
  }
  return {"over": over, "rows": rows, **parts}


def _not_in(options: Mapping[str, Any], over: Mapping[str, float]) -> dict[str, float]:
  """Returns the values that are not in a row's own options, by the names that they get there."""
  named = {}
  for (name, value), field in zip(short(over).items(), over, strict=True):
    if field.startswith("sampler."):
      if options.get(field.removeprefix("sampler.")) != value:
        named[field] = value
    else:
      named[name if name not in options else field] = value
  return named


def average(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Means by name, of numbers and lists of numbers, with standard errors over the tables.

  An entry that is equal in all tables and has no standard error in any is copied. An entry that is
  None in one table is None. The standard error of `value` is called `sem`, that of any other name
  `<name>_sem`.
  """
  result: dict[str, Any] = {}
  for name, first in tables[0].items():
    if name == "sem" or name.endswith("_sem"):
      continue
    values = [table[name] for table in tables]
    error = "sem" if name == "value" else f"{name}_sem"
    if error not in tables[0] and all(value == first for value in values):
      result[name] = first
    else:
      result |= {name: _over_first(_mean, values), error: _over_first(_sem, values)}
  return result


def _over_first(function: Any, values: Sequence[Any]) -> Any:
  """Applies a function of numbers to each position of lists."""
  if isinstance(values[0], list):
    return [_over_first(function, column) for column in zip(*values, strict=True)]
  return None if None in values else function(values)


def _mean(values: Sequence[float]) -> float:
  return mean_and_sem(values)[0]


def _sem(values: Sequence[float]) -> float | None:
  return mean_and_sem(values)[1] if len(values) > 1 else None


def _samples(
  members: Sequence[Member], workdir: Workdir, result: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Returns the contents of samples.npz: sets by row, of the first seed of each combination."""
  shared, drawn = {}, []
  for of_value in by_value(members):
    with np.load(folder_of(workdir, of_value[0]).samples) as arrays:
      own = dict(arrays)
    shared = {k: own.pop(k) for k in ("exact", "reference", "labels") if k in own}
    drawn += own.values()
  return shared | dict(zip((row["label"] for row in result["rows"]), drawn, strict=True))
