"""Sequential Monte Carlo for guided predictions: samples of the tilted law, not of the guided SDE.

A guided score is the gradient of log q_t(x)^(1-w) q_t(x | c)^w at every level, but the reverse SDE
with that score does not carry these laws into one another. Particles that follow it are weighted,
and resampled when the weights are uneven. By the Feynman-Kac formula in units of r = sigma / alpha

    d log W = w (w - 1) / 2 |noise_c - noise|^2 d log(r^2)

where noise_c and noise are the conditional and unconditional predictions. If the densities of both
are known, the weights of a step x -> x' have no error of discretisation instead:

    W = g'(x') q(x | x') / (g(x) p(x' | x))      g = q_t^(1-w) q_t(. | c)^w

with the forward process's kernel q and the step's own Gaussian p.

References:
  Skreta et al., "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts",
    ICML 2025 (arXiv 2503.02819), propositions 3.2 and 3.3; appendix on birth-death resampling.
  Del Moral, Doucet and Jasra, "Sequential Monte Carlo Samplers", JRSS B 68 (2006), eq. 12: weights
    with backward kernels.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.ranges import AtLeast, Between
from scorelab.samplers.ddim import noise_shares
from scorelab.samplers.noise import Noise, as_noise
from scorelab.samplers.particles import Cloud, Filter, drawn, normalised, resampled, run, starts
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Key, Predict, Samples
from scorelab.validation import checked

RESAMPLINGS = ("systematic", "birth_death")
WEIGHTS = ("score", "density")


class _Seen(NamedTuple):
  """Prediction of particles: x and its x0, noise and x0_variance; correction or log-density."""

  x: Array
  x0: Array
  noise: Array
  variance: Array
  weight: Array


@checked(resampling=RESAMPLINGS, weights=WEIGHTS)
def feynman_kac_cloud(
  key: Key | Noise,
  predict: Predict,
  x: Float[Array, " n particles *event"],
  grid: Grid,
  *,
  resampling: str = "systematic",
  threshold: Annotated[Array | float, Between(0, 1)] = 0.5,
  weights: str = "score",
) -> Cloud:
  """Moves clouds of weighted particles from grid[0] to the grid's last level.

  The steps are DDIM's at eta = 1, or `ancestral`'s of variance 'optimal' if the prediction has an
  x0_variance, which makes the weights more even.

  Args:
    key: consumed.
    predict: a guided prediction of one scale, weighted by its `correction`; without one all weights
      are equal. For 'density' any with a `log_density`, also with a scale for each level. Called
      under vmap, for one particle of every cloud.
    x: particles from the prior at grid[0].
    grid: from noise to data, or to a last noisy level.
    resampling: 'systematic', or 'birth_death', in every step, where particles of more weight than
      the mean replace those of less. Static.
    threshold: share of the particles; systematic resampling of clouds with a smaller effective
      sample size. 0 never resamples.
    weights: 'score' or 'density', see the module. Static.

  Returns:
    The cloud. With weights by density and systematic resampling, log_evidence estimates log Z of
    the law g / Z at a last noisy level.

  Raises:
    ValueError: weights = 'density' and the prediction has no `log_density`.
  """
  by_density = weights == "density"
  event = tuple(range(2, x.ndim))

  def seen_at(x: Array, level: Level) -> _Seen:
    pred = predict(x, level)
    weight = pred.log_density if by_density else pred.correction
    if weight is None and by_density:
      raise ValueError("weights = 'density' needs a predict with log_density: use 'score'")
    weight = jnp.zeros(x.shape[:1], x.dtype) if weight is None else weight
    variance = jnp.zeros_like(x) if pred.x0_variance is None else pred.x0_variance
    return _Seen(x, pred.x0, pred.noise, variance, weight)

  each = jax.vmap(seen_at, (1, None), 1)

  def look(x: Array, now: Level, nxt: Level, _: None) -> tuple[Array, _Seen]:
    seen = each(x, now)
    return seen.weight if by_density else 0 * seen.weight, seen

  def move(noise: Noise, seen: _Seen, now: Level, nxt: Level, _: None) -> tuple[Array, Array]:
    renewed, kept = noise_shares(now, nxt, 1.0)  # kept is r' / r
    std = jnp.sqrt((nxt.sigma * renewed) ** 2 + (nxt.alpha * (1 - kept**2)) ** 2 * seen.variance)
    std = jnp.where(nxt.sigma > 0, std, 0)
    z = noise.normal(seen.x.shape, seen.x.dtype)
    new = nxt.alpha * seen.x0 + nxt.sigma * kept * seen.noise + std * z
    if by_density:
      ratio = _kernel_ratio(seen.x, new, z, std, now, nxt, event)
      return new, jnp.where(nxt.sigma > 0, ratio - seen.weight, 0)  # a step onto the data is a map
    return new, seen.weight * (1 - kept**2)

  log_weights = jnp.full(x.shape[:2], -jnp.log(x.shape[1]), x.dtype)
  if by_density:
    log_weights -= _log_normal(x, grid.schedule.prior_std(grid[0]), event)
  resample = resampled if resampling == "systematic" else _birth_death
  cloud = run(key, x, log_weights, grid, Filter(look, move), threshold, resample)
  if not by_density or grid.ends_at_data:
    return cloud
  log_weights, evidence = normalised(
    cloud.log_weights + each(cloud.x, grid[-1]).weight, cloud.log_evidence
  )
  return cloud._replace(log_weights=log_weights, log_evidence=evidence)


@checked(resampling=RESAMPLINGS, weights=WEIGHTS)
def feynman_kac(
  key: Key | Noise,
  predict: Predict,
  x: Float[Array, " n *event"],
  grid: Grid,
  *,
  particles: Annotated[int, AtLeast(2)] = 16,
  resampling: str = "systematic",
  threshold: Annotated[Array | float, Between(0, 1)] = 0.5,
  weights: str = "score",
) -> Samples:
  """Samples the tilted law of a guided prediction: a particle of a cloud for each sample.

  Samples are independent of each other. Their law tends to the tilted one with the number of
  particles, and for weights by score with the number of steps.

  Args:
    key: consumed.
    predict: see `feynman_kac_cloud`.
    x: the start at grid[0], [n, *event], of the first particles; the others start from the prior.
    grid: from noise to data, or to a last noisy level.
    particles: number for each sample. Static.
    resampling, threshold, weights: see `feynman_kac_cloud`.

  Returns:
    Samples of x's shape, each drawn from its cloud by weight; nfe counts the calls for all
    particles.

  Raises:
    ValueError: weights = 'density' and the prediction has no `log_density`.
  """
  starting, running, drawing = as_noise(key).fork(3)
  cloud = feynman_kac_cloud(
    running,
    predict,
    starts(starting, x, grid, particles),
    grid,
    resampling=resampling,
    threshold=threshold,
    weights=weights,
  )
  nfe = grid.num_steps + (weights == "density" and not grid.ends_at_data)
  x = drawn(drawing, cloud)
  return Samples(x, cloud.path.at[-1].set(x), nfe=particles * nfe)


def _birth_death(
  noise: Noise, log_weights: Float[Array, "n particles"], threshold: Array | float
) -> tuple[Array, Array]:
  del threshold
  u = noise.uniform((len(log_weights), 2, log_weights.shape[1]), log_weights.dtype)
  index = jax.vmap(birth_death)(u, log_weights)
  return index, jnp.full_like(log_weights, -jnp.log(log_weights.shape[1]))


def birth_death(u: Float[Array, "2 particles"], log_weights: Float[Array, " particles"]) -> Array:
  """Returns the indices of ancestors after births and deaths that make up for the log-weights.

  A particle whose log-weight is less than the mean dies with probability 1 - exp(difference); one
  of more than the mean takes its place, chosen by its excess (Skreta et al. 2025).

  Args:
    u: uniform on [0, 1): for deaths and for births.
    log_weights: of one step, up to a constant.
  """
  p, excess = len(log_weights), log_weights - jnp.mean(log_weights)
  dies = u[0] < -jnp.expm1(jnp.minimum(excess, 0))
  ends = jnp.cumsum(jnp.maximum(excess, 0))
  parents = jnp.minimum(jnp.searchsorted(ends, u[1] * ends[-1], side="right"), p - 1)
  return jnp.where(dies & (ends[-1] > 0), parents, jnp.arange(p))


def _log_normal(x: Array, std: Array, event: tuple[int, ...]) -> Array:
  """Log-density of N(0, std^2 I), summed over the event's axes."""
  return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=std), axis=event)


def _kernel_ratio(
  x: Array, new: Array, z: Array, std: Array, now: Level, nxt: Level, event: tuple[int, ...]
) -> Array:
  """log q(x | x') - log p(x' | x) of a step to x' with noise std z.

  The forward kernel is N(a x', beta I) with a = alpha / alpha', beta = sigma^2 - a^2 sigma'^2.
  """
  a = now.alpha / nxt.alpha
  beta = now.sigma**2 - a**2 * nxt.sigma**2
  return _log_normal(x - a * new, jnp.sqrt(beta), event) - _log_normal(std * z, std, event)
