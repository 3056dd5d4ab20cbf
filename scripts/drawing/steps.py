"""Quality against the number of DDIM steps, with its error budget and the published numbers."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb

from scorelab import evaluation
from scorelab.experiment.spec import Experiment
from scorelab.metrics.budget import budget
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import budgets, curves, save, style, write_csv
from scorelab.runs.signals import StopFlag
from scorelab.targets import truth_of
from scripts.drawing.source import Source
from scripts.published import Entry, Found, decide, select

STEPS = (4, 9, 16, 25, 49, 100)
ETAS = (0.0, 0.1, 0.5, 1.0)
METRICS = ("max_sliced_wasserstein", "energy_distance", "off_mode_share", "mode_weight_tv")
# What a published row is.
NETWORK = "network"
EXACT_PRIOR = "exact score, from N(0, 100 I)"
EXACT_TRUE = "exact score, from the true p_T"
EXACT_WIDE = "exact score, smax 80, from N(0, 6400 I)"
FLOOR = "floor"
# Which of `evaluation.measure`'s four sets it is, and the part of the budget whose line it lies on.
_SET = {EXACT_TRUE: 1, EXACT_PRIOR: 2, NETWORK: 3, EXACT_WIDE: 2}
_PART = {EXACT_TRUE: "discretisation", EXACT_PRIOR: "prior", NETWORK: "learning"}

_COLUMNS = ("published", "published_sem", "value", "sem", "difference", "errors_apart")
_COLUMNS += ("rule", "verdict")

Record: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str, float | None, int | None]  # row, eta, number of steps
Published: TypeAlias = dict[Place, Entry]


def place(entry: Entry) -> Place:
  """Returns the row of `compare` that a published number is compared with."""
  where = entry.where
  if where["row"] == FLOOR:
    return FLOOR, None, None
  return where["row"], float(where["eta"]), int(where["num_steps"])


# Max-sliced W2: the published notebook's code.
PUBLISHED = {place(entry): entry for entry in select("ncsn_gmm_published/published.csv")}


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
      **budget(values),
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
  return np.stack(evaluation.measure(experiment, sets, progress))


def _measure_wide(source: Source) -> tuple[Experiment, np.ndarray]:
  """Max-sliced W2 of the exact score from sigma_max = 80, where the prior is nearly right."""
  rows = source.rows(*_specs((0.0,)), sigma_max=80.0)
  experiment = source.evaluating(rows, METRICS[:1])
  # The truth in the network's place: the network knows no such level.
  truth = truth_of(experiment.target)
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
  known = [published.get((what, eta, n)) for n in STEPS] if metric == METRICS[0] else [None]
  return None if None in known else np.array([entry.mean for entry in known if entry])


def _select(records: list[Record], metric: str, eta: float) -> list[Record]:
  return [r for r in records if r["metric"] == metric and r["eta"] == eta]


def _column(records: list[Record], name: str) -> np.ndarray:
  return np.array([style.number(record[name]) for record in records])


def compare(
  experiment: Experiment, measured: np.ndarray, wide: Experiment, measured_wide: np.ndarray
) -> list[Record]:
  """Compares our max-sliced W2 with the published numbers, a row for each of them.

  Args:
    experiment: its rows as `draw` has them.
    measured: [rows, metrics, 4, keys], max-sliced W2 first.
    wide: the same with sigma_max = 80.
    measured_wide: of it.
  """
  found: dict[Place, np.ndarray] = {}
  for what, index in _SET.items():
    rows = (wide, measured_wide) if what == EXACT_WIDE else (experiment, measured)
    for row, values in zip(rows[0].evaluation.rows, rows[1], strict=True):
      found[what, row.options["eta"], row.num_steps] = values[0, index]
  found[FLOOR, None, None] = measured[0, 0, 0]
  table = []
  for where, entry in PUBLISHED.items():
    if (values := found.get(where)) is None:
      continue
    line = decide(entry, Found(*mean_and_sem(values), values.size))
    row = dict(zip(("row", "eta", "num_steps"), where, strict=True)) | {"keys": values.size}
    table.append(row | {name: line[name] for name in _COLUMNS})
  return table


def _as_text(table: list[Record]) -> str:
  """Formats the main columns of `compare`'s rows, aligned."""
  lines = [f"{'max-sliced W2':40}  eta    N  published   ours (sem)  verdict"]
  for row in table:
    eta, num_steps = (
      "" if row[name] is None else f"{row[name]:g}" for name in ("eta", "num_steps")
    )
    lines.append(
      f"{row['row']:40}  {eta:>3}  {num_steps:>3}  {row['published']:9.2f}  "
      f"{row['value']:5.2f} ({row['sem']:.2f})  {row['verdict']} ({row['rule']})"
    )
  return "\n".join(lines)
