"""Denoising losses: a network is shown noisy points and asked for what was added.

Vincent, "A Connection Between Score Matching and Denoising Autoencoders", Neural Computation 2011.
Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution",
NeurIPS 2019 (arXiv 1907.05600), eq. 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scorelab.losses.levels import (
  fixed_level,
  log_uniform,
  score_weight,
  snr_weight,
  stratified,
)
from scorelab.predictions import Parameterization, noised, x0_slope
from scorelab.schedules import Level, Schedule
from scorelab.typing import Array, Average, Batch, Context, Key, Loss, Metrics, Params


def ncsn(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = log_uniform,
  weighting: Callable[[Level], Array] = snr_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  levels_per_point: int = 1,
  num_bands: int = 8,
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
    levels_per_point: levels drawn for each point of the batch, >= 1.
    num_bands: equal bands of log-SNR over the schedule, for the metric `band_loss`, noisiest last.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics: band_loss [num_bands].
  """
  noisiest = schedule.log_snr(jnp.asarray(schedule.t_max))
  cleanest = schedule.log_snr(jnp.asarray(schedule.t_min))

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Array, Metrics]:
    del context
    level_key, noise_key = jax.random.split(key)
    # Tiled, not repeated: in-order uniforms then give a point levels far apart.
    batch = jax.tree.map(lambda a: jnp.concatenate([a] * levels_per_point), batch)
    n = batch["x"].shape[0]
    level = levels(schedule, uniforms(level_key, n))
    x, truth = noised(noise_key, batch["x"], level)
    pred = parameterization.bind(params, batch.get("label"))(x, level)
    error = pred.view(pred.kind) - truth.view(pred.kind)
    squares = jnp.sum(error**2, axis=tuple(range(1, error.ndim)))
    losses = weighting(level) * x0_slope(pred.kind, level) ** 2 * squares
    # A level at either end may fall just outside by rounding.
    place = (cleanest - level.log_snr) / (cleanest - noisiest)
    band = jnp.clip(jnp.floor(place * num_bands), 0, num_bands - 1).astype(int)
    total = jax.ops.segment_sum(losses, band, num_bands)
    count = jax.ops.segment_sum(jnp.ones(n), band, num_bands)
    return jnp.mean(losses), {"band_loss": Average(total, count)}

  return loss


def denoising(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = fixed_level,
  uniforms: Callable[[Key, int], Array] = stratified,
  num_bands: int = 1,
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
