"""Figures of many runs: losses side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from scorelab.plotting import style

_COLOURS = (style.BLACK, style.BLUE, style.GREEN, style.ORANGE, style.VERMILLION, style.PURPLE)


class Line(NamedTuple):
  """A loss's score error in one study.

  Attributes:
    loss: its name.
    study: where the score was learned, 'levels' or 'data'.
    levels: sigma / alpha, [levels]; 0 for the data.
    values: relative score error, [seeds, levels].
  """

  loss: str
  study: str
  levels: np.ndarray
  values: np.ndarray


@style.context()
def loss_comparison(lines: Mapping[int, Sequence[Line]], seeds: int) -> Figure:
  """Relative score error against the level for every loss, a panel for each budget.

  Args:
    lines: by training steps. Those of the study 'levels' are curves, those of 'data' stand left of
      them.
    seeds: of each; for the caption.
  """
  figure = style.new_figure(4.3 * len(lines), 3.8)
  axes = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
  losses = list(dict.fromkeys(line.loss for of_budget in lines.values() for line in of_budget))
  looks = dict(zip(losses, zip(_COLOURS, "osD^vP", strict=False), strict=False))
  for ax, (budget, of_budget) in zip(axes, lines.items(), strict=True):
    smallest = min((line.levels.min() for line in of_budget if line.study == "levels"), default=1.0)
    at_data = [line.loss for line in of_budget if line.study == "data"]
    for line in of_budget:
      colour, marker = looks[line.loss]
      # Geometric: the errors span decades.
      log = np.log(line.values)
      middle = np.exp(log.mean(axis=0))
      low, high = line.values.min(axis=0), line.values.max(axis=0)
      if line.study == "levels":
        ax.plot(line.levels, middle, color=colour, marker=marker, ms=4, label=line.loss)
        ax.fill_between(line.levels, low, high, color=colour, alpha=0.15, lw=0)
      else:
        place = smallest / 2 ** (1.0 + 0.25 * at_data.index(line.loss))
        reach = [middle - low, high - middle]
        ax.errorbar(place, middle, reach, color=colour, marker=marker, ms=4, capsize=2)
    if at_data:
      ax.axvspan(smallest / 5, smallest / 1.6, color="#F2F2F2", lw=0)
      ax.text(
        smallest / 2.9, 0.98, "data", ha="center", va="top", transform=ax.get_xaxis_transform()
      )
    ax.set(xscale="log", yscale="log", xlabel="level sigma / alpha", title=f"{budget} steps")
    ax.grid(color="#E8E8E8")
  axes[0].set_ylabel("relative: E|s - s*|^2 / E|s*|^2")
  for loss in losses:
    axes[-1].plot([], [], color=looks[loss][0], marker=looks[loss][1], ms=4, label=loss)
  handles, labels = axes[-1].get_legend_handles_labels()
  by_name = dict(zip(labels, handles, strict=True))
  figure.legend(by_name.values(), by_name.keys(), loc="outside upper center", ncols=len(losses))
  style.caption(
    figure,
    f"geometric mean and range over {seeds} seeds; left, on grey: the score of the data "
    "themselves, learned without noise",
  )
  return figure
