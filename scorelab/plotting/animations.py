"""Figures that move: GIF or MP4, drawn frame by frame."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import imageio_ffmpeg
import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.figure import Figure
from PIL import Image

from scorelab.plotting import style

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
