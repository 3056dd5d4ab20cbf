"""The table and the figure of scripts/exact_budgets.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from scorelab.plotting import style

_PANELS = (
  ("gaussian", "w2_discretisation", False, "Gaussian, 64 d: deterministic samplers"),
  ("gaussian", "w2_discretisation", True, "Gaussian, 64 d: samplers that draw noise"),
  ("two modes", "w2", False, "two modes on the line"),
)
_MARKERS = "osD^v<>pPX*hd8"
_FEWEST = 16  # evaluations from which on a slope is fitted
_GRID = "karras"


def slope(nfe: ArrayLike, values: ArrayLike) -> float:
  """Returns minus the slope of log(values) against log(nfe) by least squares; nan for too few."""
  x, y = np.asarray(nfe, float), np.asarray(values, float)
  kept = (x >= _FEWEST) & (y > 0) & np.isfinite(y)
  if kept.sum() < 2:
    return float("nan")
  return float(-np.polyfit(np.log(x[kept]), np.log(y[kept]), 1)[0])


@style.context()
def error_against_nfe(rows: Sequence[dict[str, Any]]) -> Figure:
  """Plots exact W2 against NFE, both logarithmic, with the slope of each sampler.

  Args:
    rows: of the study.
  """
  drawn = {row["label"] for row in rows if row["sampler"] in _noisy(rows)}
  panels = [p for p in _PANELS if _curves(rows, p, drawn)]
  figure = style.new_figure(4.1 * len(panels), 4.9)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for ax, panel in zip(axes, panels, strict=True):
    _draw(ax, panel, _curves(rows, panel, drawn))
  style.caption(
    figure,
    "exact scores, VP process, Karras' levels to the data, start from the true law of the noisiest"
    f" level;\nexact laws, no samples; next to each name the fitted order from {_FEWEST}"
    " evaluations on",
  )
  return figure


def _noisy(rows: Sequence[dict[str, Any]]) -> set[str]:
  """Samplers with rows on the Gaussian alone: they draw noise."""
  line = {row["label"] for row in rows if row["target"] != "gaussian"}
  return {row["sampler"] for row in rows if row["label"] not in line}


def _curves(
  rows: Sequence[dict[str, Any]], panel: tuple[str, str, bool, str], noisy: set[str]
) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
  """Sampler, NFE and errors by label."""
  target, metric, draws, _ = panel
  line = {row["label"] for row in rows if row["target"] != "gaussian"}
  found: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
  own = [r for r in rows if r["target"] == target and r["grid"] == _GRID]
  for label in dict.fromkeys(r["label"] for r in own):
    if (label not in line) != draws:
      continue
    here = sorted((r for r in own if r["label"] == label), key=lambda r: r["nfe"])
    values = np.array([[r["nfe"], r[metric]] for r in here], float).T
    found[label] = (here[0]["sampler"], *values)
  return found


def _draw(
  ax: Axes,
  panel: tuple[str, str, bool, str],
  curves: dict[str, tuple[str, np.ndarray, np.ndarray]],
) -> None:
  order = sorted(curves, key=lambda label: -curves[label][2][-1])
  for number, label in enumerate(order):
    sampler, nfe, values = curves[label]
    rate = slope(nfe, values)
    name = label if np.isnan(rate) else f"{label}  {rate:.1f}"
    look = {"marker": _MARKERS[number % len(_MARKERS)], "ms": 4, "lw": 1.2}
    ax.plot(nfe, values, color=style.sampler_colour(sampler), label=name, **look)
  ax.set(yscale="log", title=panel[3])
  style.nfe_axis(ax, (4, 8, 16, 32, 64, 128))
  if ax is ax.figure.axes[0]:
    ax.set_ylabel("W2, in the data's units")
  ax.yaxis.set_major_locator(LogLocator(numticks=12))
  ax.yaxis.set_minor_formatter(NullFormatter())
  ax.grid(color="#EEEEEE", lw=0.6)
  ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table of KL in nats on the Gaussian: the best grid of each sampler and budget."""
  own = [row for row in rows if row["target"] == "gaussian"]
  budgets = sorted({row["nfe"] for row in own if row["label"] == own[0]["label"]})
  lines = [["sampler", *(f"{b:.0f}" for b in budgets)], ["---"] * (len(budgets) + 1)]
  for label in dict.fromkeys(row["label"] for row in own):
    cells = [f"`{label}`"]
    for budget in budgets:
      here = [r for r in own if r["label"] == label and budget / 1.5 < r["nfe"] <= budget]
      best = min(here, key=lambda r: (-r["nfe"], r["kl"]), default=None)
      cells.append(f"{best['kl']:.2g} ({best['grid']})" if best else "")
    lines.append(cells)
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
