"""Plots comparisons of losses over many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from scorelab.plotting import style

_COLOURS = (style.BLACK, style.BLUE, style.GREEN, style.ORANGE, style.VERMILLION, style.PURPLE)


class Line(NamedTuple):
  """Score errors of one loss in one study.

  Attributes:
    loss: its name.
    study: where the score was learned, 'levels' or 'data'.
    levels: sigma / alpha, [levels]; 0 for the data.
    values: relative score error, [seeds, levels].
    cost_levels: sigma / alpha, [m]; empty where the score was learned at one level.
    costs: Girsanov's cost in nats per unit of log sigma there, [seeds, m].
  """

  loss: str
  study: str
  levels: np.ndarray
  values: np.ndarray
  cost_levels: np.ndarray
  costs: np.ndarray


@style.context()
def loss_comparison(lines: Mapping[int, Sequence[Line]], seeds: int) -> Figure:
  """Plots every loss's score error and cost against the level, a column for each budget.

  Args:
    lines: by training steps. In the upper row those of the study 'levels' are curves, and those of
      'data' stand left of them.
    seeds: of each; for the caption.
  """
  figure = style.new_figure(4.3 * len(lines), 6.2)
  axes = figure.subplots(2, len(lines), sharex=True, sharey="row", squeeze=False)
  losses = list(dict.fromkeys(line.loss for of_budget in lines.values() for line in of_budget))
  looks = dict(zip(losses, zip(_COLOURS, "osD^vP", strict=False), strict=False))
  for (upper, lower), (budget, of_budget) in zip(axes.T, lines.items(), strict=True):
    left = min((line.levels.min() for line in of_budget if line.study == "levels"), default=1.0)
    at_data = [line for line in of_budget if line.study == "data"]
    for line in of_budget:
      if line.study == "levels":
        _band(upper, line.levels, line.values, looks[line.loss])
        _band(lower, line.cost_levels, line.costs, (looks[line.loss][0], ""))
    for number, line in enumerate(at_data):
      colour, marker = looks[line.loss]
      middle, low, high = _spread(line.values)
      reach = [middle - low, high - middle]
      place = left / 2 ** (1 + 0.3 * number)
      upper.errorbar(place, middle, reach, color=colour, marker=marker, ms=4, capsize=2)
    if at_data:
      right = left / 1.6
      upper.axvspan(left / 2 ** (1.4 + 0.3 * len(at_data)), right, color="#F2F2F2", lw=0)
      upper.text(right, 0.99, "data ", ha="right", va="top", transform=upper.get_xaxis_transform())
    style.log_scale(upper, "x", "y")
    style.log_scale(lower, "y")
    upper.set_title(f"{budget} steps")
    lower.set_xlabel("level sigma / alpha")
    lower.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for ax in (upper, lower):
      ax.grid(color="#E8E8E8")
  axes[0, 0].set_ylabel("relative: E|s - s*|^2 / E|s*|^2")
  axes[1, 0].set_ylabel("cost of learning,\nnats per unit of log sigma")
  handles = [Line2D([], [], color=c, marker=m, ms=4) for c, m in looks.values()]
  figure.legend(handles, losses, loc="outside upper center", ncols=len(losses))
  style.caption(
    figure,
    f"geometric mean and range over {seeds} seeds; on grey: the score of the data themselves, "
    "learned without noise;\nbelow: sigma^2 E|s - s*|^2, whose integral over log sigma bounds the "
    "reverse SDE's KL by Girsanov's theorem",
  )
  return figure


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the geometric mean, minimum and maximum over the first axis: errors span decades."""
  positive = np.where(values > 0, values, np.nan)  # a log axis has no other
  return np.exp(np.log(positive).mean(axis=0)), positive.min(axis=0), positive.max(axis=0)


def _band(ax: Axes, x: np.ndarray, values: np.ndarray, look: tuple[str, str]) -> None:
  """Draws the geometric mean of values [seeds, n] over x [n], with their range."""
  middle, low, high = _spread(values)
  ax.plot(x, middle, color=look[0], marker=look[1], ms=4)
  ax.fill_between(x, low, high, color=look[0], alpha=0.15, lw=0)
