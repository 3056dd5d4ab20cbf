"""Denoising losses: regression of the noise or of the clean point from noisy points.

Vincent, "A Connection Between Score Matching and Denoising Autoencoders", Neural Computation 2011.
Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution",
NeurIPS 2019 (arXiv 1907.05600), eq. 5 and 6.
Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239).
Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022
(arXiv 2206.00364).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.losses.levels import (
  LEVELS,
  UNIFORMS,
  WEIGHTINGS,
  edm_weight,
  fixed_level,
  log_normal,
  log_uniform,
  may_lack_signal,
  require_finite_cost,
  score_weight,
  snr_weight,
  stratified,
  uniform_time,
  with_signal,
)
from scorelab.losses.probes import inner, sum_event
from scorelab.predictions import Parameterization, mixed, x0_slope
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level, Schedule
from scorelab.typing import Array, Average, Batch, Context, Key, Loss, Metrics, Params, Scalar
from scorelab.validation import checked, require_batch

Cost: TypeAlias = Callable[[str, Array, Level], Array]
"""(view, error in that view [n, *event], level [n]) -> the loss of each point, [n]."""
NORMS = ("huber", "l1", "l2")


@checked(levels=LEVELS, uniforms=UNIFORMS, weighting=WEIGHTINGS)
def ncsn(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = log_uniform,
  weighting: Callable[[Level], Array] = snr_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  levels_per_point: Annotated[int, AtLeast(1)] = 1,
  num_bands: Annotated[int, AtLeast(1)] = 8,
) -> Loss:
  """E over levels of w(level) |x0 error|^2, computed in the network's own view.

  Minimised by E[x_0 | x_t] at every level in the support of `levels`, whatever the weighting.
  Squares are summed over the coordinates of a point and averaged over points.

  Args:
    parameterization: reads the network.
    schedule: the forward process.
    levels: quantile function of the level distribution, `(schedule, u [n]) -> Level [n]`.
    weighting: w >= 0 on |x0 error|^2, elementwise; NCSN's own by default.
    uniforms: draws the u, `(key, n) -> [n]`.
    levels_per_point: levels drawn for each point of the batch.
    num_bands: equal bands of log-SNR over the schedule, for the metric `band_loss`, noisiest last.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: band_loss [num_bands].
  """

  def cost(kind: str, error: Array, level: Level) -> Array:
    return weighting(level) * x0_slope(kind, level) ** 2 * inner(error, error)

  return regression(parameterization, schedule, cost, levels, uniforms, levels_per_point, num_bands)


@checked(levels=LEVELS, uniforms=UNIFORMS)
def denoising(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = fixed_level,
  uniforms: Callable[[Key, int], Array] = stratified,
  num_bands: Annotated[int, AtLeast(1)] = 1,
) -> Loss:
  """E |s(x_t) + eps / sigma|^2: denoising score matching, at one level unless `levels` has more.

  `ncsn` weighted by the squared error of the score itself. Vincent 2011, section 4.2, up to the
  factor 1/2. Its minimum is E |eps / sigma|^2 - E |score of q_t|^2.

  Args:
    parameterization, schedule, levels, uniforms, num_bands: as for `ncsn`.

  Returns:
    A loss with the metrics of `ncsn`.
  """
  return ncsn(
    parameterization,
    schedule,
    levels=levels,
    weighting=score_weight,
    uniforms=uniforms,
    num_bands=num_bands,
  )


@checked(levels=LEVELS, uniforms=UNIFORMS, weighting=WEIGHTINGS)
def edm(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = log_normal,
  weighting: Callable[[Level], Array] = edm_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  levels_per_point: Annotated[int, AtLeast(1)] = 1,
  num_bands: Annotated[int, AtLeast(1)] = 8,
) -> Loss:
  """Like `ncsn`, with EDM's levels and weights: the mean square of the network's own error.

  By default log(sigma / alpha) is N(-1.2, 1.2^2) and the weight 1 / c_out^2. Karras et al. 2022,
  eq. 8 and table 1. Returns the same as `ncsn`.

  Args:
    parameterization, schedule, uniforms, levels_per_point, num_bands: as for `ncsn`.
    levels: quantile function of the level distribution; EDM's log-normal by default.
    weighting: w >= 0 on |x0 error|^2, elementwise; EDM's own by default.
  """
  return ncsn(
    parameterization,
    schedule,
    levels=levels,
    weighting=weighting,
    uniforms=uniforms,
    levels_per_point=levels_per_point,
    num_bands=num_bands,
  )


@checked(levels=LEVELS, uniforms=UNIFORMS, norm=NORMS)
def ddpm(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = uniform_time,
  uniforms: Callable[[Key, int], Array] = stratified,
  levels_per_point: Annotated[int, AtLeast(1)] = 1,
  num_bands: Annotated[int, AtLeast(1)] = 8,
  norm: str = "l2",
  huber_delta: Annotated[float, Above(0)] = 1.0,
) -> Loss:
  """E over levels of the noise's error in a norm, unweighted: DDPM's simple loss.

  With 'l2', |eps error|^2 (Ho et al. 2020, eq. 14), `ncsn` with weight SNR; minimised by the
  posterior mean. Summed over coordinates, with 'l1' |e|, minimised by the posterior median, and
  with 'huber' e^2 / 2 up to |e| = huber_delta and delta (|e| - delta / 2) beyond. Levels are
  uniform in t; DDPM's discrete ones are `levels = grid` of num_levels = T.

  Args:
    parameterization, schedule, levels, uniforms, levels_per_point, num_bands: as for `ncsn`.
    norm: 'l2', 'l1' or 'huber'.
    huber_delta: error from which on the Huber loss is linear, in units of the noise.

  Returns:
    A loss with the metrics of `ncsn`.

  Raises:
    ValueError: `norm` is not known.
  """
  norms: dict[str, Callable[[Array], Array]] = {
    "huber": lambda e: _huber(e, huber_delta),
    "l1": jnp.abs,
    "l2": jnp.square,
  }
  cost = in_view("noise", norms[norm])
  return regression(parameterization, schedule, cost, levels, uniforms, levels_per_point, num_bands)


# Shared by the losses of this package.


def independent(x0: Array, noise: Array) -> Array:
  """Returns the noise unchanged: the coupling of all losses except flow matching's."""
  del x0
  return noise


