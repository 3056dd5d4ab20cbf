"""Plots images: sheets side by side, and distances of samples to the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scorelab.plotting import curves, style


class Album(NamedTuple):
  """Images [n, height, width, channels] of 1 or 3 channels, and their title."""

  images: np.ndarray
  title: str


def draw_tiles(
  ax: Axes, images: np.ndarray, num_columns: int, bounds: tuple[float, float] = (-1.0, 1.0)
) -> None:
  """Draws images [n, height, width, channels] in rows on one axes, with a gap of a pixel.

  `bounds` are mapped to black and white, and values beyond them are clipped; single-channel images
  are shown as dark ink on white.
  """
  low, high = bounds
  shown = np.clip((images - low) / (high - low), 0, 1)
  shown = 1 - shown if images.shape[-1] == 1 else shown
  height, width, channels = images.shape[1:]
  num_rows = -(-len(images) // num_columns)
  sheet = np.ones((num_rows * (height + 1) - 1, num_columns * (width + 1) - 1, channels))
  for i, image in enumerate(shown):
    row, column = divmod(i, num_columns)
    top, left = row * (height + 1), column * (width + 1)
    sheet[top : top + height, left : left + width] = image
  ax.imshow(np.broadcast_to(sheet, (*sheet.shape[:2], 3)), interpolation="nearest")
  # Lines in the gaps: white images would run into each other.
  for x in range(1, num_columns):
    ax.axvline(x * (width + 1) - 1, color="#C8D4E3", lw=1)
  for y in range(1, num_rows):
    ax.axhline(y * (height + 1) - 1, color="#C8D4E3", lw=1)
  ax.set_xticks([])
  ax.set_yticks([])
  for spine in ax.spines.values():
    spine.set(visible=True, color="#C8D4E3")


@style.context()
def albums(
  pages: Sequence[Album],
  text: str,
  num_columns: int = 8,
  bounds: tuple[float, float] = (-1.0, 1.0),
) -> Figure:
  """Plots sheets of images side by side, at most four in a row.

  Args:
    pages: what is shown, each with as many images as are wanted, no more.
    text: the caption.
    num_columns: images in a row of a sheet.
    bounds: what is shown as the two ends of the greys.
  """
  across = len(pages) if len(pages) <= 4 else min(4, -(-len(pages) // 2))
  down = -(-len(pages) // across)
  rows = -(-max(len(page.images) for page in pages) // num_columns)
  lines = 1 + max(page.title.count("\n") for page in pages)
  height = 2.9 * rows / num_columns + 0.2 * (lines + 1)
  figure = style.new_figure(2.9 * across, height * down + 0.3)
  axes = figure.subplots(down, across, squeeze=False).ravel()
  for ax, page in zip(axes, pages, strict=False):
    draw_tiles(ax, page.images, num_columns, bounds)
    ax.set_title(page.title)
  for ax in axes[len(pages) :]:
    ax.axis("off")
  style.caption(figure, text)
  return figure


@style.context()
def neighbours(
  distances: dict[str, np.ndarray],
  pairs: Sequence[Album],
  text: str,
  bounds: tuple[float, float] = (-1.0, 1.0),
) -> Figure:
  """Plots distances of sets of images to their nearest training images, and some nearest pairs.

  Args:
    distances: by set, [n] Euclidean distances; drawn as shares up to each distance.
    pairs: two sheets of as many images, in the same order: samples and their neighbours.
    text: the caption.
    bounds: as for `albums`.
  """
  figure = style.new_figure(8.6, 3.1 + 0.2 * len(distances))
  ax, *others = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
  colours = (style.GREY, style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE)
  for (name, values), colour in zip(distances.items(), colours, strict=False):
    if len(known := style.finite(values)):
      ax.ecdf(known, color=colour, label=f"{name}: median {np.median(known):.2f}")
  ax.set(xlabel="distance to the nearest training image", ylabel="share of images", xlim=(0, None))
  if ax.get_legend_handles_labels()[0]:
    figure.legend(loc="outside upper left")
  for other, page in zip(others, pairs, strict=True):
    draw_tiles(other, page.images, 4, bounds)
    other.set_title(page.title)
  style.caption(figure, text)
  return figure


@style.context()
def table(
  rows: np.ndarray,
  columns: Sequence[str],
  text: str,
  bounds: tuple[float, float] = (-1.0, 1.0),
  width: float = 0.75,
) -> Figure:
  """Plots a row of images for each image, with a column for each time or step.

  Args:
    rows: [rows, columns, height, width, channels].
    columns: a heading for each.
    text: the caption.
    bounds: as for `albums`.
    width: of a column, in inches.
  """
  num_rows, num_columns = rows.shape[:2]
  figure = style.new_figure(width * num_columns + 0.2, width * num_rows + 0.7)
  ax = figure.subplots()
  draw_tiles(ax, rows.reshape(-1, *rows.shape[2:]), num_columns, bounds)
  across = rows.shape[3] + 1
  ax.set_xticks([(i + 0.5) * across - 1 for i in range(num_columns)], columns)
  ax.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
  style.caption(figure, text)
  return figure


@style.context()
def over_steps(
  steps: Sequence[int], panels: dict[str, tuple[np.ndarray, float]], text: str
) -> Figure:
  """Plots numbers against the training step, a panel for each, with its floor as a grey line.

  Args:
    steps: training steps, > 0.
    panels: by label, [len(steps)] values and the floor, nan for none.
    text: the caption.
  """
  # At most three across: a page shows it at half its size otherwise, its text too small to read.
  columns = min(len(panels), 3)
  rows = -(-len(panels) // columns)
  figure = style.new_figure(2.7 * columns + 0.3, 2.5 * rows + 0.4)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax in axes[len(panels) :]:
    ax.set_visible(False)
  for ax, (label, (values, floor)) in zip(axes, panels.items(), strict=False):
    ax.plot(steps, values, "o-", color=style.VERMILLION)
    if np.isfinite(floor):
      ax.axhline(floor, color=style.PART_COLOURS["floor"], lw=3, zorder=0)
    known = style.finite(np.append(values, floor))
    if known.size:
      curves.log_where_positive(ax, known, factor=3)
    ax.set(xlabel="training step", ylabel=label)
    ax.grid(color="#E8E8E8")
  style.caption(figure, text)
  return figure
