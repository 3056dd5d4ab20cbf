"""Forward processes given by formulas in continuous time."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from scorelab.schedules.base import Schedule
from scorelab.typing import Array


def _schedule(cls: type) -> type:
  """Class decorator: a frozen dataclass whose fields are the leaves of a pytree."""
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def _check_ordered(schedule: Schedule, low: str, high: str) -> None:
  """Refuses 0 < low < high not holding; traced numbers cannot be checked and pass."""
  a, b = getattr(schedule, low), getattr(schedule, high)
  if isinstance(a, (int, float)) and isinstance(b, (int, float)) and not 0 < a < b:
    raise ValueError(f"{low} = {a} and {high} = {b} must satisfy 0 < {low} < {high}")


@_schedule
class VarianceExploding(Schedule):
  """alpha = 1 and Karras levels, sigma = (smin^(1/rho) + t (smax^(1/rho) - smin^(1/rho)))^rho.

  Karras et al. 2022, eq. 5, as a function of continuous time.

  Attributes:
    sigma_min: noise std at t = 0, > 0, in units of the data.
    sigma_max: noise std at t = 1.
    rho: 1 is uniform in sigma; larger values put more of [0, 1] at little noise.
  """

  sigma_min: float = 0.02
  sigma_max: float = 80.0
  rho: float = 7.0
  process: ClassVar[str] = "ve"

  def __post_init__(self) -> None:
    _check_ordered(self, "sigma_min", "sigma_max")

  def alpha(self, t: Array) -> Array:
    return jnp.ones_like(t)

  def sigma(self, t: Array) -> Array:
    low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
    return (low + t * (high - low)) ** self.rho

  def time(self, log_snr: Array) -> Array:
    low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
    return (jnp.exp(-log_snr / self.rho) - low) / (high - low)


@_schedule
class GeometricVarianceExploding(Schedule):
  """alpha = 1 and geometric levels, sigma = smin (smax / smin)^t: the VE SDE of Song et al. 2021.

  Attributes:
    sigma_min: noise std at t = 0, > 0, in units of the data.
    sigma_max: noise std at t = 1.
  """

  sigma_min: float = 0.01
  sigma_max: float = 50.0
  process: ClassVar[str] = "ve"

  def __post_init__(self) -> None:
    _check_ordered(self, "sigma_min", "sigma_max")

  def alpha(self, t: Array) -> Array:
    return jnp.ones_like(t)

  def sigma(self, t: Array) -> Array:
    return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

  def time(self, log_snr: Array) -> Array:
    return (-log_snr - jnp.log(self.sigma_min)) / jnp.log(self.sigma_max / self.sigma_min)


@_schedule
class VariancePreserving(Schedule):
  """The VP SDE with linear beta(t): alpha = exp(-B / 2), sigma^2 = 1 - exp(-B).

  B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 (Song et al. 2021, eq. 33).

  Attributes:
    beta_min: beta(0), > 0, per unit of t.
    beta_max: beta(1).
  """

  beta_min: float = 0.1
  beta_max: float = 20.0
  process: ClassVar[str] = "vp"
  t_min: ClassVar[float] = 1e-3

  def __post_init__(self) -> None:
    _check_ordered(self, "beta_min", "beta_max")

  def _integral(self, t: Array) -> Array:
    return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

  def alpha(self, t: Array) -> Array:
    return jnp.exp(-self._integral(t) / 2)

  def variance(self, t: Array) -> Array:
    return -jnp.expm1(-self._integral(t))

  def time(self, log_snr: Array) -> Array:
    integral = jax.nn.softplus(-2 * log_snr)
    root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
    return 2 * integral / (self.beta_min + root)


@_schedule
class LinearFlow(Schedule):
  """alpha = 1 - t, sigma = t: flow matching's straight path (Lipman et al. 2023, eq. 22)."""

  process: ClassVar[str] = "flow"
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1 - 1e-3

  def alpha(self, t: Array) -> Array:
    return 1 - t

  def sigma(self, t: Array) -> Array:
    return jnp.asarray(t)

  def time(self, log_snr: Array) -> Array:
    return jax.nn.sigmoid(-log_snr)
