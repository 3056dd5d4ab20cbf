"""How far chains can be trusted: NumPyro's diagnostics, for paths as the kernels return them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def effective_sample_size(path: ArrayLike) -> np.ndarray:
  """How many independent draws the path is worth, for the mean of each coordinate.

  Geyer, "Practical Markov Chain Monte Carlo", Statistical Science 7(4), 1992, section 3.3: the
  initial monotone sequence, over all chains together. A single chain is `path[:, None]`.

  Args:
    path: [steps >= 4, chains, *event], on any device.

  Returns:
    [*event], float64; NaN where nothing moves.

  Raises:
    ValueError: no chain axis, no chains, or fewer than four steps.
  """
  from numpyro import diagnostics  # takes 2 s

  return _diagnose(diagnostics.effective_sample_size, path)


def split_rhat(path: ArrayLike) -> np.ndarray:
  """The potential scale reduction of half chains: near 1, at most 1.01, if the chains agree.

  It compares chains with each other alone: chains that are all in one mode of several agree.

  Gelman et al., "Bayesian Data Analysis", 3rd edition, 2013, section 11.4. Arguments as
  `effective_sample_size`.

  Returns:
    [*event], float64; infinite where chains stand still apart, NaN where nothing moves.

  Raises:
    ValueError: as `effective_sample_size`.
  """
  from numpyro import diagnostics

  return _diagnose(diagnostics.split_gelman_rubin, path)


def _diagnose(diagnostic: Callable[[np.ndarray], np.ndarray], path: ArrayLike) -> np.ndarray:
  """A diagnostic of [chains, steps, *event], in float64: far from 0, float32 has no variance."""
  chains = np.asarray(path, np.float64)
  if chains.ndim < 2 or chains.shape[0] < 4 or chains.shape[1] < 1:
    raise ValueError(
      f"the path has shape {chains.shape}, which must be [steps >= 4, chains >= 1, ...]"
    )
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(diagnostic(chains.swapaxes(0, 1)))
