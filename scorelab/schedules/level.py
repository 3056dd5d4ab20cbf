"""Levels: points (t, alpha, sigma) on a forward process x_t = alpha x_0 + sigma eps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scorelab.typing import Array, Floats
from scorelab.validation import Registry


class Level(NamedTuple):
  """A point on a process, or a batch of them.

  All fields are of shape [], or of the leading batch shape of the x that they go with.

  Attributes:
    t: time in [0, 1], 0 at the data; None on grids without times.
    alpha: signal scale, >= 0.
    sigma: noise std, >= 0.
  """

  t: Array | None
  alpha: Array
  sigma: Array

  @property
  def log_snr(self) -> Array:
    """log(alpha / sigma)."""
    return jnp.log(self.alpha) - jnp.log(self.sigma)

  def like(self, x: Array) -> Level:
    """Returns the same level with trailing axes added, so that its fields broadcast with x."""

    def expand(a: Array) -> Array:
      if a.ndim and a.shape != x.shape[: a.ndim]:
        raise ValueError(f"level has shape {a.shape}, must be [] or x's leading axes, {x.shape}")
      return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a

    return jax.tree.map(expand, self)


def require_time(level: Level) -> Array:
  """Returns the level's t.

  Raises:
    ValueError: the level comes from a grid that was given without times.
  """
  if level.t is None:
    raise ValueError("this level has no time: give Grid.from_arrays its t")
  return level.t


# What distinguishes the processes: a norm of (alpha, sigma) that is 1 at every level. All of them
# are one process, rescaled. Taking sigma^2 as well as sigma, each is smooth where either is.
PROCESSES: dict[str, Callable[[Array, Array, Array], Array]] = Registry("process") | {
  "ve": lambda alpha, sigma, variance: alpha,
  "vp": lambda alpha, sigma, variance: jnp.sqrt(alpha**2 + variance),
  "flow": lambda alpha, sigma, variance: alpha + sigma,
  "channel": lambda alpha, sigma, variance: sigma,
  # alpha^2 + sigma = 1, solved for what both are to be divided by.
  "sub_vp": lambda alpha, sigma, variance: (sigma + jnp.sqrt(variance + 4 * alpha**2)) / 2,
}


def rescaled(process: str, alpha: Floats, sigma: Floats) -> tuple[Floats, Floats]:
  """Returns the (alpha, sigma) of a process with the same ratio as the given pair, elementwise."""
  norm = PROCESSES[process](alpha, sigma, sigma**2)
  return alpha / norm, sigma / norm


def pair_of(log_snr: Floats) -> tuple[Floats, Floats]:
  """Returns some alpha and sigma of this log-SNR, the larger one 1: neither overflows."""
  return jnp.exp(jnp.minimum(log_snr, 0)), jnp.exp(-jnp.maximum(log_snr, 0))


def safe_sqrt(a: Floats) -> Floats:
  """Returns the square root, and 0 where a <= 0, with a finite gradient there: 0."""
  return jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1)), 0)
