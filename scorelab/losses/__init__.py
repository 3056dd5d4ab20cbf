"""Losses: factories of `(params, key, batch, context) -> (scalar, metrics)`."""

from collections.abc import Callable

from scorelab.losses.denoising import denoising, ncsn
from scorelab.losses.implicit import hutchinson, hyvarinen, sliced, sliced_fd, sliced_vr
from scorelab.losses.levels import LEVELS, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.losses.probes import PROBES
from scorelab.typing import Loss

LOSSES: dict[str, Callable[..., Loss]] = {
  "denoising": denoising,
  "hutchinson": hutchinson,
  "hyvarinen": hyvarinen,
  "ncsn": ncsn,
  "sliced": sliced,
  "sliced_fd": sliced_fd,
  "sliced_vr": sliced_vr,
}

__all__ = [
  "LEVELS",
  "LOSSES",
  "PROBES",
  "SCORE_WEIGHTINGS",
  "UNIFORMS",
  "WEIGHTINGS",
  "denoising",
  "hutchinson",
  "hyvarinen",
  "ncsn",
  "sliced",
  "sliced_fd",
  "sliced_vr",
]
