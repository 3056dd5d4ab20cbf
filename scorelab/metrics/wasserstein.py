"""Wasserstein distances: sliced, max-sliced and exact.

"Sliced Wasserstein" names three different numbers. Here, as in POT, over the projections u

    sliced       (mean_u W_p^p(u.x, u.y))^(1/p)        max-sliced      max_u W_p(u.x, u.y)

with u uniform on the sphere. A number means something only with p, the number of projections,
the numbers of points, and the floor (exact samples against exact samples) at the same sizes.

Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", Journal of Mathematical
Imaging and Vision 51 (2015); Deshpande et al., "Max-Sliced Wasserstein Distance and its Use for
GANs", CVPR 2019 (arXiv 1904.05877), here over random directions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from scorelab.metrics import transport
from scorelab.metrics.reference import Reference, as_pair, as_points
from scorelab.typing import Key, PointSet, ProjectedTarget, ReferenceSet

MAX_EXACT_POINTS = 5000
_MAX_PIVOTS = 10**8
_DYNAMIC_RANGE = 1e-8  # of a plan's cost to the largest of its arcs


Against: TypeAlias = ReferenceSet | ProjectedTarget | Reference


def sliced_wasserstein(
  key: Key | None,
  x: PointSet,
  y: Against,
  *,
  p: int = 2,
  num_projections: int = 1000,
  projections: ArrayLike | None = None,
  x_weights: ArrayLike | None = None,
  y_weights: ArrayLike | None = None,
  engine: str | None = None,
) -> float:
  """Sliced Wasserstein distance (mean_u W_p^p)^(1/p), in the data's units; POT's definition.

  Against a distribution, each projection's W_p to its exact law is computed exactly, in float64:
  y adds no sampling noise. Points are computed with in their own precision, float32 or float64.

  Args:
    key: draws the directions, uniform on the sphere; not used where projections are given.
    x: the samples, [n] or [n, ...], trailing axes flattened to d.
    y: points [m] or [m, ...]; or a distribution; or a Reference, which remembers what was made of
      it for the last keys.
    p: order of the distance, 1 or 2.
    num_projections: number of directions, at least 1.
    projections: the directions themselves, [d, num_projections], unit columns.
    x_weights: [n], >= 0, normalised here; uniform by default. Not against a distribution.
    y_weights: [m], likewise, if y is an array.
    engine: 'numpy' or 'jax'; by default NumPy on the CPU, where XLA's sort is many times slower.

  Returns:
    The distance; nan if a point is not finite.

  Raises:
    ValueError: an argument is out of range, or shapes do not match.
  """
  options = p, num_projections, projections, x_weights, y_weights, engine
  return float(_projected_costs(key, x, y, *options).mean()) ** (1 / p)


def max_sliced_wasserstein(
  key: Key | None,
  x: PointSet,
  y: Against,
  *,
  p: int = 2,
  num_projections: int = 1000,
  projections: ArrayLike | None = None,
  x_weights: ArrayLike | None = None,
  y_weights: ArrayLike | None = None,
  engine: str | None = None,
) -> float:
  """Max-sliced Wasserstein distance max_u W_p, in the data's units; POT's definition.

  The maximum is over the drawn directions, so it grows with their number, towards that over the
  sphere. Args, returns and errors: those of `sliced_wasserstein`.

  Args:
    p, num_projections, projections, x_weights, y_weights, engine: as for `sliced_wasserstein`.
  """
  options = p, num_projections, projections, x_weights, y_weights, engine
  return float(_projected_costs(key, x, y, *options).max()) ** (1 / p)


def wasserstein(key: Key | None, x: PointSet, y: ReferenceSet | Reference, *, p: int = 2) -> float:
  """Returns the Wasserstein distance W_p in R^d, Euclidean and exact: POT's network simplex.

  Costs are SciPy's, in float64, of the points' differences: POT's own expand |x - y|^2, which
  cancels for points far from the origin.

  Args:
    key: not used; here because every metric takes one.
    x: the samples, [n] or [n, ...], trailing axes flattened; at most MAX_EXACT_POINTS.
    y: the reference points, or a Reference that has some; at most as many.
    p: order of the distance, 1 or 2.

  Returns:
    The distance; nan if a point is not finite.

  Raises:
    ValueError: an argument is out of range, shapes do not match, or there are too many points.
  """
  del key
  _check_order(p)
  x, y = as_pair(x, y.require_points() if isinstance(y, Reference) else y)
  if max(len(x), len(y)) > MAX_EXACT_POINTS:
    sizes = f"x has {len(x)} points and y {len(y)}"
    raise ValueError(f"{sizes}, must be at most {MAX_EXACT_POINTS}: use sliced_wasserstein")
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    return float("nan")
  from scipy.spatial.distance import cdist

  costs = cdist(x, y, "euclidean" if p == 1 else "sqeuclidean")
  cost = _transport(costs)
  if 0 < cost < _DYNAMIC_RANGE * costs.max():
    # The simplex adds costs up, and small ones vanish next to large ones. No optimal plan has an
    # arc of more than this: its mass is a multiple of 1 / lcm, and the whole costs less already.
    largest = cost * math.lcm(len(x), len(y))
    cost = _transport(np.minimum(costs, largest))
  return cost ** (1 / p)


def _transport(costs: np.ndarray) -> float:
  """Returns the least cost of moving uniform masses, for costs [n, m] of a unit."""
  import ot  # slow to import, and only needed here

  cost: Any = ot.emd2([], [], costs, numItermax=_MAX_PIVOTS)
  return float(cost)


def random_directions(key: Key | None, dim: int, num: int) -> np.ndarray:
  """Unit vectors uniform on the sphere, as columns: [dim, num], float64.

  Raises:
    ValueError: num < 1, or there is no key.
  """
  if num < 1:
    raise ValueError(f"num_projections = {num}, must be at least 1")
  if key is None:
    raise ValueError("key = None, must be a key where no projections are given")
  # Drawn in float32 whatever is enabled: a key means the same directions everywhere.
  normal = np.asarray(jax.random.normal(key, (dim, num), jnp.float32), np.float64)
  return normal / np.linalg.norm(normal, axis=0)


def _projected_costs(
  key: Key | None,
  x: PointSet,
  y: Against,
  p: int,
  num_projections: int,
  projections: ArrayLike | None,
  x_weights: ArrayLike | None,
  y_weights: ArrayLike | None,
  engine: str | None,
) -> np.ndarray:
  """W_p^p in each projection, [num_projections], float64; all nan if a point is not finite."""
  _check_order(p)
  engine = engine or ("numpy" if jax.default_backend() == "cpu" else "jax")
  if engine not in transport.ENGINES:
    raise ValueError(f"engine = {engine!r}, must be one of {', '.join(transport.ENGINES)}")
  against: Any = y.measured if isinstance(y, Reference) else y
  exact = _is_law(against)
  method = transport.EXACT if exact else transport.ENGINES[engine]
  if exact:
    x = as_points("x", x, against.dim)
  else:
    x, against = as_pair(x, against)
  if x_weights is not None:
    if exact:
      raise ValueError("x_weights: against a distribution, samples weigh the same")
    x_weights = _normalised("x_weights", x_weights, len(x))
  if y_weights is not None:
    if exact or isinstance(y, Reference):
      raise ValueError("y_weights: only where y is an array")
    y_weights = _normalised("y_weights", y_weights, len(against))
  dim = x.shape[1]
  if projections is None:
    directions = random_directions(key, dim, num_projections)
  else:
    directions = np.asarray(projections)
    if directions.ndim != 2 or len(directions) != dim or not directions.size:
      raise ValueError(f"projections have shape {directions.shape}, must be [{dim}, m]")
  if not (np.isfinite(x).all() and (exact or np.isfinite(against).all())):
    return np.full(directions.shape[1], np.nan)

  def prepare() -> Iterator[Any]:
    size = len(x) if exact else len(x) + len(against)
    num_chunks = -(-directions.shape[1] // max(1, method.chunk_values // size))
    for chunk in np.array_split(directions, num_chunks, axis=1):
      yield method.prepare(against, chunk, y_weights, len(x))

  chunks = prepare()  # one at a time: memory stays bounded
  if isinstance(y, Reference):
    digest = hashlib.blake2b(directions.tobytes()).digest()
    chunks = y.cached((digest, engine, exact and len(x)), lambda: list(prepare()))
  with np.errstate(over="ignore", invalid="ignore"):  # an exploded sampler shows as inf or nan
    costs = [np.asarray(method.cost(x, chunk, x_weights, p)) for chunk in chunks]
  return np.concatenate(costs, dtype=np.float64)


def _normalised(name: str, weights: ArrayLike, n: int) -> np.ndarray:
  """Weights [n] that sum to 1, float64."""
  weights = np.asarray(weights, np.float64)
  if weights.shape != (n,):
    raise ValueError(f"{name} have shape {weights.shape}, must be [{n}]")
  if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
    raise ValueError(f"{name} must be finite, at least 0, and not all 0")
  return weights / weights.sum()


def _is_law(against: object) -> bool:
  """Returns True if `against` is a distribution and not a set of points."""
  return isinstance(against, ProjectedTarget)


def _check_order(p: int) -> None:
  if p not in (1, 2):
    raise ValueError(f"p = {p!r}, must be 1 or 2")
