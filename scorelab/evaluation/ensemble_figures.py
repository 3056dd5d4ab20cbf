"""Figures of an ensemble: means over its seeds with their standard errors, by value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from scorelab.evaluation import figures as summary
from scorelab.experiment.spec import Experiment
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import curves, style
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.typing import Params


class Band(NamedTuple):
  """One line of a figure: the mean and the spread of several seeds.

  Attributes:
    label: the value of the varied field; '' for a single line.
    x: [n].
    values: [seeds, n]; nan if missing.
  """

  label: str
  x: np.ndarray
  values: np.ndarray


def draw_ensemble(experiment: Experiment, params: Params, workdir: Workdir, stop: StopFlag) -> None:
  """Writes the ensemble's figures into workdir.figures.

  Always loss and score error. If values are varied, metrics against them; else the error budget,
  Girsanov's bound and the first seed's samples.

  Args:
    experiment: the shared experiment.
    params: the first member's evaluated parameters.
    workdir: directory of an evaluated ensemble.
    stop: checked between figures.

  Raises:
    Preempted: a stop was requested.
  """
  result = json.loads(workdir.evaluation.read_text())
  num = result["protocol"]["num_members"]
  figures = {"loss": lambda: loss_figure(read_jsonl(workdir.metrics), result)}
  if "groups" in result:
    for field in varied(result):
      figures[f"over_{field}"] = lambda field=field: over_figure(result, field)
  else:
    figures["samples"] = lambda: summary.samples_figure(experiment, params, workdir)
    figures["budget"] = lambda: summary.budget_figure(result)
    if "girsanov" in result:
      text = f"mean and standard error over {num} seeds, of which each draws its own points"
      figures["girsanov"] = lambda: curves.girsanov(result["girsanov"], text)
  if "score_error" in result.get("groups", [result])[0]:
    figures["score_error"] = lambda: score_error_figure(experiment, result)
  summary.save_figures(figures, workdir, stop)


def varied(result: Mapping[str, Any]) -> list[str]:
  """Returns the fields that have more than one value."""
  values = [group["over"] for group in result["groups"]]
  return [field for field in values[0] if len({over[field] for over in values}) > 1]


def _of_training(over: Mapping[str, float]) -> dict[str, float]:
  """Returns the values that the training depends on."""
  return {field: value for field, value in over.items() if not field.startswith("sampler.")}


def label_of(over: Mapping[str, float]) -> str:
  """Formats values for a legend, 'learning_rate = 0.001'."""
  return ", ".join(f"{field.split('.')[1]} = {value:g}" for field, value in over.items())


def loss_figure(history: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> Figure:
  """Plots the training and the validation loss of all trainings.

  Args:
    history: the objects of metrics.jsonl.
    result: contents of evaluation.json.
  """
  slots: dict[str, list[int]] = {}
  for member in result["members"]:
    of_value = slots.setdefault(label_of(_of_training(member["over"])), [])
    of_value += [member["slot"]] * (member["slot"] not in of_value)

  def bands(name: str) -> list[Band]:
    lines = [h for h in history if name in h["members"]]
    step = np.array([h["step"] for h in lines])
    values = np.array([[style.number(v) for v in h["members"][name]] for h in lines])
    return [Band(label, step, values.T[of_value]) for label, of_value in slots.items() if lines]

  num = result["protocol"]["num_members"]
  panels = {"training loss": bands("loss"), "validation loss": bands("val_loss")}
  return losses(panels, f"mean over {num} seeds with its standard error; lightly: least to largest")


@style.context()
def losses(panels: Mapping[str, Sequence[Band]], text: str) -> Figure:
  """Plots losses against the training step, one panel per name.

  Args:
    panels: bands by axis label.
    text: the caption.
  """
  figure = style.new_figure(8.2, 3.3)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for ax, (name, bands) in zip(axes, panels.items(), strict=True):
    for band, colour in zip(bands, _colours(len(bands)), strict=True):
      _draw(ax, band, colour)
    ax.set(xlabel="training step", ylabel=name)
    if bands:
      curves.log_where_positive(ax, np.concatenate([band.values.ravel() for band in bands]))
    else:
      ax.text(0.5, 0.5, "no training step", ha="center", transform=ax.transAxes)
  _legend(figure, axes[0])
  style.caption(figure, text)
  return figure


def score_error_figure(experiment: Experiment, result: Mapping[str, Any]) -> Figure:
  """Plots the relative score error by level, one line per combination of values."""
  num, draws = result["protocol"]["num_members"], experiment.evaluation.score_samples
  text = f"{draws} draws at each level; mean and standard error over {num} seeds"
  lines = {}
  for group in result.get("groups", [result]):
    lines.setdefault(label_of(_of_training(group.get("over", {}))), group["score_error"])
  return score_errors(lines, text)


@style.context()
def score_errors(errors: Mapping[str, Mapping[str, Any]], text: str) -> Figure:
  """Plots relative score errors with their standard errors against the level.

  Args:
    errors: `score_error` of evaluation.json, by label.
    text: the caption.
  """
  figure = style.new_figure(5, 3.3)
  ax = figure.subplots()
  for (label, error), colour in zip(errors.items(), _colours(len(errors)), strict=True):
    sigma = error["sigma"]
    places = range(len(sigma)) if 0 in sigma else sigma
    value = _numbers(error["relative"])
    sem = _numbers(error.get("relative_sem", [None] * len(value)))
    ax.errorbar(places, value, sem, color=colour, marker="o", ms=3.5, capsize=2, label=label)
    if 0 in sigma:
      ax.set_xticks(places, [f"{level:g}" for level in sigma])
    elif len(sigma) > 1:
      style.log_scale(ax, "x")
  style.log_scale(ax, "y")
  ax.set(xlabel="level sigma / alpha", ylabel=curves.RELATIVE)
  ax.grid(color="#E8E8E8")
  _legend(figure, ax)
  style.caption(figure, text)
  return figure


def over_figure(result: Mapping[str, Any], field: str) -> Figure:
  """Plots every metric of every row, and Girsanov's bound, against a field's values.

  Each combination of values of the other varied fields has its own line, if it changes anything.
  """
  lines: dict[str, dict[tuple[str, str], dict[float, tuple[float, float]]]] = {}
  floors: dict[str, list[tuple[float, float]]] = {}
  for group in result["groups"]:
    value = group["over"][field]
    rest = {f: v for f, v in group["over"].items() if f != field and f in varied(result)}
    for row_label, row in zip(_line_labels(result["groups"]), group["rows"], strict=True):
      # An option of another sampler than the row's keeps its section in the name.
      changing = {f: v for f, v in rest.items() if f not in row["options"]}
      label = row_label, label_of(changing)
      for metric, numbers in row["metrics"].items():
        found = style.number(numbers["value"]), style.number(numbers["sem"])
        lines.setdefault(metric, {}).setdefault(label, {})[value] = found
        floor = style.number(numbers["floor"]), style.number(numbers["floor_sem"])
        floors.setdefault(metric, []).append(floor)
    if "girsanov" in group and not field.startswith("sampler."):
      bound = group["girsanov"]
      found = style.number(bound["total"]), style.number(bound["total_sem"])
      name = "bound on the reverse SDE's KL, nats"
      label = "any", label_of(_of_training(rest))
      lines.setdefault(name, {}).setdefault(label, {})[value] = found
  mean_floor = {metric: np.mean(values, axis=0) for metric, values in floors.items()}
  return against(field, lines, mean_floor, summary.protocol_text(dict(result)))


def _line_labels(groups: Sequence[Mapping[str, Any]]) -> list[str]:
  """Labels each row's line: its sampler and steps, and the options that tell it from other lines.

  A row's stored label also contains the varied values, which are on the axis. These labels use only
  options that are the same in all groups.
  """
  first, *others = (group["rows"] for group in groups)
  fixed = [
    {k: v for k, v in row["options"].items() if all(o[i]["options"].get(k) == v for o in others)}
    for i, row in enumerate(first)
  ]
  names = [f"{row['sampler']} {row['num_steps']}" for row in first]
  labels = []
  for name, options in zip(names, fixed, strict=True):
    alike = [other for own, other in zip(names, fixed, strict=True) if own == name]
    told = [f"{k}={v}" for k, v in options.items() if any(o.get(k) != v for o in alike)]
    labels.append(" ".join([name, *told]))
  return labels


@style.context()
def against(
  field: str,
  lines: Mapping[str, Mapping[tuple[str, str], Mapping[float, tuple[float, float]]]],
  floors: Mapping[str, np.ndarray],
  text: str,
) -> Figure:
  """Plots metrics against the values of a field, one panel per metric.

  Args:
    field: its dotted name.
    lines: mean and standard error by value, by metric and by row and the values of other fields.
    floors: mean and standard error of exact samples, by metric, if available.
    text: the caption.
  """
  columns = min(len(lines), 3)
  height = -(-len(lines) // columns)
  figure = style.new_figure(3.1 * columns + 0.4, 2.5 * height + 1.1)
  axes = figure.subplots(height, columns, squeeze=False).ravel()
  rows = list(dict.fromkeys(row for of_metric in lines.values() for row, _ in of_metric))
  rests = {"": None} | dict.fromkeys(rest for of_metric in lines.values() for _, rest in of_metric)
  samplers = [row for row in rows if row != "any"]
  looks = {
    row: {"color": style.sampler_colour(row.split()[0]), "marker": "osD^vP"[i % 6]}
    for i, row in enumerate(samplers)
  }
  looks["any"] = {"color": style.BLACK, "marker": "o"}
  styles = dict(zip(rests, ("-", "--", ":", "-.") * len(rests), strict=False))
  for ax, (metric, of_metric) in zip(axes, lines.items(), strict=False):
    if np.isfinite(floors.get(metric, [np.nan])[0]):
      curves.draw_floor(ax, *floors[metric])
    for (row, rest), by_value in of_metric.items():
      x = np.array(sorted(by_value))
      mean, sem = np.array([by_value[value] for value in x]).T
      label = ", ".join(part for part in (row, rest) if part)
      look = looks[row] | {"ls": styles[rest], "label": label, "capsize": 2}
      ax.errorbar(x, mean, np.nan_to_num(sem), **look)
    values = np.array([value for line in of_metric.values() for value, _ in line.values()])
    curves.log_where_positive(ax, values, factor=20)
    _value_axis(ax, sorted({value for line in of_metric.values() for value in line}))
    ax.set(xlabel=field, ylabel=style.metric_label(metric))
  for ax in axes[len(lines) :]:
    ax.set_visible(False)
  _legend(figure, axes[0])
  style.caption(figure, text)
  return figure


def _value_axis(ax: Axes, values: Sequence[float]) -> None:
  """Puts a tick at each value; uses a log axis if they span orders of magnitude."""
  if values[0] > 0 and values[-1] > 4 * values[0]:
    ax.set_xscale("log")
  ax.xaxis.set_major_locator(FixedLocator(values))
  ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_minor_formatter(NullFormatter())


def _draw(ax: Axes, band: Band, colour: Any) -> None:
  """Draws a band: its range, its standard error, and its mean on top."""
  mean, marker = band.values.mean(axis=0), "o" if len(band.x) < 20 else None
  ax.plot(band.x, mean, color=colour, marker=marker, ms=3, label=band.label)
  if len(band.values) > 1:
    sem = np.array([mean_and_sem(column)[1] for column in band.values.T])
    ax.fill_between(band.x, mean - sem, mean + sem, color=colour, alpha=0.4, lw=0)
    low, high = band.values.min(axis=0), band.values.max(axis=0)
    ax.fill_between(band.x, low, high, color=colour, alpha=0.15, lw=0)


def _colours(number: int) -> Sequence[Any]:
  """Returns `number` colours from dark to light."""
  return [style.BLUE] if number == 1 else list(style.NOISE_CMAP(np.linspace(0, 1, number)))


def _numbers(values: Sequence[float | None]) -> np.ndarray:
  return np.array([style.number(value) for value in values])


def _legend(figure: Figure, ax: Axes) -> None:
  """Draws an axis's legend above the figure, if it has labels."""
  handles, labels = ax.get_legend_handles_labels()
  if any(labels):
    width = max(len(label) for label in labels) / 15 + 0.6  # inches
    columns = max(1, int(figure.get_figwidth() / width))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
