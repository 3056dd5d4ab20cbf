"""Multistep consistency sampling: maps x to the end of its flow line and adds noise again.

Song et al., "Consistency Models", ICML 2023 (arXiv 2303.01469), algorithm 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.predictions import Prediction, ratio_ends
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level, safe_sqrt
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked


@checked
def consistency_step(pred: Prediction, nxt: Level, z: Floats, end: Float[Array, ""]) -> Floats:
  """Maps x to the end of the flow, and adds noise from there to the level `nxt`.

      y = f(x)    x' = alpha' (y + sqrt(r'^2 - end^2) z)      with r = sigma / alpha

  The flow ends at r = end, where its points have that much noise already: if f is exact, x' has the
  law of its level, whatever the end. `renoise_step` adds all of r'.

  Args:
    pred: of kind 'consistency', at any level.
    nxt: a scalar level; at or below the end, such as the data, nothing is added.
    z: standard normal of x's shape.
    end: the least sigma / alpha, where the flow ends, [].
  """
  spread = safe_sqrt(jnp.square(nxt.sigma / nxt.alpha) - end**2)
  return nxt.alpha * (pred.x0 + spread * z)


@checked
def consistency(key: Key | Noise, predict: Predict, x: Floats, grid: Grid) -> Samples:
  """Samples by `consistency_step`: one call of `predict` a step, one in all on a grid of one step.

  Args:
    key: consumed.
    predict: of kind 'consistency', trained to map to the least noise of the grid's schedule.
    x: the start at grid[0], of any shape.
    grid: from noise to data.

  Returns:
    Samples of x's shape, which are the flow's ends; nfe = N.

  Raises:
    ValueError: predict gives a posterior mean, or the grid does not end at the data.
  """
  if not grid.ends_at_data:
    raise ValueError("consistency sampling needs a grid that ends at the data")
  end, _ = ratio_ends(grid.schedule)

  def step(x: Array, inputs: tuple[Level, Level, Noise]) -> tuple[Array, Array]:
    now, nxt, noise = inputs
    pred = predict(x, now)
    if pred.kind != "consistency":
      raise ValueError(
        f"consistency sampling needs predictions of kind 'consistency', not {pred.kind!r}"
      )
    x = consistency_step(pred, nxt, noise.normal(x.shape, x.dtype), end)
    return x, x

  noise = as_noise(key).split(grid.num_steps)
  x, path = jax.lax.scan(step, x, (*grid.pairs, noise))
  return Samples(x, path, nfe=grid.num_steps)
