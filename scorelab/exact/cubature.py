"""Quadrature over the plane for integrands with narrow ridges, along lines across them.

A sampler's map of the plane is steep along the curves between the starts of two modes. A ridge may
be any number of times narrower than it is long, so that halving boxes (`scipy.integrate.cubature`)
takes too many of them. Integrals along parallel lines, and over them,

    int int F(u, v) dv du

take the logarithm of the width instead: a line's pieces are halved around a ridge, and as the ridge
moves smoothly from line to line, the outer integrand is smooth again. Both integrals are adaptive.
In a piece the rule of Gauss and Kronrod of 15 nodes has the error, d being its distance from the
embedded rule of 7 and s the integral of |F|,

    min(d, s (200 d / s)^1.5)

A ridge between all nodes of a piece is seen by the map y itself, which it moves: what the integral
of dy/dv lacks of the difference of y is a jump. Lines are best oblique to the symmetries of the
problem, so that no ridge runs along one.

Piessens, de Doncker-Kapenga, Ueberhuber and Kahaner, "QUADPACK", 1983, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import Legendre, legvander

_ABSCISSAE = np.array(
  [
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144691693013,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.0,
  ]
)
_KRONROD = np.array(
  [
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
  ]
)
_GAUSS = np.array(
  [
    0.129484966168869693270611432679082,
    0.279705391489276667901467771423780,
    0.381830050505118944950369775488975,
    0.417959183673469387755102040816327,
  ]
)
_NODES = np.concatenate([-_ABSCISSAE, _ABSCISSAE[-2::-1]])
_WEIGHTS = np.concatenate([_KRONROD, _KRONROD[-2::-1]])
_EMBEDDED = np.zeros(15)
_EMBEDDED[1::2] = np.concatenate([_GAUSS, _GAUSS[-2::-1]])
_BETWEEN = np.linalg.solve(  # weights of an integral between the outermost nodes
  legvander(_NODES, 14).T,
  [np.diff(Legendre.basis(k).integ()(_NODES[[0, -1]]))[0] for k in range(15)],
)
_ALONG = 1 / 20  # of the tolerance, for errors along lines: seen from line to line, they are noise
_ROUNDING = 1e-15  # relative, of a sum


class Terms(NamedTuple):
  """Integrands at points, and the map whose jumps they have.

  Attributes:
    values: the integrand F whose error is held, the density of the points, and any others.
    path: images of the points, in units in which a jump of m has F of about m^2 / 8 in its middle.
    slope: derivative of the images along the line.
  """

  values: Float[np.ndarray, "n k"]
  path: Float[np.ndarray, "n m"]
  slope: Float[np.ndarray, "n m"]


class Integral(NamedTuple):
  """Integrals of several functions.

  Attributes:
    value: of all values.
    size: of the absolute value of the first one.
    error: of the first one, an estimate.
    evaluations: number of points.
  """

  value: Float[np.ndarray, " k"]
  size: float
  error: float
  evaluations: int


Function = Callable[[np.ndarray, np.ndarray], Terms]


class _Pieces(NamedTuple):
  """Pieces of lines, or of the axis across them, with their integrals.

  Attributes:
    owner: index of the line.
    low, high: ends.
    value: of all functions, [pieces, k].
    size: of the first one's absolute value.
    error: of the first one.
    within: error of its values, of which `error` knows nothing.
  """

  owner: np.ndarray
  low: np.ndarray
  high: np.ndarray
  value: np.ndarray
  size: np.ndarray
  error: np.ndarray
  within: np.ndarray

  def but(self, gone: np.ndarray, new: _Pieces) -> _Pieces:
    """Returns the pieces with those that are marked replaced."""
    return _Pieces(*(np.concatenate([a[~gone], b]) for a, b in zip(self, new, strict=True)))


@np.errstate(invalid="ignore", over="ignore")  # what is not finite ends it
def integrate_plane(
  function: Function,
  u: tuple[float, float],
  v: tuple[float, float],
  *,
  rtol: float,
  first: tuple[int, int] = (4, 8),
  most: int = 2**25,
) -> Integral:
  """Integrates functions over a rectangle, along lines of constant u.

  Args:
    function: of u [n] and v [n]; smooth.
    u, v: ends of the rectangle's sides.
    rtol: error of the first value's integral, relative to the integral.
    first: number of pieces of u, and of v, at the start.
    most: number of points after which no piece is halved any more.

  Returns:
    The integrals; what is not finite has an error that is not.
  """
  owner, low, high = _equal_pieces(u, first[0], 1)
  tolerance, pieces, evaluations = None, None, 0
  split = np.zeros(0, bool)
  while True:
    at, shares = _nodes(low, high)
    lines, count = _along_lines(
      function, at.ravel(), shares.ravel(), v, first[1], rtol, tolerance, most - evaluations
    )
    evaluations += count
    values, size, error = (a.reshape(*at.shape, *a.shape[1:]) for a in lines)
    new = _piece_sums(owner, low, high, values, size)._replace(
      within=np.sum(shares * error, axis=1)
    )
    pieces = new if pieces is None else pieces.but(split, new)
    value, size = pieces.value.sum(0), pieces.size.sum()
    goal = rtol * abs(value[0]) + _ROUNDING * size
    split = _largest(pieces.error, goal)
    if not split.any() or evaluations >= most:
      error = pieces.error.sum() + pieces.within.sum() + _ROUNDING * size
      return Integral(value, float(size), float(error), evaluations)
    tolerance = _ALONG * goal * max(pieces.size[split].sum() / size, 1e-3)
    owner, low, high = _halves(pieces, split)


def _along_lines(
  function: Function,
  u: np.ndarray,
  shares: np.ndarray,
  v: tuple[float, float],
  first: int,
  rtol: float,
  tolerance: float | None,
  most: int,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
  """Values, sizes and errors of integrals along lines, and how many points they took.

  The errors times the lines' shares add up to the tolerance; None is a part of `rtol`.
  """
  owner, low, high = _equal_pieces(v, first, len(u))
  pieces, evaluations = None, 0
  split = np.zeros(0, bool)
  while True:
    at, _ = _nodes(low, high)
    evaluations += at.size
    terms = function(np.repeat(u[owner], at.shape[1]), at.ravel())
    values, path, slope = (a.reshape(*at.shape, -1) for a in terms)
    new = _piece_sums(owner, low, high, values, np.abs(values[..., 0]))
    moved = path[:, -1] - path[:, 0]
    missed = moved - (high - low)[:, None] / 2 * np.einsum("pnm,n->pm", slope, _BETWEEN)
    jump = np.minimum(np.sum(missed**2, axis=1), np.sum(moved**2, axis=1))
    # In an eighth of the piece, the distance of two nodes, F may be as in the middle of the jump.
    new = new._replace(error=new.error + new.value[:, 1] / 8 * jump / 8)
    pieces = new if pieces is None else pieces.but(split, new)
    weights = shares[pieces.owner]
    goal = tolerance
    if goal is None:
      goal = _ALONG * rtol * abs(np.sum(weights * pieces.value[:, 0]))
    split = _largest(weights * pieces.error, goal + _ROUNDING * np.sum(weights * pieces.size))
    if not split.any() or evaluations >= most:
      break
    owner, low, high = _halves(pieces, split)
  value = np.zeros((len(u), pieces.value.shape[1]))
  np.add.at(value, pieces.owner, pieces.value)
  size, error = (np.bincount(pieces.owner, a, len(u)) for a in (pieces.size, pieces.error))
  return (value, size, error), evaluations


def _nodes(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of pieces, each [pieces, 15]."""
  half = (high - low)[:, None] / 2
  return (high + low)[:, None] / 2 + half * _NODES, half * _WEIGHTS


