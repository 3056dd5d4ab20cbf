"""Variational bounds on -log p(x_0), in nats: those of discrete chains, and the continuous limit.

The chain goes from the noisiest level of a grid to the cleanest noisy one, by Gaussian steps whose
means are those of q(x_s | x_t, x_0) with the network's x0 for x_0, and from there to the data:

    -log p(x_0) <=  KL( q(x_T | x_0) || N(0, prior_std^2 I) )                             prior
                  + sum over steps of  KL( q(x_s | x_t, x_0) || N(mean, V_s) )            steps
                  + E[ -log N(x_0; x0, (sigma / alpha)^2 I) ]  at the last level          decoder

With SNR = (alpha / sigma)^2 and v_s the variance of q(x_s | x_t, x_0), each coordinate of a step
costs, whatever the process,

    log V_s = log v_s + f gap,   gap = log(sigma_t^2 / sigma_s^2)
    KL      = ( f gap + e^(-f gap) - 1 + e^(-f gap) (SNR_s - SNR_t) error_x0^2 ) / 2

where f = 0 is the 'small' variance (the posterior's own), f = 1 the 'large' one (beta, the forward
step's), and a network may predict f ('learned': the prediction's variance_fraction). The decoder
has the same form with gap 0, SNR_s - SNR_t -> SNR_t and the constant log(2 pi / SNR_t) / 2 added.

References:
  Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics",
    ICML 2015 (arXiv 1503.03585), eq. 14.
  Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239), eq. 5.
  Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021
    (arXiv 2102.09672), eq. 15 and 16.
  Kingma et al., "Variational Diffusion Models", NeurIPS 2021 (arXiv 2107.00630), eq. 11 to 18.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from scorelab.losses.levels import (
  LEVELS,
  UNIFORMS,
  log_uniform,
  require_signal,
  shifted,
)
from scorelab.losses.probes import sum_event
from scorelab.predictions import Parameterization, Prediction, noised, x0_slope
from scorelab.ranges import AtLeast, Count
from scorelab.schedules import GRIDS, Grid, Level, Schedule
from scorelab.typing import Array, Batch, Context, Key, Loss, Metrics, Params, Predict, Scalar
from scorelab.validation import checked

VARIANCES: tuple[str, ...] = ("small", "large", "learned")


class Bound(NamedTuple):
  """The terms of a bound on -log p(x_0), in nats, one column a point.

  Attributes:
    prior: [n].
    steps: [N - 1, n], noisiest first, for a grid of N noisy levels.
    decoder: [n].
  """

  prior: Array
  steps: Array
  decoder: Array

  @property
  def total(self) -> Array:
    """The bound of each point, [n]."""
    return self.prior + jnp.sum(self.steps, axis=0) + self.decoder


def bits_per_dim(nats: Array, dim: int, *, bin_width: float = 1.0) -> Array:
  """-log2 of the probability of a bin, per coordinate, from -log of a density.

  Data on a lattice of this width, each value spread by uniform noise over its own bin: the mean
  log-density over that noise is at most the log-probability of the lattice point less
  dim log bin_width, by Jensen's inequality, so the mean of this is an upper bound (Theis et al.,
  "A Note on the Evaluation of Generative Models", ICLR 2016, arXiv 1511.01844, section 3.1).

  Args:
    nats: minus log-densities of data so dequantised, or bounds on them, of any shape.
    dim: coordinates of a point: height * width * channels of an image.
    bin_width: in units of the data: 2 / 256 where 256 values fill [-1, 1]; 1 for data that are no
      lattice, whose bits are differential and may be below 0.

  Returns:
    Bits per dimension, of nats' shape.
  """
  return (nats / dim - math.log(bin_width)) / math.log(2)


@checked(variance=VARIANCES)
def bound_terms(
  key: Key, predict: Predict, x0: Array, grid: Grid, *, variance: str = "large"
) -> Bound:
  """Computes every term of the bound, each with its own noise: one call of `predict` per term.

  Args:
    key: consumed.
    predict: the network or the truth.
    x0: clean points, [n, *event].
    grid: noisy levels, and the data last.
    variance: variance of the model's steps, 'small', 'large' or 'learned'.

  Raises:
    ValueError: the variance is not known, or 'learned' and the predictions have none; or the grid
      does not end at the data.
  """
  terms = _Terms.of(grid)

  def term(_: None, now_and_key: tuple[_Terms, Key]) -> tuple[None, Array]:
    term, key = now_and_key
    x, truth = noised(key, x0, term.level)
    return None, term.nats(*_squared_error(predict(x, term.level), truth), variance)

  keys = jax.random.split(key, grid.num_steps)
  _, values = jax.lax.scan(term, None, (terms, keys))
  return Bound(prior_kl(x0, grid[0], grid.schedule), values[:-1], values[-1])


def prior_kl(x0: Array, level: Level, schedule: Schedule) -> Array:
  """KL( N(alpha x0, sigma^2 I) || N(0, prior_std^2 I) ): x0 [n, *event], level [] -> [n]."""
  ratio = (level.sigma / schedule.prior_std(level)) ** 2
  signal = (level.alpha / schedule.prior_std(level)) ** 2
  return sum_event(ratio - 1 - jnp.log(ratio) + signal * x0**2) / 2


@checked(spacing=GRIDS, uniforms=UNIFORMS, variance=VARIANCES)
def stepwise_kl(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 100,
  spacing: str = "uniform",
  uniforms: Callable[[Key, int], Array] = shifted,
  variance: str = "small",
) -> Loss:
  """The mean over the steps of a chain of KL( q(x_s | x_t, x_0) || N(mean, V_s) ), in nats.

  A random step for each point. Sohl-Dickstein et al. 2015, eq. 14. Minimised by E[x_0 | x_t] at the
  grid's levels but the cleanest; with a 'learned' variance that follows the posterior's.

  Args:
    parameterization: reads the network.
    schedule: the forward process.
    num_levels: noisy levels of the chain, >= 2.
    spacing: the grid of these levels, a name of GRIDS. At pure noise (`uniform` on `linear_flow`) a
      noise or a score does not determine x0, and is refused.
    uniforms: draws the steps, `(key, n) -> [n]`.
    variance: variance of the model's steps, 'small', 'large' or 'learned'.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}, without metrics.

  Raises:
    ValueError: num_levels < 2, or the variance is not known, or is 'learned' by a network that
      gives none.
  """
  _check_learned(variance, parameterization)
  if num_levels < 2:
    raise ValueError(f"num_levels = {num_levels} must be at least 2: a step has two ends")
  require_signal(parameterization, schedule, num_levels, spacing)

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    steps = jax.tree.map(lambda a: a[:-1], _Terms.of(GRIDS[spacing](schedule, num_levels)))
    _, term, square, fraction = _shown(parameterization, uniforms, steps, params, key, batch)
    return jnp.mean(term.nats(square, fraction, variance)), {}

  return loss


@checked(spacing=GRIDS, uniforms=UNIFORMS, variance=VARIANCES)
def variational_bound(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 100,
  spacing: str = "uniform",
  uniforms: Callable[[Key, int], Array] = shifted,
  variance: str = "large",
) -> Loss:
  """The bound on -log p(x_0) in nats, one random term for each point: unbiased.

  Ho et al. 2020, eq. 5; `bound_terms` has every term. Minimised by E[x_0 | x_t] at every level of
  the grid. The prior's term has no gradient and is there so that the value is the bound.

  Args:
    parameterization, schedule, spacing, uniforms, variance: as for `stepwise_kl`.
    num_levels: noisy levels of the chain.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: bits_per_dim, prior [].

  Raises:
    ValueError: the variance is not known, or is 'learned' by a network that gives none.
  """
  _check_learned(variance, parameterization)
  require_signal(parameterization, schedule, num_levels, spacing)

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    grid = GRIDS[spacing](schedule, num_levels)
    terms = _Terms.of(grid)
    _, term, square, fraction = _shown(parameterization, uniforms, terms, params, key, batch)
    prior = jnp.mean(prior_kl(batch["x"], grid[0], schedule))
    bound = prior + num_levels * jnp.mean(term.nats(square, fraction, variance))
    return bound, {"bits_per_dim": bits_per_dim(bound, batch["x"][0].size), "prior": prior}

  return loss


@checked(spacing=GRIDS, uniforms=UNIFORMS)
def hybrid(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 100,
  spacing: str = "uniform",
  uniforms: Callable[[Key, int], Array] = shifted,
  bound_weight: Annotated[float, AtLeast(0)] = 1e-3,
) -> Loss:
  """DDPM's simple loss for the mean, plus a share of the bound for the learned variance only.

      |noise error|^2 + bound_weight num_levels KL,  the error held fixed in the second

  Nichol and Dhariwal 2021, eq. 16, with sums over coordinates and nats in both parts. Minimised by
  E[x_0 | x_t] and the f for which V_s is the expected squared error of the step's mean.

  Args:
    parameterization: reads the network, which must have a learned variance.
    schedule, num_levels, spacing, uniforms: as for `variational_bound`.
    bound_weight: lambda, >= 0.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: simple, bound [], the bound
    without its prior.

  Raises:
    ValueError: the network gives no variance.
  """
  _check_learned("learned", parameterization)
  require_signal(parameterization, schedule, num_levels, spacing)

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    terms = _Terms.of(GRIDS[spacing](schedule, num_levels))
    level, term, square, fraction = _shown(parameterization, uniforms, terms, params, key, batch)
    simple = jnp.mean((level.alpha / level.sigma) ** 2 * sum_event(square))
    held = jax.lax.stop_gradient(square)
    bound = num_levels * jnp.mean(term.nats(held, fraction, "learned"))
    return simple + bound_weight * bound, {"simple": simple, "bound": bound}

  return loss


@checked(levels=LEVELS, uniforms=UNIFORMS)
def continuous_bound(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = log_uniform,
  uniforms: Callable[[Key, int], Array] = shifted,
) -> Loss:
  """The bound on -log p(x_0) in nats with infinitely many steps between the ends of `levels`.

      prior + (1/2) int |SNR'| E |x0 error|^2 + decoder,   decoder = (d / 2) log(2 pi e / SNR)

  Kingma et al. 2021, eq. 14 and 18; the decoder is theirs, p(x_0 | x_t) proportional to
  q(x_t | x_0), which knows no network. Levels of any density are reweighted to the same integral.
  Minimised by E[x_0 | x_t] at every level between the ends.

  Args:
    parameterization: reads the network.
    schedule: the forward process.
    levels: quantile function of a continuous level distribution, `(schedule, u [n]) -> Level [n]`,
      cleanest at u = 0.
    uniforms: draws the u, `(key, n) -> [n]`.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: bits_per_dim, prior,
    decoder [].

  Raises:
    ValueError: the levels are not continuous.
  """

  def log_snr(u: Array) -> Array:
    return levels(schedule, u).log_snr

  with jax.ensure_compile_time_eval():
    has_density = bool(jax.grad(log_snr)(0.5) < 0)
  if not has_density:
    raise ValueError("levels must have a density: fixed, data and grid have none")

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    level_key, noise_key = jax.random.split(key)
    x0 = batch["x"]
    u = uniforms(level_key, x0.shape[0])
    level, rate = levels(schedule, u), jax.jvp(log_snr, (u,), (jnp.ones_like(u),))[1]
    x, truth = noised(noise_key, x0, level)
    square, _ = _squared_error(parameterization.bind(params, batch.get("label"))(x, level), truth)
    # SNR' = 2 SNR d log-SNR.
    diffusion = jnp.mean(-rate * (level.alpha / level.sigma) ** 2 * sum_event(square))
    cleanest, noisiest = (levels(schedule, jnp.asarray(end)) for end in (0.0, 1.0))
    dim = x0[0].size
    prior = jnp.mean(prior_kl(x0, noisiest, schedule))
    decoder = dim * (math.log(2 * math.pi * math.e) / 2 - cleanest.log_snr)
    bound = prior + diffusion + decoder
    metrics: Metrics = {
      "bits_per_dim": bits_per_dim(bound, dim),
      "prior": prior,
      "decoder": decoder,
    }
    return bound, metrics

  return loss


class _Terms(NamedTuple):
  """Terms of a chain's steps and its decoder: fields [N], or [] or [n] for a selection.

  Attributes:
    level: the network's input level.
    gain: cost of half a squared error of x0, SNR_s - SNR_t; the decoder's SNR_t.
    gap: log of the large variance over the small one; the decoder's 0.
    constant: nats per coordinate.
  """

  level: Level
  gain: Array
  gap: Array
  constant: Array

  @classmethod
  def of(cls, grid: Grid) -> _Terms:
    if not grid.ends_at_data:
      raise ValueError("a bound needs a grid that ends at the data")
    now, nxt = grid.noisy_pairs
    last = grid[grid.num_steps - 1].log_snr[None]
    gain = -jnp.exp(2 * nxt.log_snr) * jnp.expm1(2 * (now.log_snr - nxt.log_snr))
    return cls(
      grid.pairs[0],
      jnp.concatenate([gain, jnp.exp(2 * last)]),
      jnp.concatenate([2 * jnp.log(now.sigma / nxt.sigma), jnp.zeros_like(last)]),
      jnp.concatenate([jnp.zeros_like(gain), math.log(2 * math.pi) / 2 - last]),
    )

  def nats(self, square: Array, fraction: Array | None, variance: str) -> Array:
    """The terms of squared x0 errors [n, *event]: [n]."""

    def like(a: Array) -> Array:
      return a.reshape(a.shape + (1,) * (square.ndim - a.ndim)) if a.ndim else a

    if variance == "learned":
      if fraction is None:
        raise ValueError(_NO_VARIANCE)
      excess = fraction * like(self.gap)
    else:
      excess = like(self.gap) * (variance == "large")
    half = (excess + jnp.expm1(-excess) + jnp.exp(-excess) * like(self.gain) * square) / 2
    return sum_event(half + like(self.constant))


def _shown(
  parameterization: Parameterization,
  uniforms: Callable[[Key, int], Array],
  terms: _Terms,
  params: Params,
  key: Key,
  batch: Batch,
) -> tuple[Level, _Terms, Array, Array | None]:
  """Draws a term for each point: its level, the term, its squared x0 errors and its fraction."""
  level_key, noise_key = jax.random.split(key)
  x0, num_terms = batch["x"], terms.gain.shape[0]
  index = jnp.floor(uniforms(level_key, x0.shape[0]) * num_terms).astype(int)
  term = jax.tree.map(lambda a: a[jnp.minimum(index, num_terms - 1)], terms)
  x, truth = noised(noise_key, x0, term.level)
  pred = parameterization.bind(params, batch.get("label"))(x, term.level)
  return term.level, term, *_squared_error(pred, truth)


def _squared_error(pred: Prediction, truth: Prediction) -> tuple[Array, Array | None]:
  """Squared errors of x0 from those of the network's own view, of x's shape; and its fraction."""
  error = pred.view(pred.kind) - truth.view(pred.kind)
  return (x0_slope(pred.kind, pred.level.like(error)) * error) ** 2, pred.variance_fraction


_NO_VARIANCE = "variance = 'learned' needs a network with parameterization.learned_variance"


def _check_learned(variance: str, parameterization: Parameterization) -> None:
  if variance == "learned" and not getattr(parameterization, "learned_variance", False):
    raise ValueError(_NO_VARIANCE)
