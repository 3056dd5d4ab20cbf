"""Annealed Langevin dynamics: ULA at every noise level in turn.

References:
  Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", NeurIPS
    2019 (arXiv 1907.05600), algorithm 1. Their alpha_i is twice our h.
  Song and Ermon, "Improved Techniques for Training Score-Based Generative Models", NeurIPS 2020
    (arXiv 2006.09011), algorithm 1 and technique 4. Their alpha_i is our h.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.ranges import Above, Count
from scorelab.samplers.langevin import ula_step
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked, is_traced

RULES = ("published", "ncsnv2")


@checked
def ncsnv2_step_size(
  sigmas: Array | np.ndarray, steps_per_level: Annotated[int, Count(1_000_000)]
) -> Array:
  """Returns the step size at the last level that best keeps the variance from level to level.

  Of data at one point, T steps of h_i = step_size (sigma_i / sigma_L)^2 take N(0, sigma_{i-1}^2)
  to a Gaussian whose variance is, in units of sigma_i^2 and with e = step_size / sigma_L^2,

      (1 - e)^(2 T) (gamma^2 - 2 / (2 - e)) + 2 / (2 - e)        gamma = sigma_{i-1} / sigma_i

  (proposition 3, eq. 4). Technique 4 takes the e that makes it closest to 1. It is above 1 for
  every e, because ULA's own bias is, and falls before it rises: e is where its slope is zero.

  Args:
    sigmas: noise stds sigma / alpha, decreasing, [L >= 2]; geometric in the paper. If they are
      not, the widest gap decides: eq. 4 grows with gamma.
    steps_per_level: T >= 1. Static.

  Returns:
    The step size, [], in squared units of sigma; its gradient is stopped.

  Raises:
    ValueError: fewer than two levels, or concrete ones that do not decrease.
  """
  if sigmas.ndim != 1 or sigmas.shape[0] < 2:
    raise ValueError(f"sigmas of shape {sigmas.shape} must be two levels or more")
  if not isinstance(sigmas, jax.core.Tracer) and not (np.diff(sigmas) < 0).all():
    raise ValueError(f"sigmas must decrease, not {np.asarray(sigmas)}")
  sigmas = jnp.asarray(sigmas, float)
  ratio = jnp.max(sigmas[:-1] / sigmas[1:])
  excess = (ratio - 1) * (ratio + 1)  # gamma^2 - 1
  power = 2 * steps_per_level

  def rises(e: Array) -> Array:
    """Returns whether eq. 4 has a positive slope at e."""
    forgotten = -jnp.expm1(power * jnp.log1p(-e))  # 1 - (1 - e)^(2 T)
    falling = power * (1 - e) ** (power - 1) * (excess - e / (2 - e))
    return 2 / (2 - e) ** 2 * forgotten > falling

  def bisect(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = (low + high) / 2
    up = rises(middle)
    return jnp.where(up, low, middle), jnp.where(up, middle, high)

  # Right of this end, where e / (2 - e) = gamma^2 - 1, nothing falls any more.
  end = jnp.minimum(1, 2 * excess / (1 + excess))
  low, high = jax.lax.fori_loop(0, 60, bisect, (jnp.zeros_like(end), end))
  return jax.lax.stop_gradient((low + high) / 2 * sigmas[-1] ** 2)


@checked(rule=RULES)
def annealed_langevin(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  steps_per_level: Annotated[int, Count(1_000_000)] = 5,
  step_size: Annotated[Array | float, Above(0)] | None = None,
  rule: str = "published",
  denoise: bool = False,
) -> Samples:
  """Samples by Langevin dynamics at every noisy level of the grid in turn.

  In the variance-exploding form y = x / alpha, r = sigma / alpha, the step at a level is
  h = step_size (r / r_last)^2, with r_last the least noisy level's. A first level of pure noise
  (alpha = 0), where no step has a size, is replaced by the next one.

  Args:
    key: consumed.
    predict: the network or the truth.
    x: the start at grid[0], of any shape.
    grid: the levels; no Langevin step is taken at the data itself.
    steps_per_level: calls of `predict` at each level. Static.
    step_size: h at the least noisy level, in (0, 2 r_last^2), in squared units of the data:
      at high noise longer steps diverge, whatever the data. None: chosen by the rule.
    rule: 'published' is 1e-4; 'ncsnv2' fits the grid and steps_per_level, see `ncsnv2_step_size`.
      Static.
    denoise: whether to replace the last state by E[x_0 | x] at the least noisy level, for one
      more call. Static.

  Returns:
    Samples of x's shape. `path` holds the state after each noisy level, and the denoised one last
    if `denoise`; nfe counts every call.

  Raises:
    ValueError: the rule is unknown, or is 'ncsnv2' next to a step size or on a single noisy level;
      the step size is not stable; or the only noisy level is pure noise.
  """
  if rule == "ncsnv2" and step_size is not None:
    raise ValueError("rule = 'ncsnv2' chooses the step size: leave step_size unset")
  levels = _with_signal(grid)
  num_levels = levels.sigma.shape[0]
  ratios = levels.sigma / levels.alpha
  if step_size is None:
    step_size = 1e-4 if rule == "published" else ncsnv2_step_size(ratios, steps_per_level)
  _require_stable(step_size, ratios)

  def at_level(y: Array, inputs: tuple[Level, Noise]) -> tuple[Array, Array]:
    level, noise = inputs
    h = step_size * (level.sigma / level.alpha / ratios[-1]) ** 2

    def step(y: Array, noise: Noise) -> tuple[Array, None]:
      z = noise.normal(y.shape, y.dtype)
      # The score with respect to y is alpha times the one with respect to x.
      score = level.alpha * predict(level.alpha * y, level).score
      return ula_step(y, score, h, z), None

    y, _ = jax.lax.scan(step, y, noise.split(steps_per_level), length=steps_per_level)
    return y, level.alpha * y

  y = x / levels.alpha[0]
  _, path = jax.lax.scan(at_level, y, (levels, as_noise(key).split(num_levels)))
  if denoise:
    x0 = predict(path[-1], jax.tree.map(lambda a: a[-1], levels)).x0
    path = jnp.concatenate([path, x0[None]])
  return Samples(path[-1], path, nfe=num_levels * steps_per_level + denoise)


def _with_signal(grid: Grid) -> Level:
  """Returns the noisy levels, with a first one of pure noise replaced by the second one."""
  levels = jax.tree.map(lambda a: a[:-1], grid.levels) if grid.ends_at_data else grid.levels
  alpha = levels.alpha
  if alpha.shape[0] == 1:
    if not is_traced(alpha) and not np.asarray(alpha)[0]:
      raise ValueError("grid = one level of pure noise must have a level with alpha > 0")
    return levels
  return jax.tree.map(lambda a: a.at[0].set(jnp.where(alpha[0] > 0, a[0], a[1])), levels)


def _require_stable(step_size: Array | float, ratios: Array) -> None:
  """Raises ValueError for a concrete step that is too long: |1 - h / r^2| > 1 at the last level."""
  if is_traced(step_size) or is_traced(ratios):
    return
  most = 2 * float(np.asarray(ratios)[-1]) ** 2
  if not np.asarray(step_size) < most:
    raise ValueError(
      f"step_size = {float(step_size):g} must be below {most:.3g}, 2 (sigma / alpha)^2 of the least"
      " noisy level, or the chain diverges: set step_size, or rule = 'ncsnv2' without one"
    )
