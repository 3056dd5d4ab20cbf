"""Style of figures: colours, sizes, captions, and small files that contain their command."""

from __future__ import annotations

import csv
import io
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter
from PIL import Image, PngImagePlugin

# Okabe and Ito, "Color Universal Design", 2008: distinct for every kind of colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
  *("#000000", "#E69F00", "#56B4E9", "#009E73"),
  *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
GREY = "#8C8C8C"
SAFE_COLOURS = (BLACK, BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE)  # yellow is pale on white

# One colour for each sampler throughout the project, two names of one sampler sharing it; a new
# sampler is a new line. The commonest are of the palette above; within a family hues are near.
SAMPLER_COLOURS = {
  "ddim": BLUE,
  "euler_ancestral": BLUE,
  "dpmpp_2m": VERMILLION,
  "heun": GREEN,
  "euler": SKY,
  "euler_time": "#AA4499",
  "annealed_langevin": PURPLE,
  "ancestral": "#332288",
  "renoise": "#117733",
  "consistency": "#661100",
  "ula": ORANGE,
  "mala": "#882255",
  "underdamped_langevin": "#999933",
  "ipndm": BLACK,
  "deis": "#E6AB02",
  "unipc": "#7570B3",
  "dpmpp_3m": "#E7298A",
  "lms": "#7F7F7F",
  "dpm_solver_2": "#66C2A5",
  "dpmpp_singlestep": "#FB9A99",
  "dpmpp_2s": "#8CB33A",
  "rk4": "#A6761D",
  "euler_maruyama": "#1B9ED9",
  "predictor_corrector": "#984EA3",
  "feynman_kac": "#B2182B",
  "dpmpp_sde": "#7A0177",
  "dpmpp_2m_sde": "#FC8D62",
  "dpmpp_3m_sde": "#F781BF",
  "adaptive_ode": "#4D4D4D",
  "kdpm2": "#66C2A5",
  "midpoint": "#66A61E",
  "plms": "#8C510A",
  "dpm_solver_2_ancestral": "#54278F",
  "dpmpp_2s_ancestral": "#807DBA",
}
_SPARE_COLOURS = (
  *("#44AA99", "#CC6677", "#DDCC77", "#88CCEE", "#BB5566", "#004488", "#DDAA33", "#AA3377"),
  *("#228833", "#EE8866", "#6699CC", "#997700"),
)
# The error budget, in the order in which its parts add up to the value.
PART_COLOURS = {
  "floor": "#BDBDBD",
  "guidance": PURPLE,
  "discretisation": SKY,
  "prior": ORANGE,
  "likelihood": BLUE,
  "particles": GREEN,
  "learning": VERMILLION,
}
PART_LABELS = {"floor": "floor (exact v exact)"}
METRIC_LABELS = {
  "sliced_wasserstein": "sliced W2",
  "max_sliced_wasserstein": "max-sliced W2",
  "wasserstein": "W2",
  "energy_distance": "energy distance",
  "KL, nats": "exact KL, nats",
  "W2": "exact W2",
  "frechet": "Frechet distance",
  "confident_share": "confident share / real",
  "class_count": "classes",
  "class_accuracy": "share of the requested class",
  "mode_weight_tv": "mode-weight TV",
  "off_mode_share": "off-mode share",
  "within_mode_std": "within-mode std (1 is right)",
}
# From light to dark; the light end is left out, which paper would swallow.
NOISE_CMAP = LinearSegmentedColormap.from_list(
  "noise", matplotlib.colormaps["viridis"](np.linspace(0, 0.92, 256))
)

MAX_PNG_BYTES = 300_000
_RC = {
  "font.size": 9,
  "axes.titlesize": 9.5,
  "axes.labelsize": 9,
  "legend.fontsize": 8,
  "legend.frameon": False,
  "xtick.labelsize": 8,
  "ytick.labelsize": 8,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.axisbelow": True,
  "lines.linewidth": 1.5,
  "lines.markersize": 4.5,
  "hatch.linewidth": 0.6,
}


def context() -> Any:
  """The project's style, as a context manager or a decorator.

  Importing changes no global setting.
  """
  return matplotlib.rc_context(_RC)


def new_figure(width: float, height: float) -> Figure:
  """Returns an empty figure of this size in inches, independent of pyplot and its global state."""
  figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def caption(figure: Figure, text: str) -> None:
  """Adds a line under the figure: numbers of samples, projections and keys."""
  figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#505050")


