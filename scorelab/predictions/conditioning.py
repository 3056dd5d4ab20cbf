"""Conditionings: maps from a level to the network's conditioning input, elementwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from scorelab.ranges import AtLeast
from scorelab.schedules import Level, require_time
from scorelab.typing import Array
from scorelab.validation import Registry, checked


def log_sigma(level: Level) -> Array:
  """log(sigma / alpha) / 4: EDM's c_noise in the variance-exploding form."""
  return -level.log_snr / 4


def signal_level(level: Level) -> Array:
  """alpha^2: DDPM's alpha_bar."""
  return level.alpha**2


def noise_ratio(level: Level) -> Array:
  """sigma / alpha: NCSN++'s conditioning."""
  return level.sigma / level.alpha


def time(level: Level) -> Array:
  """t itself, in [0, 1]."""
  return require_time(level)


@checked
def time_index(level: Level, *, num_train_steps: Annotated[int, AtLeast(1)] = 1000) -> Array:
  """The step i of a discrete process of T steps, t = (i + 1) / T: round(t T) - 1, as a float.

  Args:
    num_train_steps: number of steps T.
  """
  return jnp.round(require_time(level) * num_train_steps) - 1


def unconditional(level: Level) -> Array:
  """0: the network does not depend on the level."""
  return jnp.zeros_like(level.sigma)


CONDITIONINGS: dict[str, Callable[..., Array]] = Registry("conditioning") | {
  "log_sigma": log_sigma,
  "none": unconditional,
  "sigma": noise_ratio,
  "signal_level": signal_level,
  "time": time,
  "time_index": time_index,
}
