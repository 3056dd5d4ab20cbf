"""Plots points and vector fields: samples next to data, a network's score next to the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.quiver import Quiver

from scorelab.plotting import style

_NUM_COLUMNS = 5
_UNLIKE = 5  # times as long as another: sides of unlike scales
Place: TypeAlias = tuple[float, float]


class Cloud(NamedTuple):
  """A set of points with its title and colour.

  Attributes:
    points: [n, d]; of d > 2 the first two coordinates are shown, of d = 1 a histogram.
    title: what it is.
    colour: of the points.
    off: [n], the points that belong to no mode, shown in black; None if there are no modes.
  """

  points: np.ndarray
  title: str
  colour: str
  off: np.ndarray | None = None


class ScoreField(NamedTuple):
  """The network's score and the exact one at the same points.

  Attributes:
    x: [m, d], d = 1 or 2; for d = 1 in increasing order.
    network: [m, d].
    exact: [m, d].
    sigma: the level, sigma / alpha.
  """

  x: np.ndarray
  network: np.ndarray
  exact: np.ndarray
  sigma: float


def lattice(low: np.ndarray, high: np.ndarray, num: int) -> np.ndarray:
  """Returns a regular lattice in the box low [d] .. high [d], at cell centres: [num^d, d]."""
  centres = [a + (b - a) * (np.arange(num) + 0.5) / num for a, b in zip(low, high, strict=True)]
  return np.stack(np.meshgrid(*centres), axis=-1).reshape(-1, len(centres))


def box(points: np.ndarray, margin: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
  """Returns (low [d], high [d]) around the finite points of [n, d], with a margin.

  The margin is a fraction of the longest side, or of each side if coordinates have unlike scales.
  The box has a width even if all points coincide or none is finite.
  """
  points = points[np.isfinite(points).all(axis=1)]
  if not len(points):
    return -np.ones(points.shape[1]), np.ones(points.shape[1])
  low, high = points.min(axis=0), points.max(axis=0)
  sides = high - low if _unlike(low, high) else np.full(len(low), (high - low).max())
  reach = margin * np.maximum(sides, 1e-6 * np.maximum(np.abs(points).max(axis=0), 1))
  return low - reach, high + reach


def _unlike(low: np.ndarray, high: np.ndarray) -> bool:
  """Returns True if one side of a box is so long that equal scales would make it a sliver."""
  sides = high - low
  return bool(sides.max() > _UNLIKE * sides.min() > 0)


def arrows(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns arrows [m, 2] of length |score|^(1/4), at most 1, along scores [m, 2]; and |score| [m].

  Scores differ by orders of magnitude: the fourth root keeps the small ones visible, and colour
  shows the magnitude.
  """
  size = np.linalg.norm(score, axis=1)
  root = (size / max(style.finite(size).max(initial=0.0), 1e-30)) ** 0.25
  return score / np.maximum(size, 1e-30)[:, None] * root[:, None], size


def draw_arrows(
  ax: Axes, x: np.ndarray, score: np.ndarray, norm: Normalize | None = None
) -> Quiver:
  """Draws a quiver of scores [m, 2] at lattice points x [m, 2], coloured by log |score|."""
  vectors, size = arrows(score)
  spacing = np.ptp(x[:, 0]) / max(np.sqrt(len(x)) - 1, 1)
  return ax.quiver(
    *x.T,
    *vectors.T,
    size,
    norm=norm or log_norm(size),
    cmap=style.NOISE_CMAP,
    angles="xy",
    scale_units="xy",
    scale=1 / (0.95 * spacing),
    pivot="mid",
    width=0.0045,
  )


def log_norm(size: np.ndarray) -> LogNorm:
  """Returns a log scale over at most four decades below the largest finite value."""
  found = style.finite(size)
  high = max(found.max(initial=0.0), 1e-30)
  return LogNorm(max(found.min(initial=high), high * 1e-4), high * (1 + 1e-6))