def fit_layout(figure: Figure, passes: int = 4) -> None:
  """Repeats a figure's layout, so that titles and captions do not overlap with equal scales.

  Axes with equal scales are smaller than their cells, so the next pass has other margins. Drawing
  is one more pass: the last one here moves nothing by half a pixel.
  """
  engine = figure.get_layout_engine()
  if engine is None:
    return
  for _ in range(passes):
    before = _corners(figure)
    engine.execute(figure)
    if np.abs(_corners(figure) - before).max(initial=0) < 0.5:
      return


def _corners(figure: Figure) -> np.ndarray:
  """Returns the corners of all axes in pixels, [axes, 2, 2]."""
  boxes = [ax.get_window_extent().get_points() for ax in figure.axes]
  return np.array(boxes).reshape(-1, 2, 2)


def sampler_colour(name: str) -> str:
  """Returns the sampler's own colour.

  A sampler without one, such as a user's own, gets a colour by its name, the same in every figure.
  """
  spare = _SPARE_COLOURS[zlib.crc32(name.encode()) % len(_SPARE_COLOURS)]
  return SAMPLER_COLOURS.get(name, spare)


def metric_label(name: str) -> str:
  """Returns the display name of a metric."""
  return METRIC_LABELS.get(name, name.replace("_", " "))


def number(value: float | None) -> float:
  """Returns a number of evaluation.json, with nan for null."""
  return np.nan if value is None else float(value)


def log_scale(ax: Axes, *names: str) -> None:
  """Makes the axes 'x' or 'y' logarithmic if any drawn value is positive and finite.

  Otherwise it stays linear: a log axis would have no ticks.
  """
  for name in names:
    least = ax.dataLim.minposx if name == "x" else ax.dataLim.minposy
    if np.isfinite(least):
      ax.set(**{f"{name}scale": "log"})


def finite(values: np.ndarray) -> np.ndarray:
  """Returns the finite values, [n]."""
  values = np.asarray(values, float)
  return values[np.isfinite(values)]


def nfe_axis(ax: Axes, counts: Sequence[int]) -> None:
  """Sets a log axis of network evaluations with an integer tick at each count."""
  ax.set_xscale("log")
  ax.xaxis.set_major_locator(FixedLocator(sorted(set(counts))))
  ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_minor_formatter(NullFormatter())
  ax.set_xlabel("network evaluations (NFE)")


def save(figure: Figure, path: pathlib.Path, command: str) -> pathlib.Path:
  """Writes a PNG of at most MAX_PNG_BYTES with the command in its metadata.

  A larger one is reduced to 256 colours, then in resolution, until it fits.

  Args:
    figure: the figure.
    path: ends in .png; its folder is created.
    command: the command that makes this figure; stored as Description, readable with Pillow.

  Returns:
    The path.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  info = PngImagePlugin.PngInfo()
  info.add_text("Software", "scorelab")
  info.add_text("Description", command)
  dpi = figure.dpi
  while True:
    raw, packed = io.BytesIO(), io.BytesIO()
    with context():
      figure.savefig(raw, format="png", dpi=dpi, pil_kwargs={"compress_level": 0})
    image = Image.open(raw).convert("RGB")
    image.save(packed, "png", optimize=True, pnginfo=info)
    if packed.tell() > MAX_PNG_BYTES:
      packed = io.BytesIO()
      # The palette that covers most: the commonest colours would take the place of a thin line's.
      image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(
        packed, "png", optimize=True, pnginfo=info
      )
    if packed.tell() <= MAX_PNG_BYTES or dpi < 40:
      path.write_bytes(packed.getvalue())
      return path
    dpi *= 0.85


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], command: str) -> pathlib.Path:
  """Writes the numbers of a figure: the command as a comment, a header, a line for each row.

  Args:
    path: its folder is created.
    rows: at least one, all with the first one's names; floats are written so that they read back as
      the same numbers, None and nan as empty cells.
    command: the command that makes the file.

  Returns:
    The path.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    file.write(f"# {command}\n")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
      writer.writerow({k: "" if v is None or str(v) == "nan" else v for k, v in row.items()})
  return path


def read_csv(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of `write_csv`, without the command; numbers become floats and empty cells nan."""

  def parse(text: str) -> Any:
    try:
      return float(text) if text else np.nan
    except ValueError:
      return text

  with path.open(newline="") as file:
    lines = (line for line in file if not line.startswith("#"))
    return [{k: parse(v) for k, v in row.items()} for row in csv.DictReader(lines)]
