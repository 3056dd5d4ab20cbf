"""Convergence diagnostics of Markov chains: NumPyro's, for paths as the kernels return them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scorelab.typing import AnyArray


def effective_sample_size(
  path: Float[AnyArray, " steps chains *event"],
) -> Float[np.ndarray, "*event"]:
  """Returns the number of independent draws that estimate each coordinate's mean as well.

  Geyer, "Practical Markov Chain Monte Carlo", Statistical Science 7(4), 1992, section 3.3: the
  initial monotone sequence, over all chains together. A single chain is `path[:, None]`.

  Args:
    path: [steps >= 4, chains, *event], on any device.

  Returns:
    [*event], float64; NaN for coordinates that do not move.

  Raises:
    ValueError: no chain axis, no chains, or fewer than four steps.
  """
  from numpyro import diagnostics  # takes 2 s

  return _diagnose(diagnostics.effective_sample_size, path)


def split_rhat(path: Float[AnyArray, " steps chains *event"]) -> Float[np.ndarray, "*event"]:
  """Returns the potential scale reduction of half chains: below 1.01 if the chains agree.

  It only compares chains with each other: chains that are all in the same mode agree, however many
  modes there are.

  Gelman et al., "Bayesian Data Analysis", 3rd edition, 2013, section 11.4. Arguments: see
  `effective_sample_size`.

  Returns:
    [*event], float64; infinite for chains that stand still at different points, NaN for coordinates
    that do not move.

  Raises:
    ValueError: see `effective_sample_size`.
  """
  from numpyro import diagnostics

  return _diagnose(diagnostics.split_gelman_rubin, path)


def _diagnose(diagnostic: Callable[[np.ndarray], np.ndarray], path: ArrayLike) -> np.ndarray:
  """Applies a diagnostic of [chains, steps, *event] in float64: far from 0, float32 cancels."""
  chains = np.asarray(path, np.float64)
  if chains.ndim < 2 or chains.shape[0] < 4 or chains.shape[1] < 1:
    raise ValueError(
      f"the path has shape {chains.shape}, which must be [steps >= 4, chains >= 1, ...]"
    )
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(diagnostic(chains.swapaxes(0, 1)))
