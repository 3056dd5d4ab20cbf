"""Plots points near curves in the plane: kernel heat maps, and memorisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from scorelab.plotting import style

REACH = 2.0  # of the maps, on either side of 0
_HEAT = LinearSegmentedColormap.from_list(
  "heat", matplotlib.colormaps["magma"](np.linspace(0, 0.97, 256))
)
_COLOURS = (style.VERMILLION, style.BLACK, style.BLUE, style.GREEN)
_DASHES = ("-", "--", "-.", ":")


def kernel_map(points: np.ndarray, *, num: int = 512, rate: float = 350.0) -> np.ndarray:
  """Sum over points [n, 2] of exp(-rate d^2) on a lattice of [-REACH, REACH]^2: [num, num].

  Rows are x2, from below. The map is divided by its maximum.
  """
  lattice = REACH * (2 * (np.arange(num) + 0.5) / num - 1)
  # The kernel is a product of one factor for each coordinate.
  across, up = (np.exp(-rate * (lattice[:, None] - a) ** 2) for a in points.T.astype(float))
  heat = up @ across.T
  return heat / max(float(heat.max()), 1e-30)


@style.context()
def heat_maps(maps: Mapping[str, np.ndarray], text: str) -> Figure:
  """Plots maps of `kernel_map` side by side, each under its name; text is the caption."""
  columns = min(len(maps), 5)
  rows = -(-len(maps) // columns)
  figure = style.new_figure(2.5 * columns, 3.2 * rows + 0.3)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax, (name, heat) in zip(axes, maps.items(), strict=False):
    _show(ax, heat)
    ax.set_title(name)
  for ax in axes[len(maps) :]:
    ax.set_visible(False)
  for ax in axes:
    ax.label_outer()
  style.caption(figure, text)
  return figure


@style.context()
def moving_maps(
  paths: Mapping[str, np.ndarray], title: str, text: str, *, num: int = 256, rate: float = 350.0
) -> tuple[Figure, Callable[[int], None]]:
  """Animates kernel heat maps of moving points, one panel for each path.

  Args:
    paths: [frames, n, 2] each, by name.
    title: above all panels.
    text: the caption.
    num, rate: as `kernel_map`.

  Returns:
    The figure, and the function that makes it show a frame: for `animations.render`.
  """
  figure = style.new_figure(3.6 * len(paths), 4.2)
  figure.set_dpi(100)
  axes = figure.subplots(1, len(paths), squeeze=False)[0]
  images = []
  last = len(next(iter(paths.values()))) - 1
  for ax, (name, path) in zip(axes, paths.items(), strict=True):
    images.append((_show(ax, kernel_map(path[0], num=num, rate=rate)), path))
    ax.set_title(name)
    ax.label_outer()
  heading = figure.suptitle("", fontsize=9.5)
  style.caption(figure, text)

  def draw(frame: int) -> None:
    heading.set_text(f"{title}: after {frame} of {last}")
    for image, path in images:
      image.set_data(kernel_map(path[frame], num=num, rate=rate))

  draw(last)
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  return figure, draw


def _show(ax: Axes, heat: np.ndarray) -> matplotlib.image.AxesImage:
  ends = (-REACH, REACH, -REACH, REACH)
  image = ax.imshow(heat, origin="lower", extent=ends, cmap=_HEAT, vmin=0, vmax=1)
  ax.set(xlabel="x1", ylabel="x2")
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_locator(MultipleLocator(1))
  return image


@style.context()
def curves(alpha: np.ndarray, sigma: np.ndarray) -> Figure:
  """Plots signal and noise of every step of a chain, and their ratio; all [T], clean to noisy."""
  figure = style.new_figure(7.2, 2.8)
  left, right = figure.subplots(1, 2)
  step = np.arange(1, len(alpha) + 1)
  left.plot(step, alpha, color=style.BLUE, label="signal scale alpha")
  left.plot(step, sigma, "--", color=style.VERMILLION, label="noise std sigma")
  left.plot(step, alpha**2, "-.", color=style.SKY, label="alpha_bar = alpha^2")
  left.set(xlabel=f"step of {len(alpha)}", ylim=(-0.03, 1.05))
  left.legend()
  right.plot(step, sigma / alpha, color=style.BLACK)
  right.set(xlabel=f"step of {len(alpha)}", ylabel="noise over signal, sigma / alpha")
  style.log_scale(right, "y")
  return figure


@style.context()
def loss(
  steps: np.ndarray, values: np.ndarray, known: Mapping[int, float], least: float, text: str
) -> Figure:
  """Plots a training loss [n] against its steps [n], with published values and the minimum."""
  figure = style.new_figure(4.6, 3.2)
  ax = figure.subplots()
  ax.plot(steps, values, "o-", color=style.BLUE, label="this run")
  if known:
    look = {"marker": "x", "ms": 8, "mew": 2, "ls": "none", "color": style.VERMILLION}
    ax.plot(list(known), list(known.values()), **look, label="published notebook's code")
  ax.axhline(least, color=style.GREY, ls="--", label=f"least of any network, {least:.3g}")
  ax.set(xlabel="training step", ylabel="loss per coordinate", xlim=(0, None))
  if values.max() > 3 * values.min():
    style.log_scale(ax, "y")
  ax.legend()
  style.caption(figure, text)
  return figure


@style.context()
def memorisation(
  samples: np.ndarray,
  train: np.ndarray,
  nearest: Mapping[str, tuple[np.ndarray, np.ndarray]],
  levels: np.ndarray,
  errors: Mapping[str, np.ndarray],
  text: str,
) -> Figure:
  """Plots the distances of samples to training and held-out points, and score errors by level.

  Args:
    samples: the network's, [n, 2].
    train: the training points, [m, 2].
    nearest: of each set of samples, the distances [n] to the nearest training point and to the
      nearest held-out point.
    levels: sigma / alpha, increasing, [l].
    errors: the network's relative score error against each truth, by its name, [l].
    text: the caption.
  """
  figure = style.new_figure(11.5, 5.6)
  (cloud, by_level), (to_train, to_held_out) = figure.subplots(2, 2)
  cloud.scatter(*samples.T, s=2, color=style.VERMILLION, alpha=0.4, lw=0)
  cloud.plot([], [], "o", color=style.VERMILLION, ms=4, label="network")  # to be seen in the legend
  cloud.plot(*train.T, "x", color=style.BLACK, ms=5, label="training points")
  cloud.set(aspect="equal", xlabel="x1", ylabel="x2", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
  cloud.legend(loc="center left", bbox_to_anchor=(1, 0.5))
  for (name, error), colour, dashes in zip(
    errors.items(), (style.BLACK, style.BLUE), _DASHES, strict=False
  ):
    by_level.plot(levels, error, dashes, color=colour, label=f"against the {name}")
  by_level.set(xlabel="noise over signal, sigma / alpha", ylabel="network's relative score error")
  style.log_scale(by_level, "x", "y")
  by_level.legend()
  for ax, index, what in ((to_train, 0, "training"), (to_held_out, 1, "held-out")):
    for (name, distances), colour, dashes in zip(nearest.items(), _COLOURS, _DASHES, strict=False):
      values = np.maximum(np.sort(distances[index]), 1e-5)
      shares = (np.arange(len(values)) + 0.5) / len(values)
      ax.plot(values, shares, dashes, color=colour, label=name)
    ax.set(xlabel=f"distance to the nearest {what} point", ylabel="share of samples below")
    ax.set(xscale="log", xlim=(1e-5, 1))
  # Next to the panels: a curve may be anywhere in them.
  to_held_out.legend(loc="center left", bbox_to_anchor=(1, 0.5))
  style.caption(figure, text)
  return figure
