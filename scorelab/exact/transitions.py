"""Laws of stochastic one-step samplers on the line, by the Chapman-Kolmogorov equation.

A step x' = a(x) + b(x) z with z ~ N(0, 1) takes a density p to

    p'(y) = int p(x) N(y; a(x), b(x)^2) dx

The trapezoidal rule turns p' into a mixture of as many Gaussians as there are nodes, which is
smooth: the rule converges exponentially once its step is below the noise's width. A last step
without noise, onto the data, is a map of that mixture.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.flows import Exact, line_distances, problem
from scorelab.exact.line import LineMap, LineMixture
from scorelab.exact.pushforward import Pushforward
from scorelab.exact.responses import (
  count_draws,
  in_float64,
  require_followed,
  sampler_name,
  split_options,
)
from scorelab.samplers import RecordedNoise
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict, Sampler

_LEAST = 1e-22  # of a node's share of the mass
_SPACING = 0.7  # of components, in their std: the ripple is exp(-2 pi^2 / 0.7^2), 3e-18
_FEWEST, _MOST = 256, 2**14  # nodes of a step


def step_distances(
  sampler: Sampler,
  predict: Predict,
  target: GaussianMixture,
  grid: Grid,
  *,
  start: str = "prior",
  **options: Any,
) -> dict[str, Exact]:
  """Returns distances of a stochastic one-step sampler's law from its target on the line.

  In float64, for exact or learned predictions. Such samplers are `ancestral`, `renoise`, `ddim`,
  `euler_maruyama`, `dpm_solver_2_ancestral` and `dpmpp_2s_ancestral`.

  Args:
    sampler: one whose step depends on x alone and is affine in one draw.
    predict, target, grid, start, options: see `flow_distances`.

  Returns:
    See `flow_distances`; the error is also the change from nodes 1.5 times as far apart. It takes
    nodes in proportion to range / noise: seconds, or minutes if that is a thousand.

  Raises:
    ValueError: see `flow_distances`; or the sampler keeps a history, as two-step methods do, has a
      step that is not affine in one draw, or draws none.
  """
  require_followed(sampler)
  with jax.enable_x64(True):
    first, last = problem(target, grid, start)
    if target.dim != 1:
      raise ValueError(f"target of dimension {target.dim} must be of dimension 1")
    steps = _Steps(sampler, predict, in_float64(grid), options)
    fine, coarse = (
      line_distances(steps.law(LineMixture.of(first), spacing), LineMixture.of(last))
      for spacing in (_SPACING, 1.5 * _SPACING)
    )
  return {
    name: Exact(value, error + abs(value - coarse[name].value), folds)
    for name, (value, error, folds) in fine.items()
  }


class _Steps:
  """The steps of a sampler, each on the grid of its two levels."""

  def __init__(self, sampler: Sampler, predict: Predict, grid: Grid, options: dict[str, Any]):
    self._bound = (sampler, predict, split_options(options)[1])
    self._sampler, self._predict, self._grid, self._options = sampler, predict, grid, options
    name = sampler_name(sampler)
    draws = {count_draws(sampler, predict, jnp.zeros((1, 1)), g, options) for g in self.grids}
    if 0 in draws:
      raise ValueError(f"sampler = {name} draws no noise: use flow_distances")
    if draws != {1}:
      raise ValueError(f"sampler = {name} takes {max(draws)} draws a step, must take 1")
    x = np.linspace(-1.0, 1.0, 5) * float(grid.schedule.prior_std(grid[0]))
    z = np.cos(np.arange(grid.num_steps * 5.0)).reshape(-1, 5)
    noise = RecordedNoise(jnp.asarray(z)[..., None])
    whole = sampler(noise, predict, jnp.asarray(x)[:, None], grid, **options).x[:, 0]
    for own, small in zip(z, self.grids, strict=True):
      mean, spread = self.kernel(x, small)
      x = mean + spread * own
    if not np.allclose(x, whole, 1e-9, 1e-9 * np.abs(x).max()):
      raise ValueError(
        f"sampler = {name} is no chain of one-step moves: it keeps a history, or its steps depend"
        " on the whole grid"
      )

  @property
  def grids(self) -> list[Grid]:
    """The grid, step by step."""
    n, ends = self._grid.num_steps, self._grid.ends_at_data
    return [
      Grid(
        self._grid.schedule,
        jax.tree.map(lambda a, i=i: a[i : i + 2], self._grid.levels),
        ends and i == n - 1,
      )
      for i in range(n)
    ]

  def kernel(self, x: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the std of a step from x [n], each [n]."""
    traced = split_options(self._options)[0]
    zero, one, two = (np.asarray(a) for a in _three(*self._bound, grid, traced, jnp.asarray(x)))
    size = np.abs(zero) + np.abs(one - zero) + np.abs(two - zero)
    if not (np.abs(two - 2 * one + zero) <= 1e-9 * size + 1e-300).all():
      raise ValueError(
        f"sampler = {sampler_name(self._sampler)} is not affine in its noise with these options"
      )
    return zero, np.abs(one - zero) * np.where(np.abs(one - zero) > 1e-15 * size, 1, 0)

  def law(self, law: LineMixture, spacing: float) -> LineMap:
    """Returns the law after the last step, as a map of the last mixture.

    Args:
      law: of the start.
      spacing: of the components of each mixture, at most, in standard deviations.
    """
    grids = self.grids
    for i, grid in enumerate(grids):
      count = _FEWEST
      for _ in range(2):
        x = np.linspace(*law.ends, count)
        mean, spread = self.kernel(x, grid)
        mass = np.exp(law.log_prob(x)) * (x[1] - x[0])
        kept = (mass > _LEAST) & (spread > 0)
        apart = np.abs(np.gradient(mean))[kept] / spread[kept]
        count = int(np.clip(count * np.max(apart, initial=0) / spacing, _FEWEST, _MOST))
        if count <= len(x):
          break
      if not spread.any():
        if i == len(grids) - 1:
          return LineMap(self._last_map(grid), law)
        raise ValueError(f"step {i} adds no noise, which only the last may: use flow_distances")
      law = LineMixture(mass[kept], mean[kept], spread[kept])
    return LineMap(_Identity(), law)

  def _last_map(self, grid: Grid) -> Pushforward:
    return Pushforward(self._sampler, self._predict, grid, 1, self._options)


class _Identity:
  """The map of a law that is known already."""

  def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, np.ones((len(x), 1, 1))

  def inverse(self, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.clip(y, low, high)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _three(
  sampler: Sampler, predict: Predict, static: Any, grid: Grid, traced: Any, x: Array
) -> Array:
  """A step from x [n] with the draws 0, 1 and 2: [3, n]."""

  def run(z: Array) -> Array:
    noise = RecordedNoise(jnp.full((1, len(x), 1), z))
    return sampler(noise, predict, x[:, None], grid, **traced, **dict(static)).x[:, 0]

  return jnp.stack([run(jnp.asarray(z)) for z in (0.0, 1.0, 2.0)])
