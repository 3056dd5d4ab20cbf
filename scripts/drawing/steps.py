"""Quality against the number of DDIM steps, with its error budget, beside the published numbers."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb

from scorelab import evaluation
from scorelab.experiment import Experiment
from scorelab.plotting import budgets, curves, save, style, write_csv
from scorelab.predictions import Exact
from scorelab.run import StopFlag
from scripts.drawing.source import Source

STEPS = (4, 9, 16, 25, 49, 100)
ETAS = (0.0, 0.1, 0.5, 1.0)
METRICS = ("max_sliced_wasserstein", "energy_distance", "off_mode_share", "mode_weight_tv")
# What a published row is.
NETWORK = "network"
EXACT_PRIOR = "exact score, from N(0, 100 I)"
EXACT_TRUE = "exact score, from the true p_T"
EXACT_WIDE = "exact score, smax 80, from N(0, 6400 I)"
# Which of `evaluation.measure`'s four sets it is, and the part of the budget whose line it lies on.
_SET = {EXACT_TRUE: 1, EXACT_PRIOR: 2, NETWORK: 3, EXACT_WIDE: 2}
_PART = {EXACT_TRUE: "discretisation", EXACT_PRIOR: "prior", NETWORK: "learning"}

Record: TypeAlias = dict[str, Any]
Published: TypeAlias = dict[tuple[str, float], tuple[float, ...]]

# Max-sliced W2 by eta, at these steps. Source: published notebook's code, 3 sampling keys.
STEPS_PUBLISHED = (4, 9, 16, 25, 49, 100)
PUBLISHED: Published = {
  (NETWORK, 0.0): (2.65, 2.62, 2.64, 2.65, 2.66, 2.66),
  (NETWORK, 1.0): (2.82, 2.50, 2.54, 2.14, 2.21, 2.34),
  (EXACT_PRIOR, 0.0): (4.24, 3.39, 3.18, 3.10, 3.04, 3.00),
  (EXACT_PRIOR, 1.0): (4.63, 3.17, 2.70, 2.41, 2.24, 2.41),
  (EXACT_TRUE, 0.0): (2.61, 1.46, 1.14, 1.03, 0.99, 0.99),
  (EXACT_WIDE, 0.0): (5.36, 2.57, 1.90, 1.55, 1.34, 1.28),
}
_PUBLISHED_KEYS = 3
PUBLISHED_FLOOR = (1.28, 10)  # and its number of draws
_NETWORK_TOLERANCE = 0.4


def draw(source: Source) -> None:
  """Quality against DDIM's steps for four etas, with its error budget and the published numbers."""
  experiment = source.evaluating(source.rows(*_specs(ETAS)), METRICS)
  measured = measure(source, experiment)
  records = [
    {
      "sampler": row.sampler,
      "eta": row.options["eta"],
      "num_steps": row.num_steps,
      "nfe": row.num_steps,  # DDIM
      "metric": metric,
      **evaluation.budget(values),
    }
    for row, of_row in zip(experiment.evaluation.rows, measured, strict=True)
    for metric, values in zip(METRICS, of_row, strict=True)
  ]
  write_csv(source.out / "steps.csv", records, source.command)
  protocol = experiment.evaluation
  text = (
    f"DDIM; {protocol.num_samples} samples v {protocol.num_reference} points "
    f"({protocol.reference}), {experiment.config['evaluation']['num_projections']} projections, "
    f"mean and standard error over {source.keys} keys"
  )
  published = PUBLISHED if source.name == "ncsn_gmm_published" else {}
  label = "published notebook's code, 3 keys"
  main, *others = (_panel(records, metric, published) for metric in METRICS)
  save(curves.quality([main], text, label), source.out / "steps.png", source.command)
  save(curves.quality(others, text), source.out / "steps_metrics.png", source.command)
  if published:
    text += "\npublished: circles, network; squares, exact score from N(0, 100 I); triangles, "
    text += "exact score from the true p_T"
  panels = [[_bands(records, metric, eta, published) for eta in ETAS] for metric in METRICS[:2]]
  save(budgets.bands(panels, text, label), source.out / "steps_budget.png", source.command)
  if published:
    rows = compare(experiment, measured, *_measure_wide(source))
    write_csv(source.out / "published.csv", rows, source.command)
    print(_as_text(rows))


def _specs(etas: Sequence[float]) -> list[str]:
  return [f"ddim:{n}:eta={eta}" for eta in etas for n in STEPS]