def _piece_sums(
  owner: np.ndarray, low: np.ndarray, high: np.ndarray, values: np.ndarray, sizes: np.ndarray
) -> _Pieces:
  """Integrals over pieces of values [pieces, 15, k] and sizes [pieces, 15]."""
  half = (high - low) / 2
  whole = half[:, None] * np.einsum("pnk,n->pk", values, _WEIGHTS)
  apart = half * np.abs(values[..., 0] @ (_WEIGHTS - _EMBEDDED))
  size = half * (sizes @ _WEIGHTS)
  error = np.minimum(apart, size * (200 * apart / np.where(size > 0, size, 1)) ** 1.5)
  return _Pieces(owner, low, high, whole, size, error, np.zeros_like(size))


def _equal_pieces(
  ends: tuple[float, float], count: int, lines: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Owners and ends of equal pieces of every line."""
  breaks = np.linspace(*ends, count + 1)
  owner = np.repeat(np.arange(lines), count)
  return owner, np.tile(breaks[:-1], lines), np.tile(breaks[1:], lines)


def _halves(pieces: _Pieces, split: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Owners and ends of the halves of the pieces that are marked."""
  owner, low, high = (a[split] for a in pieces[:3])
  breaks = np.stack([low, (low + high) / 2, high], axis=1)
  return np.repeat(owner, 2), breaks[:, :2].ravel(), breaks[:, 1:].ravel()


def _largest(errors: np.ndarray, goal: float) -> np.ndarray:
  """Marks the fewest pieces without which errors add up to half of the goal.

  None is marked if all of them add up to the goal, or are not numbers.
  """
  if not errors.sum() > goal:
    return np.zeros(len(errors), bool)
  order = np.argsort(errors)
  marked = np.ones(len(errors), bool)
  marked[order[np.cumsum(errors[order]) <= goal / 2]] = False
  return marked
