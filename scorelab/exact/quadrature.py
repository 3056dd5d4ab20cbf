"""Double-exponential quadrature over pieces of a line, with an error estimate by halving the step.

A node is s = 1 / (1 + exp(-pi sinh t)) of a piece, t equally spaced: its error falls exponentially
with the number of nodes, also for integrands that have a logarithm or a root at the ends.

Takahasi and Mori, "Double Exponential Formulas for Numerical Integration", Publications of RIMS 9
(1974).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_REACH = 3.1  # of t: s = exp(-pi sinh 3.1) is 4e-16
_FIRST = 64  # nodes of a piece, before the first halving


class Integral(NamedTuple):
  """Integrals of several functions, and what the last halving of the step changed, each [k]."""

  value: Float[np.ndarray, " k"]
  error: Float[np.ndarray, " k"]


def integrate(
  function: Callable[[np.ndarray, np.ndarray], np.ndarray],
  breaks: Float[np.ndarray, " pieces_and_one"],
  *,
  rtol: float = 1e-9,
  atol: float = 1e-14,
  most: int = 2**14,
) -> Integral:
  """Integrates functions over [breaks[0], breaks[-1]], piece by piece.

  Args:
    function: (x [n], piece [n]) -> [k, n], smooth inside pieces; not finite at most at their ends.
    breaks: increasing ends of the pieces.
    rtol, atol: the step is halved until it changes an integral by atol + rtol |value| at most.
    most: nodes of a piece, at most.

  Returns:
    The integrals; the error is the last change, of which the value's own is a small part, and
    rounding.
  """
  low, width = breaks[:-1], np.diff(breaks)
  count, total, size, value = _FIRST, 0.0, 0.0, np.array(np.nan)
  fresh = np.linspace(-_REACH, _REACH, _FIRST + 1)
  while True:
    share, rest = 1 / (1 + np.exp(-np.pi * np.sinh([fresh, -fresh])))
    rate = np.pi * np.cosh(fresh) * share * rest
    x = (low[:, None] + width[:, None] * share).ravel()
    piece = np.repeat(np.arange(len(low)), len(fresh))
    terms = np.atleast_2d(function(x, piece)) * (width[:, None] * rate).ravel()
    ends = np.tile(np.minimum(share, rest) < 1e-13, len(low))
    terms = np.where(ends & ~np.isfinite(terms), 0, terms)
    total, size = total + terms.sum(1), size + np.abs(terms).sum(1)
    step = 2 * _REACH / count
    before, value = value, step * total
    error = np.abs(value - before) + 1e-14 * step * size
    if (error <= atol + rtol * np.abs(value)).all() or count >= most:
      return Integral(value, error)
    fresh = -_REACH + step * (np.arange(count) + 0.5)
    count *= 2
