"""Shrinks pictures to embed them in a page."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import imageio_ffmpeg
from PIL import Image, ImageSequence

_TYPES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4", ".webp": "image/webp"}
_WIDTH, _FILM_WIDTH, _FRAMES = 1100, 480, 20
_LEAST = 200  # pixels: narrower is no picture
_FILM_WEIGHT = 4  # of a film's share to an image's
_BYTES_PER_PIXEL, _FILM_BYTES_PER_PIXEL = 0.06, 0.08  # of a figure as WebP, about


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture on a page.

  Attributes:
    path: the file.
    source: a data URL, or '' where it cannot be read or made small enough.
    film: whether it is a video.
  """

  path: pathlib.Path
  source: str
  film: bool


def embed(paths: Sequence[pathlib.Path], budget: int) -> list[Picture]:
  """Returns the pictures, scaled so that their data URLs fit `budget` characters together."""
  sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
  weights = [1 if path.suffix == ".png" else _FILM_WEIGHT for path in paths]
  limits = shares(sizes, weights, budget * 3 // 4 - 100 * len(paths))
  stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]
  with ThreadPoolExecutor(os.cpu_count()) as threads:
    return list(threads.map(_embed, paths, limits, stamps))


def shares(sizes: Sequence[int], weights: Sequence[int], budget: int) -> list[int]:
  """Divides a budget: small requests are met, the rest is shared by weight."""
  limits = [0] * len(sizes)
  order = sorted(range(len(sizes)), key=lambda i: sizes[i] / weights[i])
  left, weight = budget, sum(weights)
  for i in order:
    limits[i] = min(sizes[i], left * weights[i] // weight)
    left, weight = left - limits[i], weight - weights[i]
  return limits


@functools.lru_cache(maxsize=2048)  # of a page that is made again and again
def _embed(path: pathlib.Path, limit: int, stamp: int) -> Picture:
  del stamp  # of the file that was read: a new one is another picture
  film = path.suffix == ".mp4"
  try:
    data, kind = path.read_bytes(), path.suffix
    if len(data) > limit:
      data, kind = _shrink(path, limit)
    else:
      _verify(path)
  except (OSError, ValueError, SyntaxError, subprocess.SubprocessError):
    return Picture(path, "", film)
  if len(data) > limit:
    return Picture(path, "", film)
  return Picture(path, f"data:{_TYPES[kind]};base64,{base64.b64encode(data).decode()}", film)


def _verify(path: pathlib.Path) -> None:
  """Raises Pillow's error if an image is damaged."""
  if path.suffix != ".mp4":
    with Image.open(path) as image:
      image.load()


def _shrink(path: pathlib.Path, limit: int) -> tuple[bytes, str]:
  """Returns the picture in fewer bytes, possibly still too many, and its suffix."""
  if path.suffix == ".mp4":
    return _shrink_film(path, limit), ".mp4"
  with Image.open(path) as image:
    frames = getattr(image, "n_frames", 1)
    every = -(-frames // _FRAMES)
    kept = [f.convert("RGB") for i, f in enumerate(ImageSequence.Iterator(image)) if i % every == 0]
    duration = image.info.get("duration", 100) * every
  # As wide as should just fit: most need no second try.
  ratio, still = kept[0].height / kept[0].width, frames == 1
  density = _BYTES_PER_PIXEL if still else _FILM_BYTES_PER_PIXEL
  fitting = (limit / (density * ratio * len(kept))) ** 0.5
  width = int(min(_WIDTH if still else _FILM_WIDTH, max(fitting, _LEAST)))
  while True:
    data = _webp([_narrowed(frame, width) for frame in kept], duration)
    if len(data) > limit and width == _LEAST and len(kept) > 5:
      kept, duration = kept[::2], 2 * duration
      continue
    if len(data) <= limit or width == _LEAST:
      return data, ".webp"
    width = max(_LEAST, int(width * min(0.9, 0.95 * (limit / len(data)) ** 0.5)))


def _narrowed(frame: Image.Image, width: int) -> Image.Image:
  if frame.width <= width:
    return frame
  height = max(1, round(frame.height * width / frame.width))
  return frame.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _webp(frames: Sequence[Image.Image], duration: float) -> bytes:
  out, first = io.BytesIO(), frames[0]
  if len(frames) == 1:
    first.save(out, "webp", quality=75, method=2)
  else:
    more = {"save_all": True, "append_images": frames[1:], "duration": int(duration), "loop": 0}
    # No one seeks: without key frames it is a quarter smaller, and takes half the time.
    first.save(out, "webp", quality=50, method=0, kmin=0, kmax=0, **more)
  return out.getvalue()


def _shrink_film(path: pathlib.Path, limit: int) -> bytes:
  width = 480 if limit > 200_000 else 320
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "film.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-an"]
    command += ["-vf", f"fps=8,scale='min({width},iw)':-2", "-c:v", "libx264", "-crf", "36"]
    command += ["-preset", "veryfast", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return out.read_bytes()
