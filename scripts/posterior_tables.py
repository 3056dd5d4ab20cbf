"""Tables and the figure of scripts/posteriors.py, from its rows.

The rule for published numbers was written before any row of this study, and after an earlier study
in few dimensions. A thesis gives midpoints of seeds and noises, with half-ranges that are known for
four of its cells, where they are 0.74 to 0.92 of the midpoint; the authors' benchmark is a single
problem. So

    agrees   our mean is between (1 - SPREAD) and (1 + SPREAD) of a published midpoint, or the
             published value of one problem is between the least and the largest of ours
    lower    ours is below, by more than two of its standard errors where it has them
    higher   ours is above, likewise
    near     outside, by less than that
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scorelab.metrics.budget import budget
from scorelab.metrics.ratios import ratio_of_means
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import style

SPREAD = 0.85
# Dowling's sliced W1, midpoints over seeds and noises, by cells (d, d_y). His SMC is an unnamed
# filter, and stands next to `tds`.
_CELLS = ((8, 1), (8, 2), (8, 4), (80, 1), (80, 2), (80, 4))
PUBLISHED = {
  "dps": (8.18, 2.72, 0.95, 5.03, 3.14, 1.32),
  "pigdm": (3.16, 0.94, 0.09, 3.08, 1.68, 0.84),
  "tmpd": (3.31, 1.34, 0.37, 2.42, 1.35, 1.14),
  "tds": (1.35, 0.55, 0.19, 1.65, 1.19, 1.11),
}
# Max-sliced W2 of MCGDiff's authors' benchmark in 8 dimensions, for d_y = 1, 2, 4.
AUTHORS = {
  "ddrm": (29.7, 13.4, 0.454),
  "dps": (27.8, 19.3, 12.4),
  "mcgdiff": (18.9, 10.8, 1.01),
  "mcgdiff_128": (5.21, 4.34, 0.186),
}
# The exact score's rows, and the one of most particles, that a method's budget is taken with.
LARGEST = {"mcgdiff": "mcgdiff_128", "ours_8": "ours"}
Rows = Sequence[dict[str, Any]]


def _of(rows: Iterable[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
  return [row for row in rows if fields.items() <= row.items()]


def _cells(rows: Rows) -> list[tuple[int, int]]:
  return sorted({(row["d"], row["d_y"]) for row in rows})


def _number(value: Any) -> Any:
  """A float to five digits; None if there is none, or it is not finite."""
  if not isinstance(value, float):
    return value
  return float(f"{value:.5g}") if np.isfinite(value) else None


def table(rows: Rows, methods: Sequence[str]) -> list[dict[str, Any]]:
  """Means over noises and seeds by d, d_y and method, with the ratio to the floor."""
  out = []
  for (d, d_y), method in itertools.product(_cells(rows), methods):
    found = _of(rows, d=d, d_y=d_y, method=method)
    kept = [row for row in found if row["distance"] is not None]
    if not found:
      continue
    line = {"d": d, "d_y": d_y, "method": method, "problems": len(found)}
    line["exploded"] = len(found) - len(kept)
    value, floor, tv = (
      np.array([row[name] for row in kept], float)
      for name in ("distance", "floor", "mode_weight_tv")
    )
    if kept:
      (mean, error), (ratio, ratio_error) = mean_and_sem(value), ratio_of_means(value, floor)
      line |= {"sliced_w1": mean, "sem": error, "floor": float(floor.mean())}
      line |= {"over_floor": ratio, "mode_weight_tv": float(tv.mean())}
      line |= {"over_floor_sem": ratio_error}
      line |= {"seconds": float(np.median([row["seconds"] for row in kept]))}
    line |= {name: found[0][name] for name in ("nfe", "gradients", "particles", "num_steps")}
    out.append(line)
  names = list(dict.fromkeys(name for line in out for name in line))
  return [{name: _number(line.get(name)) for name in names} for line in out]


def budgets(rows: Rows) -> list[dict[str, Any]]:
  """Parts of sliced W1 by cell and method, with their standard errors over problems."""
  out = []
  for (d, d_y), method in itertools.product(_cells(rows), dict.fromkeys(r["method"] for r in rows)):
    exact = ("modes_start", "modes") if method.startswith("ours") else ("exact_start", "exact")
    names = (*exact, LARGEST.get(method, method), method)
    if method in exact:
      continue
    by_name = {
      name: {(r["noise_std"], r["seed"]): r for r in _of(rows, d=d, d_y=d_y, method=name)}
      for name in names
    }
    shared = set.intersection(*(set(found) for found in by_name.values()))
    shared = {key for key in shared if all(by_name[name][key]["distance"] for name in names)}
    if not shared:
      continue
    values = [[by_name[name][key]["distance"] for key in sorted(shared)] for name in names]
    floor = [by_name[method][key]["floor"] for key in sorted(shared)]
    parts = budget(np.array([floor, *values, values[-1]]))
    line = {"d": d, "d_y": d_y, "method": method, "problems": len(shared)}
    shown = ("value", "floor", "discretisation", "prior", "likelihood", "particles")
    line |= {name: parts[name] for name in shown}
    line |= {f"{name}_sem": parts["sem" if name == "value" else f"{name}_sem"] for name in shown}
    if method not in LARGEST:  # no particles, or none of it with more
      line |= {"particles": None, "particles_sem": None}
    out.append({name: _number(value) for name, value in line.items()})
  return out


def one_noise(rows: Rows, method: str, d: int, noise_std: float) -> list[dict[str, Any]]:
  """Means of a method at one noise, by d_y: what a thesis has for MCGDiff in 80 dimensions."""
  out = []
  for d_y, published in zip((1, 2, 4), (1.49, 2.08, 4.52), strict=True):
    found = _of(rows, d=d, d_y=d_y, method=method, noise_std=noise_std)
    if found:
      value = np.array([row["distance"] for row in found], float)
      floor = np.array([row["floor"] for row in found], float)
      line = {"d": d, "d_y": d_y, "method": method, "noise_std": noise_std}
      mean, error = mean_and_sem(value)
      line |= {"published": published, "sliced_w1": mean, "sem": error}
      out.append(line | {"floor": float(floor.mean()), "problems": len(found)})
  return [{name: _number(value) for name, value in line.items()} for line in out]


def compared(pooled: Rows, authors: Rows) -> list[dict[str, Any]]:
  """Published numbers next to ours, with verdicts by the module's rule."""
  out = []
  for method, numbers in PUBLISHED.items():
    for (d, d_y), published in zip(_CELLS, numbers, strict=True):
      found = [r["distance"] for r in _of(pooled, d=d, d_y=d_y, method=method)]
      kept = np.array([value for value in found if value is not None])
      low, high = published * (1 - SPREAD), published * (1 + SPREAD)
      line = {"protocol": "pooled", "d": d, "d_y": d_y, "method": method, "published": published}
      if len(kept):
        mean, error = mean_and_sem(kept)
        line |= {"ours": mean, "sem": error, "problems": len(found)}
        line |= {"verdict": _verdict(mean, error, low, high)}
      out.append(line)
  for method, numbers in AUTHORS.items():
    for d_y, published in zip((1, 2, 4), numbers, strict=True):
      found = [r["distance"] for r in _of(authors, d_y=d_y, method=method)]
      kept = np.array([value for value in found if value is not None])
      line = {"protocol": "authors", "d": 8, "d_y": d_y, "method": method, "published": published}
      if len(kept):
        ours = float(np.median(kept))
        inside = kept.min() <= published <= kept.max()
        verdict = "agrees" if inside else "lower" if ours < published else "higher"
        line |= {
          "ours": ours,
          "sem": mean_and_sem(kept)[1],
          "problems": len(found),
          "verdict": verdict,
        }
      out.append(line)
  names = ("protocol", "d", "d_y", "method", "published", "ours", "sem", "problems", "verdict")
  return [{name: _number(line.get(name)) for name in names} for line in out]


