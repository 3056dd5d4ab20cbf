"""Animations: GIF or MP4, drawn frame by frame."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import imageio_ffmpeg
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from scorelab.plotting import style
from scorelab.plotting.fields import arrows, draw_arrows, log_norm

MAX_ANIMATION_BYTES = 2_000_000
_TRAIL = 6  # frames


@style.context()
def render(figure: Figure, draw: Callable[[int], None], num_frames: int) -> list[np.ndarray]:
  """Renders the figure after draw(0), draw(1), ...: images [height, width, 3] of uint8."""
  canvas = FigureCanvasAgg(figure)
  frames = []
  for index in range(num_frames):
    draw(index)
    canvas.draw()
    frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
  return frames


def save_animation(
  frames: Sequence[np.ndarray],
  path: pathlib.Path,
  command: str,
  *,
  fps: int = 12,
  hold: float = 2.0,
) -> pathlib.Path:
  """Writes a GIF with Pillow, or an MP4 with the ffmpeg of imageio-ffmpeg.

  A GIF has as many colours, up to 128, as MAX_ANIMATION_BYTES allows.

  Args:
    frames: images [height, width, 3] of uint8, both sides even for an MP4.
    path: ends in .gif or .mp4; its folder is made.
    command: what a reader types to get this file; kept as its comment.
    fps: frames in a second.
    hold: seconds for which the last frame stays.

  Returns:
    The path.

  Raises:
    ValueError: the path ends in something else.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".gif":
    _save_gif(frames, path, command, fps, hold)
  elif path.suffix == ".mp4":
    _save_mp4(frames, path, command, fps, hold)
  else:
    raise ValueError(f"{path.name} must end in .gif or .mp4")
  return path


def _save_gif(
  frames: Sequence[np.ndarray], path: pathlib.Path, command: str, fps: int, hold: float
) -> None:
  durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * hold)]
  images = [Image.fromarray(frame) for frame in frames]
  for colours in (128, 48, 24, 12):
    palette = _palette(frames, colours)
    first, *others = (i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images)
    first.save(
      path,
      save_all=True,
      append_images=others,
      duration=durations,
      loop=0,
      optimize=True,
      comment=command.encode(),
    )
    if path.stat().st_size <= MAX_ANIMATION_BYTES:
      break


def _palette(frames: Sequence[np.ndarray], colours: int) -> Image.Image:
  """Returns an image whose palette has frequent distinct colours of some frames, and white."""
  chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(len(frames), 4))]
  strip = Image.fromarray(np.concatenate(chosen))
  found = strip.quantize(colours - 1, Image.Quantize.MAXCOVERAGE).getpalette() or []
  values = np.reshape(found, (-1, 3))[: colours - 1]
  values = values[values.min(axis=1) < 245]  # else some of the white becomes light grey
  palette = Image.new("P", (1, 1))
  palette.putpalette([255, 255, 255, *values.ravel().tolist()])
  return palette


def _save_mp4(
  frames: Sequence[np.ndarray], path: pathlib.Path, command: str, fps: int, hold: float
) -> None:
  height, width, _ = frames[0].shape
  writer = imageio_ffmpeg.write_frames(
    path,
    (width, height),
    fps=fps,
    quality=None,
    macro_block_size=2,
    output_params=["-crf", "26", "-metadata", f"comment={command}"],
  )
  with warnings.catch_warnings():
    # JAX warns of the fork that starts ffmpeg; the child process does not use JAX.
    warnings.simplefilter("ignore", RuntimeWarning)
    writer.send(None)
  for frame in [*frames, *[frames[-1]] * round(fps * hold)]:
    writer.send(np.ascontiguousarray(frame))
  writer.close()


@style.context()
def moving_clouds(
  paths: Sequence[np.ndarray],
  sigmas: np.ndarray,
  reaches: np.ndarray,
  titles: Sequence[str],
  text: str,
  *,
  colour: str,
  backdrop: np.ndarray | None = None,
  field: tuple[np.ndarray, Sequence[np.ndarray]] | None = None,
  trails: int = 0,
  clock: str = "sigma = {:.2f}",
) -> tuple[Figure, Callable[[int], None]]:
  """Animates points in the plane, one panel for each path.

  Args:
    paths: [frames, n, d] each, d >= 2; the first two coordinates are shown.
    sigmas: [frames], for the title: what `clock` formats.
    reaches: [frames], half the axes' width about 0: the camera may follow the points.
    titles: of the panels.
    text: the caption.
    colour: of the points.
    backdrop: [m, d] points of the data, in grey behind the moving ones.
    field: lattice points [g, 2], and for each panel the scores there, [frames, g, 2]: arrows, whose
      colour compares the scores of a frame; None draws none.
    trails: how many of the points, the first ones, are larger and draw their last few steps.
    clock: the format of a frame's number in the title.

  Returns:
    The figure, and the function that makes it show a frame: for `render`.
  """
  figure = style.new_figure(3.5 * len(paths), 4.3)
  figure.set_dpi(100)
  axes = figure.subplots(1, len(paths), squeeze=False)[0]
  panels = []
  look: dict[str, Any] = {"color": style.BLACK, "lw": 0.8, "marker": "o", "mfc": colour, "ms": 4}
  for index, (ax, path) in enumerate(zip(axes, paths, strict=True)):
    if backdrop is not None:
      ax.scatter(*backdrop[:, :2].T, s=2, color="#C4C4C4", linewidths=0)
    scores = None if field is None else field[1][index]
    quiver = None if field is None else draw_arrows(ax, field[0], field[1][index][0])
    points = ax.scatter(*path[0, :, :2].T, s=3, color=colour, alpha=0.5, linewidths=0, zorder=3)
    lines = [ax.plot([], [], markevery=[-1], zorder=4, **look)[0] for _ in range(trails)]
    ax.set(aspect="equal", xlabel="x1", ylabel="x2")
    ax.label_outer()
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    panels.append((ax, path, titles[index], points, lines, quiver, scores))
  style.caption(figure, text)

  def draw(frame: int) -> None:
    reach = reaches[frame]
    for ax, path, title, points, lines, quiver, scores in panels:
      ax.set_title(f"{title}\n{clock.format(sigmas[frame])}")
      ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
      points.set_offsets(path[frame, :, :2])
      for chain, line in enumerate(lines):
        line.set_data(*path[max(frame - _TRAIL, 0) : frame + 1, chain, :2].T)
      if quiver is not None and scores is not None:
        vectors, size = arrows(scores[frame])
        quiver.set_UVC(vectors[:, 0], vectors[:, 1], size)
        quiver.set_norm(log_norm(size))

  # Laid out once, at its widest labels: the axes stay where they are.
  draw(int(np.argmax(reaches)))
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  return figure, draw
