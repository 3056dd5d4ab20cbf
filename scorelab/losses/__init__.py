"""Losses: factories of `(params, key, batch, context) -> (scalar, metrics)`."""

from collections.abc import Callable

from scorelab.losses.consistency import consistency
from scorelab.losses.denoising import ddpm, denoising, edm, ncsn
from scorelab.losses.flow_matching import flow_matching
from scorelab.losses.implicit import hutchinson, hyvarinen, sliced, sliced_fd, sliced_vr
from scorelab.losses.levels import LEVELS, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.losses.probes import PROBES
from scorelab.losses.variational import continuous_bound, hybrid, stepwise_kl, variational_bound
from scorelab.typing import Loss
from scorelab.validation import Registry

LOSSES: dict[str, Callable[..., Loss]] = Registry("loss") | {
  "consistency": consistency,
  "continuous_bound": continuous_bound,
  "ddpm": ddpm,
  "denoising": denoising,
  "edm": edm,
  "flow_matching": flow_matching,
  "hutchinson": hutchinson,
  "hybrid": hybrid,
  "hyvarinen": hyvarinen,
  "ncsn": ncsn,
  "sliced": sliced,
  "sliced_fd": sliced_fd,
  "sliced_vr": sliced_vr,
  "stepwise_kl": stepwise_kl,
  "variational_bound": variational_bound,
}

__all__ = [
  "LEVELS",
  "LOSSES",
  "PROBES",
  "SCORE_WEIGHTINGS",
  "UNIFORMS",
  "WEIGHTINGS",
  "consistency",
  "continuous_bound",
  "ddpm",
  "denoising",
  "edm",
  "flow_matching",
  "hutchinson",
  "hybrid",
  "hyvarinen",
  "ncsn",
  "sliced",
  "sliced_fd",
  "sliced_vr",
  "stepwise_kl",
  "variational_bound",
]
