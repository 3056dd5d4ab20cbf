"""Plots forward processes side by side: alpha, sigma, log-SNR and g against t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from scorelab.plotting import style


class Process(NamedTuple):
  """Values of a schedule at times; all arrays [n], not finite if undefined.

  Attributes:
    name: for the legend.
    t: in [0, 1].
    alpha: the signal scale.
    sigma: the noise std.
    log_snr: log(alpha / sigma).
    g: the SDE's diffusion, per root of t.
  """

  name: str
  t: np.ndarray
  alpha: np.ndarray
  sigma: np.ndarray
  log_snr: np.ndarray
  g: np.ndarray


_LABELS = {
  "alpha": "signal scale alpha",
  "sigma": "noise std sigma",
  "log_snr": "log-SNR, log(alpha / sigma)",
  "g": "diffusion g",
}
_COLOURS = (
  *(style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY),
  *(style.BLACK, "#882255"),
)
_DASHES = ("-", "--", "-.", ":")


@style.context()
def comparison(families: Mapping[str, Sequence[Process]], text: str) -> Figure:
  """Plots a row of panels for each family: alpha, sigma, log-SNR and g against t.

  Args:
    families: by name, at most eight processes each. Alpha or sigma that exceeds 2, and every g,
      has a logarithmic axis.
    text: the caption.
  """
  figure = style.new_figure(11, 2.5 * len(families) + 0.4)
  rows = figure.subplots(len(families), 4, squeeze=False)
  for row, (family, processes) in zip(rows, families.items(), strict=True):
    for ax, (field, label) in zip(row, _LABELS.items(), strict=True):
      for i, process in enumerate(processes):
        values = getattr(process, field)
        shown = np.where(np.isfinite(values), values, np.nan)
        look = {"color": _COLOURS[i], "ls": _DASHES[i % 4], "label": process.name}
        ax.plot(process.t, shown, **look)
      ax.set(xlabel="time t", ylabel=label, xlim=(0, 1))
      if field == "g" or (
        field != "log_snr" and max(getattr(p, field).max() for p in processes) > 2
      ):
        style.log_scale(ax, "y")
      elif field in ("alpha", "sigma"):
        ax.set_ylim(-0.03, 1.05)
    row[0].set_title(family, loc="left")
    row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
  style.caption(figure, text)
  return figure
