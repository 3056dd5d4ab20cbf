"""Laws on the line under a map: branches of its inverse, folds, densities, distribution functions.

Where the derivative of a map f changes its sign, the map folds the line: several starts x_j have
one image y, and

    q(y) = sum_j p(x_j) / |f'(x_j)|        Q(y) = sum of the start's mass on {x : f(x) <= y}

The line is cut where f' changes sign, into branches on which f is monotone, at the starts whose
image is that of a fold, where q is infinite on one side, and where f is steepest: between modes far
apart f jumps, as far as floats can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, ndtr, ndtri

from scorelab.exact.interpolation import Interpolated
from scorelab.targets.gaussian_mixture import GaussianMixture

_REACH = 9.0  # standard deviations: beyond it a Gaussian has 2e-19 of its mass
_CELLS = 4096  # in which folds and steep places are looked for
_MOST_CUTS = 24
_HALVINGS = 60
_BLOCK = 2**21  # numbers at a time


class LineMixture:
  """A Gaussian mixture on the line in NumPy, float64, with both tails of its distribution.

  Attributes:
    weights, means, stds: [k].
  """

  def __init__(self, weights: np.ndarray, means: np.ndarray, stds: np.ndarray):
    self.weights, self.means, self.stds = weights / weights.sum(), means, stds

  @staticmethod
  def of(target: GaussianMixture) -> LineMixture:
    """Returns a mixture of dimension 1."""
    logs, means, variances = (
      np.asarray(a, float) for a in (target.log_weights, target.means, target.variances)
    )
    return LineMixture(np.exp(logs), means[:, 0], np.sqrt(variances[:, 0]))

  @property
  def ends(self) -> tuple[float, float]:
    """Two points that have all mass between them, to rounding."""
    reach = _REACH * self.stds
    return float(np.min(self.means - reach)), float(np.max(self.means + reach))

  def log_prob(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns the log-density at x."""

    def of(z: np.ndarray) -> np.ndarray:
      return logsumexp(-(z**2) / 2 - np.log(self.stds * np.sqrt(2 * np.pi)), axis=1, b=self.weights)

    return np.concatenate([of(z) for z in self._standard(x)])

  def mass(self, x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the masses on the left and on the right of x, each to full relative precision."""
    parts = [(ndtr(z) @ self.weights, ndtr(-z) @ self.weights) for z in self._standard(x)]
    left, right = (np.concatenate(a) for a in zip(*parts, strict=True))
    return left, right

  def _standard(self, x: np.ndarray) -> Iterator[np.ndarray]:
    """Yields x [n] in units of each component, [rows, k], in blocks of rows."""
    rows = max(1, _BLOCK // len(self.weights))
    for i in range(0, max(len(x), 1), rows):
      yield (x[i : i + rows, None] - self.means) / self.stds

  def quantile(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the points with these masses on the left and on the right, [n]."""
    lower = left <= right
    sign, tail = np.where(lower, 1, -1), np.maximum(np.minimum(left, right), 1e-300)
    own = self.means + sign[:, None] * self.stds * ndtri(tail)[:, None]
    low, high = own.min(axis=1), own.max(axis=1)  # the mixture's is between the components'
    for _ in range(_HALVINGS):
      middle = (low + high) / 2
      z = sign[:, None] * (middle[:, None] - self.means) / self.stds
      above = (ndtr(z) @ self.weights > tail) == lower
      low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2

  def tails_beyond(self, low: float, high: float) -> float:
    """Returns the integrals of squared tails outside [low, high]: left of low and right of high."""
    total = 0.0
    for edge, side in ((low, 0), (high, 1)):
      far = self.ends[side] - (1 - 2 * side) * 3 * np.max(self.stds)
      if (far < edge) if side == 0 else (far > edge):
        nodes, weights = np.polynomial.legendre.leggauss(400)
        x = (edge + far) / 2 + (edge - far) / 2 * nodes
        total += abs(edge - far) / 2 * float(weights @ self.mass(x)[side] ** 2)
    return total


class MonotonePieces(Protocol):
  """A map of points [n, 1] with its derivative, and its inverse between two points."""

  def __call__(self, x: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]: ...

  def inverse(self, y: np.ndarray, low: np.ndarray, high: np.ndarray, /) -> np.ndarray: ...


class LineMap:
  """A map of the line, cut into pieces on which it is smooth and monotone.

  Attributes:
    push: the map.
    start: the law of its argument.
    folds: number of sign changes of its derivative.
    breaks: [pieces + 1], ends of the pieces.
    sign: of the derivative on each piece, [pieces].
    hidden: whether quadrature has met a derivative of another sign than its piece's: a fold
      narrower than a cell.
  """

  def __init__(self, push: MonotonePieces, start: LineMixture):
    self.push, self.start, self.hidden = push, start, False
    low, high = start.ends
    x = np.linspace(low, high, _CELLS + 1)
    y = self._at(x)[0]
    cells = joined(x, push.cells) if isinstance(push, Interpolated) else x
    turning = _turning(self._at(cells)[1][None])[0].nonzero()[0]
    turns = zoom(lambda x: self._at(x)[1], cells, turning, _turning)
    self.folds = len(turns)
    self._branches = np.concatenate([[low], turns, [high]])
    middles = (self._branches[1:] + self._branches[:-1]) / 2
    self._rising = np.sign(self._at(middles)[1])
    self._ends = self._at(self._branches)[0]
    cuts = [turns, zoom(lambda x: self._at(x)[0], x, steep_cells(y), _steepness)]
    for value in self._ends[1:-1]:
      found, inside = self._preimages(np.array([value]))
      cuts.append(found[inside])
    self.breaks = joined([low, high], *cuts)
    piece_middles = (self.breaks[1:] + self.breaks[:-1]) / 2
    self._branch = np.searchsorted(turns, piece_middles)
    self.sign = self._rising[self._branch]

  def _at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, jacobian = self.push(x[:, None])
    return y[:, 0], jacobian[:, 0, 0]

  def _preimages(self, y: np.ndarray, known: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """On every branch the x whose image is y [n], or the end whose image is nearer: [b, n].

    Also returns which of them are inverses, without those that are `known`, which are not looked
    for.
    """
    (low, high), ends = (a[..., None] for a in (_pairs(self._branches), _pairs(self._ends)))
    inside = (y > ends.min(axis=0)) & (y < ends.max(axis=0))
    upper = (y > ends.min(axis=0)) == (self._rising[:, None] > 0)
    found = np.where(upper, high, low)
    if known is not None:
      inside[known] = False
    low, high, wanted = (np.broadcast_to(a, found.shape)[inside] for a in (low, high, y))
    if len(wanted):
      found[inside] = self.push.inverse(wanted, low, high)
    return found, inside

  def at(self, x: np.ndarray, piece: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the image of x [n] and the image law there.

    Args:
      x: points.
      piece: the piece of each.

    Returns:
      `y`, `slope` f'(x), `log_prob` of the image law at y, and its masses `left` and `right` of y.
    """
    y, slope = self._at(x)
    self.hidden |= bool((slope * self.sign[piece] < -1e-9 * np.abs(slope).max()).any())
    with np.errstate(divide="ignore"):
      own = self.start.log_prob(x) - np.log(np.abs(slope))
    if not self.folds:
      masses = self.start.mass(x)
      left, right = masses if self._rising[0] > 0 else masses[::-1]
      return {"y": y, "slope": slope, "log_prob": own, "left": left, "right": right}
    own_branch = self._branch[piece], np.arange(len(x))
    found, inside = self._preimages(y, known=own_branch)
    logs = np.full(found.shape, -np.inf)
    slopes = self._at(found[inside])[1] if inside.any() else np.zeros(0)
    with np.errstate(divide="ignore"):
      logs[inside] = self.start.log_prob(found[inside]) - np.log(np.abs(slopes))
    found[own_branch] = x
    left = right = np.zeros(len(x))
    branches = zip(*_pairs(self._branches), found, self._rising, strict=True)
    for low, high, at, rising in branches:
      masses = self._between(low, at), self._between(at, high)
      masses = masses if rising > 0 else masses[::-1]
      left, right = left + masses[0], right + masses[1]
    log_prob = np.logaddexp(own, logsumexp(logs, axis=0))
    return {"y": y, "slope": slope, "log_prob": log_prob, "left": left, "right": right}

  def cut_for(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns `breaks` with the steep places of a function of x [n], and those where it is f."""
    x = np.linspace(*self.start.ends, _CELLS + 1)
    value = function(x)
    cuts = [zoom(function, x, steep_cells(value), _steepness)]

    def gap(x: np.ndarray) -> np.ndarray:
      return function(x) - self._at(x)[0]

    crossings = _turning((value - self._at(x)[0])[None])[0].nonzero()[0]
    if len(crossings) <= _MOST_CUTS:  # else they are rounding errors
      cuts.append(zoom(gap, x, crossings, _turning))
    return joined(self.breaks, *cuts)

  def _between(self, low: Any, high: Any) -> np.ndarray:
    """The start's mass between two points: from the side on which there is less of it."""
    (a, b), (c, d) = (self.start.mass(np.atleast_1d(x)) for x in (low, high))
    return np.where(a < 0.5, c - a, b - d)


def _pairs(a: np.ndarray) -> np.ndarray:
  """Returns a[:-1] and a[1:], stacked."""
  return np.stack([a[:-1], a[1:]])


def zoom(
  function: Callable[[np.ndarray], np.ndarray],
  x: np.ndarray,
  cells: np.ndarray,
  choose: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """Returns points within cells of x, where a function of x [n] is most of what `choose` measures.

  All cells are narrowed 16-fold at once, to rounding.

  Args:
    function: x [n] -> [n].
    x: ends of the cells.
    cells: indices of those that are searched.
    choose: values at the 17 nodes of every cell -> measure of its 16 parts, [m, 17] -> [m, 16].
  """
  if not len(cells):
    return np.zeros(0)
  low, high = x[cells], x[cells + 1]
  share = np.linspace(0, 1, 17)
  for _ in range(13):
    nodes = low[:, None] + (high - low)[:, None] * share
    index = np.argmax(choose(function(nodes.ravel()).reshape(nodes.shape)), axis=1)
    low, high = (np.take_along_axis(nodes, index[:, None] + k, 1)[:, 0] for k in (0, 1))
  return np.unique((low + high) / 2)


def joined(breaks: np.ndarray | list[float], *cuts: np.ndarray) -> np.ndarray:
  """Returns breaks with the cuts between the first and the last, none of them too near another."""
  low, high = breaks[0], breaks[-1]
  inner = np.unique(np.concatenate([np.asarray(breaks)[1:-1], *cuts]))
  inner = inner[(inner > low) & (inner < high)]
  near = 1e-13 * (high - low)
  inner = inner[(np.diff(inner, prepend=low) > near) & (high - inner > near)]
  return np.concatenate([[low], inner, [high]])


def _turning(values: np.ndarray) -> np.ndarray:
  """Returns whether values [m, n + 1] change their sign over each of n parts."""
  return np.sign(values[:, 1:]) != np.sign(values[:, :-1])


def _steepness(values: np.ndarray) -> np.ndarray:
  """Changes of values [m, n + 1] over n parts."""
  return np.abs(np.diff(values, axis=1))


def steep_cells(values: np.ndarray) -> np.ndarray:
  """Returns cells steeper than both neighbours, and three times as steep as all on the whole."""
  rate = np.abs(np.diff(values))
  typical = abs(values[-1] - values[0]) / len(rate)
  peak = (rate[1:-1] >= rate[:-2]) & (rate[1:-1] >= rate[2:]) & (rate[1:-1] > 3 * typical)
  cells = np.flatnonzero(peak) + 1
  return np.sort(cells[np.argsort(-rate[cells])][:_MOST_CUTS])
