"""Inverse problems: observations, exact posteriors, and methods that sample from posteriors.

A posterior method is a function `(predict, observation, **options) -> predict`, which every sampler
then uses: one function in one file of this package, and one line of posterior_registry.py.
"""

from collections.abc import Callable

from scorelab.inverse import posterior_registry
from scorelab.inverse.conditional import Conditional, CountedPredict, Solved, Twisted
from scorelab.inverse.observation import Observation, observed
from scorelab.inverse.operators import Blur, Downsample, Mask, Matrix, Operator
from scorelab.inverse.posterior_registry import *
from scorelab.inverse.projection import pulled
from scorelab.typing import Predict
from scorelab.validation import Registry, parts_of

POSTERIORS: dict[str, Callable[..., Predict]] = Registry(
  "posterior method", parts_of(posterior_registry)
)
