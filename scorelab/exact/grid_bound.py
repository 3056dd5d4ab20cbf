"""Upper bound on the KL of a grid: what freezing the exact denoiser within each step costs.

At the SNR s = (alpha / sigma)^2 let y_s = s x_t / alpha, which is s x_0 + W_s for a Brownian motion
W in the time s. Given its own past it has the drift D_s = E[x_0 | y_s], and ancestral sampling from
s_k to s_{k+1} is the same process with the drift frozen:

    truth       dy = D_s(y_s) ds + dB
    ancestral   dy = D_{s_k}(y_{s_k}) ds + dB

By Girsanov's theorem the KL of the paths of one step is half the integral of E|D_s - D_{s_k}|^2. As
D_s is a martingale that is mmse(s_k) - mmse(s), with mmse(s) = E|x_0 - D_s|^2 summed over the
coordinates, and

    KL(true paths || sampled paths) = KL(q_0 || prior)
      + sum_k [(s_{k+1} - s_k) mmse(s_k) - int_{s_k}^{s_{k+1}} mmse(s) ds] / 2

Half the integral is the mutual information gained, I(x_0; x_t) at s_{k+1} less that at s_k. On a
Gaussian of variances v_i a step costs sum_i [e_i - log(1 + e_i)] / 2, e_i = (s_{k+1} - s_k) v_i /
(1 + s_k v_i). On a mixture mmse and I are quadratures.

References:
  Guo, Shamai and Verdu, "Mutual Information and Minimum Mean-Square Error in Gaussian Channels",
    IEEE Transactions on Information Theory 51 (2005), theorem 1.
  Sabour, Fidler and Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models",
    ICML 2024 (arXiv 2404.14507), who minimise such a bound by samples.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.exact.component_nodes import component_nodes
from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.reduction import split_plane
from scorelab.exact.responses import in_float64
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array

_REACH = 7.5  # standard deviations: exp(-7.5^2 / 2) is 6e-13
_FIRST = 0.5  # spacing of the nodes in standard deviations, before the first halving
_HALVINGS = (6, 2)  # at most, in one and two dimensions
_RTOL = 1e-10


class GridBound(NamedTuple):
  """Upper bound on KL(data || samples) in nats, and its parts.

  Attributes:
    value: prior plus the sum of steps.
    error: how far off the value may be: the change by the last halving of the spacing, and
      rounding.
    prior: KL(q_0 || prior) at the noisiest level.
    steps: [N], of the steps between noisy levels, each >= 0 but for the error.
  """

  value: float
  error: float
  prior: float
  steps: Float[np.ndarray, " N"]


def grid_kl_bound(target: GaussianMixture, grid: Grid) -> GridBound:
  """Returns an upper bound on KL(data || samples) of ancestral sampling with the exact score.

  The divergence is that of the true reverse process from the sampled one, over whole paths, so that
  it bounds the divergence of their laws at the last noisy level. That is q_t || p_t, the direction
  of `end_law(target, grid).kl(law)`. A step onto the data is not counted: it ends in points that
  the denoiser chooses, whose law may have no density.

  Args:
    target: a Gaussian of any dimension; a mixture of dimension 1 or 2; or one in more dimensions
      with one isotropic covariance and modes in a plane.
    grid: from the prior's level to data, or to a last noisy level; only its noisy levels count.

  Raises:
    ValueError: the target is of another kind, or the grid has no two noisy levels.
  """
  if not isinstance(target, GaussianMixture):
    raise ValueError(f"target = <{type(target).__name__}> must be a GaussianMixture")
  with jax.enable_x64(True):
    target, grid = in_float64(target), in_float64(grid)
    levels = noisy_levels(grid)
    if len(levels.alpha) < 2:
      raise ValueError(f"grid: {len(levels.alpha)} noisy levels must be at least 2")
    std = float(grid.schedule.prior_std(grid[0]))
    return _bound(target, levels, std)


def noisy_levels(grid: Grid) -> Level:
  """Returns a grid's levels, alpha and sigma [N], without the data if it ends there."""
  count = grid.num_steps + 1 - grid.ends_at_data
  return Level(None, grid.levels.alpha[:count], grid.levels.sigma[:count])


