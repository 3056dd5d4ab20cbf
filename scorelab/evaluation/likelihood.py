"""Held-out log-likelihood of a model, next to that of the exact law, with bounds.

The model is the probability flow from the prior at the schedule's noisiest level to its cleanest.
Its density there is evaluated at x = alpha x_0 + sigma eps, for held-out x_0. So the model is
compared with q_t, the law of those x:

    E log q_t(x) - E log p(x)  =  KL(q_t || p)

exactly. Girsanov's bound is a bound on the same KL of another model, the reverse SDE with the same
score. The variational bound is a bound on -log p(x_0) of a third model, the chain of Gaussian steps
and its decoder. Data on a lattice (`target.bin_width`) are dequantised by uniform noise over their
bins instead of eps, and bits per dimension refer to the probabilities of bins. All densities are in
units of the data, of x / alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.experiment.keys import Stream
from scorelab.experiment.spec import Experiment, LikelihoodProtocol
from scorelab.likelihood.flow import STATUSES, adaptive_log_likelihood, log_likelihood
from scorelab.losses.variational import bits_per_dim, bound_terms
from scorelab.metrics.statistics import mean_and_sem
from scorelab.predictions import noised
from scorelab.runs.signals import StopFlag
from scorelab.schedules import Grid, uniform_log_snr
from scorelab.targets import splits_of
from scorelab.typing import Array, DensityTarget, Key, LatticeTarget, MixtureTarget, Params, Predict


def held_out(experiment: Experiment, key: Key, num_points: int) -> tuple[Array, str]:
  """Returns held-out points [n, *event] and their source.

  They are the target's test points, else its validation points, at most num_points of them, in a
  random order; else num_points new draws.
  """
  splits = splits_of(experiment.target)
  for source in ("test", "validation"):
    if source in splits:
      return jax.random.permutation(key, splits[source])[:num_points], source
  return jax.jit(experiment.target.sample, static_argnums=1)(key, num_points), "fresh"


def measure_likelihood(
  experiment: Experiment,
  params: Params,
  protocol: LikelihoodProtocol,
  stop: StopFlag,
  programs: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Means over held-out points with their standard errors, in nats, as in evaluation.json.

  Experiments of an ensemble share `programs`, jitted functions by name.

  Returns:
    By name: `flow`, the log-density by the probability flow; `truth`, that of the exact law at the
    same points, and `kl`, their difference, if the target knows its density; `bound`, a lower bound
    on the chain's log-density, and `bound_kl`, the upper bound on a KL that follows. Each has a
    `_sem`, and is None if it is unknown or not finite. `bits_per_dim` and `bound_bits_per_dim`
    refer to bins of `bin_width`, or are differential if that is None. `failed` counts the points
    that the adaptive solver gave up; no number here includes them.
  """
  key = experiment.key(Stream.LIKELIHOOD, 0)
  point_key, noise_key, flow_key, bound_key = jax.random.split(key, 4)
  target = experiment.target
  bin_width = target.bin_width if isinstance(target, LatticeTarget) else None
  x0, source = held_out(experiment, point_key, protocol.num_points)
  dim, scale = x0[0].size, float(target.scale)
  if isinstance(target, LatticeTarget):
    x0 = target.dequantise(noise_key, x0)

  @jax.jit
  def by_flow(
    numbers: Mapping[str, Array], params: Params, x0: Array, noise_key: Key, flow_key: Key
  ) -> dict[str, Array]:
    here = experiment.at(numbers)
    grid = uniform_log_snr(here.schedule, protocol.num_steps, to_data=False)
    clean = grid[-1]
    x = clean.alpha * x0 if bin_width is not None else noised(noise_key, x0, clean)[0]
    predict, unit = here.parameterization.bind(params), dim * jnp.log(clean.alpha)
    values = _flow(flow_key, predict, x, grid, protocol, scale)
    values["flow"] += unit
    values["sigma"] = clean.sigma / clean.alpha
    if bin_width is None and isinstance(target, MixtureTarget):
      values["truth"] = target.perturbed(clean.alpha, clean.sigma).log_prob(x) + unit
    return values

  @jax.jit
  def by_chain(
    numbers: Mapping[str, Array], params: Params, x0: Array, bound_key: Key
  ) -> dict[str, Array]:
    here = experiment.at(numbers)
    grid = uniform_log_snr(here.schedule, protocol.bound_steps)
    predict = here.parameterization.bind(params)
    bound = -bound_terms(bound_key, predict, x0, grid, variance=protocol.variance).total
    if bin_width is None and isinstance(target, DensityTarget):
      return {"bound": bound, "bound_kl": target.log_prob(x0) - bound}
    return {"bound": bound}

  values, programs = {}, {} if programs is None else programs
  for name, measure, keys in (
    ("flow", by_flow, (noise_key, flow_key)),
    ("chain", by_chain, (bound_key,)),
  ):
    stop.check()
    run = programs.setdefault(name, measure)
    values |= jax.tree.map(np.asarray, run(experiment.numbers, params, x0, *keys))
  solved = values["status"] == 0
  if "truth" in values:
    values["kl"] = values["truth"] - values["flow"]
  result: dict[str, Any] = {
    "points": len(x0),
    "source": source,
    "sigma": float(values["sigma"]),
    "method": protocol.method,
    "divergence": protocol.divergence,
    "nfe": float(np.mean(values["nfe"])),
    "failed": int(np.sum(~solved)),
    "bound_steps": protocol.bound_steps,
    "bin_width": bin_width,
  }
  for name in ("flow", "truth", "kl", "bound", "bound_kl"):
    result[name], result[f"{name}_sem"] = _mean(values[name][solved] if name in values else None)
  for bits, name in (("bits_per_dim", "flow"), ("bound_bits_per_dim", "bound")):
    nats = result[name]
    given = {} if bin_width is None else {"bin_width": bin_width}
    result[bits] = None if nats is None else bits_per_dim(-nats, dim, **given)
  return result


