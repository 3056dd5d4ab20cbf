"""Deterministic samplers as maps of their start: points, Jacobians, and inverses on the line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.exact.responses import (
  count_draws,
  in_float64,
  sampler_name,
  split_options,
  unbound,
)
from scorelab.predictions import Prediction
from scorelab.samplers import (
  RecordedNoise,
  ZeroNoise,
  adaptive_ode,
  mala,
  predictor_corrector,
  ula,
  underdamped_langevin,
)
from scorelab.schedules import Grid, Level
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Predict, Sampler

_REFUSED: dict[Any, str] = {
  adaptive_ode: "adapts its steps to each point",
  predictor_corrector: "draws noise",
  **dict.fromkeys((mala, ula, underdamped_langevin), "is a kernel that follows no grid"),
}
_CHUNK = 4096
_HALVINGS = 60


class Pushforward:
  """A deterministic sampler on a grid, as a map of x [n, d] in float64.

  Attributes:
    dim: d.
    evaluations: number of points at which the sampler was evaluated so far.
  """

  def __init__(
    self, sampler: Sampler, predict: Predict, grid: Grid, dim: int, options: dict[str, Any]
  ):
    """Binds a sampler.

    Raises:
      ValueError: the sampler is `adaptive_ode` or a Langevin kernel, or its noise has an effect.
    """
    require_map(sampler)
    self.dim, self.evaluations = dim, 0
    traced, static = split_options(options)
    predict, grid = traced_predict(predict), in_float64(grid)
    self._bound = (sampler, static, predict, grid, traced)
    if draws_noise(sampler, predict, grid, dim, options):
      raise noise_error(sampler)

  def __call__(
    self, x: Float[np.ndarray, "n d"]
  ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d d"]]:
    """Returns the samples from the starts x and the Jacobians of the map."""
    return self._in_chunks(_pushed, x)

  def on_line(self, x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and the derivatives there, each [n], if d = 1."""
    y, jacobian = self(x[:, None])
    return y[:, 0], jacobian[:, 0, 0]

  def inverse(
    self, y: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
  ) -> Float[np.ndarray, " n"]:
    """Returns, on the line, the x between low and high with the image y, or the nearer end.

    The map is monotone between them, either way.
    """
    return self._in_chunks(_inverted, y, low, high, calls=_HALVINGS + 2)

  def _in_chunks(self, function: Any, *arrays: np.ndarray, calls: int = 1) -> Any:
    self.evaluations += calls * len(arrays[0])
    return in_chunks(functools.partial(function, *self._bound), *arrays)


