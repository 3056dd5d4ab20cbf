"""Laws of a sampler on a Gaussian after every step, not only after the last.

Along an axis of variance lambda and mean m a sampler is linear in m, its start and its draws,

    x_i = p_i m + g_i x_0 + sum_j k_ij z_j        var x_i = g_i^2 var x_0 + sum_j k_ij^2

and p_i, g_i and sum_j k_ij^2 are functions of lambda alone: analytic, with their nearest poles at
negative lambda. So they are computed at Chebyshev points of log lambda and interpolated, if the
target has more axes than such points. In log lambda poles are pi away from the axis, and the error
falls as rho^-n with rho = s + sqrt(1 + s^2), s = 2 pi / log(lambda_max / lambda_min).

Trefethen, "Approximation Theory and Approximation Practice", 2013, theorem 8.2; Berrut and
Trefethen, "Barycentric Lagrange Interpolation", SIAM Review 46 (2004).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.laws import gaussian_laws, starting_laws
from scorelab.exact.responses import (
  STARTS,
  asks_for_spread,
  axis_predict,
  count_draws,
  in_float64,
  sampler_name,
  split_options,
  with_draws,
)
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Sampler
from scorelab.validation import require_known

_NUMBERS = 2**24  # derivatives of a path by its draws that are held at a time


def gaussian_path(
  sampler: Sampler,
  target: GaussianMixture,
  grid: Grid,
  *,
  start: str = "prior",
  **options: Any,
) -> list[GaussianLaw]:
  """Returns the laws of a sampler on a Gaussian target at every level of the grid, N + 1 of them.

  The first is the start's; the last is `gaussian_law`. Compare the law at level i with
  `GaussianLaw.of(target).noised(alpha_i, sigma_i)`. Multistep and stochastic samplers included;
  3072 axes and 1000 steps take seconds.

  Args:
    sampler, target, grid, start, options: see `gaussian_law`.

  Raises:
    ValueError: see `gaussian_law`; the sampler keeps another path than a state per step; or it
      asks for variances of coordinates and the target has other axes.
  """
  require_known("start", start, STARTS)
  gaussian_laws(sampler, target, grid, **options)  # refuses what is not affine
  law = GaussianLaw.of(target)
  with jax.enable_x64(True):
    grid = in_float64(grid)
    traced, static = split_options(options)
    predict = axis_predict(jnp.zeros(()), jnp.ones(()), spread=True)
    draws = count_draws(sampler, predict, jnp.zeros(1), grid, options)
    spread = law.basis is None
    if not spread and asks_for_spread(sampler, draws, grid, options):
      raise ValueError(
        f"sampler = {sampler_name(sampler)} asks for variances of coordinates, which are not the"
        " axes of the target: its laws after each step are not known"
      )
    follow = functools.partial(_path, sampler, static, draws, spread, grid, traced)
    levels = grid.levels.alpha**2, grid.levels.sigma**2
    variances, index = np.unique(law.variances, return_inverse=True)
    shift, gain, noise = _on_axes(follow, variances, *map(np.asarray, levels))
    first = starting_laws(law, grid)[start]
  mean, begin, laws = law.mean, first.mean, [first]
  if law.basis is not None:
    mean, begin = law.basis.T @ mean, law.basis.T @ begin
  for p, g, k in zip(shift, gain, noise, strict=True):
    moved = p[index] * mean + g[index] * begin
    moved = moved if law.basis is None else law.basis @ moved
    laws.append(GaussianLaw(moved, g[index] ** 2 * first.variances + k[index], law.basis))
  return laws


def _on_axes(
  follow: Callable[[np.ndarray], np.ndarray],
  variances: np.ndarray,
  signal: np.ndarray,
  noise: np.ndarray,
) -> np.ndarray:
  """Returns p, g and the sum of k^2 after each step for increasing variances [u]: [3, N, u].

  Args:
    follow: computes them without interpolation.
    variances: of the axes.
    signal, noise: alpha^2 and sigma^2 of the levels, [N + 1].
  """
  positive = variances[variances > 0]
  half = np.log(positive[-1] / positive[0]) / 2 if len(positive) > 1 else 0.0
  count = int(np.ceil(32 / np.arcsinh(np.pi / max(half, 0.1)))) + 8  # rho^-n is 1e-14
  if len(positive) <= count:
    return follow(variances)
  angles = np.pi * (np.arange(count) + 0.5) / count
  nodes, weights = np.cos(angles), (-1.0) ** np.arange(count) * np.sin(angles)
  middle = np.log(positive[-1] * positive[0]) / 2
  sampled, at = np.exp(middle + half * nodes), (np.log(positive) - middle) / half
  apart = at[:, None] - nodes
  hit = np.abs(apart) < 1e-14
  basis = np.where(hit.any(1)[:, None], hit, weights / np.where(hit, 1, apart))
  basis = basis / basis.sum(1, keepdims=True)
  # In units of the noised data's std, in which the last two are of order one.
  powers = np.array([0, 1, 2])[:, None, None]
  scale, wanted = (np.sqrt(signal[1:, None] * v + noise[1:, None]) for v in (sampled, positive))
  found = (follow(sampled) / scale**powers) @ basis.T * wanted**powers
  if len(positive) == len(variances):
    return found
  return np.concatenate([follow(variances[:1]), found], axis=-1)


def _path(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  spread: bool,
  grid: Grid,
  traced: dict[str, Any],
  variances: np.ndarray,
) -> np.ndarray:
  """The same by derivatives of the sampler's path, as many axes at a time as memory allows."""
  size = max(1, _NUMBERS // max(1, draws * grid.num_steps))
  parts = [
    _derivatives(sampler, static, draws, spread, grid, traced, jnp.asarray(variances[i : i + size]))
    for i in range(0, len(variances), size)
  ]
  return np.concatenate([np.asarray(part) for part in parts], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _derivatives(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  spread: bool,
  grid: Grid,
  traced: dict[str, Any],
  variances: Array,
) -> Array:
  """p, g and the sum of k^2 after each step, [3, N, u], for variances [u]."""

  def run(mean: Array, x: Array, noise: Array) -> Array:
    predict = axis_predict(mean, variances, spread=spread)
    path = with_draws(sampler, static, predict, grid, traced, x, noise).path
    if path.shape[0] != grid.num_steps:
      raise ValueError(f"sampler = {sampler_name(sampler)} keeps no state per step")
    return path

  zero, one = jnp.zeros_like(variances), jnp.ones_like(variances)
  none = jnp.zeros((draws, *variances.shape))
  shift = jax.jvp(lambda mean: run(mean, zero, none), (zero,), (one,))[1]
  gain = jax.jvp(lambda x: run(zero, x, none), (zero,), (one,))[1]
  if not draws:
    return jnp.stack([shift, gain, jnp.zeros_like(gain)])

  def by_draw(index: Array) -> Array:
    moved = jnp.where(jnp.arange(draws)[:, None] == index, 1.0, none)
    return jax.jvp(lambda noise: run(zero, zero, noise), (none,), (moved,))[1]

  noise = jnp.sum(jax.vmap(by_draw)(jnp.arange(draws)) ** 2, axis=0)
  return jnp.stack([shift, gain, noise])
