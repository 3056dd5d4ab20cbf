"""Plots quality against cost for many samplers: small multiples of targets and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from scorelab.plotting import style
from scorelab.plotting.curves import Curve, draw_curve, draw_floor

_MARKERS = "osD^v<>pPX"
_TICKS = (4, 8, 16, 32, 64, 128)
_REACH = (0.7, 20)  # of the vertical axis, in floors
_REST: dict[str, Any] = {"color": "#C9C9C9", "lw": 0.8}
NEAR = 1.1  # of the floor: as good as exact samples


class Panel(NamedTuple):
  """One target sampled by one score.

  Attributes:
    target, score: its column and its row, for people.
    curves: of the samplers, by label; their styles are of `line_style`.
    floor: mean over keys of exact samples against exact samples.
    floor_sem: its standard error.
  """

  target: str
  score: str
  curves: Sequence[Curve]
  floor: float
  floor_sem: float


def line_style(sampler: str, *, dashed: bool, number: int) -> Mapping[str, Any]:
  """Returns a sampler's line style: its colour, dashes if stochastic, a marker by its number."""
  marker = _MARKERS[number % len(_MARKERS)]
  line = {"color": style.sampler_colour(sampler), "ls": "--" if dashed else "-", "lw": 1.4}
  return line | {"marker": marker, "ms": 4}


def front(panel: Panel) -> set[str]:
  """Returns the labels of the samplers on the front of quality against evaluations.

  A curve is on the front if one of its values is below those of as many evaluations or fewer, by a
  factor of NEAR at least. Values after the first one within NEAR of the floor are not compared:
  their differences are chance.
  """
  points = sorted(
    (nfe, value, curve.label)
    for curve in panel.curves
    for nfe, value in zip(curve.nfe, curve.value, strict=True)
    if np.isfinite(value)
  )
  found, best = set(), np.inf
  for _, value, label in points:
    if NEAR * value < best:
      found.add(label)
    best = min(best, value)
    if best <= NEAR * panel.floor:
      break
  return found


@style.context()
def pareto(panels: Sequence[Panel], metric: str, text: str) -> Figure:
  """Plots a metric against NFE, both logarithmic: targets across, scores down.

  Samplers on the front of a panel are drawn in their colours there, all others in grey.

  Args:
    panels: what there is; a target without a score has an empty place.
    metric: its name.
    text: the caption.
  """
  targets = list(dict.fromkeys(panel.target for panel in panels))
  scores = list(dict.fromkeys(panel.score for panel in panels))
  width = max(2.5 * len(targets), 6)
  figure = style.new_figure(width, 2.6 * len(scores) + 1.7)
  axes = figure.subplots(len(scores), len(targets), squeeze=False, sharex=True)
  handles = _line_styles([c for panel in panels for c in panel.curves if c.label in front(panel)])
  for ax in axes.flat:
    ax.set_visible(False)
  for panel in panels:
    ax = axes[scores.index(panel.score), targets.index(panel.target)]
    ax.set_visible(True)
    ax.set_title(f"{panel.target}, {panel.score} score")
    _draw(ax, panel, handles)
  for row in axes:
    next(ax for ax in row if ax.get_visible()).set_ylabel(style.metric_label(metric))
  for column in axes.T:
    lowest = [ax for ax in column if ax.get_visible()][-1]
    lowest.set_xlabel("network evaluations (NFE)")
    lowest.tick_params(labelbottom=True)
  lines: list[Any] = [Line2D([], [], **line) for line in handles.values()]
  floor: dict[str, Any] = {"color": style.PART_COLOURS["floor"], "lw": 5}
  if not any(np.isfinite(panel.floor_sem) for panel in panels):
    floor = {"color": style.GREY, "lw": 0.8, "ls": (0, (6, 1))}  # no band
  lines += [Line2D([], [], **_REST), Line2D([], [], **floor)]
  labels = [*handles, "off the front", style.PART_LABELS["floor"]]
  figure.legend(lines, labels, loc="outside upper center", ncols=int(width / 1.7))
  style.caption(figure, text)
  return figure


def _line_styles(curves: Sequence[Curve]) -> dict[str, Mapping[str, Any]]:
  """Returns line styles by label, in colours that every kind of colour vision tells apart.

  A sampler keeps its colour in other figures if that is one of SAFE_COLOURS, or if all of these are
  taken.
  """
  looks = {curve.label: curve.look for curve in curves}
  own = {look["color"] for look in looks.values()}
  spare = iter([colour for colour in style.SAFE_COLOURS if colour not in own])
  return {
    label: line_style
    if line_style["color"] in style.SAFE_COLOURS
    else {**line_style, "color": next(spare, line_style["color"])}
    for label, line_style in looks.items()
  }


def _draw(ax: Axes, panel: Panel, looks: Mapping[str, Mapping[str, Any]]) -> None:
  draw_floor(ax, panel.floor, panel.floor_sem)
  if not np.isfinite(panel.floor_sem):
    ax.lines[-1].set_linestyle((0, (6, 1)))
  chosen = front(panel)
  for curve in panel.curves:
    if curve.label in chosen:
      draw_curve(ax, curve._replace(look=looks[curve.label]))
    else:
      ax.plot(curve.nfe, curve.value, **_REST, zorder=1)
  style.nfe_axis(ax, _TICKS)
  ax.set_xlabel("")
  ax.grid(color="#EEEEEE", lw=0.6)
  if not 0 < panel.floor < np.inf:  # nothing to measure in
    return
  values = style.finite(np.concatenate([[panel.floor], *(c.value for c in panel.curves)]))
  low, high = (reach * panel.floor for reach in _REACH)
  ax.set(yscale="log", ylim=(low, min(high, 1.2 * values.max(initial=panel.floor))))
  ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
  ax.yaxis.set_minor_formatter(NullFormatter())
