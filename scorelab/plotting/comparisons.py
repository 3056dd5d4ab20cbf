"""Plots small comparisons: lines, distributions of one number, numbers of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import style

_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)


@style.context()
def lines(
  x: np.ndarray, values: Mapping[str, np.ndarray], text: str, xlabel: str, ylabel: str
) -> Figure:
  """Plots a line for each name, [n] over x [n], labelled at its right end, on a log y axis.

  Args:
    x: increasing.
    values: by name, at least 0; at most as many as there are colours.
    text: the caption.
    xlabel, ylabel: of the axes.
  """
  figure = style.new_figure(5.2, 3.4)
  ax = figure.subplots()
  for (name, y), colour in zip(values.items(), _COLOURS, strict=False):
    ax.plot(x, np.where(y > 0, y, np.nan), color=colour)
    ax.annotate(name, (x[-1], y[-1]), xytext=(4, 0), textcoords="offset points", color=colour)
  style.log_scale(ax, "y")
  ax.set(xlabel=xlabel, ylabel=ylabel)
  if x[-1] > x[0]:
    ax.set_xlim(x[0], x[-1])
  ax.grid(color="#E8E8E8")
  style.caption(figure, text)
  return figure


@style.context()
def distributions(values: Mapping[str, np.ndarray], text: str, xlabel: str) -> Figure:
  """Plots the empirical distribution function for each name, with its mean and error.

  Args:
    values: by name, [n].
    text: the caption.
    xlabel: of what they are.
  """
  figure = style.new_figure(6.4, 3.4)
  ax = figure.subplots()
  finite = {name: style.finite(v) for name, v in values.items()}
  known = {name: v for name, v in finite.items() if len(v)}
  for i, ((name, v), colour) in enumerate(zip(known.items(), _COLOURS, strict=False)):
    mean, sem = mean_and_sem(v)
    ax.ecdf(v, color=colour, ls=("-", "--")[i % 2], label=f"{name}: {mean:.3f} ± {sem:.3f}")
  # Few points far off would squeeze the others.
  ends = [np.quantile(v, q) for v in known.values() for q in (0.01, 0.99)]
  ax.set(xlabel=xlabel, ylabel="share of images")
  if ends and max(ends) > min(ends):
    ax.set_xlim(min(ends), max(ends))
  if known:
    ax.legend(title="mean and standard error", loc="center left", bbox_to_anchor=(1, 0.5))
  style.caption(figure, text)
  return figure


@style.context()
def table(
  rows: Sequence[Mapping[str, Any]],
  panels: Mapping[str, tuple[str, str, str | None]],
  text: str,
) -> Figure:
  """Plots a panel for each number, with a bar for each row of `config`, `sampler` and `nfe`.

  Args:
    rows: numbers by name; None or nan leaves a bar out.
    panels: by label, the names of the number, of its standard error and of its floor, if any.
    text: the caption.
  """
  figure = style.new_figure(3.3 * len(panels) + 1.4, 0.42 * len(rows) + 1.5)
  axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  places = np.arange(len(rows))[::-1]
  for ax, (label, (name, error, floor)) in zip(axes, panels.items(), strict=True):
    values = np.array([style.number(row[name]) for row in rows])
    errors = np.array([style.number(row[error]) for row in rows])
    ax.barh(places, np.nan_to_num(values), xerr=np.nan_to_num(errors), color=style.SKY, height=0.62)
    ends = np.nan_to_num(values) + np.nan_to_num(errors)
    for place, value, end in zip(places, values, ends, strict=True):
      shown = "-" if np.isnan(value) else f"{value:.3g}"
      ax.annotate(shown, (end, place), xytext=(4, 0), **_BESIDE)
    if floor is not None:
      floors = [style.number(row[floor]) for row in rows]
      ax.plot(floors, places, "|", color=style.BLACK, ms=16, mew=2)
    finite = values[np.isfinite(values)]
    wide = finite.size > 0 and finite.max() > 20 * finite.min() > 0
    ax.set(xlabel=label, xscale="log" if wide else "linear")
    if finite.size and ends.max() > 0:
      ax.set_xlim(0.1 if wide else 0, ends.max() * (3 if wide else 1.25))
  axes[0].set_yticks(places, [f"{r['config']}\n{r['sampler']}, {r['nfe']} NFE" for r in rows])
  style.caption(figure, text)
  return figure


_BESIDE = {"textcoords": "offset points", "va": "center", "fontsize": 8}


@style.context()
def grids(
  levels: Mapping[str, np.ndarray],
  gains: Sequence[tuple[str, str, Mapping[str, Any]]],
  text: str,
) -> Figure:
  """Plots the levels of several grids, and numbers of the first over those of the best other.

  Args:
    levels: sigma / alpha [N] by name; the grid that was made comes first.
    gains: (what it was tried on, measure, the best other grid's `grid`, `mean`, `gain` and
      `gain_sem`).
    text: the caption.
  """
  figure = style.new_figure(9.6, 0.24 * max(len(levels), len(gains)) + 1.6)
  left, right = figure.subplots(1, 2)
  for place, ((name, sigma), colour) in enumerate(zip(levels.items(), _COLOURS, strict=False)):
    left.plot(sigma, np.full(len(sigma), -place), "o-", color=colour, lw=0.8, ms=5)
    left.annotate(name, (sigma[0], -place), xytext=(6, 0), **_BESIDE)
  left.set(xscale="log", xlabel="sigma / alpha", yticks=[], ylim=(-len(levels), 1))
  left.set_xlim(None, 12 * max(sigma[0] for sigma in levels.values()))
  left.set_title("levels")
  places = -np.arange(len(gains))
  ratio = np.array([1 - row["gain"] / row["mean"] for _, _, row in gains])
  error = np.array([2 * style.number(row["gain_sem"]) / row["mean"] for _, _, row in gains])
  right.errorbar(ratio, places, xerr=error, fmt="o", color=style.BLUE, capsize=2)
  right.axvline(1, color=style.GREY)
  right.set(xscale="log", xlabel="over the best stock grid's")
  right.set_yticks(places, [f"{on}: {measure} (v {row['grid']})" for on, measure, row in gains])
  style.caption(figure, text)
  return figure
