"""The table and the figure of scripts/exact_budgets.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from scorelab.plotting import pareto, style

PANELS = (
  ("gaussian", "kl", "Gaussian in 64 d: KL, nats"),
  ("gaussian", "w2", "Gaussian in 64 d: W2"),
  ("two modes", "kl", "two modes on the line: KL, nats"),
  ("two modes", "w2", "two modes on the line: W2"),
)
PLANE = (("nine modes", "kl", "nine modes in the plane: KL, nats"),)
LIMITS = {"kl": 0.01, "w2": 0.01}
_FEWEST = 16  # evaluations from which on a slope is fitted
_REST: dict[str, Any] = {"color": "#C9C9C9", "lw": 0.8}

Row = dict[str, Any]
Panels = Sequence[tuple[str, str, str]]


def slope(nfe: ArrayLike, values: ArrayLike) -> float:
  """Returns minus the slope of log(values) against log(nfe) by least squares; nan for too few."""
  x, y = np.asarray(nfe, float), np.asarray(values, float)
  kept = (x >= _FEWEST - 3) & (y > 0) & np.isfinite(y)  # rk4 takes 13 evaluations of 16
  if kept.sum() < 2:
    return float("nan")
  return float(-np.polyfit(np.log(x[kept]), np.log(y[kept]), 1)[0])


def best_rows(rows: Sequence[Row], target: str, metric: str) -> dict[str, list[Row]]:
  """Returns, by sampler, its row of the best grid at each budget, by NFE; bounds do not count."""
  best: dict[tuple[str, float], Row] = {}
  for row in rows:
    bound = row.get(f"{metric}_error") == np.inf
    if row["target"] == target and np.isfinite(row[metric]) and not bound:
      key = row["label"], row["nfe"]
      if key not in best or row[metric] < best[key][metric]:
        best[key] = row
  found: dict[str, list[Row]] = {}
  for (label, _), row in sorted(best.items(), key=lambda item: item[0][1]):
    found.setdefault(label, []).append(row)
  return found


def best_within(rows: Sequence[Row], target: str, metric: str) -> dict[int, Row]:
  """Returns the front: by budget, the best row of as many evaluations or fewer."""
  own = [row for of_one in best_rows(rows, target, metric).values() for row in of_one]
  return {
    int(budget): min((row for row in own if row["nfe"] <= budget), key=lambda row: row[metric])
    for budget in sorted({row["budget"] for row in own})
  }


def front_table(rows: Sequence[Row], panels: Panels = PANELS) -> str:
  """A Markdown table: the best sampler and grid within each budget, by every target and metric."""
  fronts = [best_within(rows, target, metric) for target, metric, _ in panels]
  lines = [["evaluations", *(title for *_, title in panels)], ["---"] * (len(panels) + 1)]
  for budget in fronts[0]:
    cells = [str(budget)]
    for (_, metric, _), best in zip(panels, fronts, strict=True):
      row = best[budget]
      cells.append(f"{row[metric]:.2g}: `{row['label']}`, {row['grid']}")
    lines.append(cells)
  return _markdown(lines)


def fewest_table(rows: Sequence[Row]) -> str:
  """A Markdown table: the budget from which on each sampler, on its best grid, is within LIMITS."""
  titles = [f"{title} at most {LIMITS[metric]:g}" for _, metric, title in PANELS]
  lines = [["sampler", *titles], ["---"] * (len(PANELS) + 1)]
  labels = dict.fromkeys(row["label"] for row in rows)
  for label in labels:
    cells = [f"`{label}`"]
    for target, metric, _ in PANELS:
      own = best_rows([r for r in rows if r["label"] == label], target, metric).get(label, [])
      kept = []
      for row in reversed(own):
        if row[metric] > LIMITS[metric]:
          break
        kept.append(row)
      cells.append("" if not own else f"{kept[-1]['nfe']:.0f}" if kept else "-")
    lines.append(cells)
  return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


@style.context()
def error_against_nfe(rows: Sequence[Row], panels: Panels = PANELS) -> Figure:
  """Plots exact KL and W2 against NFE, both logarithmic: each sampler on its best grid.

  Samplers of the front are in colours, with fitted slopes; all others in grey.

  Args:
    rows: of the study.
    panels: one, or four: target, metric and title.
  """
  figure = style.new_figure(9.6, 8.2) if len(panels) > 1 else style.new_figure(6.4, 4.8)
  axes = figure.subplots(2, 2) if len(panels) > 1 else np.array(figure.subplots())
  for ax, (target, metric, title) in zip(axes.flat, panels, strict=True):
    _draw(ax, rows, target, metric)
    ax.set_title(title)
  style.caption(
    figure,
    "exact scores, VP process, exact laws without samples: each sampler on the best of"
    f" {len({row['grid'] for row in rows})} grids at each budget;\n"
    f"in brackets the order fitted from {_FEWEST} evaluations on; grey: never the best at a budget",
  )
  return figure


def _draw(ax: Axes, rows: Sequence[Row], target: str, metric: str) -> None:
  best = best_rows(rows, target, metric)
  winners = best_within(rows, target, metric).values()
  chosen = list(dict.fromkeys(row["label"] for row in winners))
  colours = iter(style.SAFE_COLOURS)
  for number, label in enumerate(sorted(best, key=lambda label: label in chosen)):
    nfe, values = np.array([[row["nfe"], row[metric]] for row in best[label]], float).T
    if label not in chosen:
      ax.plot(nfe, values, **_REST)
      continue
    rate = slope(nfe, values)
    name = label if np.isnan(rate) else f"{label} [{rate:.1f}]"
    look = dict(pareto.line_style(label.split()[0], dashed=False, number=number))
    ax.plot(nfe, values, label=name, **look | {"color": next(colours, look["color"])})
  ax.set_yscale("log")
  style.nfe_axis(ax, (4, 8, 16, 32, 64, 128))
  ax.yaxis.set_major_locator(LogLocator(numticks=12))
  ax.yaxis.set_minor_formatter(NullFormatter())
  ax.grid(color="#EEEEEE", lw=0.6)
  ax.legend(loc="lower left", fontsize=7)
