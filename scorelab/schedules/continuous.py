"""Processes in closed form whose signal fades: variance-preserving ones, sub-VP and flow.

If a formula would subtract numbers that are nearly equal, an identity is used instead, so that each
process keeps the digits of float32 at both ends.

References:
  Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021 (arXiv 2011.13456), appendix B: VP and sub-VP.
  Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021
    (arXiv 2102.09672), eq. 17: cosine.
  Jabri, Fleet and Chen, "Scalable Adaptive Computation for Iterative Generation", ICML 2023
    (arXiv 2212.11972): sigmoid.
  Hang and Gu, "Improved Noise Schedule for Diffusion Training" (arXiv 2407.03297), 2024: Laplace.
  Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023 (arXiv 2210.02747), eq. 22.
  Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023
    (arXiv 2209.15571): the trigonometric path.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from scorelab.ranges import Above, AtLeast
from scorelab.schedules.level import safe_sqrt
from scorelab.schedules.schedule import Schedule
from scorelab.typing import Array, Floats


class _LinearBeta(Schedule):
  """alpha = exp(-B / 2) with beta(t) linear: B = beta_min t + (beta_max - beta_min) t^2 / 2."""

  beta_min: Annotated[float, Above(0)] = 0.1
  beta_max: Annotated[float, Above(0)] = 20.0
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1.0

  def _integral(self, t: Array) -> Array:
    return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

  def alpha(self, t: Floats) -> Floats:
    return jnp.exp(-self._integral(t) / 2)

  def _time(self, integral: Array) -> Array:
    """Returns the t at which B has this value."""
    root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
    return 2 * integral / (self.beta_min + root)


class VariancePreserving(_LinearBeta):
  """The VP SDE with linear beta(t): alpha = exp(-B / 2), sigma^2 = 1 - exp(-B).

  B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 (Song et al. 2021, eq. 33).

  Attributes:
    beta_min: beta(0), per unit of t.
    beta_max: beta(1).
  """

  process: ClassVar[str] = "vp"

  def variance(self, t: Floats) -> Floats:
    return -jnp.expm1(-self._integral(t))

  def time(self, log_snr: Floats) -> Floats:
    return self._time(jax.nn.softplus(-2 * log_snr))


class SubVP(_LinearBeta):
  """The sub-VP SDE: alpha = exp(-B / 2) as VP's, sigma = 1 - exp(-B), less noise at every t.

  Song et al. 2021, eq. 12; B(t) as for VP, and sigma / alpha = 2 sinh(B / 2).

  Attributes:
    beta_min: beta(0), per unit of t.
    beta_max: beta(1).
  """

  process: ClassVar[str] = "sub_vp"

  def sigma(self, t: Floats) -> Floats:
    return -jnp.expm1(-self._integral(t))

  def time(self, log_snr: Floats) -> Floats:
    return self._time(2 * jnp.arcsinh(jnp.exp(-log_snr) / 2))


class Cosine(Schedule):
  """alpha = cos(theta(t)) / cos(theta(0)), theta = (t + s) / (1 + s) pi / 2, variance-preserving.

  Nichol and Dhariwal 2021, eq. 17, as a function of continuous time; alpha(1) = 0.

  Attributes:
    offset: s, >= 0: keeps the first levels from being too clean.
  """

  offset: Annotated[float, AtLeast(0)] = 0.008
  process: ClassVar[str] = "vp"
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1 - 1e-3

  def _angle(self, t: Array | float) -> Array | float:
    return t / (1 + self.offset) * (math.pi / 2)

  def alpha(self, t: Floats) -> Floats:
    return jnp.sin(self._angle(1 - t)) / jnp.cos(self._angle(self.offset))

  def variance(self, t: Floats) -> Floats:
    """1 - alpha^2, as cos^2 a - cos^2 b = sin(b - a) sin(b + a)."""
    turned, start = self._angle(t), self._angle(self.offset)
    return jnp.sin(turned) * jnp.sin(turned + 2 * start) / jnp.cos(start) ** 2

  def time(self, log_snr: Floats) -> Floats:
    """Inverts the log-SNR by the sine and cosine of theta(t) - theta(0).

    They follow from cos theta(t) = alpha cos theta(0).
    """
    alpha, variance = jnp.sqrt(jax.nn.sigmoid(2 * log_snr)), jax.nn.sigmoid(-2 * log_snr)
    start = self._angle(self.offset)
    cos0, sin0 = jnp.cos(start), jnp.sin(start)
    sin = jnp.sqrt(sin0**2 + variance * cos0**2)
    turned = jnp.arctan2(cos0 * variance / (sin + alpha * sin0), alpha * cos0**2 + sin * sin0)
    return turned * (1 + self.offset) / (math.pi / 2)


class Sigmoid(Schedule):
  """alpha^2 falls from 1 to 0 as a piece of a logistic curve, variance-preserving.

      alpha^2 = (S(u(1)) - S(u(t))) / (S(u(1)) - S(u(0))),    u(t) = (start + t (end - start)) / tau

  with S the logistic function (Jabri et al. 2022), as a function of continuous time.

  Attributes:
    start, end: the places of t = 0 and t = 1 on the curve.
    tau: temperature; a large one makes alpha^2 a straight line.
  """

  start: float = -3.0
  end: float = 3.0
  tau: Annotated[float, Above(0)] = 1.0
  process: ClassVar[str] = "vp"
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1 - 1e-3

  @property
  def _ends(self) -> tuple[Array | float, Array | float, Array | float]:
    """u(0), u(1) and the distance between them."""
    return self.start / self.tau, self.end / self.tau, (self.end - self.start) / self.tau

  def _part(self, share: Array, t: Array, other: Array | float) -> Array:
    """|S(u(t)) - S(edge)| / (S(u(1)) - S(u(0))), `share` of the width from one edge to u(t).

    As S(b) - S(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2)); `other` is the other edge.
    """
    low, _, width = self._ends
    ratio = jnp.sinh(share * width / 2) / jnp.sinh(width / 2)
    return ratio * jnp.cosh(other / 2) / jnp.cosh((low + t * width) / 2)

  def alpha(self, t: Floats) -> Floats:
    return safe_sqrt(self._part(1 - t, t, self._ends[0]))

  def variance(self, t: Floats) -> Floats:
    return self._part(t, t, self._ends[1])

  def time(self, log_snr: Floats) -> Floats:
    """sigma^2 / alpha^2 = sinh(w t / 2) c1 / (sinh(w (1 - t) / 2) c0), solved for exp(w t)."""
    low, high, width = self._ends
    log_ratio = _log_cosh(low / 2) - _log_cosh(high / 2) - 2 * log_snr
    rise = jax.nn.softplus(log_ratio + width / 2) - jax.nn.softplus(log_ratio - width / 2)
    return rise / width


def _log_cosh(x: Array | float) -> Array:
  """Returns log(2 cosh x), without overflow."""
  return jnp.logaddexp(x, -x)


class Laplace(Schedule):
  """log(alpha^2 / sigma^2) is the quantile of a Laplace law, falling in t; variance-preserving.

      2 lambda = mu - b sgn(1/2 - t) log(1 - 2 |t - 1/2|)

  Hang and Gu 2024, table 1: t uniform on [0, 1] puts most levels where 2 lambda is about mu. The
  ends are reached steeply, sigma as t^(b / 2): hence t_min.

  Attributes:
    mu: the law's middle, in units of 2 lambda, as is b.
    b: scale of the law of 2 lambda.
  """

  mu: float = 0.0
  b: Annotated[float, Above(0)] = 0.5
  process: ClassVar[str] = "vp"
  t_min: ClassVar[float] = 1e-9
  t_max: ClassVar[float] = 1 - 1e-5

  def _powers(self, t: Array) -> tuple[Array, Array]:
    """alpha^2 and sigma^2 up to a factor: min(2 (1 - t), 1)^b e^mu and min(2 t, 1)^b."""
    return jnp.exp(self.mu) * self._power(2 * (1 - t)), self._power(2 * t)

  def _power(self, base: Array) -> Array:
    """min(base, 1)^b; the double where makes the infinite slope at 0 count as 0, see `rates`."""
    return jnp.where(base > 0, jnp.minimum(jnp.where(base > 0, base, 1), 1) ** self.b, 0)

  def alpha(self, t: Floats) -> Floats:
    signal, noise = self._powers(t)
    return safe_sqrt(signal / (signal + noise))

  def variance(self, t: Floats) -> Floats:
    signal, noise = self._powers(t)
    return noise / (signal + noise)

  def time(self, log_snr: Floats) -> Floats:
    z = (2 * log_snr - self.mu) / self.b
    tail = jnp.exp(-jnp.abs(z)) / 2
    return jnp.where(z > 0, tail, 1 - tail)


class LinearFlow(Schedule):
  """alpha = 1 - t, sigma = t: flow matching's straight path (Lipman et al. 2023, eq. 22)."""

  process: ClassVar[str] = "flow"
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1 - 1e-3

  def alpha(self, t: Floats) -> Floats:
    return 1 - t

  def sigma(self, t: Floats) -> Floats:
    return jnp.asarray(t)

  def time(self, log_snr: Floats) -> Floats:
    return jax.nn.sigmoid(-log_snr)


