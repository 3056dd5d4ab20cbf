"""Gaussian mixtures of the field, by name."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from scorelab.ranges import Above, AtLeast, Between
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.validation import checked


def nine_modes() -> GaussianMixture:
  """Nine modes of variance 0.1 at {-10, 0, 10}^2, of unequal weights that were drawn once.

  The weights are uniform draws, normalised, written out because `jax.random` may change; the
  first coordinate varies fastest. Scale 8.0; the lightest mode has 1.5 % of the mass.
  """
  weights = [
    *(0.09910548, 0.13785616, 0.12497377),
    *(0.11376853, 0.09138628, 0.11880781),
    *(0.01517061, 0.15718940, 0.14174204),
  ]
  return GaussianMixture(weights, _square(np.array([-10.0, 0.0, 10.0])), np.full(9, 0.1))


@checked
def ring(
  num_modes: Annotated[int, AtLeast(1)] = 8,
  radius: Annotated[float, Above(0)] = 8**0.5,
  std: Annotated[float, Above(0)] = 8**-0.5,
) -> GaussianMixture:
  """Equal modes on a circle: by default the "8 gaussians" of the normalising-flow literature.

  Grathwohl et al., "FFJORD", ICLR 2019 (arXiv 1810.01367): radius 4 and std 0.5, over sqrt(2).

  Args:
    num_modes: number of modes, equally spaced in angle.
    radius: distance of the modes from the origin.
    std: standard deviation of each mode in each coordinate.
  """
  angles = 2 * np.pi * np.arange(num_modes) / num_modes
  means = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
  return GaussianMixture(np.ones(num_modes), means, np.full(num_modes, std**2))


@checked
def grid25(
  dim: Annotated[int, AtLeast(1)] = 2,
  weights: Annotated[tuple[float, ...], AtLeast(0)] | None = None,
) -> GaussianMixture:
  """25 unit Gaussians at 8 (i, j), i and j in -2..2, repeated to any even dimension.

  After the toy study of Cardoso et al., "Monte Carlo guided Diffusion for Bayesian linear
  inverse problems", ICLR 2024 (arXiv 2308.07983). Weights are equal unless 25 are given.

  Args:
    dim: dimension d of a point, even.
    weights: 25 weights, normalised here; None for equal ones.

  Raises:
    ValueError: dim is odd.
  """
  if dim < 2 or dim % 2:
    raise ValueError(f"dim = {dim} must be even")
  means = np.tile(_square(8.0 * np.arange(-2, 3)), (1, dim // 2))
  return GaussianMixture(np.ones(25) if weights is None else weights, means, np.ones(25))


@checked
def two_modes_1d(
  separation: float = 4.0,
  std: Annotated[float, Above(0)] = 0.5,
  weight: Annotated[float, Between(0, 1, "()")] = 1 / 3,
) -> GaussianMixture:
  """Two modes on the line at -+ separation / 2, the left one of this weight: for pictures.

  Args:
    separation: distance between the means.
    std: standard deviation of each mode.
    weight: weight of the left mode; the right one has the rest.
  """
  means = np.array([[-separation / 2], [separation / 2]])
  return GaussianMixture([weight, 1 - weight], means, np.full(2, std**2))


def _square(values: np.ndarray) -> np.ndarray:
  """All pairs of n values, [n^2, 2], the first coordinate varying fastest."""
  return np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2)