class Progress(StopFlag):
  """Says now and then how much of draw_sets and measure is done: they ask it before every part."""

  def __init__(self, experiment: Experiment) -> None:
    super().__init__()
    protocol = experiment.evaluation
    self._done, self._begun = 0, time.monotonic()
    self._stages = (3 * len(protocol.rows), protocol.num_keys * len(protocol.metrics))

  def check(self) -> None:
    super().check()
    samples, measures = self._stages
    stage, done, total = ("sampling", self._done, samples)
    if self._done >= samples:
      stage, done, total = ("measuring", self._done - samples, measures)
    if done % max(total // 4, 1) == 0:
      print(f"  {stage} {done}/{total}  {time.monotonic() - self._begun:.0f} s", flush=True)
    self._done += 1


def measure(source: Source, experiment: Experiment) -> np.ndarray:
  """`evaluation.measure` of the experiment's rows: [rows, metrics, 4, keys]."""
  progress = Progress(experiment)
  sets = evaluation.draw_sets(experiment, source.params, progress)
  return evaluation.measure(experiment, sets, progress)


def _measure_wide(source: Source) -> tuple[Experiment, np.ndarray]:
  """Max-sliced W2 of the exact score from sigma_max = 80, where the prior is nearly right."""
  rows = source.rows(*_specs((0.0,)), sigma_max=80.0)
  experiment = source.evaluating(rows, METRICS[:1])
  # The truth in the network's place: the network knows no such level.
  truth = Exact(experiment.target.predict)
  experiment = dataclasses.replace(experiment, parameterization=truth)
  return experiment, measure(source, experiment)


def _panel(records: list[Record], metric: str, published: Published) -> curves.Panel:
  """A metric's curves, one for each eta, from light to dark in DDIM's colour."""
  dark = to_rgb(style.sampler_colour("ddim"))
  shades = LinearSegmentedColormap.from_list("eta", ["#9CCBEB", dark, "#001A33"])
  lines = []
  for eta, marker, shade in zip(ETAS, "osD^", np.linspace(0, 1, len(ETAS)), strict=False):
    chosen = _select(records, metric, eta)
    lines.append(
      curves.Curve(
        f"network, eta = {eta:g}",
        _column(chosen, "nfe"),
        _column(chosen, "value"),
        _column(chosen, "sem"),
        {"color": to_hex(shades(shade)), "marker": marker},
        _published(published, metric, NETWORK, eta),
      )
    )
  return curves.Panel(metric, lines, chosen[0]["floor"], style.number(chosen[0]["floor_sem"]))


def _bands(records: list[Record], metric: str, eta: float, published: Published) -> budgets.Bands:
  chosen = _select(records, metric, eta)
  theirs = {part: _published(published, metric, what, eta) for what, part in _PART.items()}
  known = {part: values for part, values in theirs.items() if values is not None}
  return budgets.Bands(f"eta = {eta:g}", metric, _column(chosen, "nfe"), chosen, known)


def _published(published: Published, metric: str, what: str, eta: float) -> np.ndarray | None:
  known = published.get((what, eta)) if metric == METRICS[0] else None
  return None if known is None else np.array([known[STEPS_PUBLISHED.index(n)] for n in STEPS])


def _select(records: list[Record], metric: str, eta: float) -> list[Record]:
  return [r for r in records if r["metric"] == metric and r["eta"] == eta]


def _column(records: list[Record], name: str) -> np.ndarray:
  return np.array([style.number(record[name]) for record in records])


def compare(
  experiment: Experiment, measured: np.ndarray, wide: Experiment, measured_wide: np.ndarray
) -> list[Record]:
  """Our max-sliced W2 beside the published numbers, a row for each of them.

  The published standard error is not known: it is taken to be that of 3 of our keys. Rows of the
  network are held to a difference of at most 0.4, by which one training run wanders; those of the
  exact score to three standard errors of the difference.

  Args:
    experiment: its rows as `draw` has them.
    measured: [rows, metrics, 4, keys], max-sliced W2 first.
    wide: the same with sigma_max = 80.
    measured_wide: of it.
  """
  found: dict[tuple[str, float, float], np.ndarray] = {}
  for what, place in _SET.items():
    rows = (wide, measured_wide) if what == EXACT_WIDE else (experiment, measured)
    for row, values in zip(rows[0].evaluation.rows, rows[1], strict=True):
      found[what, row.options["eta"], row.num_steps] = values[0, place]
  found["floor", np.nan, np.nan] = measured[0, 0, 0]
  table = []
  for (what, eta, num_steps), values in found.items():
    if what == "floor":
      published, count = PUBLISHED_FLOOR
    elif (what, eta) in PUBLISHED and num_steps in STEPS_PUBLISHED:
      published = PUBLISHED[what, eta][STEPS_PUBLISHED.index(num_steps)]
      count = _PUBLISHED_KEYS
    else:
      continue
    std = float(np.std(values, ddof=1)) if values.size > 1 else np.nan
    difference = float(values.mean()) - published
    error = std * (1 / values.size + 1 / count) ** 0.5
    close = abs(difference) <= (_NETWORK_TOLERANCE if what == NETWORK else 3 * error)
    table.append(
      {
        "row": what,
        "eta": eta,
        "num_steps": num_steps,
        "published": published,
        "value": float(values.mean()),
        "sem": std / values.size**0.5,
        "difference": difference,
        "standard_error": error,
        "standard_errors_apart": abs(difference) / error,
        "tolerance": _NETWORK_TOLERANCE if what == NETWORK else 3 * error,
        "verdict": "agrees" if close else "differs",
      }
    )
  return table


def _as_text(table: list[Record]) -> str:
  """What matters of `compare`'s rows, aligned."""
  lines = [f"{'max-sliced W2':40}  eta    N  published   ours (sem)       difference"]
  lines += [
    f"{row['row']:40}  {row['eta']:3.1f}  {row['num_steps']:3.0f}  {row['published']:9.2f}  "
    f"{row['value']:5.2f} ({row['sem']:.2f})  {row['difference']:+5.2f} of {row['tolerance']:.2f}  "
    f"{row['verdict']}"
    for row in table
  ]
  return "\n".join(lines)
