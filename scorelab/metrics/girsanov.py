"""Girsanov's bound on the KL divergence of the reverse SDE's law from the data, split by level.

Where the score s runs the reverse SDE from a Gaussian prior at T, its law p at any t obeys

    KL(q_t || p_t) <= KL(q_T || prior) + 1/2 int_t^T g^2 E_q |s - s*|^2 du

(Song, Durkan, Murray and Ermon, "Maximum Likelihood Training of Score-Based Diffusion Models",
NeurIPS 2021, arXiv 2101.09258, theorem 1): the KL of the paths is the right side, and q_t and p_t
are marginals of paths. The bound holds for that SDE without grid error, not for the probability
flow with the same score: the flow's KL can be larger (`likelihood_evaluation` measures it).

In y = x / alpha every process is y_0 + r eps with r = sigma / alpha, so
g^2 dt = alpha^2 d(r^2) = 2 sigma^2 d(log r), and the cost of learning per unit of log r is

    sigma^2 E |s - s*|^2  =  E |noise error|^2,  in nats
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from scorelab.predictions import noised
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level
from scorelab.typing import Array, ExactTarget, Key, Predict, Scalar
from scorelab.validation import checked


class Girsanov(NamedTuple):
  """The bound and its parts in nats, each a mean over draws with its standard error.

  Attributes:
    density: [L], the cost of learning per unit of log(sigma / alpha) at each level.
    bound: [L], the bound at each level: the prior, and what the levels above have cost.
    prior: [], KL(q_T || prior) at the noisiest level: bound[0].
    learning: [], the integral of `density` over the levels: bound[-1] - prior.
    total: [], the bound at the cleanest level, bound[-1].
    density_sem, bound_sem, prior_sem, learning_sem, total_sem: the standard errors.
  """

  density: Float[Array, " levels"]
  density_sem: Float[Array, " levels"]
  bound: Float[Array, " levels"]
  bound_sem: Float[Array, " levels"]
  prior: Scalar
  prior_sem: Scalar
  learning: Scalar
  learning_sem: Scalar
  total: Scalar
  total_sem: Scalar


@checked
def girsanov(
  key: Key,
  target: ExactTarget,
  predict: Predict,
  levels: Level,
  prior_std: Annotated[Scalar, Above(0)],
  num_samples: Annotated[int, AtLeast(1)],
) -> Girsanov:
  """The bound on KL(q || p) at each level, for p the model's law if it were run without grid error.

  The integral over log r is the trapezoidal rule's. A draw keeps its x_0 and its noise at every
  level, so the standard error of the integral is that of independent draws. For the prior's KL a
  draw counts prior/q - 1 - log(prior/q), of mean KL and never negative: where the two laws are
  close its variance vanishes with the KL. Jittable with `num_samples` static.

  Args:
    key: consumed.
    target: the truth; its log_density is normalised.
    predict: what is measured; see `Predict`.
    levels: fields of shape [L], L >= 2, noisiest first, all with noise.
    prior_std: [], the std of the Gaussian from which the model starts at levels[0].
    num_samples: exact draws, at least 2.

  Raises:
    ValueError: for fewer levels or samples than these.
  """
  if num_samples < 2 or levels.sigma.ndim != 1 or levels.sigma.shape[0] < 2:
    raise ValueError(
      f"num_samples = {num_samples} must be at least 2, and levels {levels.sigma.shape} be [L], L"
      " at least 2"
    )
  data_key, noise_key = jax.random.split(key)
  x0 = target.sample(data_key, num_samples)

  def cost(level: Level) -> Array:
    x, _ = noised(noise_key, x0, level)
    error = predict(x, level).score - target.predict(x, level).score
    return level.sigma**2 * jnp.sum(error**2, axis=-1)

  costs = jax.lax.map(cost, levels)  # [L, n]
  steps = jnp.diff(levels.log_snr)[:, None] * (costs[1:] + costs[:-1]) / 2
  noisiest = jax.tree.map(lambda a: a[0], levels)
  x, _ = noised(noise_key, x0, noisiest)
  log_prior = jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=prior_std), axis=-1)
  log_ratio = log_prior - jnp.asarray(target.predict(x, noisiest).log_density)
  prior = jnp.expm1(log_ratio) - log_ratio
  learning = jnp.concatenate([jnp.zeros_like(prior)[None], jnp.cumsum(steps, axis=0)])
  bound = prior + learning

  def moments(values: Array) -> tuple[Array, Array]:
    return jnp.mean(values, axis=-1), jnp.std(values, axis=-1, ddof=1) / num_samples**0.5

  parts = (costs, bound, prior, learning[-1], bound[-1])
  return Girsanov(*(number for part in parts for number in moments(part)))