def draw_cloud(
  ax: Axes,
  cloud: Cloud,
  low: np.ndarray,
  high: np.ndarray,
  names: Sequence[str] = ("x1", "x2"),
) -> None:
  """Draws one set of points in the box low [d] .. high [d]; d = 1 as a histogram."""
  points, title = cloud.points, cloud.title
  if points.shape[1] == 1:
    bins = np.linspace(low[0], high[0], 61).tolist()
    if ((points >= low) & (points <= high)).any():
      ax.hist(points[:, 0], bins=bins, density=True, color=cloud.colour, alpha=0.7)
    ax.set(xlim=(low[0], high[0]), xlabel=names[0], ylabel="density")
  else:
    size = float(np.clip(4000 / len(points), 0.8, 8))
    off = np.zeros(len(points), bool) if cloud.off is None else cloud.off
    for chosen, colour, alpha in ((~off, cloud.colour, 0.45), (off, style.BLACK, 0.9)):
      ax.scatter(*points[chosen, :2].T, s=size, color=colour, alpha=alpha, linewidths=0)
    _square(ax, low, high, names)
  if cloud.off is not None:
    title += f"\n{100 * cloud.off.mean():.2g} % off mode"
  ax.set_title(title)


def _square(
  ax: Axes, low: np.ndarray, high: np.ndarray, names: Sequence[str] = ("x1", "x2")
) -> None:
  """Sets up the axes of two coordinates, with equal scales unless these are unlike."""
  ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=names[0], ylabel=names[1])
  if _unlike(low[:2], high[:2]):
    ax.set_box_aspect(1)
  else:
    ax.set_aspect("equal")
  ax.spines[["top", "right"]].set_visible(True)


