"""Exact laws of samplers on a Gaussian target: no draws, no standard errors.

With the exact score of a Gaussian most samplers are affine in their start and their noise, so that
their samples are Gaussian. Along the axes of the target's covariance every coordinate is a
recursion of its own, and the noises of different steps are independent: one reverse pass through
the sampler gives a coordinate's law.

    mean = at + gain (m_start - start)        variance = gain^2 v_start + sum of squared responses

Pierret and Galerne, "Diffusion Models for Gaussian Distributions: Exact Solutions and Wasserstein
Errors", ICML 2025 (arXiv 2405.14250), who derive the recursions of six schemes by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.responses import (
  STARTS,
  asks_for_spread,
  axis_predict,
  axis_responses,
  count_draws,
  full_responses,
  in_float64,
  require_alike,
  require_followed,
  sampler_name,
  split_options,
)
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Predict, Sampler
from scorelab.validation import require_known

DISTANCES = ("kl", "reverse_kl", "w2")
_BEND = 1e-8  # relative error of the affine function from which on a sampler has another


class ExactBudget(NamedTuple):
  """Error of a sampler with the exact score: value = discretisation + prior; there is no floor.

  Attributes:
    value: of the samples that start from the prior.
    discretisation: of those that start from the true law of grid[0].
    prior: the difference.
  """

  value: float
  discretisation: float
  prior: float


def gaussian_law(
  sampler: Sampler,
  target: GaussianMixture,
  grid: Grid,
  *,
  start: str = "prior",
  **options: Any,
) -> GaussianLaw:
  """Returns the law of a sampler's samples on a Gaussian target with its exact score.

  In float64, whatever the default; for all of its digits make target and grid in float64 too.
  Compiled once for each sampler, number of steps and options that are not floats.

  Args:
    sampler: one whose step is affine in x and the noise, and treats every coordinate alike;
      multistep, stochastic and ancestral ones included.
    target: of one component.
    grid: from noise to data, or to a last noisy level.
    start: 'prior', the schedule's N(0, s^2 I), or 'true', the law of the noised data at grid[0].
    **options: of the sampler.

  Returns:
    The law at the grid's last level, with `.w2(target)`, `.kl(target)` and, for the other
    direction, `GaussianLaw.of(target).kl(law)`. If the grid ends in noise, compare with
    `end_law(target, grid)`.

  Raises:
    ValueError: the target has several components; the start is unknown; or the sampler is
      `adaptive_ode`, `predictor_corrector`, `consistency`, a Langevin kernel, or found not to be
      affine, as with predictions that are clipped.
  """
  require_known("start", start, STARTS)
  return gaussian_laws(sampler, target, grid, **options)[start]


def affine_law(
  sampler: Sampler, predict: Predict, start: GaussianLaw, grid: Grid, **options: Any
) -> GaussianLaw:
  """Returns the law of a sampler's samples for any prediction that is affine in x.

  A guided prediction of Gaussians is one, or that of another Gaussian than the data's. In float64,
  by full Jacobians: for tens of dimensions.

  Args:
    sampler: see `gaussian_law`; it may treat coordinates apart.
    predict: of points [d]; a function, or a `jax.tree_util.Partial` whose arguments are traced.
    start: law at grid[0], such as GaussianLaw(zeros(d), variances).
    grid, options: see `gaussian_law`.

  Raises:
    ValueError: see `gaussian_law`; or the prediction is not affine.
  """
  require_followed(sampler)
  with jax.enable_x64(True):
    grid, traced, static = in_float64(grid), *split_options(options)
    middle = jnp.asarray(start.mean, float)
    draws = count_draws(sampler, predict, middle, grid, options)
    moved = jnp.full_like(middle, 8 * np.sqrt(start.variances.max()))
    if not isinstance(predict, jax.tree_util.Partial):
      predict = jax.tree_util.Partial(predict)
    found = full_responses(sampler, static, draws, predict, grid, traced, middle, moved)
  at, gain, noise, bend = (np.asarray(a) for a in found)
  _require_affine(sampler, bend)
  return GaussianLaw.from_covariance(at, gain @ start.covariance @ gain.T + noise)


def gaussian_budget(
  sampler: Sampler,
  target: GaussianMixture,
  grid: Grid,
  *,
  distance: str = "kl",
  **options: Any,
) -> ExactBudget:
  """Splits the error of a sampler on a Gaussian target into prior and discretisation.

  Args:
    sampler, target, grid, options: see `gaussian_law`.
    distance: 'kl', KL(samples || target) in nats, 'reverse_kl', KL(target || samples), or 'w2' in
      the data's units.

  Raises:
    ValueError: see `gaussian_law`; or an unknown distance.
  """
  require_known("distance", distance, DISTANCES)
  laws, end = gaussian_laws(sampler, target, grid, **options), end_law(target, grid)
  measure = {"kl": lambda p: p.kl(end), "reverse_kl": end.kl, "w2": lambda p: p.w2(end)}[distance]
  value, discretisation = measure(laws["prior"]), measure(laws["true"])
  return ExactBudget(value, discretisation, value - discretisation)


def end_law(target: GaussianMixture, grid: Grid) -> GaussianLaw:
  """Returns the law that samples should have: the target noised to the grid's last level."""
  return GaussianLaw.of(target).noised(float(grid[-1].alpha), float(grid[-1].sigma))


