"""Exact laws of samplers: errors in nats and in units of the data, without sampling noise.

On a Gaussian every sampler of affine steps has a Gaussian law.
"""

from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.laws import ExactBudget, end_law, gaussian_budget, gaussian_law

__all__ = ["ExactBudget", "GaussianLaw", "end_law", "gaussian_budget", "gaussian_law"]
