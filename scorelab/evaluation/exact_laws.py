"""Exact errors of an evaluation's rows: budgets without samples, keys or standard errors.

For each distance D of the law of a row's samples from the target,

    floor           0
    discretisation  D(exact score, from the true p_T)
    prior           D(exact score, from the prior) - D(exact score, from the true p_T)
    learning        D(network, from the prior) - D(exact score, from the prior)

which add up to D(network, from the prior). If a law is not known, there is a reason instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import exact
from scorelab.exact.chains import refusal
from scorelab.exact.responses import in_float64
from scorelab.experiment.row import Row
from scorelab.experiment.spec import Experiment
from scorelab.metrics.budget import BUDGET
from scorelab.predictions import Exact, Prediction
from scorelab.runs.signals import StopFlag
from scorelab.schedules import Grid, Level, uniform_log_snr
from scorelab.targets import truth_of
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Params, Predict

NAMES = {"kl": "KL, nats", "w2": "W2"}
"""Names of the exact distances among the metrics of evaluation.json."""

_FLOW_STEPS = 96  # of the certificate
_CERTIFIED = 4  # levels of the certificate below the noisiest
_Sets = dict[str, dict[str, exact.Exact]]


def add_exact(
  experiment: Experiment,
  params: Params,
  weak: Mapping[float, Params],
  rows: list[dict[str, Any]],
  stop: StopFlag,
) -> None:
  """Adds exact distances to the metrics of evaluation.json's rows, in place.

  A distance that is known for some row is a metric of every row; its `error` is that of the
  arithmetic, its standard errors are None. `not_exact` says why some number of a row is None.

  Args:
    experiment, params, weak, stop: as for `evaluate`.
    rows: of evaluation.json, in the order of the evaluation's.

  Raises:
    Preempted: a stop was requested.
  """
  here = experiment.at(experiment.numbers)
  with jax.enable_x64(True):
    params, weak = in_float64(params), in_float64(dict(weak))
  found = [_measure(here, row, params, weak, stop) for row in here.evaluation.rows]
  known = {name for sets, _ in found for distances in sets.values() for name in distances}
  for row, (sets, reasons) in zip(rows, found, strict=True):
    for name, shown in NAMES.items():
      if name in known:
        row["metrics"][shown] = _budget(
          {k: found[name] for k, found in sets.items() if name in found}
        )
    if reasons:
      row["not_exact"] = "; ".join(dict.fromkeys(reasons))


def measure_certificate(experiment: Experiment, params: Params) -> dict[str, list[Any]] | None:
  """Returns KL(q_t || p_t) in nats of the probability flow's law p_t, by level of sigma / alpha.

  The reverse SDE with the same score has Girsanov's bound on the same divergence of its own law.
  None if the target is no mixture of dimension 1 or 2.
  """
  here, target = experiment.at(experiment.numbers), experiment.target
  if not isinstance(target, GaussianMixture) or target.dim > 2:
    return None
  grid = uniform_log_snr(here.schedule, _FLOW_STEPS, to_data=False)
  with jax.enable_x64(True):
    predict = here.parameterization.bind(in_float64(params))
  at = range(0, _FLOW_STEPS + 1, _FLOW_STEPS // _CERTIFIED)
  return _by_level(grid, at, exact.flow_certificate(predict, target, grid, at))


def measure_chain(experiment: Experiment, params: Params) -> dict[str, Any] | None:
  """Returns KL(q_t || p_t) in nats of the law p_t of `ancestral`, by level of sigma / alpha.

  The levels are those of `measure_certificate`. The sampler's steps are those of the main row, and
  up to three more so that the levels are among the grid's, which is uniform in log-SNR between the
  schedule's ends. The network is evaluated in float32, its law in float64. `refused` says why
  levels have no number.
  None if the target is no mixture of dimension 1 or 2.
  """
  here, target = experiment.at(experiment.numbers), experiment.target
  if not isinstance(target, GaussianMixture) or target.dim > 2:
    return None
  stride = -(-here.evaluation.rows[0].num_steps // _CERTIFIED)
  grid = uniform_log_snr(here.schedule, stride * _CERTIFIED, to_data=False)
  predict = _in_float32(here.parameterization.bind(params))
  at = range(0, grid.num_steps + 1, stride)
  cleanest = exact.cleanest_level(target, grid)
  known = [index for index in at if index <= cleanest]
  found = exact.sde_certificate(predict, target, grid, known)
  unknown = [exact.Exact(np.nan, np.nan)] * (len(at) - len(known))
  refused = {"refused": refusal(grid, at[len(known)], cleanest)} if unknown else {}
  return {"num_steps": grid.num_steps, **_by_level(grid, at, [*found, *unknown]), **refused}


def _in_float32(predict: Predict) -> Predict:
  """Evaluates a network as samplers do, for points in float64: twice as fast on a CPU."""

  def single(x: Array, level: Level) -> Prediction:
    small = jax.tree.map(lambda a: a.astype(jnp.float32), (x, level))
    return Prediction.of(x, level, "x0", x0=predict(*small).x0.astype(x.dtype))

  return single


def _by_level(grid: Grid, at: Sequence[int], found: Sequence[exact.Exact]) -> dict[str, Any]:
  """Lists of sigma / alpha, divergence and error; None if a number is not finite."""
  return {
    "sigma": [float(grid[i].sigma / grid[i].alpha) for i in at],
    "kl": [kl.value if np.isfinite(kl.value) else None for kl in found],
    "error": [kl.error if np.isfinite(kl.error) else None for kl in found],
  }


def _measure(
  here: Experiment, row: Row, params: Params, weak: Mapping[float, Params], stop: StopFlag
) -> tuple[_Sets, list[str]]:
  """Returns a row's distances by set, as in `evaluator.measure`, and why others are not known."""
  target = here.target
  if row.grid is None or row.method is None:
    return {}, [f"sampler = {row.sampler} is a kernel that follows no grid"]
  if here.conditional:
    return {}, ["a conditional network has a law for each class"]

  def changed(bind: Any, params: Params, weaker: Params) -> Predict:
    predict = row.predict(bind, params, None, weaker, target)
    return predict if row.clip is None else row.clip(predict, event_ndim=1)

  runs: dict[str, tuple[Predict | None, str]] = {}
  if here.evaluation.comparable:
    plain = row.guidance is None and row.clip is None
    truth = None if plain else changed(truth_of(target).bind, {}, {})
    runs = {"true_start": (truth, "true"), "prior": (truth, "prior")}
  learned = not isinstance(here.parameterization, Exact)
  if learned:
    weaker = None if row.weak is None else weak[row.weak]
    runs["network"] = changed(here.parameterization.bind, params, weaker), "prior"
  sets, reasons = {}, []
  for name, (predict, start) in runs.items():
    stop.check()
    try:
      found = exact.law_distances(row.method, target, row.grid, predict=predict, start=start)
    except ValueError as error:
      reasons.append(str(error).partition("\n")[0])
      continue
    kl = found["kl"]
    if np.isfinite(kl[:2]).all():
      sets[name] = found
    elif np.isfinite(kl.value) and kl.folds:
      reasons.append(f"the map of the start folds, and KL is at least {kl.value:.3g}")
    else:
      reasons.append("KL is not finite")
  if not learned and "prior" in sets:
    sets["network"] = sets["prior"]
  return sets, reasons


def _budget(sets: Mapping[str, exact.Exact]) -> dict[str, float | None]:
  """Returns one distance as an entry of evaluation.json's metrics."""
  nothing = exact.Exact(np.nan, np.nan)
  true_start, prior, network = (sets.get(k, nothing) for k in ("true_start", "prior", "network"))
  numbers = {
    "value": network.value,
    "error": max((found.error for found in sets.values()), default=np.nan),
    "floor": 0.0,
    "discretisation": true_start.value,
    "prior": prior.value - true_start.value,
    "learning": network.value - prior.value,
  }
  known = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
  unused = ("sem", *(f"{part}_sem" for part in BUDGET), "over_floor", "over_floor_sem")
  return known | dict.fromkeys(unused)
