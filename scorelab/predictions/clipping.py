"""Clipping of x0: functions from predict to predict.

References:
  Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239):
    their code clips x0 to the range of images.
  Saharia et al., "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding"
    (Imagen), NeurIPS 2022 (arXiv 2205.11487), section 2.3: dynamic thresholding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from scorelab.predictions import Prediction
from scorelab.ranges import Above, Between
from scorelab.schedules import Level
from scorelab.typing import Array, Predict
from scorelab.validation import Registry, checked


@checked
def clipped(
  predict: Predict,
  *,
  clip_limit: Annotated[Array | float, Above(0)] = 1.0,
  clip_keep_noise: bool = False,
  event_ndim: int = 1,
) -> Predict:
  """Returns the predict function with x0 clipped to [-clip_limit, clip_limit] by coordinate.

  Args:
    predict: any.
    clip_limit: largest |x0| allowed, in units of the data.
    clip_keep_noise: whether the noise stays the network's own, as in DDIM's code; else it is what x
      and the clipped x0 make it, as in DDPM's and DPM-Solver++'s. Static.
    event_ndim: without effect.
  """
  del event_ndim
  return _changed(predict, lambda x0: jnp.clip(x0, -clip_limit, clip_limit), clip_keep_noise)


@checked
def thresholded(
  predict: Predict,
  *,
  clip_quantile: Annotated[Array | float, Between(0, 1)] = 0.995,
  clip_limit: Annotated[Array | float, Above(0)] = jnp.inf,
  clip_keep_noise: bool = False,
  event_ndim: int = 1,
) -> Predict:
  """The predict function with x0 clipped where few of its coordinates are, and then shrunk.

  With q the quantile of an event's |x0|, held between 1 and `clip_limit`: x0 is clipped to [-q, q]
  and divided by q, so that values far out return into the range without saturating.

  Args:
    predict: any.
    clip_quantile: the quantile of an event's |x0| that is q.
    clip_limit: the largest q, >= 1; at 1 this is `clipped`.
    clip_keep_noise: as for `clipped`.
    event_ndim: how many trailing axes are one event. Static.
  """

  def change(x0: Array) -> Array:
    axes = tuple(range(-event_ndim, 0))
    q = jnp.quantile(jnp.abs(x0), clip_quantile, axis=axes, keepdims=True)
    q = jnp.clip(q, 1, clip_limit)
    return jnp.clip(x0, -q, q) / q

  return _changed(predict, change, clip_keep_noise)


def _changed(predict: Predict, change: Callable[[Array], Array], keep_noise: bool) -> Predict:
  """Returns the predict function with another x0; only a network's own variance is kept."""

  def changed(x: Array, level: Level) -> Prediction:
    pred = predict(x, level)
    x0 = change(pred.x0)
    views = {"noise": pred.noise} if keep_noise else {}
    return Prediction.of(x, level, "x0", x0=x0, variance_fraction=pred.variance_fraction, **views)

  return changed


CLIPPINGS: dict[str, Callable[..., Predict]] = Registry("clipping") | {
  "static": clipped,
  "dynamic": thresholded,
}