@style.context()
def samples(
  clouds: Sequence[Cloud], field: ScoreField | None, text: str, names: Sequence[str] | None = None
) -> Figure:
  """Plots the data and every sampler's samples and, with a field, both scores and their gap.

  Args:
    clouds: the data first: it sets the box, and a sampler's strays may fall outside.
    field: of the clouds' dimension, 1 or 2; None draws clouds alone.
    text: the caption.
    names: of the coordinates; by default x, or x1, x2, ...
  """
  if names is None:
    names = ("x",) if clouds[0].points.shape[1] == 1 else ("x1", "x2")
  columns = min(len(clouds), _NUM_COLUMNS)
  rows = -(-len(clouds) // columns)
  lines = 1 + max(cloud.title.count("\n") + (cloud.off is not None) for cloud in clouds)
  heights = [(2.1 + 0.2 * lines) * rows] if field is None else [(2.1 + 0.2 * lines) * rows, 3.1]
  figure = style.new_figure(max(2.3 * columns, 6.0 if field is None else 9.0), sum(heights) + 0.3)
  # One subfigure alone would leave no room for the caption.
  parts: list[Any] = [figure]
  if field is not None:
    parts = list(figure.subfigures(2, 1, height_ratios=heights, squeeze=False).ravel())
  axes = parts[0].subplots(rows, columns, squeeze=False).ravel()
  low, high = box(clouds[0].points)
  for index, (ax, cloud) in enumerate(zip(axes, clouds, strict=False)):
    draw_cloud(ax, cloud, low, high, names)
    ax.label_outer()
    if index + columns >= len(clouds):  # none below it
      ax.set_xlabel(names[0])
      ax.tick_params(labelbottom=True)
  for ax in axes[len(clouds) :]:
    ax.set_visible(False)
  if field is not None:
    _draw_field(parts[1], field)
  style.caption(figure, text)
  style.fit_layout(figure)
  return figure


def _draw_field(figure: SubFigure, field: ScoreField) -> None:
  """Draws network, exact score and relative gap: in 2-D on three axes, in 1-D as curves on one."""
  if field.x.shape[1] == 1:
    ax = figure.subplots()
    ax.plot(field.x[:, 0], field.exact[:, 0], color=style.BLACK, label="exact")
    ax.plot(field.x[:, 0], field.network[:, 0], "--", color=style.VERMILLION, label="network")
    ax.set(xlabel="x", ylabel="score", title=f"score at sigma = {field.sigma:.3g}")
    ax.legend()
    return
  axes = figure.subplots(1, 3)
  low, high = field.x.min(axis=0), field.x.max(axis=0)
  _draw_scores(figure, axes, field, low, high)
  gap = np.linalg.norm(field.network - field.exact, axis=1)
  gap = gap / np.maximum(np.linalg.norm(field.exact, axis=1), 1e-30)
  _draw_gap(figure, axes[2], field.x, np.maximum(gap, 1e-3), LogNorm(1e-3, 1), low, high)
  axes[2].set_title("|network - exact| / |exact|")
  for ax in axes:
    ax.label_outer()


def _draw_scores(
  figure: Figure | SubFigure,
  axes: Sequence[Axes],
  field: ScoreField,
  low: np.ndarray,
  high: np.ndarray,
) -> None:
  """Draws network and exact score as arrows in the box low [2] .. high [2], on two axes."""
  norm = log_norm(np.linalg.norm(field.exact, axis=1))
  for ax, score, name in ((axes[0], field.network, "network"), (axes[1], field.exact, "exact")):
    draw_arrows(ax, field.x, score, norm)
    ax.set_title(f"{name} score at sigma = {field.sigma:.3g}")
    _square(ax, low, high)
    _bar(figure, ax, norm, style.NOISE_CMAP)


def _draw_gap(
  figure: Figure | SubFigure,
  ax: Axes,
  x: np.ndarray,
  gap: np.ndarray,
  norm: Normalize,
  low: np.ndarray,
  high: np.ndarray,
) -> None:
  """Colours the points x [m, 2] of a square lattice by gap [m], > 0."""
  side, cmap = round(len(gap) ** 0.5), matplotlib.colormaps["cividis"]
  ax.pcolormesh(*(c.reshape(side, side) for c in (*x.T, gap)), norm=norm, cmap=cmap)
  _square(ax, low, high)
  _bar(figure, ax, norm, cmap)


@style.context()
def score_map(
  field: ScoreField, stride: int, points: np.ndarray, errors: Mapping[Place, float], text: str
) -> Figure:
  """Plots the network's score next to the exact one, and |network - exact| in colour.

  Args:
    field: in two dimensions, on a square lattice, finer than the arrows'.
    stride: odd; arrows stand at the middle of every stride x stride points.
    points: [n, 2] of the law whose score it is, drawn over the error.
    errors: relative score errors, by the place [2] where each is written.
    text: the caption.
  """
  figure = style.new_figure(10.8, 3.7)
  axes = figure.subplots(1, 3)
  half = np.ptp(field.x[:, 0]) / (len(field.x) ** 0.5 - 1) / 2
  low, high = field.x.min(axis=0) - half, field.x.max(axis=0) + half
  _draw_scores(figure, axes, thinned(field, stride), low, high)
  gap = np.maximum(np.linalg.norm(field.network - field.exact, axis=1), 1e-30)
  _draw_gap(figure, axes[2], field.x, gap, log_norm(gap), low, high)
  axes[2].scatter(*points.T, s=0.6, color="white", linewidths=0, alpha=0.7)
  outline = [patheffects.withStroke(linewidth=1.6, foreground=style.BLACK)]
  for place, error in errors.items():
    axes[2].text(
      *place, f"{error:.2%}", color="white", ha="center", fontsize=7, path_effects=outline
    )
  axes[2].set_title("|network - exact|")
  for ax in axes:
    ax.label_outer()
  style.caption(figure, text)
  return figure


def thinned(field: ScoreField, stride: int) -> ScoreField:
  """Returns the field at the centre of every stride x stride points of its lattice; stride odd."""
  side = round(len(field.x) ** 0.5)

  def thin(values: np.ndarray) -> np.ndarray:
    square = values.reshape(side, side, 2)
    return square[stride // 2 :: stride, stride // 2 :: stride].reshape(-1, 2)

  return ScoreField(thin(field.x), thin(field.network), thin(field.exact), field.sigma)


def _bar(figure: Figure | SubFigure, ax: Axes, norm: Normalize, cmap: Colormap) -> None:
  figure.colorbar(ScalarMappable(norm, cmap), ax=ax, shrink=0.8, pad=0.02)