def _verdict(value: float, error: float, low: float, high: float) -> str:
  if low <= value <= high:
    return "agrees"
  apart = low - value if value < low else value - high
  if apart <= 2 * np.nan_to_num(error):
    return "near"
  return "lower" if value < low else "higher"


def printed(rows: Rows) -> str:
  """The main table in Markdown."""
  names = ("d", "d_y", "method", "particles", "num_steps", "problems", "exploded", "sliced_w1")
  names = (*names, "over_floor", "over_floor_sem", "mode_weight_tv")
  return _markdown(rows, names)


def printed_budgets(rows: Rows) -> str:
  """The budgets in Markdown."""
  parts = ("floor", "discretisation", "prior", "likelihood", "particles")
  shown = [
    {
      **row,
      **{part: f"{_shown(row[part])} ± {_shown(row[f'{part}_sem'])}".strip(" ±") for part in parts},
    }
    for row in rows
  ]
  return _markdown(shown, ("d", "d_y", "method", "problems", "value", *parts))


def printed_one_noise(rows: Rows) -> str:
  """A method at one noise in Markdown."""
  names = ("d", "d_y", "noise_std", "method", "published", "sliced_w1", "sem", "floor", "problems")
  return _markdown(rows, names)


def printed_published(rows: Rows) -> str:
  """Published numbers in Markdown."""
  names = ("protocol", "d", "d_y", "method", "published", "ours", "sem", "problems", "verdict")
  return _markdown(rows, names)


