"""Figures that move: GIF or MP4, drawn frame by frame."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import imageio_ffmpeg
import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from scorelab.plotting import style
from scorelab.plotting.fields import arrows, draw_arrows, log_norm

MAX_ANIMATION_BYTES = 2_000_000


def save_animation(
  figure: Figure,
  draw: Callable[[int], None],
  num_frames: int,
  path: pathlib.Path,
  command: str,
  *,
  fps: float = 12,
  hold: float = 2.0,
) -> pathlib.Path:
  """Writes frames 0 .. num_frames - 1, then the last one for a while longer.

  Args:
    figure: what `draw` changes.
    draw: makes the figure show this frame.
    num_frames: at least 1.
    path: ends in .gif or .mp4; its folder is made.
    command: what a reader types to get this file; kept as its comment.
    fps: frames in a second.
    hold: seconds for which the last frame stays.

  Returns:
    The path.

  Raises:
    ValueError: the path ends in something else.
  """
  writers = {".gif": _save_gif, ".mp4": _save_mp4}
  if path.suffix not in writers:
    raise ValueError(f"{path.name} must end in {' or '.join(writers)}")
  path.parent.mkdir(parents=True, exist_ok=True)
  with style.context():
    writers[path.suffix](figure, draw, num_frames, path, command, fps, hold)
  return path


def _save_gif(
  figure: Figure,
  draw: Callable[[int], None],
  num_frames: int,
  path: pathlib.Path,
  command: str,
  fps: float,
  hold: float,
) -> None:
  """By Pillow, every frame in the last one's colours, fewer of them while the file is too large."""
  frames = []
  for index in range(num_frames):
    draw(index)
    figure.canvas.draw()
    rgba = np.asarray(figure.canvas.buffer_rgba())  # pyrefly: ignore[missing-attribute]
    frames.append(Image.fromarray(rgba).convert("RGB"))
  durations = [round(1000 / fps)] * (num_frames - 1) + [round(1000 * hold)]
  for colours in (128, 48, 24, 12):
    palette = frames[num_frames // 2].quantize(colours)
    first, *others = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
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


def _save_mp4(
  figure: Figure,
  draw: Callable[[int], None],
  num_frames: int,
  path: pathlib.Path,
  command: str,
  fps: float,
  hold: float,
) -> None:
  """H.264 by the ffmpeg that comes with imageio-ffmpeg."""
  metadata = {"comment": command, "title": path.stem}
  writer = FFMpegWriter(fps=fps, metadata=metadata, extra_args=["-crf", "26"])
  with (
    matplotlib.rc_context({"animation.ffmpeg_path": imageio_ffmpeg.get_ffmpeg_exe()}),
    writer.saving(figure, str(path), figure.dpi),
  ):
    for index in [*range(num_frames), *[num_frames - 1] * round(fps * hold)]:
      draw(index)
      writer.grab_frame()


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
) -> tuple[Figure, Callable[[int], None]]:
  """Points on the move in the plane, a panel for each path, for `save_animation`.

  Args:
    paths: [frames, n, d] each, d >= 2; the first two coordinates are shown.
    sigmas: [frames], for the title.
    reaches: [frames], half the axes' width about 0: the camera may follow the points.
    titles: of the panels.
    text: the caption.
    colour: of the points.
    backdrop: [m, d] points of the data, in grey behind the moving ones.
    field: lattice points [g, 2], and for each panel the scores there, [frames, g, 2]: arrows, whose
      colour compares the scores of a frame; None draws none.
    trails: how many of the points draw their path so far.

  Returns:
    The figure, and the function that makes it show a frame.
  """
  figure = style.new_figure(3.5 * len(paths), 4.1)
  figure.set_dpi(100)
  axes = figure.subplots(1, len(paths), squeeze=False)[0]
  panels = []
  for index, (ax, path) in enumerate(zip(axes, paths, strict=True)):
    if backdrop is not None:
      ax.scatter(*backdrop[:, :2].T, s=2, color="#C4C4C4", linewidths=0)
    scores = None if field is None else field[1][index]
    quiver = None if field is None else draw_arrows(ax, field[0], field[1][index][0])
    size, alpha = (3, 0.5) if path.shape[1] > 100 else (16, 1.0)
    points = ax.scatter(
      *path[0, :, :2].T, s=size, color=colour, alpha=alpha, linewidths=0, zorder=3
    )
    lines = [ax.plot([], [], color=style.BLACK, lw=0.8, zorder=4)[0] for _ in range(trails)]
    ax.set(aspect="equal", title=titles[index], xlabel="x1", ylabel="x2")
    ax.label_outer()
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    panels.append((ax, path, points, lines, quiver, scores))
  heading = figure.suptitle("sigma = 00.00", family="monospace", fontsize=10)
  style.caption(figure, text)

  def draw(frame: int) -> None:
    heading.set_text(f"sigma = {sigmas[frame]:5.2f}")
    reach = reaches[frame]
    for ax, path, points, lines, quiver, scores in panels:
      ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
      points.set_offsets(path[frame, :, :2])
      for chain, line in enumerate(lines):
        line.set_data(*path[: frame + 1, chain, :2].T)
      if quiver is not None and scores is not None:
        vectors, size = arrows(scores[frame])
        quiver.set_UVC(*vectors.T, size)
        quiver.set_norm(log_norm(size))

  # Laid out once, at its widest labels: the axes stay where they are.
  draw(int(np.argmax(reaches)))
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  return figure, draw
