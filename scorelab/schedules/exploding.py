"""Variance-exploding processes: alpha = 1, and the noise grows."""

from __future__ import annotations

from typing import Annotated, ClassVar

import jax.numpy as jnp

from scorelab.ranges import Above
from scorelab.schedules.schedule import Schedule
from scorelab.typing import Floats


class _Exploding(Schedule):
  """alpha = 1."""

  process: ClassVar[str] = "ve"
  t_min: ClassVar[float] = 0.0
  t_max: ClassVar[float] = 1.0

  def alpha(self, t: Floats) -> Floats:
    return jnp.ones_like(t)


class VarianceExploding(_Exploding):
  """alpha = 1 and Karras levels, sigma = (smin^(1/rho) + t (smax^(1/rho) - smin^(1/rho)))^rho.

  Karras et al. 2022, eq. 5, as a function of continuous time.

  Attributes:
    sigma_min: noise std at t = 0, in units of the data.
    sigma_max: noise std at t = 1.
    rho: 1 is uniform in sigma; larger values put more of [0, 1] at little noise.
  """

  sigma_min: Annotated[float, Above(0)] = 0.02
  sigma_max: Annotated[float, Above(0)] = 80.0
  rho: Annotated[float, Above(0)] = 7.0

  def sigma(self, t: Floats) -> Floats:
    low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
    return (low + t * (high - low)) ** self.rho

  def time(self, log_snr: Floats) -> Floats:
    low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
    return (jnp.exp(-log_snr / self.rho) - low) / (high - low)


class GeometricVarianceExploding(_Exploding):
  """alpha = 1 and geometric levels, sigma = smin (smax / smin)^t: the VE SDE of Song et al. 2021.

  Attributes:
    sigma_min: noise std at t = 0, in units of the data.
    sigma_max: noise std at t = 1.
  """

  sigma_min: Annotated[float, Above(0)] = 0.01
  sigma_max: Annotated[float, Above(0)] = 50.0

  def sigma(self, t: Floats) -> Floats:
    return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

  def time(self, log_snr: Floats) -> Floats:
    return (-log_snr - jnp.log(self.sigma_min)) / jnp.log(self.sigma_max / self.sigma_min)


class SigmaPower(_Exploding):
  """alpha = 1 and g(t) = base^t: sigma^2 = (base^(2 t) - 1) / (2 log base), 0 at the data.

  The process of Song's score-SDE tutorial, with base 25 for images of digits.

  Attributes:
    base: g at t = 1, > 1; as it goes to 1, Brownian motion, sigma^2 = t.
  """

  base: Annotated[float, Above(1)] = 25.0
  t_min: ClassVar[float] = 1e-5

  def variance(self, t: Floats) -> Floats:
    rate = 2 * jnp.log(self.base)
    return jnp.expm1(rate * t) / rate

  def time(self, log_snr: Floats) -> Floats:
    rate = 2 * jnp.log(self.base)
    return jnp.log1p(rate * jnp.exp(-2 * log_snr)) / rate