def _markdown(rows: Rows, names: Sequence[str]) -> str:
  lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
  for row in rows:
    lines.append("| " + " | ".join(_shown(row[name]) for name in names) + " |")
  return "\n".join(lines)


def _shown(value: Any) -> str:
  """A number to three digits; nothing for none, as read from a file or not."""
  if isinstance(value, str):
    return value
  return "" if value is None or np.isnan(value) else f"{value:.3g}"


@style.context()
def figure(rows: Rows) -> Figure:
  """Plots each method's distance over the floor against d_y, a panel for each dimension."""
  dims = sorted({row["d"] for row in rows})
  drawn = style.new_figure(3.2 * len(dims) + 0.8, 3.6)
  axes = np.atleast_1d(drawn.subplots(1, len(dims), sharey=True))
  methods = list(dict.fromkeys(row["method"] for row in rows))
  methods = [name for name in methods if not name.endswith("_start")]  # as without, on a figure
  for ax, d in zip(axes, dims, strict=True):
    for index, method in enumerate(methods):
      found = [r for r in _of(rows, d=d, method=method) if r["over_floor"] is not None]
      if not found:
        continue
      colour = style.SAFE_COLOURS[index % len(style.SAFE_COLOURS)]
      look = {"ls": ("-", "--", ":")[index // len(style.SAFE_COLOURS)], "marker": "o", "ms": 3}
      look |= {"lw": 2.5 if method == "ours" else 1}
      error = [0.0 if r["over_floor_sem"] is None else r["over_floor_sem"] for r in found]
      x = np.array([r["d_y"] for r in found]) * 1.03 ** (index - len(methods) / 2)
      ratios = np.array([r["over_floor"] for r in found])
      below = np.minimum(error, 0.9 * ratios)
      ax.errorbar(x, ratios, (below, error), color=colour, label=method, **look)
    ax.axhspan(0.9, 1.1, color=style.PART_COLOURS["floor"], lw=0, alpha=0.6)
    ax.set(xscale="log", yscale="log", title=f"d = {d}", xlabel="entries of y")
    ax.set_xticks((1, 2, 4), ("1", "2", "4"), minor=False)
    ax.minorticks_off()
  axes[0].set_ylabel("sliced W1 / floor")
  handles, labels = axes[0].get_legend_handles_labels()
  drawn.legend(handles, labels, loc="outside right center")
  style.caption(drawn, "means over problems; bars: standard errors; band: within 10 % of the floor")
  return drawn
