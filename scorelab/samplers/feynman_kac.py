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

import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.ranges import AtLeast, Between
from scorelab.samplers.ddim import noise_shares
from scorelab.samplers.noise import Noise, as_noise
from scorelab.schedules import Grid, Level
from scorelab.typing import Array, Floats, Key, Predict, Samples
from scorelab.validation import checked

RESAMPLINGS = ("systematic", "birth_death", "none")
WEIGHTS = ("score", "density")


class Particles(NamedTuple):
  """Weighted particles.

  Attributes:
    x: [p, *batch, *event].
    log_weights: normalised over the p particles of each batch entry, [p, *batch].
    log_normaliser: log of the mean weight of all steps, [*batch]: with weights by density and
      without birth and death, an estimate of log Z of the last level's law g / Z.
    nfe: calls of `predict` for one particle.
  """

  x: Floats
  log_weights: Floats
  log_normaliser: Floats
  nfe: int


class _Seen(NamedTuple):
  """Prediction of a step: x0, noise and x0_variance; log-density or correction [*batch] or []."""

  x0: Array
  noise: Array
  variance: Array
  weight: Array


class _State(NamedTuple):
  """Particles, the part of their next weight that is known, log-weights, and log_normaliser."""

  x: Array
  pending: Array
  logs: Array
  total: Array


@checked(resampling=RESAMPLINGS, weights=WEIGHTS)
def feynman_kac_particles(
  key: Key | Noise,
  predict: Predict,
  x: Float[Array, " particles *shape"],
  grid: Grid,
  *,
  resampling: str = "systematic",
  ess: Annotated[Array | float, Between(0, 1)] = 0.5,
  weights: str = "score",
) -> Particles:
  """Moves weighted particles from grid[0] to the grid's last level.

  The steps are DDIM's at eta = 1, or `ancestral`'s of variance 'optimal' if the prediction has an
  x0_variance, which makes the weights more even.

  Args:
    key: consumed.
    predict: a guided prediction of one scale, weighted by its `correction`; without one all weights
      are equal. For 'density' any with a `log_density`, also with a scale for each level. Called
      under vmap, for one particle of every batch entry.
    x: particles from the prior at grid[0], [p, *batch, *event]: a population for each batch entry.
    grid: from noise to data, or to a last noisy level.
    resampling: 'systematic', if the effective number of particles is below ess p; 'birth_death', in
      every step, where particles of more weight than the mean replace those of less; or 'none'.
      Static.
    ess: least effective share of the particles, in [0, 1].
    weights: 'score' or 'density', see the module. Static.

  Raises:
    ValueError: weights = 'density' and the prediction has no `log_density`.
  """
  by_density = weights == "density"
  look = jax.vmap(functools.partial(_look, predict, by_density), (0, None))
  batch = jax.eval_shape(look, x, grid[0]).weight.shape
  event = tuple(range(len(batch), x.ndim))

  def step(state: _State, inputs: tuple[Level, Level, Noise, Noise]) -> tuple[_State, None]:
    now, nxt, move, choice = inputs
    seen = look(state.x, now)
    gain = state.pending + seen.weight if by_density else state.pending
    logs, mean, chosen = _resampled(choice, state.logs, gain, resampling, ess)
    x, seen = jax.tree.map(lambda a: _take(a, chosen), (state.x, seen))
    renewed, kept = noise_shares(now, nxt, 1.0)  # kept is r' / r
    std = jnp.sqrt((nxt.sigma * renewed) ** 2 + (nxt.alpha * (1 - kept**2)) ** 2 * seen.variance)
    std = jnp.where(nxt.sigma > 0, std, 0)
    z = move.normal(x.shape, x.dtype)
    new = nxt.alpha * seen.x0 + nxt.sigma * kept * seen.noise + std * z
    if by_density:
      pending = _kernel_ratio(x, new, z, std, now, nxt, event) - seen.weight
    else:
      pending = seen.weight * (1 - kept**2)
    return _State(new, pending, logs, state.total + mean), None

  moves, choices = (noise.split(grid.num_steps) for noise in as_noise(key).fork(2))
  logs = jnp.full(batch, -jnp.log(x.shape[0]), x.dtype)
  pending = -_log_normal(x, grid.schedule.prior_std(grid[0]), event) if by_density else 0 * logs
  start = _State(x, pending, logs, 0 * logs[0])
  state, _ = jax.lax.scan(step, start, (*grid.pairs, moves, choices))
  gain, nfe = state.pending, grid.num_steps
  if by_density and grid.ends_at_data:
    gain = 0 * gain  # the last step has no noise: it is a map, which nothing weighs
  elif by_density:
    gain, nfe = gain + look(state.x, grid[-1]).weight, nfe + 1
  logs = state.logs + gain
  mean = jax.nn.logsumexp(logs, axis=0)
  return Particles(state.x, logs - mean, state.total + mean, nfe)


