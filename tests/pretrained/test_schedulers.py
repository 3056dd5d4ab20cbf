"""The grid of a scheduler_config.json, against the levels that diffusers stepped over."""

import json
import pathlib

import numpy as np
import pytest

from scorelab.pretrained import PretrainedError
from scorelab.pretrained.schedulers import read_scheduler
from scorelab.schedules import GRIDS

TESTDATA = pathlib.Path(__file__).parents[1] / "testdata"
CLASSES = {
  "ddim": "DDIMScheduler",
  "deis": "DEISMultistepScheduler",
  "dpmpp": "DPMSolverMultistepScheduler",
  "dpmpp_single": "DPMSolverSinglestepScheduler",
  "euler": "EulerDiscreteScheduler",
  "euler_a": "EulerAncestralDiscreteScheduler",
  "heun": "HeunDiscreteScheduler",
  "lms": "LMSDiscreteScheduler",
  "unipc": "UniPCMultistepScheduler",
}
RUNS = [
  run
  for run in json.loads((TESTDATA / "solvers.json").read_text())["runs"]
  if run["library"] == "diffusers" and run["family"] in CLASSES and run["id"].endswith("-N5")
]
ARRAYS = np.load(TESTDATA / "solvers.npz")
TABLES = np.split(ARRAYS["sigmas"], np.cumsum(ARRAYS["lengths"])[:-1])
# Karras levels within those of trailing steps; and the first N of N + 1 leading steps.
DECLINED = {"diffusers-heun-01-N5"}
OTHERS = {"diffusers-dpmpp-08-N5", "diffusers-unipc-05-N5"}


def read(run):
  """What we read of the run's config, whose betas end where Stable Diffusion's do."""
  ends = {"beta_end": 0.012} if run["config"]["beta_schedule"] == "scaled_linear" else {}
  return read_scheduler({"_class_name": CLASSES[run["family"]], **run["config"], **ends})


@pytest.mark.parametrize("run", [r for r in RUNS if r["id"] not in OTHERS], ids=lambda r: r["id"])
def test_grids_are_diffusers(run, x64):
  """sigma / alpha of every level, but for a last step of no width, which we do not make.

  DDIM's whole steps, and Karras and exponential levels, are the same; elsewhere they interpolate
  between whole steps in another way, or take the first of N + 1 of them.
  """
  if run["id"] in DECLINED:
    with pytest.raises(PretrainedError, match="choose the grid in config"):
      read(run)
    return
  scheduler, expected = read(run), TABLES[run["sigmas"]]
  asked = ("spacing", "steps_offset", "to_data")
  options = {k: v for k, v in scheduler.sampler.items() if k in asked}
  build, num_steps = GRIDS[scheduler.sampler["grid"]], 5
  if np.isclose(expected[-1], expected[-2], 1e-6):
    if "spacing" in options:
      with pytest.raises(ValueError, match="has reached step 0 before its last one"):
        build(scheduler.schedule, num_steps, **options)
      return
    expected, num_steps = expected[:-1], 4
  grid = build(scheduler.schedule, num_steps, **options)
  noisy = slice(int(np.isinf(expected[0])), -1 if grid.ends_at_data else None)
  ratios = grid.levels.sigma[noisy] / grid.levels.alpha[noisy]
  exact = run["family"] == "ddim" or "spacing" not in options
  np.testing.assert_allclose(ratios, expected[noisy], 1e-6 if exact else 1e-2)
  assert (expected[-1] == 0) == grid.ends_at_data


def test_limits_of_sigma_are_the_grids():
  karras = {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}
  sampler = read_scheduler({**karras, "sigma_min": 0.1, "sigma_max": 9.0}).sampler
  assert sampler["grid"] == "karras"
  assert (sampler["sigma_min"], sampler["sigma_max"]) == (0.1, 9.0)
  with pytest.raises(PretrainedError, match="sigma_min = -1 must be from"):
    read_scheduler({**karras, "sigma_min": -1})
  with pytest.raises(PretrainedError, match="use_beta_sigmas = True is not known here"):
    read_scheduler({**karras, "use_beta_sigmas": True})
