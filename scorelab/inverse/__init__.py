"""Inverse problems: observations, exact posteriors, and methods that sample from posteriors."""

from scorelab.inverse.observation import Observation, observed
from scorelab.inverse.operators import Blur, Downsample, Mask, Matrix, Operator

__all__ = ["Blur", "Downsample", "Mask", "Matrix", "Observation", "Operator", "observed"]
