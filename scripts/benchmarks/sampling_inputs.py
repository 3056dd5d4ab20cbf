"""Shared inputs of sampling benchmarks: a network, a grid and a start, equal in every process."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.networks.mlp import MLP
from scorelab.schedules import Grid
from scorelab.typing import Params

LANGEVIN_STEPS, STEP_SIZE = 5, 1e-4  # at a level


def trained(quick: bool) -> tuple[MLP, Params]:
  """The network and its parameters."""
  network = MLP((16, 16, 16)) if quick else MLP()
  return network, network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))["params"]


def ratios_of(steps: int) -> np.ndarray:
  """sigma / alpha at the levels of the grid, the last one 0: [steps + 1]."""
  alpha_bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  index = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
  return np.append(np.sqrt(1 / alpha_bars[index] - 1), 0.0)


def grid_of(ratios: np.ndarray) -> Grid:
  """The variance-preserving grid of these sigma / alpha."""
  alphas = 1 / np.sqrt(1 + ratios**2)
  return Grid.from_arrays(alphas, ratios * alphas, process="vp")


def start_of(size: int) -> np.ndarray:
  """Unit noise, [size, 2]."""
  return np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