def gaussian_laws(
  sampler: Sampler, target: GaussianMixture, grid: Grid, **options: Any
) -> dict[str, GaussianLaw]:
  """Returns `gaussian_law` from 'prior' and from 'true', for the price of one.

  Arguments and errors: see `gaussian_law`.
  """
  return gaussian_laws_on([grid], sampler, target, **options)[0]


def gaussian_laws_on(
  grids: Sequence[Grid], sampler: Sampler, target: GaussianMixture, **options: Any
) -> list[dict[str, GaussianLaw]]:
  """Returns `gaussian_laws` on each of several grids, by one program for all of them.

  Args:
    grids: of as many steps, of one kind of schedule, and all to the data or all to noise.
    sampler, target, options: see `gaussian_law`.

  Raises:
    ValueError: see `gaussian_law`; or the grids differ in more than numbers.
  """
  require_followed(sampler)
  law = GaussianLaw.of(target)
  with jax.enable_x64(True):
    grids, target = [in_float64(grid) for grid in grids], in_float64(target)
    starts = [starting_laws(law, grid) for grid in grids]
    traced, static = split_options(options)
    predict = axis_predict(jnp.zeros(()), jnp.ones(()), spread=True)
    draws = count_draws(sampler, predict, jnp.zeros(1), grids[0], options)
    if law.basis is not None and asks_for_spread(sampler, draws, grids[0], options):
      exact = jax.tree_util.Partial(GaussianMixture.predict, target)
      return [
        {name: affine_law(sampler, exact, start, grid, **options) for name, start in own.items()}
        for grid, own in zip(grids, starts, strict=True)
      ]
    require_alike(grids)
    return [
      _by_axis(sampler, static, draws, law, grid, traced, own)
      for grid, own in zip(grids, starts, strict=True)
    ]


def starting_laws(law: GaussianLaw, grid: Grid) -> dict[str, GaussianLaw]:
  """Returns the prior, and the true law of the noised data at grid[0], by name."""
  alpha, sigma = np.asarray(grid.levels.alpha)[0], np.asarray(grid.levels.sigma)[0]
  true = law.noised(float(alpha), float(sigma))
  variance = float(grid.schedule.prior_std(Level(None, alpha, sigma))) ** 2
  prior = GaussianLaw(np.zeros_like(true.mean), np.full_like(true.mean, variance), true.basis)
  return {"prior": prior, "true": true}


def _by_axis(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  law: GaussianLaw,
  grid: Grid,
  traced: dict[str, Any],
  starts: dict[str, GaussianLaw],
) -> dict[str, GaussianLaw]:
  """The laws along the target's axes; axes of the same mean and variance are followed once."""

  def along(mean: np.ndarray) -> np.ndarray:
    return mean if law.basis is None else law.basis.T @ mean

  axes = np.stack([along(law.mean), law.variances])
  (mean, variance), index = np.unique(axes, axis=1, return_inverse=True)
  middle = float(np.asarray(grid.levels.alpha)[0]) * mean  # of the true start
  found = axis_responses(
    sampler, static, draws, law.basis is None, grid, traced, mean, variance, middle
  )
  _require_affine(sampler, found.bend)
  middle, at, gain, noise = (a[index.reshape(-1)] for a in (middle, *found[:3]))

  def moved(start: GaussianLaw) -> GaussianLaw:
    mean = at + gain * (along(start.mean) - middle)
    mean = mean if law.basis is None else law.basis @ mean
    return GaussianLaw(mean, gain**2 * start.variances + noise, law.basis)

  return {name: moved(start) for name, start in starts.items()}


def _require_affine(sampler: Sampler, bend: np.ndarray) -> None:
  """Raises ValueError if the sampler is another than its derivatives say, beyond rounding."""
  worst = float(np.max(bend))
  if not worst <= _BEND:
    raise ValueError(
      f"sampler = {sampler_name(sampler)} is not affine in x and its noise with these options"
      f" (by {worst:.1e} of its size), so that its law is not Gaussian"
    )
