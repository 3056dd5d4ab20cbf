"""Linear responses of samplers: the derivatives of a sample by its start and by its noise.

If a sampler's steps are affine, x_N = G x_0 + sum_i K_i z_i + b: all of G, K_1, K_2, ... come from
one reverse pass through the sampler itself, whatever its stages, history and noise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Never

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorelab.predictions import Prediction
from scorelab.samplers import (
  Noise,
  RecordedNoise,
  ZeroNoise,
  adaptive_ode,
  consistency,
  feynman_kac,
  mala,
  predictor_corrector,
  ula,
  underdamped_langevin,
)
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Predict, Sampler, Samples

STARTS = ("prior", "true")
_KERNEL = "is a kernel that follows no grid"
REFUSED: dict[Any, str] = {
  adaptive_ode: "adapts its steps to each point",
  consistency: "takes the ends of flow lines, which are no posterior means",
  feynman_kac: "resamples particles",
  mala: "accepts or rejects",
  predictor_corrector: "takes steps whose size depends on the norms of the score and the noise",
  ula: _KERNEL,
  underdamped_langevin: _KERNEL,
}
_CHUNK = 256  # axes at a time: the reverse pass keeps every step of each


def sampler_name(sampler: Any) -> str:
  """Returns the name of a sampler, or of the function that a partial binds."""
  return getattr(unbound(sampler), "__name__", type(sampler).__name__)


def unbound(sampler: Any) -> Any:
  """Returns the function under `functools.partial`."""
  while isinstance(sampler, functools.partial):
    sampler = sampler.func
  return sampler


def require_followed(sampler: Sampler) -> None:
  """Raises ValueError for a sampler whose law is not known from derivatives, with the reason."""
  reason = REFUSED.get(unbound(sampler)) if callable(sampler) else "is not a function"
  if reason is not None:
    raise ValueError(f"sampler = {sampler_name(sampler)} has no exact law: it {reason}")


def in_float64(tree: Any) -> Any:
  """Returns a pytree with its float arrays in float64; in a context of `jax.enable_x64`."""

  def convert(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
      return np.asarray(leaf, float) if np.issubdtype(leaf.dtype, np.floating) else leaf
    real = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if real else leaf

  return jax.tree.map(convert, tree)


def require_alike(grids: Sequence[Grid]) -> None:
  """Raises ValueError if there are no grids, or they differ in more than numbers."""
  trees = [jax.tree.structure(grid) for grid in grids]
  shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(grid)] for grid in grids]
  if not grids or any(pair != (trees[0], shapes[0]) for pair in zip(trees, shapes, strict=True)):
    raise ValueError("grids must be of as many steps, of one kind of schedule, and end alike")


class _Found(Exception):  # noqa: N818 (no error)
  """Number of draws of a whole run, raised by the first of them."""


class _Probe(Noise):
  """Source whose first draw ends the trace; the last axis of its leaf is as long as the draws."""

  def __init__(self, sources: Array):
    self.sources = sources

  def split(self, shape: int | tuple[int, ...]) -> _Probe:
    axes = (shape,) if isinstance(shape, int) else shape
    return _Probe(jnp.zeros((*axes, self.sources.shape[-1] * int(np.prod(axes)))))

  def fork(self, number: int) -> tuple[_Probe, ...]:
    raise ValueError(f"a sampler that forks its noise has no exact law here (fork({number}))")

  def normal(self, shape: tuple[int, ...], dtype: Any) -> Never:
    raise _Found(self.sources.shape[-1])

  def uniform(self, shape: tuple[int, ...], dtype: Any) -> Never:
    raise ValueError("a sampler that draws uniform numbers has no exact law")


def count_draws(
  sampler: Sampler, predict: Predict, x: Array, grid: Grid, options: dict[str, Any]
) -> int:
  """Returns how many draws of x's shape a sampler takes in a run; 0 if it takes none."""
  try:
    jax.eval_shape(
      lambda x, grid: sampler(_Probe(jnp.zeros(1)), predict, x, grid, **options).x, x, grid
    )
  except _Found as found:
    return int(found.args[0])
  return 0


def asks_for_spread(sampler: Sampler, draws: int, grid: Grid, options: dict[str, Any]) -> bool:
  """Returns whether a sampler reads the posterior variance of coordinates, so that axes matter."""
  source = RecordedNoise(jnp.zeros((draws, 1))) if draws else ZeroNoise()
  predict = axis_predict(jnp.zeros(()), jnp.ones(()), spread=False)
  try:
    jax.eval_shape(
      lambda x, grid: sampler(source, predict, x, grid, **options).x, jnp.zeros(1), grid
    )
  except ValueError:
    return True
  return False


class Responses(NamedTuple):
  """A sampler along independent axes: x_N = at + gain (x_0 - start) + noise, each [d].

  Attributes:
    at: the sample without noise from `start`.
    gain: derivative by the start.
    noise_variance: sum of the squared derivatives by the draws.
    bend: relative error of the affine function far from `start`: rounding if the sampler is affine.
  """

  at: Float[np.ndarray, " d"]
  gain: Float[np.ndarray, " d"]
  noise_variance: Float[np.ndarray, " d"]
  bend: Float[np.ndarray, " d"]


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
  """Returns the options that can be traced, and the others: strings, whole numbers, None."""
  traced = {k: v for k, v in options.items() if isinstance(v, (float, jax.Array, np.ndarray))}
  return traced, tuple(sorted((k, v) for k, v in options.items() if k not in traced))