def _flow(
  key: Key, predict: Predict, x: Array, grid: Grid, protocol: LikelihoodProtocol, data_std: float
) -> dict[str, Array]:
  """Log-densities at x [n, *event], with the solver's nfe and status: [n] or []."""
  options: dict[str, Any] = {
    "divergence": protocol.divergence,
    "num_probes": protocol.num_probes,
    "data_std": data_std,
  }
  if protocol.method == "adaptive":
    options |= {"rtol": protocol.tolerance, "atol": protocol.tolerance}
    found = adaptive_log_likelihood(key, predict, x, grid, **options)
    return {"flow": found.log_prob, "nfe": found.nfe, "status": found.status}
  found = log_likelihood(key, predict, x, grid, method=protocol.method, **options)
  return {
    "flow": found.log_prob,
    "nfe": jnp.asarray(found.nfe),
    "status": jnp.where(jnp.isfinite(found.log_prob), 0, len(STATUSES)),
  }


def _mean(values: np.ndarray | None) -> tuple[float | None, float | None]:
  """Mean and standard error of values [n]; None if not finite or unknown."""
  if values is None or not values.size:
    return None, None
  mean, sem = mean_and_sem(values.astype(float))
  return (mean if np.isfinite(mean) else None), (sem if np.isfinite(sem) else None)


def table(result: dict[str, Any], girsanov: dict[str, Any] | None) -> list[list[str]]:
  """Formats the likelihood block of the evaluation's table: one line per model."""

  def number(found: dict[str, Any], name: str) -> str:
    if found.get(name) is None:
      return "-"
    sem = found.get(f"{name}_sem")
    return f"{found[name]:.4f}" + ("" if sem is None else f" +- {sem:.4f}")

  width = result["bin_width"]
  bins = "bits/dim" if width is None else f"bits/dim, bins of {width:g}"
  title = f"log-likelihood of {result['points']} {result['source']} points, nats"
  failed = f", {result['failed']} failed" if result["failed"] else ""
  cells = [
    [title, "model", "truth", "KL(data || model)", bins],
    [
      f"probability flow, {result['method']}, {result['nfe']:.0f} NFE{failed}",
      *(number(result, name) for name in ("flow", "truth", "kl", "bits_per_dim")),
    ],
    [
      f"variational bound, {result['bound_steps']} steps",
      _bounded(">=", number(result, "bound")),
      "-",
      _bounded("<=", number(result, "bound_kl")),
      _bounded("<=", number(result, "bound_bits_per_dim")),
    ],
  ]
  if girsanov is not None and result["truth"] is not None:
    bound = _bounded("<=", number(girsanov, "total"))
    cells.append(["reverse SDE, by Girsanov's theorem", "-", "-", bound, "-"])
  return cells


def _bounded(sign: str, text: str) -> str:
  return text if text == "-" else f"{sign} {text}"
