"""The figures of scripts/guidance.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scorelab.plotting import style

_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#999999", "#CC79A7", "#882255", "#D55E00")
_COLOURS += ("#0072B2",)
_MARKERS = "osD^vpP<>"


def line(row: Mapping[str, Any]) -> str:
  """One line of the table."""
  ratio = f"{row['over_floor']:9.2f} +- {row['over_floor_sem']:.2f} floors"
  return f"{row['target']:10}  w = {row['scale']:<4g}  {row['method']:30}{row['nfe']:5}{ratio}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """A Markdown table: energy distance in floors by target, method and scale."""
  scales = sorted({row["scale"] for row in rows})
  lines = [["target", "sampler", "NFE", *(f"w = {scale:g}" for scale in scales)]]
  lines.append(["---"] * len(lines[0]))
  for target, method in dict.fromkeys((row["target"], row["method"]) for row in rows):
    own = {r["scale"]: r for r in rows if (r["target"], r["method"]) == (target, method)}
    cells = [f"{r['over_floor']:.2f} ± {r['over_floor_sem']:.2f}" for r in own.values()]
    lines.append([target, method, f"{own[scales[0]]['nfe']:.0f}", *cells])
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def exact_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """A Markdown table: 1 + D / floor by target, method and scale, without samples."""
  scales = sorted({row["scale"] for row in rows})
  lines = [["target", "sampler", *(f"w = {scale:g}" for scale in scales)]]
  lines.append(["---"] * len(lines[0]))
  for target, method in dict.fromkeys((row["target"], row["method"]) for row in rows):
    own = [row for row in rows if (row["target"], row["method"]) == (target, method)]
    over = {row["scale"]: row["over_floor"] for row in own}
    lines.append([target, method, *(f"{over[scale]:.3f}" for scale in scales)])
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


@style.context()
def variances(rows: Sequence[Mapping[str, float]]) -> Figure:
  """Plots the variance of guided samples against the scale, where all laws are Gaussian."""
  figure = style.new_figure(5.2, 3.8)
  ax = figure.subplots()
  scale = [row["scale"] for row in rows]
  curves = (
    ("tilted", "tilted law, 2 / (1 + w)"),
    ("sde", "guided reverse SDE"),
    ("flow", "guided probability flow"),
  )
  for (name, label), colour in zip(curves, _COLOURS, strict=False):
    ax.plot(scale, [row[name] for row in rows], color=colour, label=label)
  ax.errorbar(
    scale,
    [row["particles"] for row in rows],
    [2 * row["particles_sem"] for row in rows],
    fmt="o",
    color=_COLOURS[-1],
    label="particles, weights by density",
  )
  ax.set(yscale="log", xlabel="guidance scale w", ylabel="variance of the samples")
  ax.legend(frameon=False)
  style.caption(
    figure,
    "p(x | c) = N(0, 1), p(x) = N(0, 2), VE process; curves in closed form,\n"
    "points of 32 populations of 256 particles in 16 steps, bars of 2 standard errors",
  )
  return figure


@style.context()
def over_floor(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """Plots the energy distance from the tilted law, in floors, against the scale."""
  targets = list(dict.fromkeys(row["target"] for row in rows))
  methods = list(dict.fromkeys(row["method"] for row in rows))
  figure = style.new_figure(3.4 * len(targets) + 1.6, 3.6)
  axes = figure.subplots(1, len(targets), squeeze=False, sharey=True)[0]
  for ax, target in zip(axes, targets, strict=True):
    for method, colour, marker in zip(methods, _COLOURS, _MARKERS, strict=False):
      own = [r for r in rows if (r["target"], r["method"]) == (target, method)]
      ax.errorbar(
        [r["scale"] for r in own],
        [r["over_floor"] for r in own],
        [2 * r["over_floor_sem"] for r in own],
        color=colour,
        marker=marker,
        label=f"{method} ({own[0]['nfe']})",
      )
    ax.axhline(1, color="#808080", linewidth=0.8)
    ax.set(xscale="log", yscale="log", title=target, xlabel="guidance scale w")
    scales = sorted({r["scale"] for r in rows})
    ax.set_xticks(scales, [f"{s:g}" for s in scales], minor=False)
    ax.minorticks_off()
  axes[0].set_ylabel("energy distance / floor")
  axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
  style.caption(
    figure,
    "exact scores, VP process, Karras' levels; in brackets calls of predict for one sample;"
    " bars of 2 standard errors",
  )
  return figure


@style.context()
def maps(clouds: Mapping[tuple[str, float], np.ndarray]) -> Figure:
  """Plots where samples lie, by method and scale, on one window around the class."""
  methods = list(dict.fromkeys(method for method, _ in clouds))
  scales = list(dict.fromkeys(scale for _, scale in clouds))
  figure = style.new_figure(2.2 * len(methods), 2.2 * len(scales) + 0.4)
  axes = figure.subplots(len(scales), len(methods), squeeze=False, sharex=True, sharey=True)
  middle = clouds[methods[0], scales[0]].mean(0)
  for i, scale in enumerate(scales):
    for j, method in enumerate(methods):
      ax, x = axes[i, j], clouds[method, scale] - middle
      bins = [np.linspace(-1.3, 1.3, 53)] * 2
      ax.hist2d(x[:, 0], x[:, 1], bins=bins, cmap="magma", density=True, vmin=0, vmax=1.7)
      ax.set_aspect("equal")
      if i == 0:
        ax.set_title(method)
    axes[i, 0].set_ylabel(f"w = {scale:g}")
  style.caption(figure, "nine modes, the class at (-10, -10); coordinates from its mean")
  return figure
