"""The grid of a scheduler_config.json, against the levels that diffusers stepped over."""

import inspect
import json

import numpy as np
import pytest

from scorelab.pretrained import PretrainedError
from scorelab.pretrained.schedulers import read_scheduler
from scorelab.samplers import SAMPLERS
from scorelab.schedules import GRIDS
from tests.paths import TESTDATA

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
# Karras levels within those of trailing steps, an unstable solver; and the first N of N + 1 leading
# steps.
DECLINED = {
  "diffusers-heun-01-N5": "choose the grid in config",
  "diffusers-dpmpp-09-N5": "algorithm_type = sde-dpmsolver is not supported",
}
OTHERS = {"diffusers-dpmpp-08-N5", "diffusers-unipc-05-N5"}


def read(run):
  """What we read of the run's config, whose betas end where Stable Diffusion's do."""
  ends = {"beta_end": 0.012} if run["config"]["beta_schedule"] == "scaled_linear" else {}
  of_step = ("eta", "use_clipped_model_output")
  config = {k: v for k, v in run["config"].items() if k not in of_step}
  return read_scheduler({"_class_name": CLASSES[run["family"]], **config, **ends})


@pytest.mark.parametrize("run", [r for r in RUNS if r["id"] not in OTHERS], ids=lambda r: r["id"])
def test_grids_are_diffusers(run, x64):
  """sigma / alpha of every level, but for a last step of no width, which we do not make.

  DDIM's whole steps, and Karras and exponential levels, are the same; elsewhere they interpolate
  between whole steps in another way, or take the first of N + 1 of them.
  """
  if run["id"] in DECLINED:
    with pytest.raises(PretrainedError, match=DECLINED[run["id"]]):
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
  with pytest.raises(PretrainedError, match="use_beta_sigmas = True is not supported"):
    read_scheduler({**karras, "use_beta_sigmas": True})


def read_fields(name="DDPMScheduler", **fields):
  return read_scheduler({"_class_name": name, **fields})


@pytest.mark.parametrize(
  ("fields", "kind"),
  [
    ({}, "noise"),
    ({"predict_epsilon": True}, "noise"),
    ({"predict_epsilon": False}, "x0"),
    ({"predict_epsilon": False, "prediction_type": "sample"}, "x0"),
    ({"prediction_type": "v_prediction"}, "v"),
  ],
)
def test_old_files_say_what_the_network_predicts(fields, kind):
  assert read_fields(**fields).kind == kind


def test_old_files_say_whether_x0_is_clipped():
  assert read_fields(clip_predicted_image=False).clip is None
  assert read_fields(clip_predicted_image=True).clip is not None
  assert read_fields("EulerDiscreteScheduler", clip_predicted_image=True).clip is not None


def test_a_field_is_read_or_refused():
  with pytest.raises(PretrainedError, match="predict_epsilon = False contradicts prediction_type"):
    read_fields(predict_epsilon=False, prediction_type="epsilon")
  with pytest.raises(PretrainedError, match="predict_epsilon = 0 must be true or false"):
    read_fields(predict_epsilon=0)
  with pytest.raises(PretrainedError, match="predict_v = True is not supported"):
    read_fields(predict_v=True)
  assert read_fields(predict_v=None, tensor_format="pt", _diffusers_version="0.0.4").kind == "noise"


MULTISTEP = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(
  ("name", "fields", "sampler"),
  [
    (MULTISTEP, {}, {"name": "dpmpp_2m", "view": "x0", "solver_type": "midpoint"}),
    (MULTISTEP, {"solver_type": "heun"}, {"name": "dpmpp_2m", "solver_type": "heun"}),
    (MULTISTEP, {"algorithm_type": "dpmsolver"}, {"name": "dpmpp_2m", "view": "noise"}),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, {"name": "dpmpp_2m_sde"}),
    (MULTISTEP, {"solver_order": 3}, {"name": "dpmpp_3m", "curvature": 0.5}),
    (MULTISTEP, {"solver_order": 1}, {"name": "ddim"}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}, {"name": "dpmpp_singlestep", "order": 3}),
    ("DEISMultistepScheduler", {"solver_order": 3}, {"name": "deis", "order": 3}),
    ("UniPCMultistepScheduler", {"predict_x0": False}, {"view": "noise", "solver_type": "bh2"}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}, {"view": "x0", "solver_type": "bh1"}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {"name": "plms", "warm_up": "heun"}),
    ("PNDMScheduler", {}, {"name": "plms", "warm_up": "runge_kutta"}),
  ],
)
def test_the_solver_is_the_files(name, fields, sampler):
  """The same pairs as tests/core/samplers/test_solver_families.py compares number by number."""
  read = read_fields(name, **fields).sampler
  assert sampler == {k: read[k] for k in sampler}
  make_sampler_accepts = inspect.signature(SAMPLERS[read["name"]]).parameters
  assert {"order", "view", "solver_type", "curvature", "warm_up"} & read.keys() <= set(
    make_sampler_accepts
  )


def test_other_solvers_are_refused():
  for fields in ({"algorithm_type": "sde-dpmsolver"}, {"algorithm_type": ["dpmsolver"]}):
    with pytest.raises(PretrainedError, match="algorithm_type"):
      read_fields(MULTISTEP, **fields)
  with pytest.raises(PretrainedError, match="solver_order = 3 is not supported"):
    read_fields(MULTISTEP, algorithm_type="sde-dpmsolver++", solver_order=3)
  with pytest.raises(PretrainedError, match="interpolation_type = log_linear"):
    read_fields("EulerDiscreteScheduler", interpolation_type="log_linear")