def regression(
  parameterization: Parameterization,
  schedule: Schedule,
  cost: Cost,
  levels: Callable[[Schedule, Array], Level],
  uniforms: Callable[[Key, int], Array],
  levels_per_point: int,
  num_bands: int,
  couple: Callable[[Array, Array], Array] = independent,
) -> Loss:
  """E over levels of the cost of the error in the network's own view.

  Args:
    parameterization, schedule, levels, uniforms, levels_per_point, num_bands: as for `ncsn`.
    cost: the cost of an error.
    couple: (x0, noise) -> the noise, its rows reassigned to the points.

  Returns:
    A loss with the metrics of `ncsn`.

  Raises:
    ValueError: an error at a level in the support has infinite cost, see `require_finite_cost`.
  """
  require_finite_cost(
    parameterization,
    lambda kind, level: cost(kind, jnp.ones((*level.sigma.shape, 1)), level),
    levels,
    schedule,
  )

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    require_batch(batch)
    level_key, noise_key = jax.random.split(key)
    # Tiled, not repeated: in-order uniforms then give a point levels far apart.
    batch = jax.tree.map(lambda a: jnp.concatenate([a] * levels_per_point), batch)
    x0 = batch["x"]
    level = levels(schedule, uniforms(level_key, x0.shape[0]))
    noise = couple(x0, jax.random.normal(noise_key, x0.shape, x0.dtype))
    x, truth = mixed(x0, noise, level)
    pred = parameterization.bind(params, batch.get("label"))(x, level)
    error = pred.view(pred.kind) - truth.view(pred.kind)
    costly = with_signal(level) if may_lack_signal(pred.kind, schedule) else level
    losses = cost(pred.kind, error, costly)
    return jnp.mean(losses), {"band_loss": band_average(schedule, level, losses, num_bands)}

  return loss


def in_view(view: str, norm: Callable[[Array], Array]) -> Cost:
  """Sum over coordinates of an even `norm` of the error in `view`, for a network of any kind."""

  def cost(kind: str, error: Array, level: Level) -> Array:
    if kind != view:
      at = level.like(error)
      error = error * (x0_slope(kind, at) / x0_slope(view, at))
    return sum_event(norm(error))

  return cost


def band_average(schedule: Schedule, level: Level, losses: Array, num_bands: int) -> Average:
  """Averages losses [n] in equal bands of log-SNR over the schedule, noisiest last: [num_bands]."""
  noisiest = schedule.log_snr(jnp.asarray(schedule.t_max))
  cleanest = schedule.log_snr(jnp.asarray(schedule.t_min))
  # A level at either end may fall just outside by rounding.
  place = (cleanest - level.log_snr) / (cleanest - noisiest)
  band = jnp.clip(jnp.floor(place * num_bands), 0, num_bands - 1).astype(int)
  total = jax.ops.segment_sum(losses, band, num_bands)
  count = jax.ops.segment_sum(jnp.ones_like(losses), band, num_bands)
  return Average(total, count)


def _huber(error: Array, delta: float) -> Array:
  """Huber loss: e^2 / 2 within delta, and linear beyond.

  `optax.huber_loss` is the same up to rounding, but not bit for bit, which would change every run
  that is trained on it.
  """
  clipped = jnp.clip(error, -delta, delta)
  return clipped * (error - clipped / 2)
