"""Losses: factories of `(params, key, batch, context) -> (scalar, metrics)`."""

from collections.abc import Callable

from scorelab.losses.denoising import ncsn
from scorelab.losses.levels import LEVELS, UNIFORMS, WEIGHTINGS
from scorelab.typing import Loss

LOSSES: dict[str, Callable[..., Loss]] = {
  "ncsn": ncsn,
}

__all__ = ["LEVELS", "LOSSES", "UNIFORMS", "WEIGHTINGS", "ncsn"]
