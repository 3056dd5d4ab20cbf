"""The exact score of a mixture: ours, autodiff of numpyro's log-density, and expanded squares.

Of so few points as a sampler's batch has, at a level where several components count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.schedules import Level
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture
from scripts.benchmarks.limits import products, traffic
from scripts.benchmarks.paired_timing import Match
from scripts.benchmarks.timed_processes import Side, Task

SIZES = ((9, 2), (25, 80), (1000, 800), (60_000, 3072))  # components, dimension
_POINTS = 64


def problem(components: int, dim: int) -> tuple[np.ndarray, np.ndarray, float]:
  """Means [k, d], points among them [n, d], and the components' std: some of them overlap."""
  rng = np.random.default_rng(0)
  means = rng.normal(size=(components, dim)).astype(np.float32)
  noise = rng.normal(size=(_POINTS, dim)).astype(np.float32)
  std = float(np.sqrt(dim / 8))
  return means, means[rng.integers(0, components, _POINTS)] + std * noise, std


def amounts(components: int, dim: int) -> dict[str, float]:
  """Two products of points and means, and reading the means once."""
  return {"FLOP": 4.0 * _POINTS * components * dim, "byte": 4.0 * components * dim}


def task(score: Callable[..., jax.Array], components: int, dim: int, *given: Any) -> Task:
  """The score as one program of what it is given."""
  program = jax.jit(score)

  def work() -> jax.Array:
    return jax.block_until_ready(program(*given))

  return Task(work, work, amounts(components, dim))


def mixture(components: int, dim: int) -> Task:
  """GaussianMixture, from differences."""
  means, x, std = problem(components, dim)
  target = GaussianMixture(np.ones(components), means, np.full(components, std**2))
  return task(lambda target, x: target.score(x), components, dim, target, jnp.asarray(x))


def empirical(components: int, dim: int) -> Task:
  """Empirical, from differences: equal components of no width, seen at a noise level."""
  means, x, std = problem(components, dim)
  level = Level(None, jnp.float32(1), jnp.float32(std))
  score = lambda target, x: target.predict(x, level).score  # noqa: E731
  return task(score, components, dim, Empirical(means), jnp.asarray(x))


def expanded(components: int, dim: int) -> Task:
  """|x|^2 - 2 x.m + |m|^2 as two matrix products: fastest, and loses digits at little noise."""
  means, x, std = problem(components, dim)

  def score(means: jax.Array, x: jax.Array) -> jax.Array:
    weights = jax.nn.softmax((x @ means.T - (means**2).sum(1) / 2) / std**2)
    return (weights @ means - x) / std**2

  return task(score, components, dim, jnp.asarray(means), jnp.asarray(x))


def by_numpyro(components: int, dim: int) -> Task:
  """The gradient of numpyro's mixture of independent normals."""
  import numpyro.distributions as dist

  means, x, std = problem(components, dim)

  def score(means: jax.Array, x: jax.Array) -> jax.Array:
    law: Any = dist.MixtureSameFamily(
      dist.Categorical(logits=jnp.zeros(components)), dist.Normal(means, std).to_event(1)
    )
    return jax.grad(lambda x: law.log_prob(x).sum())(x)

  return task(score, components, dim, jnp.asarray(means), jnp.asarray(x))


def mixture_score(quick: bool) -> list[Match]:
  """The exact score at 64 points: of the nine modes' size to CIFAR-10's."""
  matches = []
  for components, dim in ((9, 2), (1001, 4)) if quick else SIZES:
    size = {"components": components, "dim": dim}
    large = components > 1000
    sides = {"ours": Side(empirical if large else mixture, size)}
    sides["expanded squares"] = Side(expanded, size)
    if not large:  # it would hold all differences: 47 GB
      sides["numpyro"] = Side(by_numpyro, size)
    limits = products(quick) | traffic(quick)
    name = f"{components:,} components, dimension {dim:,}"
    rounds = 20 if not large else 5
    matches.append(Match(name, sides, limits, rtol=1e-2, atol=1e-3, rounds=rounds))
  return matches