@checked(resampling=RESAMPLINGS, weights=WEIGHTS)
def feynman_kac(
  key: Key | Noise,
  predict: Predict,
  x: Floats,
  grid: Grid,
  *,
  particles: Annotated[int, AtLeast(2)] = 16,
  resampling: str = "systematic",
  ess: Annotated[Array | float, Between(0, 1)] = 0.5,
  weights: str = "score",
) -> Samples:
  """Samples the tilted law of a guided prediction: a particle of a population for each sample.

  Samples are independent of each other. Their law tends to the tilted one with the number of
  particles, and for weights by score with the number of steps.

  Args:
    key: consumed.
    predict: see `feynman_kac_particles`.
    x: the start at grid[0], [*batch, *event], of the first particles; the others start from the
      prior.
    grid: from noise to data, or to a last noisy level.
    particles: of a population. Static.
    resampling, ess, weights: see `feynman_kac_particles`.

  Returns:
    Samples of x's shape, one of each population by its weights; nfe counts the calls for all
    particles. The path has the last state alone, [1, *x.shape]: particles die on the way.

  Raises:
    ValueError: weights = 'density' and the prediction has no `log_density`.
  """
  starts, moves, choice = as_noise(key).fork(3)
  others = starts.normal((particles - 1, *x.shape), x.dtype) * grid.schedule.prior_std(grid[0])
  found = feynman_kac_particles(
    moves,
    predict,
    jnp.concatenate([x[None], others]),
    grid,
    resampling=resampling,
    ess=ess,
    weights=weights,
  )
  u = choice.uniform(found.log_weights.shape[1:], x.dtype)
  chosen = jnp.sum(jnp.cumsum(jnp.exp(found.log_weights), axis=0) < u, axis=0, keepdims=True)
  x = _take(found.x, jnp.minimum(chosen, particles - 1))[0]
  return Samples(x, x[None], nfe=particles * found.nfe)


def systematic(u: Float[Array, ""], log_weights: Float[Array, " p"]) -> Array:
  """Returns the indices [p] of systematic resampling, from u uniform on [0, 1).

  Index i has p W_i copies on average, and at most one more or less.
  """
  p = log_weights.shape[0]
  ends = jnp.cumsum(jnp.exp(log_weights))
  return jnp.minimum(jnp.searchsorted(ends, (jnp.arange(p) + u) / p * ends[-1]), p - 1)


def birth_death(u: Float[Array, "2 p"], gain: Float[Array, " p"]) -> Array:
  """Returns the indices [p] after births and deaths that make up for log-weights gained.

  A particle that gained less than the mean dies with probability 1 - exp(gain - mean); one that
  gained more than the mean takes its place, chosen by its excess (Skreta et al. 2025).

  Args:
    u: uniform on [0, 1): for deaths and for births.
    gain: log-weights of a step.
  """
  p, excess = gain.shape[0], gain - jnp.mean(gain)
  dies = u[0] < -jnp.expm1(jnp.minimum(excess, 0))
  ends = jnp.cumsum(jnp.maximum(excess, 0))
  parents = jnp.minimum(jnp.searchsorted(ends, u[1] * ends[-1], side="right"), p - 1)
  return jnp.where(dies & (ends[-1] > 0), parents, jnp.arange(p))


def _look(predict: Predict, by_density: bool, x: Array, level: Level) -> _Seen:
  pred = predict(x, level)
  weight = pred.log_density if by_density else pred.correction
  if weight is None and by_density:
    raise ValueError("weights = 'density' needs a predict with log_density: use 'score'")
  variance = jnp.zeros_like(x) if pred.x0_variance is None else pred.x0_variance
  return _Seen(pred.x0, pred.noise, variance, jnp.zeros((), x.dtype) if weight is None else weight)


def _resampled(
  choice: Noise, logs: Array, gain: Array, resampling: str, ess: Array | float
) -> tuple[Array, Array, Array]:
  """Log-weights [p, *batch], the log of their mean before [*batch], indices of the ancestors."""
  p, weighted = len(logs), logs + gain
  mean = jax.nn.logsumexp(weighted, axis=0)
  own = jnp.broadcast_to(jnp.arange(p).reshape(p, *[1] * (logs.ndim - 1)), logs.shape)
  if resampling == "birth_death":
    u = choice.uniform((2, *logs.shape), logs.dtype)
    return logs, mean, _over_batch(birth_death, u, gain)
  weighted -= mean
  if resampling == "none":
    return weighted, mean, own
  u = choice.uniform(logs.shape[1:], logs.dtype)
  uneven = jax.nn.logsumexp(2 * weighted, axis=0) > -jnp.log(ess * p)
  chosen = _over_batch(systematic, u, weighted)
  return jnp.where(uneven, -jnp.log(p), weighted), mean, jnp.where(uneven, chosen, own)


def _over_batch(function: Callable[..., Array], u: Array, logs: Array) -> Array:
  """Maps a function (u, log-weights [p]) -> [p] over the batch's axes, which are last in both."""
  for _ in range(logs.ndim - 1):
    function = jax.vmap(function, -1, -1)
  return function(u, logs)


def _take(a: Array, chosen: Array) -> Array:
  """Returns a [p, *batch, *event] at indices [n, *batch] of its first axis."""
  return jnp.take_along_axis(
    a, chosen.reshape(*chosen.shape, *[1] * (a.ndim - chosen.ndim)), axis=0
  )


def _log_normal(x: Array, std: Array, event: tuple[int, ...]) -> Array:
  """Log-density of N(0, std^2 I), summed over the event's axes."""
  return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=std), axis=event)


def _kernel_ratio(
  x: Array, new: Array, z: Array, std: Array, now: Level, nxt: Level, event: tuple[int, ...]
) -> Array:
  """log q(x | x') - log p(x' | x) of a step to x' with noise std z; 0 for one onto the data.

  The forward kernel is N(a x', beta I) with a = alpha / alpha', beta = sigma^2 - a^2 sigma'^2.
  """
  a = now.alpha / nxt.alpha
  beta = now.sigma**2 - a**2 * nxt.sigma**2
  std = jnp.where(nxt.sigma > 0, std, 1)
  ratio = _log_normal(x - a * new, jnp.sqrt(beta), event) - _log_normal(std * z, std, event)
  return jnp.where(nxt.sigma > 0, ratio, 0)
