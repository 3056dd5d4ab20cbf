"""Plots paths: chains in the plane with their score, and processes through the levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from scorelab.plotting import style
from scorelab.plotting.fields import draw_arrows


class Chains(NamedTuple):
  """Chains of one score.

  Attributes:
    path: [steps + 1, n, 2], the start first.
    title: what drives them, in a line.
    findings: their diagnostics.
    colour: of the chains.
    score: [g, 2], the score at the figure's lattice.
    shares: [k], the modes' shares of the chains.
  """

  path: np.ndarray
  title: str
  findings: str
  colour: str
  score: np.ndarray
  shares: np.ndarray


@style.context()
def chains(
  panels: Sequence[Chains],
  lattice: np.ndarray,
  data: np.ndarray,
  weights: np.ndarray,
  text: str,
) -> Figure:
  """Plots paths and end points of chains over data and score, and below the mode shares.

  Args:
    panels: side by side.
    lattice: [g, 2], where the scores are.
    data: [m, 2] points of the law that is sampled, in grey.
    weights: [k], the modes' true weights.
    text: the caption.
  """
  figure = style.new_figure(3.5 * len(panels), 6.6)
  grid = figure.add_gridspec(2, len(panels), height_ratios=(3.2, 1))
  reach = float(np.abs(lattice).max())
  titles = [f"{chains.title}\n{chains.findings}" for chains in panels]
  most = max(title.count("\n") for title in titles)  # the titles begin at one height
  for column, (chains, title) in enumerate(zip(panels, titles, strict=True)):
    ax = figure.add_subplot(grid[0, column])
    ax.scatter(*data.T, s=2, color="#B0B0B0", linewidths=0)
    draw_arrows(ax, lattice, chains.score).set_alpha(0.45)
    for line in chains.path.swapaxes(0, 1):
      ax.plot(*line.T, color=chains.colour, lw=0.5, alpha=0.8)
    ax.plot(*chains.path[0].T, "o", color=style.BLACK, mfc="white", ms=3.5, mew=0.7)
    ax.plot(*chains.path[-1].T, "o", color="white", mfc=chains.colour, ms=4.5, mew=0.7)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="x1")
    ax.set_ylabel("x2" if column == 0 else "")
    ax.tick_params(labelleft=column == 0)
    ax.set_title(title + "\n" * (most - title.count("\n")), fontsize=8.5)
  ax = figure.add_subplot(grid[1, :])
  modes, width = np.arange(1, len(weights) + 1), 0.8 / (len(panels) + 1)
  bars = [("target", style.GREY, weights), *((p.title, p.colour, p.shares) for p in panels)]
  for index, (label, colour, shares) in enumerate(bars):
    ax.bar(modes + (index - len(panels) / 2) * width, shares, width, color=colour, label=label)
  ax.set(xlabel="mode", ylabel="share of the chains")
  ax.set_xticks(modes)
  ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(bars), borderaxespad=0)
  style.caption(figure, text)
  style.fit_layout(figure)
  return figure


class LevelPath(NamedTuple):
  """A path of one coordinate through the levels.

  Attributes:
    title: what it is.
    x: [n], at each level.
  """

  title: str
  x: np.ndarray


@style.context()
def through_levels(
  paths: Sequence[LevelPath], mean: np.ndarray, std: np.ndarray, text: str
) -> Figure:
  """Plots paths over the band of three standard deviations of their law, by level index.

  The y axis is logarithmic but for values within the least positive std.

  Args:
    paths: a panel for each.
    mean, std: [n], of the law at each level, cleanest first.
    text: the caption.
  """
  figure = style.new_figure(3.9 * len(paths) + 0.4, 3.4)
  index = np.arange(len(std))
  positive = std[(std > 0) & np.isfinite(std)]
  least = float(positive.min()) if positive.size else 1.0
  axes = figure.subplots(1, len(paths), squeeze=False, sharey=True)[0]
  for ax, path in zip(axes, paths, strict=True):
    low, high = mean - 3 * std, mean + 3 * std
    ax.fill_between(index, low, high, color=style.SKY, alpha=0.3, lw=0, label="mean +- 3 std")
    ax.plot(index, path.x, color=style.BLUE, marker=".", ms=3, lw=1, label="one path")
    ax.axhline(0, color=style.GREY, lw=0.6)
    ax.set_yscale("symlog", linthresh=least)
    ax.set(xlabel="index of the level (0: the data)", title=path.title)
    ax.label_outer()
  axes[0].set_ylabel("x (symmetric log scale)")
  axes[0].legend(loc="upper left")
  style.caption(figure, text)
  return figure


class ThroughTime(NamedTuple):
  """Paths on the line from noise to data, and the density that they go through.

  Attributes:
    t: [n], falling to 0, the data.
    flow: [n, a], solutions of the probability flow.
    sde: [n, b], paths of the reverse SDE.
    times: [m], falling to 0.
    x: [g], increasing.
    density: [m, g], of x at each of `times`.
  """

  t: np.ndarray
  flow: np.ndarray
  sde: np.ndarray
  times: np.ndarray
  x: np.ndarray
  density: np.ndarray


@style.context()
def through_time(rows: Mapping[str, ThroughTime], text: str) -> Figure:
  """Plots each process in a row: the noise's density, the paths over the density, the data's.

  Args:
    rows: by the process's name.
    text: the caption.
  """
  figure = style.new_figure(7.6, 2.75 * len(rows) + 0.5)
  axes = figure.subplots(len(rows), 3, sharey=True, squeeze=False, width_ratios=(1, 6, 1))
  for (noise, middle, data), (name, row) in zip(axes, rows.items(), strict=True):
    extent = (float(row.times[0]), float(row.times[-1]), float(row.x[0]), float(row.x[-1]))
    shown = np.sqrt(row.density.T)
    vmax = 1.6 * style.finite(shown).max(initial=0.0) or 1.0
    look = {"cmap": "Greys", "vmax": vmax, "aspect": "auto", "origin": "lower"}
    middle.imshow(shown, extent=extent, **look)
    flow = middle.plot(row.t, row.flow, color=style.BLUE, lw=1)
    sde = middle.plot(row.t, row.sde, color=style.VERMILLION, lw=0.6, alpha=0.9)
    flow[0].set_label("probability flow")
    sde[0].set_label("reverse SDE")
    ends = np.zeros(row.flow.shape[1]), row.flow[-1]
    middle.plot(*ends, "o", color=style.BLUE, ms=3, clip_on=False)
    middle.set(xlim=extent[:2], ylim=extent[2:], title=name.replace("_", " "))
    middle.set_xlabel("time t: 1 is noise, 0 the data")
    for ax, density, sign in ((noise, row.density[0], -1), (data, row.density[-1], 1)):
      ax.fill_betweenx(row.x, sign * density, color="#B0B0B0", lw=0)
      ax.spines[["left" if sign > 0 else "right", "bottom"]].set_visible(False)
      ax.tick_params(left=sign < 0, bottom=False, labelbottom=False)
      highest = style.finite(density).max(initial=0.0) or 1.0
      ax.set_xlim(sorted((0, 1.05 * sign * highest)))
    noise.set(ylabel="x", title="noise")
    data.set_title("data")
  axes[0][1].legend(loc="upper left", ncols=2)
  style.caption(figure, text)
  return figure
