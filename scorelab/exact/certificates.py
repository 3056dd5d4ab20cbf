"""KL of the data from the probability flow's law at every level, without samples.

The flow's density p_t follows from its prior's along the solution (`scorelab.likelihood`), and

    KL(q_t || p_t) = sum_k w_k int N_k(y) [log q_t(y) - log p_t(y)] dy

over the components of q_t, by the trapezoidal rule of `component_nodes`.

This is the direction of Girsanov's bound, which is on another law, that of the reverse SDE with the
same score in continuous time: the flow's KL may be larger than the bound. With the exact score the
flow, a bijection that carries q_T to q_t, keeps the prior's KL(q_T || p_T), and the bound is the
same number. Song, Durkan, Murray and Ermon, "Maximum Likelihood Training of Score-Based Diffusion
Models", NeurIPS 2021 (arXiv 2101.09258), theorem 1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.exact.component_nodes import component_nodes
from scorelab.exact.flows import Exact
from scorelab.exact.responses import in_float64
from scorelab.likelihood.flow import log_likelihood
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict

_REACH = 6.5  # standard deviations
_SPACINGS = (0.9, 0.7)  # coarse and fine, as the levels are


def flow_certificate(
  predict: Predict, target: GaussianMixture, grid: Grid, at: Sequence[int]
) -> list[Exact]:
  """Returns KL(q_t || p_t) in nats at levels of a grid, for p_t the probability flow's law.

  The flow is solved by the method of Runge and Kutta on the levels above.

  Args:
    predict: a network, or the truth.
    target: of dimension 1 or 2.
    grid: its levels are noisy, and finely spaced.
    at: even indices of levels.

  Returns:
    The divergences; an error is the change from half of the levels and fewer nodes.

  Raises:
    ValueError: the target is of another kind.
  """
  if not isinstance(target, GaussianMixture) or target.dim > 2:
    raise ValueError("target must be a GaussianMixture of dimension 1 or 2")
  with jax.enable_x64(True):
    target, grid = in_float64(target), in_float64(grid)
    found = []
    for index in at:
      coarse, fine = (
        _divergence(predict, target, _upper(grid, index, stride), spacing)
        for stride, spacing in zip((2, 1), _SPACINGS, strict=True)
      )
      found.append(Exact(fine, abs(fine - coarse)))
  return found


def _upper(grid: Grid, index: int, stride: int) -> Grid:
  """The levels down to one, or every second of them."""
  levels = jax.tree.map(lambda a: a[: index + 1 : stride], grid.levels)
  return Grid(grid.schedule, levels, False)


def _divergence(predict: Predict, target: GaussianMixture, grid: Grid, spacing: float) -> float:
  clean = grid[-1]
  law = target.perturbed(clean.alpha, clean.sigma)
  y, weights = component_nodes(law, spacing, _REACH)
  return float(np.sum(np.asarray(weights * _log_ratio(predict, target, grid, y))))


@functools.partial(jax.jit, static_argnums=0)
def _log_ratio(predict: Predict, target: GaussianMixture, grid: Grid, y: Array) -> Array:
  """log q_t(y) - log p_t(y) at the grid's last level, [n]."""
  clean = grid[-1]
  if grid.num_steps == 0:
    std = grid.schedule.prior_std(clean)
    model = jnp.sum(jax.scipy.stats.norm.logpdf(y, scale=std), axis=-1)
  else:
    key = jax.random.key(0)  # of no effect: the divergence is exact
    model = log_likelihood(key, predict, y, grid, data_std=target.scale).log_prob
  return target.perturbed(clean.alpha, clean.sigma)._log_prob(y) - model
