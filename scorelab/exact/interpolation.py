"""Smooth maps of an interval as polynomials on pieces, found by few evaluations of the map.

A piece has values and derivatives at Chebyshev points of the first kind, each with a polynomial of
its own. It is halved until the last coefficients of both are negligible, so that a fold, however
narrow, lies in pieces of its width. Values, derivatives and inverses then take no evaluation.

Trefethen, "Approximation Theory and Approximation Practice", 2013, chapters 3 and 8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_DEGREE = 19
_FIRST = 26  # pieces
_MOST = 2**12
_NARROWEST = 1e-9  # of the interval
_NEGLIGIBLE = 1e-12  # of the largest value in a piece
_STEPS = 80
_ANGLES = np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1)
_TO_COEFFICIENTS = 2 / (_DEGREE + 1) * np.cos(np.outer(_ANGLES, np.arange(_DEGREE + 1)))
_TO_COEFFICIENTS[:, 0] /= 2
_PARTS = 8  # of a piece, in which derivatives are looked at for a change of sign
_BLOCK = 2**15  # points at a time

Function = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Interpolated:
  """A map of an interval, as polynomials on pieces; see `scorelab.exact.line.MonotonePieces`.

  Attributes:
    edges: ends of the pieces, [pieces + 1].
    cells: those and points between them, as close as the map varies.
  """

  def __init__(self, edges: np.ndarray, coefficients: np.ndarray):
    self.edges, self._coefficients = edges, coefficients
    share = np.arange(_PARTS) / _PARTS
    inner = edges[:-1, None] + np.diff(edges)[:, None] * share
    self.cells = np.append(inner.ravel(), edges[-1])

  @staticmethod
  def of(function: Function, low: float, high: float) -> Interpolated | None:
    """Returns a function x [n] -> value [n], derivative [n] on [low, high]; None if it has jumps.

    That is, if it is no polynomial on 4096 pieces, or on one of 1e-9 of the interval.
    """
    lows, width = np.linspace(low, high, _FIRST, endpoint=False), (high - low) / _FIRST
    done = 0
    starts, coefficients = [], []
    while len(lows):
      if width < _NARROWEST * (high - low) or done + len(lows) > _MOST:
        return None
      x = lows[:, None] + width * (1 + np.cos(_ANGLES)) / 2
      values = np.stack([a.reshape(x.shape) for a in function(x.ravel())], axis=1)
      if not np.isfinite(values).all():
        return None
      found = values @ _TO_COEFFICIENTS  # [pieces, 2, degree + 1]
      tail = np.abs(found[..., -3:]).max(-1)
      good = (tail <= _NEGLIGIBLE * np.abs(values).max(-1)).all(1)
      starts.append(lows[good])
      coefficients.append(found[good])
      done += int(good.sum())
      width /= 2
      lows = (lows[~good][:, None] + width * np.arange(2)).ravel()
    edges, found = np.concatenate(starts), np.concatenate(coefficients)
    order = np.argsort(edges)
    return Interpolated(np.append(edges[order], high), found[order])

  def __call__(
    self, x: Float[np.ndarray, "n 1"]
  ) -> tuple[Float[np.ndarray, "n 1"], Float[np.ndarray, "n 1 1"]]:
    """Returns the images of x and the derivatives there."""
    y, slope = self._at(x[:, 0])
    return y[:, None], slope[:, None, None]

  def _at(self, x: np.ndarray) -> np.ndarray:
    """The images and the derivatives, [2, n], by Clenshaw's recursion."""
    parts = [self._block(x[i : i + _BLOCK]) for i in range(0, max(len(x), 1), _BLOCK)]
    return np.concatenate(parts, axis=1)

  def _block(self, x: np.ndarray) -> np.ndarray:
    piece = np.clip(np.searchsorted(self.edges, x, "right") - 1, 0, len(self.edges) - 2)
    low, high = self.edges[piece], self.edges[piece + 1]
    t = (2 * x - low - high) / (high - low)
    own = self._coefficients[piece].transpose(2, 1, 0)
    one, two = np.zeros_like(own[0]), np.zeros_like(own[0])
    for c in own[:0:-1]:
      one, two = 2 * t * one - two + c, one
    return t * one - two + own[0]

  def inverse(
    self, y: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
  ) -> Float[np.ndarray, " n"]:
    """Returns the x between low and high with the image y, or the nearer end.

    To 1e-12 of the interval. The map is monotone between them, either way. By Newton's method, or
    bisection where that leaves the ends or does not halve its steps.
    """
    low, high = low.copy(), high.copy()
    rising = self._at(high)[0] >= self._at(low)[0]
    x, left, last = (low + high) / 2, np.arange(len(y)), high - low
    small = 1e-12 * (self.edges[-1] - self.edges[0])
    for _ in range(_STEPS):
      image, slope = self._at(x[left])
      above = (image > y[left]) == rising[left]
      low[left] = np.where(above, low[left], x[left])
      high[left] = np.where(above, x[left], high[left])
      with np.errstate(divide="ignore", invalid="ignore"):
        moved = x[left] - (image - y[left]) / slope
      inside = (moved >= low[left]) & (moved <= high[left])
      good = inside & (np.abs(moved - x[left]) <= last[left] / 2)
      moved = np.where(good, moved, (low[left] + high[left]) / 2)
      last[left] = np.abs(moved - x[left])
      x[left] = moved
      left = left[last[left] > small]  # a step that small leaves an error of its square
      if not len(left):
        break
    return x
