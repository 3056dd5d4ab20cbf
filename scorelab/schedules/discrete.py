"""Processes of T steps, defined by their betas, and the usual tables of betas.

    alpha_i^2 = prod_{j <= i} (1 - beta_j)        t = (i + 1) / T for step i = 0..T - 1

Tables are computed once, in NumPy's float64.

References:
  Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics", ICML 2015
    (arXiv 1503.03585).
  Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239), section 4.
  Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021
    (arXiv 2102.09672), eq. 17.
  Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022
    (arXiv 2112.10752): betas of which the roots are linear.
  Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024
    (arXiv 2305.08891), algorithm 1.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from scorelab.ranges import Above, AtLeast, Between, Count
from scorelab.schedules.tabulated import Tabulated
from scorelab.validation import Registry, checked


class Discrete(Tabulated):
  """A table of betas as a process: exact at t = (i + 1) / T, log-SNR linear in t between.

  Below 1 / T the log-SNR is extrapolated with the first interval's slope. If the table ends in
  pure noise, alpha / sigma falls linearly to 0 over the last interval.
  """

  def __init__(self, betas: ArrayLike, *, zero_terminal_snr: bool = False):
    """Tabulates the process.

    Args:
      betas: [T], in (0, 1); the last of several may be 1, pure noise.
      zero_terminal_snr: moves and stretches alpha so that it ends at 0 and starts where it did
        (Lin et al. 2024, algorithm 1).

    Raises:
      ValueError: for other betas, or too few to be stretched.
    """
    betas = np.atleast_1d(np.asarray(betas, float))
    ends_in_noise = betas.size > 1 and bool(betas.flat[-1] == 1)
    inner = betas[: betas.size - ends_in_noise]
    if betas.ndim != 1 or not betas.size or not ((inner > 0) & (inner < 1)).all():
      extent = f"from {betas.min():g} to {betas.max():g}" if betas.size else "none"
      raise ValueError(
        f"betas must be a row of numbers in (0, 1), a last one of 1 apart, not {extent}"
      )
    if zero_terminal_snr and betas.size < 2:
      raise ValueError("one beta alone cannot be rescaled to zero terminal SNR")
    with np.errstate(divide="ignore"):
      log_alphas = np.cumsum(np.log1p(-betas)) / 2
    if zero_terminal_snr:
      first, last = np.exp(log_alphas[[0, -1]])
      stretched = (np.exp(log_alphas[:-1]) - last) * first / (first - last)
      log_alphas = np.append(np.log(stretched), -np.inf)
    log_snrs = log_alphas - np.log(-np.expm1(2 * log_alphas)) / 2
    times = np.arange(1, betas.size + 1) / betas.size
    ends_in_noise |= zero_terminal_snr
    known = betas.size - ends_in_noise
    super().__init__(
      jnp.asarray(times[:known]),
      jnp.asarray(log_snrs[:known]),
      "vp",
      noise_time=jnp.ones(()) if ends_in_noise else None,
    )


@checked
def linear_betas(
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 1000,
  beta_min: Annotated[float, Above(0)] = 1e-4,
  beta_max: Annotated[float, Above(0)] = 0.02,
) -> np.ndarray:
  """Equally spaced betas, [num_levels] (Ho et al. 2020).

  Args:
    num_levels: number of steps T.
    beta_min: first beta, next to the data.
    beta_max: last beta, below 1.
  """
  return np.linspace(beta_min, beta_max, num_levels)


@checked
def scaled_linear_betas(
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 1000,
  beta_min: Annotated[float, Above(0)] = 0.00085,
  beta_max: Annotated[float, Above(0)] = 0.012,
) -> np.ndarray:
  """Betas whose square roots are equally spaced, [num_levels] (Rombach et al. 2022).

  Args:
    num_levels, beta_min, beta_max: as for `linear_betas`.
  """
  return np.linspace(beta_min**0.5, beta_max**0.5, num_levels) ** 2


@checked
def vp_betas(
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 100,
  beta_min: Annotated[float, Above(0)] = 0.1,
  beta_max: Annotated[float, Above(0)] = 20.0,
) -> np.ndarray:
  """The VP SDE's beta(t) dt, [num_levels]: linear, its ends per unit of t (Song et al. 2021).

  Args:
    num_levels: number of steps T.
    beta_min: beta(t) at t = 0, per unit of t.
    beta_max: beta(t) at t = 1, per unit of t; below T.
  """
  return linear_betas(
    num_levels=num_levels, beta_min=beta_min / num_levels, beta_max=beta_max / num_levels
  )


@checked
def cosine_betas(
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 1000,
  offset: Annotated[float, AtLeast(0)] = 0.008,
  clip: Annotated[float, Between(0, 1, "(]")] = 0.999,
) -> np.ndarray:
  """Betas of the cosine schedule, at most `clip`, [num_levels]: diffusers' squaredcos_cap_v2.

  beta = 1 - cos^2 b / cos^2 a = sin(b - a) sin(b + a) / cos^2 a (Nichol and Dhariwal 2021).

  Args:
    num_levels: number of steps T.
    offset: s in alpha^2 = cos^2((t + s) / (1 + s) pi / 2), up to a factor.
    clip: largest beta allowed.
  """
  angles = (np.arange(num_levels + 1) / num_levels + offset) / (1 + offset) * np.pi / 2
  a, b = angles[:-1], angles[1:]
  return np.minimum(np.sin(b - a) * np.sin(b + a) / np.cos(a) ** 2, clip)


@checked
def sigmoid_betas(
  *,
  num_levels: Annotated[int, Count(1_000_000)] = 40,
  beta_min: Annotated[float, Above(0)] = 1e-5,
  beta_max: Annotated[float, Above(0)] = 0.3,
  start: float = -18.0,
  end: float = 10.0,
) -> np.ndarray:
  """Betas along a logistic curve from `start` to `end`, [num_levels].

  The defaults are those of Sohl-Dickstein et al. 2015's swiss roll as often reimplemented; others'
  "sigmoid" of images has start -6, end 6 and the ends of `linear_betas`.

  Args:
    num_levels: number of steps T.
    beta_min: beta at the lower end of the full logistic curve.
    beta_max: beta at its upper end.
    start: argument of the logistic function at the first step.
    end: argument of the logistic function at the last step.
  """
  curve = 1 / (1 + np.exp(-np.linspace(start, end, num_levels)))
  return beta_min + (beta_max - beta_min) * curve


BETAS: dict[str, Callable[..., np.ndarray]] = Registry("betas") | {
  "cosine_betas": cosine_betas,
  "linear_betas": linear_betas,
  "scaled_linear_betas": scaled_linear_betas,
  "sigmoid_betas": sigmoid_betas,
  "vp_betas": vp_betas,
}


def discrete(betas: Callable[..., np.ndarray]) -> Callable[..., Discrete]:
  """Returns a constructor of schedules from a table: takes the table's options and Discrete's."""

  def schedule(*, zero_terminal_snr: bool = False, **options: Any) -> Discrete:
    return Discrete(betas(**options), zero_terminal_snr=zero_terminal_snr)

  own = inspect.signature(schedule).parameters["zero_terminal_snr"]
  options = inspect.signature(betas).parameters.values()
  schedule.__signature__ = inspect.Signature([*options, own])  # pyrefly: ignore[missing-attribute]
  hints = typing.get_type_hints(betas, include_extras=True)
  schedule.__annotations__ = {**hints, "zero_terminal_snr": bool}
  note = "zero_terminal_snr: whether alpha is moved and stretched to end at 0, in pure noise."
  schedule.__doc__ = f"{inspect.getdoc(betas)}\n\nArgs:\n  {note}"
  return schedule