def in_chunks(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
  """Returns a jitted function of rows, in chunks of four sizes at most: each is compiled once."""
  results = []
  for i in range(0, len(arrays[0]), _CHUNK):
    parts = [a[i : i + _CHUNK] for a in arrays]
    size = len(parts[0])
    whole = next(n for n in (_CHUNK // 64, _CHUNK // 16, _CHUNK // 4, _CHUNK) if size <= n)
    padded = [np.concatenate([a, np.repeat(a[-1:], whole - size, axis=0)]) for a in parts]
    results.append(jax.tree.map(lambda a, size=size: np.asarray(a)[:size], function(*padded)))
  return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def traced_predict(predict: Predict) -> jax.tree_util.Partial:
  """Returns a prediction as an argument of compiled programs.

  That of a mixture on the line or in the plane, along the axes, has its numbers traced, so that
  mixtures share programs, and takes a fraction of the time of a mixture of any dimension.
  """
  target = getattr(predict, "__self__", None)
  if not isinstance(target, GaussianMixture) or predict != target.predict:
    return jax.tree_util.Partial(predict)
  if target.dim > 2 or target.basis is not None:
    return jax.tree_util.Partial(predict)
  variances = jnp.broadcast_to(target.variances, target.means.shape)
  leaves = target.log_weights, target.means, variances
  return jax.tree_util.Partial(_predict_by_axes, *in_float64(leaves))


def _predict_by_axes(
  log_weights: Array, means: Array, variances: Array, x: Array, level: Level
) -> Prediction:
  level = level.like(x[..., 0])
  views = _views_by_axes(log_weights, means, variances, x, level.alpha, level.sigma)
  score, x0, variance = (jnp.stack(coordinates, axis=-1) for coordinates in views)
  return Prediction.of(x, level, "score", score=score, x0=x0, x0_variance=variance)


@jax.jit  # traced once for all calls of a sampler, and for all numbers of steps
def _views_by_axes(
  log_weights: Array, means: Array, variances: Array, x: Array, alpha: Array, sigma: Array
) -> tuple[list[Array], list[Array], list[Array]]:
  """Coordinates of score, x0 and its variance; see `GaussianMixture`. Components come first."""

  def by_component(a: Array) -> Array:
    return a.reshape(-1, *[1] * (x.ndim - 1))

  log_joint, pulls, owns, widths = by_component(log_weights), [], [], []
  for i in range(x.shape[-1]):
    mean, variance = by_component(means[:, i]), by_component(variances[:, i])
    widths.append(alpha**2 * variance + sigma**2)
    pulls.append((alpha * mean - x[..., i]) / widths[-1])
    owns.append(mean - alpha * variance * pulls[-1])
    log_joint -= (pulls[-1] ** 2 * widths[-1] + jnp.log(widths[-1])) / 2
  share = jax.nn.softmax(log_joint, axis=0)
  scores = [jnp.sum(share * pull, axis=0) for pull in pulls]
  x0s = [jnp.sum(share * own, axis=0) for own in owns]
  within = [sigma**2 * by_component(variances[:, i]) / width for i, width in enumerate(widths)]
  spreads = [
    jnp.sum(share * (inner + (own - x0) ** 2), axis=0)
    for inner, own, x0 in zip(within, owns, x0s, strict=True)
  ]
  return scores, x0s, spreads


def require_map(sampler: Sampler) -> None:
  """Raises ValueError for a sampler that is no map of its start, with the reason."""
  reason = _REFUSED.get(unbound(sampler)) if callable(sampler) else "is not a function"
  if reason is not None:
    raise ValueError(f"sampler = {sampler_name(sampler)} is no map: it {reason}")


def noise_error(sampler: Sampler) -> ValueError:
  """Returns the error of a sampler whose points depend on its noise."""
  return ValueError(
    f"sampler = {sampler_name(sampler)} draws noise with these options, and is no map"
  )


def draws_noise(
  sampler: Sampler, predict: Predict, grid: Grid, dim: int, options: dict[str, Any]
) -> bool:
  """Returns whether a sampler's points depend on its noise."""
  x = jnp.linspace(-1.0, 1.0, 3 * dim).reshape(3, dim)
  draws = count_draws(sampler, predict, x, grid, options)
  if not draws:
    return False

  @jax.jit
  def run(noise: Array, grid: Grid) -> Array:
    return sampler(RecordedNoise(noise), predict, x, grid, **options).x

  noise = jnp.zeros((draws, *x.shape))
  return not np.array_equal(run(noise, grid), run(noise + 1, grid), equal_nan=True)


def _run(
  sampler: Sampler, static: tuple[tuple[str, Any], ...], predict: Predict, grid: Grid, traced: Any
) -> Any:
  return lambda x: sampler(ZeroNoise(), predict, x, grid, **traced, **dict(static)).x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pushed(
  sampler: Sampler, static: Any, predict: Predict, grid: Grid, traced: Any, x: Array
) -> tuple[Array, Array]:
  """Images [n, d] and Jacobians [n, d, d] at x [n, d]: a forward derivative along each axis."""
  run = _run(sampler, static, predict, grid, traced)
  axes = jnp.broadcast_to(jnp.eye(x.shape[1])[:, None, :], (x.shape[1], *x.shape))
  return jax.vmap(lambda axis: jax.jvp(run, (x,), (axis,)), out_axes=(None, -1))(axes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _inverted(
  sampler: Sampler,
  static: Any,
  predict: Predict,
  grid: Grid,
  traced: Any,
  y: Array,
  low: Array,
  high: Array,
) -> Array:
  """Bisection, all points at a time."""
  run = _run(sampler, static, predict, grid, traced)
  rising = (run(high[:, None]) >= run(low[:, None]))[:, 0]

  def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = (low + high) / 2
    above = (run(middle[:, None])[:, 0] > y) == rising
    return jnp.where(above, low, middle), jnp.where(above, middle, high)

  low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
  return (low + high) / 2
