"""Plots error budgets: the parts of a metric, for each sampler and against NFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scorelab.metrics.budget import BUDGET, PARTS
from scorelab.plotting import style

Budget = Mapping[str, float | None]
"""One row's metric in evaluation.json: value, its parts, and their standard errors."""
_LANE = 0.16


def _fill(part: str, negative: bool) -> dict[str, Any]:
  """Returns the fill of a part's area: its colour, or a hatching if the part is negative."""
  colour = style.PART_COLOURS[part]
  if not negative:
    return {"color": colour, "lw": 0}
  return {"facecolor": to_rgba(colour, 0.25), "edgecolor": colour, "hatch": "/////", "lw": 0}


@style.context()
def bars(labels: Sequence[str], budgets: Mapping[str, Sequence[Budget]], text: str) -> Figure:
  """Plots each row's metric as a waterfall of its parts, which add up to the value.

  Every part that some row has gets a lane and begins where the one above it ended; a negative one
  runs to the left, hatched. Whiskers are standard errors; the diamond is the value.

  Args:
    labels: the rows, [n].
    budgets: by metric, [n] each.
    text: the caption.
  """
  columns = min(len(budgets), 3)
  lines = -(-len(budgets) // columns)
  drawn = [row for rows in budgets.values() for row in rows]
  parts = [part for part in PARTS if any(row.get(part) is not None for row in drawn)]
  height = max(0.52, *(0.15 * (label.count("\n") + 1) for label in labels))
  figure = style.new_figure(3.1 * columns + 0.6, lines * (0.55 + height * len(labels)) + 0.9)
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax, (metric, rows) in zip(axes, budgets.items(), strict=False):
    for y, row in enumerate(rows):
      _draw_waterfall(ax, y, row, parts)
    ax.axvline(0, color=style.BLACK, lw=0.6)
    ax.set(yticks=range(len(labels)), ylim=(len(labels) - 0.45, -0.5))
    ax.set_yticklabels(labels)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(style.metric_label(metric))
  for ax in axes[len(budgets) :]:
    ax.set_visible(False)
  for ax in axes:
    ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
  _legend(figure, parts, value={"marker": "D", "ls": "none"})
  style.caption(figure, text)
  return figure


def _draw_waterfall(ax: Axes, y: float, row: Budget, parts: Sequence[str]) -> None:
  """Draws these parts in their lanes, from 0 to the value; parts without a number are left out."""
  whisker = {"elinewidth": 0.9, "capsize": 1.5, "capthick": 0.9, "fmt": "none"}
  end = 0.0
  for lane, part in enumerate(parts):
    width = style.number(row.get(part))
    if np.isnan(width):
      continue
    centre = y + (lane - len(parts) / 2) * _LANE
    bar = ax.barh(centre, width, _LANE, left=end, **_fill(part, width < 0))
    bar.set_label(f"{part} {y:g}")
    for patch in bar:
      patch.sticky_edges.x[:] = [0.0]  # else a part of no width at the right end leaves no margin
    end += width
    sem = style.number(row[f"{part}_sem"])
    ax.errorbar(end, centre, xerr=np.nan_to_num(sem), ecolor="#404040", **whisker)
  value, sem = style.number(row["value"]), style.number(row["sem"])
  centre = y + len(parts) / 2 * _LANE
  ax.errorbar(value, centre, xerr=np.nan_to_num(sem), ecolor=style.BLACK, **whisker)
  ax.plot(value, centre, "D", color=style.BLACK, ms=3.5)


class Bands(NamedTuple):
  """One panel of `bands`: a metric's budget against NFE.

  Attributes:
    title: title of the panel.
    metric: its name.
    nfe: [n].
    budgets: [n].
    published: published values, [n] each, nan if unknown, by the part whose line they compare with:
      'discretisation' (exact score, from the true p_T), 'prior' (exact score, from the prior) or
      'learning' (the network).
  """

  title: str
  metric: str
  nfe: np.ndarray
  budgets: Sequence[Budget]
  published: Mapping[str, np.ndarray] = {}


_PUBLISHED_MARKERS = {"learning": "o", "prior": "s", "discretisation": "^"}


@style.context()
def bands(panels: Sequence[Sequence[Bands]], text: str, published: str = "published") -> Figure:
  """Plots the budget against NFE as stacked bands: one row of panels for each metric.

  The floor lies at the bottom; each part reaches from the line below it to its own, and a negative
  one, hatched, from its line up to the one before. The black line is the value.

  Args:
    panels: rows of columns; a row shares its y axis.
    text: the caption.
    published: what the open markers are.
  """
  rows, columns = len(panels), len(panels[0])
  figure = style.new_figure(2.5 * columns + 0.6, 2.5 * rows + 0.9)
  axes = figure.subplots(rows, columns, squeeze=False, sharey="row")
  for row_axes, row in zip(axes, panels, strict=True):
    for ax, panel in zip(row_axes, row, strict=True):
      _draw_bands(ax, panel)
    row_axes[0].set_ylim(bottom=0)
    row_axes[0].set_ylabel(style.metric_label(row[0].metric))
  for ax in axes[:-1].ravel():
    ax.set_xlabel("")
  extra = {}
  if any(panel.published for row in panels for panel in row):
    extra[published] = {"marker": "o", "ls": "none", "mfc": "white", "ms": 6}
  _legend(figure, BUDGET, value={"marker": "D", "ms": 3.5}, **extra)
  style.caption(figure, text)
  return figure


def _draw_bands(ax: Axes, panel: Bands) -> None:
  # Straight between the points as the log axis shows them, so that areas end on their lines.
  log_nfe = np.log(panel.nfe)
  dense = np.linspace(log_nfe[0], log_nfe[-1], 400)
  below = np.zeros(len(dense))
  for part in BUDGET:
    width = np.interp(dense, log_nfe, _column(panel.budgets, part))
    line, colour = below + width, style.PART_COLOURS[part]
    for negative in (False, True):
      where = (width < 0 if negative else width >= 0).tolist()
      ax.fill_between(np.exp(dense), below, line, where=where, **_fill(part, negative))
    ax.plot(np.exp(dense), line, color=colour if part != "floor" else style.GREY, lw=0.8)
    below = line
    if part in panel.published:
      ax.plot(
        panel.nfe,
        panel.published[part],
        _PUBLISHED_MARKERS[part],
        color=style.BLACK,
        mfc=colour,
        ms=6,
        mew=0.9,
        zorder=5,
      )
  sem = np.nan_to_num(_column(panel.budgets, "sem"))
  value = _column(panel.budgets, "value")
  ax.errorbar(panel.nfe, value, sem, color=style.BLACK, marker="D", ms=3, lw=1.2, elinewidth=0.9)
  style.nfe_axis(ax, [int(n) for n in panel.nfe])
  ax.set_title(panel.title)


def _column(budgets: Sequence[Budget], name: str) -> np.ndarray:
  return np.array([style.number(b[name]) for b in budgets])


def _legend(figure: Figure, parts: Sequence[str], **lines: dict[str, Any]) -> None:
  """Draws a legend above the panels: these parts, the hatching, and further lines by label."""
  handles: list[Any] = [
    Patch(color=style.PART_COLOURS[part], lw=0, label=style.PART_LABELS.get(part, part))
    for part in parts
  ]
  if len(parts) > 1:  # a floor alone is a distance
    handles.append(Patch(fc="white", ec=style.GREY, lw=0, hatch="/////", label="negative"))
  for label, look in lines.items():
    handles.append(Line2D([], [], color=style.BLACK, label=label, **look))
  figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
