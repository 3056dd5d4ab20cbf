"""Renders collected runs as a page: table, bars, curves and sections."""

from __future__ import annotations

import dataclasses
import datetime
import math
import pathlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from scorelab.plotting.style import BLACK, PART_COLOURS, metric_label, sampler_colour
from scorelab.report import charts, media
from scorelab.report.charts import Line
from scorelab.report.collect import (
  Numbers,
  Run,
  differing_fields,
  metric_names,
)
from scorelab.sweep.board import short_names

MAX_BYTES = 10_000_000
_SHOWN_FIELDS, _SHOWN_METRICS = 5, 2
_BAR_WIDTH, _BAR_HEIGHT = 120, 16
_SYMBOLS = {
  "done": "●",
  "trained": "○",
  "running": "▶",
  "unfinished": "◐",
  "failed": "✕",
  "damaged": "⚠",
}


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of the table of runs.

  Attributes:
    key: as which it is shown and hidden.
    title: its head.
    shown: whether it is at first.
    cells: for each run, what is shown.
    values: for each run, what is sorted by.
  """

  key: str
  title: str
  shown: bool
  cells: Sequence[Any]
  values: Sequence[str]


def render(runs: Sequence[Run], command: str, live: bool = False) -> str:
  """The page, of less than MAX_BYTES where the text leaves room for pictures.

  Args:
    runs: what is shown.
    command: what was typed to get it.
    live: whether the page asks its server for a newer one.
  """
  folder = pathlib.Path(__file__).parent
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters["number"] = shown_number
  environment.filters["metric"] = metric_label
  environment.filters["breakable"] = with_line_breaks
  given: dict[str, Any] = {
    "style": Markup((folder / "page.css").read_text()),
    "script": Markup((folder / "page.js").read_text()),
    "runs": runs,
    "columns": columns(runs),
    "metrics": metric_names(runs),
    "loss_chart": loss_chart(list(enumerate(runs))),
    "loss_charts": [loss_chart([(i, run)], validation=True) for i, run in enumerate(runs)],
    "sampler_charts": sampler_charts(runs),
    "samplers": sampler_legend(runs),
    "cell": metric_cell,
    "scales": scales(runs),
    "parts": PART_COLOURS,
    "symbols": _SYMBOLS,
    "states": Counter(run.state for run in runs),
    "line_class": line_class,
    "command": command,
    "live": live,
    "time": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
  }
  template = environment.get_template("page.html")
  empty = template.render(**given, pictures=[[] for _ in runs])
  paths = [path for run in runs for path in run.pictures]
  left = MAX_BYTES - len(empty.encode()) - 300 * len(paths) - 100_000
  embedded = iter(media.embed(paths, max(0, left)))
  return template.render(**given, pictures=[[next(embedded) for _ in r.pictures] for r in runs])


def shown_number(value: float) -> str:
  """Formats a number with four significant digits; a dash for nan."""
  return f"{value:.4g}" if math.isfinite(value) else "-"


def with_line_breaks(name: str) -> Markup:
  """A path that may be broken at its slashes, dashes and underscores."""
  return Markup("").join(
    Markup("{}<wbr>").format(char) if char in "/-_" else Markup("{}").format(char) for char in name
  )


def line_class(run: int) -> str:
  """The CSS classes of a run's colour and dashes."""
  dash = run // charts.NUM_COLOURS % charts.NUM_DASHES
  return f"colour{run % charts.NUM_COLOURS} dash{dash}"


def columns(runs: Sequence[Run]) -> list[Column]:
  """Returns the columns: fields that differ, the main sampler, its NFE, and its metrics."""
  fields = differing_fields(runs)
  names = short_names(fields)
  found = []
  for index, field in enumerate(fields):
    values = [_text(run.fields.get(field)) if run.fields else "" for run in runs]
    shown = index < _SHOWN_FIELDS
    found.append(Column(f"field-{index}", names[field], shown, values, values))
  main = [run.rows[0] if run.rows else None for run in runs]
  labels, full = [row.label if row else "" for row in main], scales(runs)
  found.append(Column("sampler", "sampler", len(set(labels)) > 1, labels, labels))
  for index, metric in enumerate(metric_names(runs)):
    numbers = [row.metrics.get(metric) if row else None for row in main]
    cells = [metric_cell(n, full.get(metric, 0.0)) if n else "" for n in numbers]
    values = [repr(n.value) if n and math.isfinite(n.value) else "" for n in numbers]
    title = metric_label(metric)
    found.append(Column(f"metric-{index}", title, index < _SHOWN_METRICS, cells, values))
  return found


def _text(value: Any) -> str:
  return "" if value is None else str(value)


def metric_cell(numbers: Numbers, scale: float) -> Markup:
  """The value with its standard error, over its budget."""
  error = f" ± {numbers.sem:.2g}" if math.isfinite(numbers.sem) else ""
  return Markup('<span class="value">{}{}</span>{}').format(
    shown_number(numbers.value), error, budget_bar(numbers, scale)
  )


def scales(runs: Sequence[Run]) -> dict[str, float]:
  """Returns the value of a full bar by metric: the largest end of any part, without outliers."""
  ends: dict[str, list[float]] = {}
  for run in runs:
    for row in run.rows:
      for name, numbers in row.metrics.items():
        largest = max([0.0, numbers.value, *(end for *_, end in segments(numbers))])
        if math.isfinite(numbers.value):
          ends.setdefault(name, []).append(largest)
  return {name: min(max(found), 4 * statistics.median(found)) for name, found in ends.items()}


