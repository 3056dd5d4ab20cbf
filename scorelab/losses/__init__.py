"""Losses: factories of `(params, key, batch, context) -> (scalar, metrics)`."""

from collections.abc import Callable

from scorelab.losses import loss_registry
from scorelab.losses.implicit import sliced_vr
from scorelab.losses.levels import LEVELS, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.losses.loss_registry import *
from scorelab.losses.probes import PROBES
from scorelab.typing import Loss
from scorelab.validation import Registry, parts_of

LOSSES: dict[str, Callable[..., Loss]] = Registry("loss", parts_of(loss_registry))
