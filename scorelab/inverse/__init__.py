"""Inverse problems: observations, exact posteriors, and methods that sample from posteriors.

A posterior method is a function `(predict, observation, **options) -> predict`, for every sampler:
one function in one file of this package, and one line of posterior_registry.py. A method that has
particles or inner chains is a sampler of its own, with a line in posterior_sampler_registry.py:
`(key, predict, x, grid, observation, **options) -> Samples`.
"""

from collections.abc import Callable

from scorelab.inverse import operator_registry, posterior_registry, posterior_sampler_registry
from scorelab.inverse.calibration import calibration_ranks, uniformity
from scorelab.inverse.conditional import Conditional, CountedPredict, Solved, Twisted
from scorelab.inverse.isotropic import Isotropic
from scorelab.inverse.observation import Observation, observed
from scorelab.inverse.operator_registry import *
from scorelab.inverse.operators import Mask, Matrix, Operator
from scorelab.inverse.posterior_registry import *
from scorelab.inverse.posterior_sampler_registry import *
from scorelab.inverse.reduction import Reduced, reduced
from scorelab.typing import Predict, Samples
from scorelab.validation import Registry, parts_of

OPERATORS: dict[str, Callable[..., Operator]] = Registry("operator", parts_of(operator_registry))
POSTERIORS: dict[str, Callable[..., Predict]] = Registry(
  "posterior method", parts_of(posterior_registry)
)
POSTERIOR_SAMPLERS: dict[str, Callable[..., Samples]] = Registry(
  "sampler of posteriors", parts_of(posterior_sampler_registry)
)
