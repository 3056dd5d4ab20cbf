"""Plots discrete diffusion chains: clouds through time, and the cost of their steps in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scorelab.plotting import style
from scorelab.plotting.curves import draw_floor


@style.context()
def through_time(
  forward: Sequence[np.ndarray],
  reverse: Sequence[np.ndarray],
  titles: tuple[Sequence[str], Sequence[str]],
  reaches: Sequence[float],
  text: str,
) -> Figure:
  """Plots the forward process above the reverse one, a column for each time.

  Args:
    forward, reverse: clouds [n, 2], cleanest first.
    titles: of the forward clouds and of the reverse ones.
    reaches: half the width of each column's axes.
    text: the caption.
  """
  figure = style.new_figure(2.7 * len(forward), 5.9)
  axes = figure.subplots(2, len(forward), squeeze=False)
  for row, (clouds, names) in enumerate(zip((forward, reverse), titles, strict=True)):
    colour = (style.GREY, style.BLUE)[row]
    for ax, cloud, name, reach in zip(axes[row], clouds, names, reaches, strict=True):
      ax.scatter(*cloud.T, s=1.5, color=colour, linewidths=0, rasterized=True)
      ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=name)
      if row:
        ax.set_xlabel("x1")
  axes[0, 0].set_ylabel("forward, q\nx2")
  axes[1, 0].set_ylabel("reverse, p\nx2")
  style.caption(figure, text)
  return figure


class Learning(NamedTuple):
  """Measurements of one way of learning a chain during training.

  Attributes:
    label: for the legend.
    records: one for each measured number of training steps: step, kl_per_dim, and the value, sem,
      floor and floor_sem of `sliced_wasserstein`, as `<name>` or `sliced_wasserstein_<name>`.
    steps: the KL of each step of the chain per dimension, [T - 1] from t = 2, after training.
    colour: of its lines.
    marker: of its points.
  """

  label: str
  records: Sequence[Mapping[str, Any]]
  steps: np.ndarray
  colour: str
  marker: str


@style.context()
def learning(forms: Sequence[Learning], optimum: np.ndarray, text: str) -> Figure:
  """Plots KL per dimension and sliced W2 against training steps, and the KL of each step.

  Args:
    forms: to compare.
    optimum: the least KL of each step per dimension by a diagonal Gaussian, [T - 1] from t = 2.
    text: the caption.
  """
  figure = style.new_figure(10.5, 3.5)
  divergence, distance, by_step = figure.subplots(1, 3)
  for form in forms:
    look = {"color": form.colour, "marker": form.marker, "label": form.label}
    steps = [record["step"] for record in form.records]
    divergence.plot(steps, [record["kl_per_dim"] for record in form.records], **look)
    values, sems = (
      np.array([style.number(record[f"sliced_wasserstein{name}"]) for record in form.records])
      for name in ("", "_sem")
    )
    distance.errorbar(steps, values, sems, capsize=2, **look)
    by_step.plot(np.arange(2, len(form.steps) + 2), form.steps, color=form.colour, label=form.label)
  least = f"optimum: {optimum.mean():.4f}"
  divergence.axhline(optimum.mean(), color=style.BLACK, ls="--", lw=1, label=least)
  divergence.set(xlabel="training step", ylabel="KL per dimension, nats (mean over t)")
  last = forms[0].records[-1]
  draw_floor(distance, *(last[f"sliced_wasserstein_{name}"] for name in ("floor", "floor_sem")))
  distance.set(xlabel="training step", ylabel=style.metric_label("sliced_wasserstein"))
  by_step.plot(np.arange(2, len(optimum) + 2), optimum, color=style.BLACK, ls="--", lw=1)
  by_step.set(xlabel="step t of the chain", ylabel="KL per dimension, nats")
  by_step.set_title("after training")
  for ax in (divergence, distance):
    style.log_scale(ax, "x")
    if ax.get_xscale() == "log":
      _plain_numbers(ax.xaxis, (1,))
  for ax in (divergence, distance, by_step):
    style.log_scale(ax, "y")
    if ax.get_yscale() == "log":
      _plain_numbers(ax.yaxis, (1,) if ax is by_step else (1, 2, 5))
    ax.grid(color="#E8E8E8")
  if by_step.get_yscale() == "log" and by_step.get_ylim()[1] > 1e-4:
    by_step.set_ylim(1e-4, None)
  handles, labels = divergence.get_legend_handles_labels()
  band, name = distance.get_legend_handles_labels()
  figure.legend(
    [*handles, band[0]], [*labels, name[0]], loc="outside upper center", ncols=len(labels) + 1
  )
  style.caption(figure, text)
  return figure


def _plain_numbers(axis: Axis, subs: tuple[int, ...]) -> None:
  """Writes the ticks of a log axis out, as 0.05 and 10,000, at these multiples of its decades."""
  axis.set_major_locator(LogLocator(subs=subs))
  axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
  axis.set_minor_formatter(NullFormatter())
