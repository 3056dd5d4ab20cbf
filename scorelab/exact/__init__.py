"""Exact laws of samplers: errors in nats and in units of the data, without sampling noise.

On a Gaussian every sampler of affine steps has a Gaussian law; on mixtures in one and two
dimensions a deterministic sampler is a map of its start; a stochastic one-step sampler on the line
is a Markov chain.
"""

from scorelab.exact.certificates import flow_certificate
from scorelab.exact.chains import cleanest_level, sde_certificate
from scorelab.exact.distances import law_distances
from scorelab.exact.flows import Exact, flow_distances, flow_kl
from scorelab.exact.gaussian import GaussianLaw
from scorelab.exact.grid_bound import GridBound, grid_kl_bound
from scorelab.exact.grid_search import ExactGrid, find_grid
from scorelab.exact.laws import (
  ExactBudget,
  affine_law,
  end_law,
  gaussian_budget,
  gaussian_law,
  gaussian_laws,
  gaussian_laws_on,
)
from scorelab.exact.monotone import flow_distances_on
from scorelab.exact.paths import gaussian_path
from scorelab.exact.transitions import step_distances

__all__ = [
  "Exact",
  "ExactBudget",
  "ExactGrid",
  "GaussianLaw",
  "GridBound",
  "affine_law",
  "cleanest_level",
  "end_law",
  "find_grid",
  "flow_certificate",
  "flow_distances",
  "flow_distances_on",
  "flow_kl",
  "gaussian_budget",
  "gaussian_law",
  "gaussian_laws",
  "gaussian_laws_on",
  "gaussian_path",
  "grid_kl_bound",
  "law_distances",
  "sde_certificate",
  "step_distances",
]