class GaussianChannel(Schedule):
  """x = alpha x_0 + eps, noise of one size on a signal that fades: sigma = 1, alpha geometric in t.

      alpha = alpha_min (alpha_max / alpha_min)^(1 - t)

  Variance-exploding x / alpha, seen in units of its noise. Guo, Shamai and Verdu, "Mutual
  Information and Minimum Mean-Square Error in Gaussian Channels", IEEE Transactions on Information
  Theory 51 (2005), eq. 1, with alpha^2 their snr.

  Attributes:
    alpha_min: alpha at t = 1, the noisiest level.
    alpha_max: alpha at t = 0, next to the data.
  """

  alpha_min: Annotated[float, Above(0)] = 0.01
  alpha_max: Annotated[float, Above(0)] = 100.0
  process: ClassVar[str] = "channel"
  t_min: ClassVar[float] = 0.0
  t_max: ClassVar[float] = 1.0

  @property
  def _range(self) -> Array:
    return jnp.log(self.alpha_max) - jnp.log(self.alpha_min)

  def alpha(self, t: Floats) -> Floats:
    return self.alpha_min * jnp.exp((1 - t) * self._range)

  def sigma(self, t: Floats) -> Floats:
    return jnp.ones_like(t)

  def time(self, log_snr: Floats) -> Floats:
    return 1 - (log_snr - jnp.log(self.alpha_min)) / self._range


class CosineFlow(Schedule):
  """alpha = cos(pi t / 2), sigma = sin(pi t / 2): an arc from data to noise at constant speed.

  The trigonometric path of Albergo and Vanden-Eijnden 2023; variance-preserving, `Cosine` without
  its offset.
  """

  process: ClassVar[str] = "vp"
  t_min: ClassVar[float] = 1e-3
  t_max: ClassVar[float] = 1 - 1e-3

  def alpha(self, t: Floats) -> Floats:
    return jnp.sin((1 - t) * (math.pi / 2))

  def sigma(self, t: Floats) -> Floats:
    return jnp.sin(t * (math.pi / 2))

  def time(self, log_snr: Floats) -> Floats:
    return jnp.arctan(jnp.exp(-log_snr)) / (math.pi / 2)