def axis_predict(mean: Array, variance: Array, *, spread: bool) -> Predict:
  """Returns the exact prediction along axes of a Gaussian, coordinate by coordinate.

  Args:
    mean, variance: of the data along the axis, [], or along several, [d] for points [..., d].
    spread: whether to give the posterior variance. It is that of a coordinate: along other axes no
      sampler may ask for it.
  """

  def predict(x: Array, level: Level) -> Prediction:
    score, x0, posterior = _axis_views(x, level.alpha, level.sigma, mean, variance)
    known = posterior if spread else None
    return Prediction.of(x, level, "score", score=score, x0=x0, x0_variance=known)

  return predict


@jax.jit  # traced once for all calls of a sampler, and for all numbers of steps
def _axis_views(
  x: Array, alpha: Array, sigma: Array, mean: Array, variance: Array
) -> tuple[Array, Array, Array]:
  total = alpha**2 * variance + sigma**2
  total = jnp.where(total > 0, total, 1)
  score = (alpha * mean - x) / total
  x0 = (sigma**2 * mean + alpha * variance * x) / total
  return score, x0, jnp.broadcast_to(sigma**2 * variance / total, x.shape)


def with_draws(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  predict: Predict,
  grid: Grid,
  traced: dict[str, Any],
  x: Array,
  noise: Float[Array, "draws ..."],
) -> Samples:
  """Runs a sampler with the options of `split_options` and these draws, which may be none."""
  source = RecordedNoise(noise) if len(noise) else ZeroNoise()
  return sampler(source, predict, x, grid, **traced, **dict(static))


def axis_responses(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  spread: bool,
  grid: Grid,
  traced: dict[str, Any],
  mean: Float[np.ndarray, " d"],
  variance: Float[np.ndarray, " d"],
  start: Float[np.ndarray, " d"],
) -> Responses:
  """Returns the responses of a sampler on N(mean, diag(variance)), by one reverse pass an axis.

  Args:
    sampler: acts on every coordinate alike.
    static, traced: its options, of `split_options`.
    draws: of `count_draws`.
    spread: see `axis_predict`.
    grid: of the sampler. Grids that differ in numbers share one program.
    mean, variance: of the data.
    start: where the sampler is differentiated.
  """
  run = functools.partial(axis_slopes, sampler, static, draws, spread, grid, traced)
  alpha, sigma = (np.asarray(a)[0] for a in (grid.levels.alpha, grid.levels.sigma))
  far = start + 8 * np.sqrt(alpha**2 * variance + sigma**2)
  axes, count = (mean, variance, start, far), len(mean)
  if count > _CHUNK:
    axes = tuple(np.pad(a, (0, -count % _CHUNK), mode="edge") for a in axes)
  size = min(_CHUNK, count)
  none = np.zeros((draws, size))
  noise = none + np.cos(1.0 + np.arange(draws))[:, None]
  parts = []
  for i in range(0, len(axes[0]), size):
    *law, start, far = (a[i : i + size] for a in axes)
    at, gain, gains = map(np.asarray, run(*law, start, none))
    # Far from there, where a clipped prediction is clipped, the derivatives must tell the value.
    image = np.asarray(run(*law, far, noise)[0])
    terms = np.stack([at, gain * (far - start), *(gains * noise)])
    scale = np.sum(np.abs(terms), axis=0)
    bend = np.abs(image - np.sum(terms, axis=0)) / np.where(scale > 0, scale, 1)
    parts.append((at, gain, np.sum(gains**2, axis=0), bend))
  return Responses(*(np.concatenate(a)[:count] for a in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def axis_slopes(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  spread: bool,
  grid: Grid,
  traced: dict[str, Any],
  mean: Array,
  variance: Array,
  x: Array,
  noise: Array,
) -> tuple[Array, Array, Array]:
  """Samples [d], and their derivatives by the start [d] and by the draws [draws, d]."""
  predict = axis_predict(mean, variance, spread=spread)

  def run(x: Array, noise: Array) -> Array:
    return with_draws(sampler, static, predict, grid, traced, x, noise).x

  if not draws:
    return *jax.jvp(lambda x: run(x, noise), (x,), (jnp.ones_like(x),)), noise

  def total(x: Array, noise: Array) -> tuple[Array, Array]:
    x = run(x, noise)
    return jnp.sum(x), x

  (gain, gains), x = jax.grad(total, (0, 1), has_aux=True)(x, noise)
  return x, gain, gains


@functools.partial(jax.jit, static_argnames=("sampler", "static", "draws"))
def full_responses(
  sampler: Sampler,
  static: tuple[tuple[str, Any], ...],
  draws: int,
  predict: Predict,
  grid: Grid,
  traced: dict[str, Any],
  start: Float[Array, " d"],
  moved: Float[Array, " d"],
) -> tuple[Array, Array, Array, Array]:
  """Returns `at` [d], the gain [d, d], the noise's covariance [d, d] and `bend` [] of a sampler.

  By a reverse pass for each coordinate of the sample; for samplers that treat coordinates apart.

  Args:
    sampler, static, draws, grid, traced, start: see `axis_responses`.
    predict: a `jax.tree_util.Partial`, whose arguments are traced.
    moved: from the start to where the affine function must still hold.
  """

  def run(x: Array, noise: Array) -> Array:
    return with_draws(sampler, static, predict, grid, traced, x, noise).x

  none = jnp.zeros((draws, *start.shape))
  gain, gains = jax.jacrev(run, (0, 1))(start, none)
  noise = jnp.cos(1.0 + jnp.arange(none.size)).reshape(none.shape)
  at, far = run(start, none), run(start + moved, noise)
  expected = gain @ moved + jnp.einsum("ink,nk->i", gains, noise)
  size = jnp.max(jnp.abs(at) + jnp.abs(expected) + jnp.abs(far))
  bend = jnp.max(jnp.abs(far - at - expected)) / jnp.where(size > 0, size, 1)
  return at, gain, jnp.einsum("ink,jnk->ij", gains, gains), bend
