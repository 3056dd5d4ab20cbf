"""Decodes an image file to a square of bytes: orientation, transparency, bit depth, size.

Needs only NumPy and Pillow, so that worker processes start without JAX.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = {
  *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
  *(".tif", ".tiff", ".webp"),
}
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # EPS would start a program
_DEEP = "has 32-bit pixels of an unknown range: convert it to 8 or 16 bits"
_FLOAT = "has float pixels outside [0, 1]: convert it to 8 or 16 bits"


class UnreadableImageError(ValueError):
  """An image that is not decoded; the message completes "the image ..."."""


def decode(data: bytes, side: int, channels: int) -> np.ndarray | None:
  """Returns the centre square of an encoded image, uint8 [side, side, channels].

  The image is rotated by its EXIF orientation, and composed on white if it is transparent. The
  shorter edge is resized to `side`, by a bicubic filter as wide as an output pixel. Animations give
  their first frame, and 16-bit images their upper eight bits; float pixels must be in [0, 1].

  Returns:
    None for an image that is damaged, has 32-bit or other float pixels, whose range is unknown, or
    has more than twice Pillow's MAX_IMAGE_PIXELS: see `why_unreadable`.
  """
  try:
    image = _opened(data, channels)
  except UnreadableImageError:
    return None
  square = min(image.size)
  left, top = ((edge - square) / 2 for edge in image.size)
  box = (left, top, left + square, top + square)
  image = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
  return np.asarray(image).reshape(side, side, channels)


def why_unreadable(data: bytes) -> str:
  """Returns the reason why `decode` returns None; '' if it returns an image."""
  try:
    _opened(data, 3)
  except UnreadableImageError as error:
    return str(error)
  return ""


def _opened(data: bytes, channels: int) -> Image.Image:
  """Returns the whole image in mode L or RGB. Raises UnreadableImageError."""
  try:
    image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    kind = image.format
    image.load()
    image = _upright(image)
    if image.mode == "F":
      pixels = np.asarray(image)
      if not ((pixels >= 0) & (pixels <= 1)).all():
        raise UnreadableImageError(_FLOAT)
      image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    elif image.mode == "I" and kind == "TIFF":
      raise UnreadableImageError(_DEEP)
    elif image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
      image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
      image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
  except UnreadableImageError:
    raise
  except UnidentifiedImageError as error:
    raise UnreadableImageError("is not an image") from error
  except Image.DecompressionBombError as error:
    raise UnreadableImageError("has too many pixels") from error
  except Exception as error:  # Pillow's decoders may raise anything
    raise UnreadableImageError("is damaged") from error


def _upright(image: Image.Image) -> Image.Image:
  """Rotates an image by its EXIF orientation; returns it unchanged if its EXIF is damaged."""
  try:
    return ImageOps.exif_transpose(image)
  except Exception:  # the pixels are good
    return image