def segments(numbers: Numbers) -> list[tuple[str, float, float]]:
  """Returns the known parts, each with its start and end on the way to the value."""
  found, end = [], 0.0
  if not math.isfinite(numbers.parts["learning"]):  # a floor alone is a distance to compare with
    floor = numbers.parts["floor"]
    return [("floor", 0.0, floor)] if math.isfinite(floor) else []
  for part, width in numbers.parts.items():
    if math.isfinite(width):
      found.append((part, end, end + width))
      end += width
  return found


def budget_bar(numbers: Numbers, scale: float) -> Markup:
  """The error budget as a bar: parts end to end, a negative one below; a line at the value.

  A value beyond the scale ends in an arrow.

  Args:
    numbers: of one metric.
    scale: what the full width means.
  """
  if scale <= 0 or not math.isfinite(numbers.value):
    return Markup("")

  def at(value: float) -> float:
    return min(max(value / scale, 0.0), 1.0) * (_BAR_WIDTH - 8)

  drawn = []
  for part, begin, end in segments(numbers):
    low, high = sorted((at(begin), at(end)))
    look, y, height = (f"{part} negative", 11, 4) if end < begin else (part, 3, 8)
    drawn.append(
      Markup('<rect class="{}" x="{:.1f}" width="{:.1f}" y="{}" height="{}"/>').format(
        look, low, high - low, y, height
      )
    )
  if numbers.value > scale:
    drawn.append(Markup('<path class="mark" d="M{0} 3l4 4l-4 4"/>').format(_BAR_WIDTH - 6))
  else:
    drawn.append(Markup('<path class="mark" d="M{:.1f} 1V15"/>').format(at(numbers.value) + 0.75))
  told = ", ".join(
    f"{part} {width:.3g}" for part, width in numbers.parts.items() if math.isfinite(width)
  )
  return Markup(
    '<svg class="bar" width="{}" height="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>'
  ).format(_BAR_WIDTH, _BAR_HEIGHT, told, told, Markup("").join(drawn))


def loss_chart(numbered: Sequence[tuple[int, Run]], validation: bool = False) -> Markup:
  """Loss against steps, a line for each run; with its validations, where asked."""
  lines = []
  for index, run in numbered:
    history = charts.thinned([(line["step"], line["loss"]) for line in run.history])
    colour, dash = line_class(index).split()
    points = [(step, loss, math.nan) for step, loss in history]
    lines.append(Line(run.name, points, index, colour, int(dash[-1])))
    if validation:
      held_out = [(h["step"], h["val_loss"], math.nan) for h in run.history if "val_loss" in h]
      lines.append(Line("held-out", held_out, index, colour, marks=True, joined=False))
  return charts.chart(lines, "training steps", "loss")


def sampler_charts(runs: Sequence[Run]) -> dict[str, Markup]:
  """Each metric against evaluations of the network: a chart for each target and protocol.

  Values of other targets, or of other numbers of samples, have other floors, and are not compared.
  """
  groups: dict[str, list[tuple[int, Run]]] = {}
  for index, run in enumerate(runs):
    groups.setdefault(measured(run), []).append((index, run))
  found = {}
  for metric in metric_names(runs):
    charted = {what: _sampler_chart(numbered, metric) for what, numbered in groups.items()}
    drawn = {what: chart for what, chart in charted.items() if chart}
    title = Markup("<p>{}</p>") if len(drawn) > 1 else Markup("")
    found[metric] = Markup("").join(title.format(what) + chart for what, chart in drawn.items())
  return found


def measured(run: Run) -> str:
  """Returns a run's target and sample sizes, on which the floor depends, in a line."""
  fields = {k: v for k, v in run.fields.items() if k.startswith("target.") and k != "target.name"}
  sizes = ("num_samples", "num_reference", "reference", "num_projections")
  told = [f"{k.removeprefix('target.')} = {v}" for k, v in fields.items()]
  told += [
    f"{k} = {run.fields[f'evaluation.{k}']}" for k in sizes if f"evaluation.{k}" in run.fields
  ]
  return ", ".join([str(run.fields.get("target.name", "")), *told])


def _sampler_chart(numbered: Sequence[tuple[int, Run]], metric: str) -> Markup:
  """A metric of runs of one target, with its floor; '' where none was measured."""
  lines, floors = [], []
  for index, run in numbered:
    by_sampler: dict[str, list[tuple[float, float, float]]] = {}
    for row in run.rows:
      if (numbers := row.metrics.get(metric)) is not None:
        by_sampler.setdefault(row.sampler, []).append((row.nfe, numbers.value, numbers.sem))
        floors.append(numbers.parts["floor"])
    for sampler, points in by_sampler.items():
      label = f"{sampler}, {run.name}"
      lines.append(Line(label, sorted(points), index, shown_colour(sampler), marks=True))
  known = sorted(floor for floor in floors if math.isfinite(floor) and floor)  # 0 is no line
  floor = known[len(known) // 2] if known else math.nan
  if not lines:
    return Markup("")
  return charts.chart(lines, "network evaluations (NFE)", metric_label(metric), True, floor)


def sampler_legend(runs: Sequence[Run]) -> Mapping[str, str]:
  """The colour of each sampler that some run has."""
  names = dict.fromkeys(row.sampler for run in runs for row in run.rows)
  return {name: shown_colour(name) for name in names}


def shown_colour(sampler: str) -> str:
  """Returns the sampler's colour, or the text colour instead of black."""
  colour = sampler_colour(sampler)
  return "var(--ink)" if colour == BLACK else colour
