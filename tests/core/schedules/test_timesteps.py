"""Whole steps of a discrete process against the ones that diffusers takes."""

import json

import numpy as np
import pytest

from scorelab.schedules import (
  SCHEDULES,
  VariancePreserving,
  linear_betas,
  quadratic,
  timesteps,
)
from tests.paths import TESTDATA

RUNS = json.loads((TESTDATA / "solvers.json").read_text())["runs"]
ARRAYS = np.load(TESTDATA / "solvers.npz")
TABLES = np.split(ARRAYS["sigmas"], np.cumsum(ARRAYS["lengths"])[:-1])
BETAS = {"linear": "linear_betas", "squaredcos_cap_v2": "cosine_betas"}
BETAS |= {"scaled_linear": "scaled_linear_betas"}


DDIM = [r for r in RUNS if r["family"] == "ddim"]
SHORT = [r for r in DDIM if r["id"].endswith(("-N5", "-N6"))]
LONG = [pytest.param(r, marks=pytest.mark.e2e) for r in DDIM if r not in SHORT]


@pytest.mark.parametrize("run", [*SHORT, *LONG], ids=lambda r: r["id"])
def test_levels_are_diffusers(run, x64):
  """sigma / alpha where DDIM's scheduler calls the network, and where it ends."""
  config, expected = run["config"], TABLES[run["sigmas"]]
  zero_terminal_snr = config.get("rescale_betas_zero_snr", False)
  schedule = SCHEDULES[BETAS[config["beta_schedule"]]](zero_terminal_snr=zero_terminal_snr)
  spacing, offset = config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
  given = {"spacing": spacing, "steps_offset": offset}
  to_data = expected[-1] == 0
  # linspace does not end where DDIM's scheduler does, T // N steps below its last one, 0; nor has
  # our grid a last step of no width.
  ends_early = spacing == "linspace" or (not to_data and expected[-1] == expected[-2])
  grid = timesteps(schedule, run["nfe"], to_data=bool(to_data or ends_early), **given)
  np.testing.assert_array_equal(grid.levels.alpha[0] == 0, np.isinf(expected[0]))
  finite = slice(int(np.isinf(expected[0])), -1 if ends_early or to_data else None)
  ratios = grid.levels.sigma[finite] / grid.levels.alpha[finite]
  np.testing.assert_allclose(ratios, expected[finite], 1e-9)
  assert grid.ends_at_data == (to_data or ends_early)


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("num_steps", "given", "known"),
  [  # DDIMScheduler(timestep_spacing=..., steps_offset=...).set_timesteps(n), diffusers 0.42.1
    (4, {"spacing": "leading"}, [750, 500, 250, 0]),
    (7, {"spacing": "leading"}, [852, 710, 568, 426, 284, 142, 0]),
    (4, {"spacing": "leading", "steps_offset": 1}, [751, 501, 251, 1]),
    (4, {"spacing": "trailing"}, [999, 749, 499, 249]),
    (7, {"spacing": "trailing"}, [999, 856, 713, 570, 428, 285, 142]),
    (4, {"spacing": "linspace"}, [999, 666, 333, 0]),
    (1, {"spacing": "linspace"}, [0]),
  ],
)
def test_steps_are_diffusers(num_steps, given, known):
  grid = timesteps(SCHEDULES["linear_betas"](), num_steps, **given)
  np.testing.assert_array_equal(np.round(np.asarray(grid.levels.t) * 1000) - 1, [*known, -1])


def test_a_continuous_process_is_taken_to_have_1000_steps(x64):
  grid = timesteps(VariancePreserving(), 4)
  np.testing.assert_allclose(grid.levels.t, [1.0, 0.75, 0.5, 0.25, 0.0], 1e-12)
  coarse = timesteps(VariancePreserving(), 3, spacing="leading", num_levels=10, steps_offset=1)
  np.testing.assert_allclose(coarse.levels.t, [0.8, 0.5, 0.2, 0.0], 1e-12)


def test_quadratic_is_ddims(x64):
  """Song et al. 2020, appendix D.2: c i^2, c such that the last of them is near T."""
  levels = quadratic(VariancePreserving(), 5, t_min=0.04).levels.t[:-1]
  np.testing.assert_allclose(levels, (np.arange(5, 0, -1) / 5) ** 2, 1e-12)


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"spacing": "even"}, "spacing = 'even' must be one of leading, trailing, linspace"),
    ({"num_steps": 11}, "num_steps = 11 must be from 1 to 10"),
    ({"spacing": "leading", "steps_offset": 4}, "steps_offset = 4 must be from 0 to 3"),
    ({"spacing": "trailing", "steps_offset": 1}, "steps_offset = 1 must be from 0 to 0"),
    ({"spacing": "linspace", "to_data": False}, "linspace spacing has reached step 0"),
  ],
)
def test_refusals(given, words):
  schedule = SCHEDULES["linear_betas"](num_levels=10)
  assert len(linear_betas(num_levels=10)) == 10
  with pytest.raises(ValueError, match=words):
    timesteps(schedule, **({"num_steps": 3} | given))