def gaussian_steps(variances: Float[Array, " d"], levels: Level) -> Float[Array, " N"]:
  """Returns the bound's steps on a Gaussian of these variances, between N + 1 levels. Traceable."""
  snr = (levels.alpha / levels.sigma) ** 2
  excess = jnp.diff(snr)[:, None] * variances / (1 + snr[:-1, None] * variances)
  return jnp.sum(excess - jnp.log1p(excess), axis=1) / 2


@functools.partial(jax.jit, static_argnums=2)
def mixture_steps(
  target: GaussianMixture, levels: Level, spacing: float
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
  """Returns the bound's steps on a mixture of dimension 1 or 2, and I(x_0; x_t) at levels[0].

  Traceable in the target and the N + 1 levels.

  Args:
    target: the mixture.
    levels: noisy ones, alpha and sigma [N + 1].
    spacing: of the nodes, in standard deviations of the components of each level's law.
  """

  def at(level: Level) -> tuple[Array, Array]:
    y, weights = component_nodes(target.perturbed(level.alpha, level.sigma), spacing, _REACH)
    found = target.predict(y, level)
    noise = target.dim / 2 * jnp.log(2 * jnp.pi * jnp.e * level.sigma**2)
    variance, log_density = jnp.asarray(found.x0_variance), jnp.asarray(found.log_density)
    return jnp.sum(weights[:, None] * variance), -jnp.sum(weights * log_density) - noise

  mmse, information = jax.lax.map(at, levels)
  snr = (levels.alpha / levels.sigma) ** 2
  return jnp.diff(snr) * mmse[:-1] / 2 - jnp.diff(information), information[0]


def _bound(target: GaussianMixture, levels: Level, std: float) -> GridBound:
  """The bound, from the prior N(0, std^2 I)."""
  if target.num_classes == 1:
    law = GaussianLaw.of(target)
    noised = law.noised(float(levels.alpha[0]), float(levels.sigma[0]))
    prior = noised.kl(GaussianLaw(np.zeros(target.dim), np.full(target.dim, std**2), law.basis))
    steps = np.asarray(gaussian_steps(jnp.asarray(law.variances), levels))
    value = prior + float(steps.sum())
    return GridBound(value, 1e-12 * abs(value), prior, steps)
  if target.dim > 2:
    plane, rest = (_bound(part, levels, std) for part in split_plane(target))
    value, error = plane.value + rest.value, plane.error + rest.error
    return GridBound(value, error, plane.prior + rest.prior, plane.steps + rest.steps)
  spacing, found = _FIRST, _by_quadrature(target, levels, std, _FIRST)
  for _ in range(_HALVINGS[target.dim - 1]):
    before, spacing = found, spacing / 2
    found = _by_quadrature(target, levels, std, spacing)
    found = found._replace(error=found.error + abs(found.value - before.value))
    if found.error <= _RTOL * abs(found.value):
      break
  return found


def _by_quadrature(target: GaussianMixture, levels: Level, std: float, spacing: float) -> GridBound:
  steps, information = (np.asarray(a) for a in mixture_steps(target, levels, spacing))
  alpha, sigma = float(levels.alpha[0]), float(levels.sigma[0])
  second = alpha**2 * float(jnp.sum(target.variance + target.mean**2)) + target.dim * sigma**2
  # KL = -H(q) - E log prior, H(q) the noise's entropy and the information.
  prior = target.dim * (np.log(std / sigma) - 0.5) + second / (2 * std**2) - float(information)
  value = prior + float(steps.sum())
  return GridBound(value, 1e-12 * (1 + abs(value)), prior, steps)
