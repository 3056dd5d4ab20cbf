"""Samplers against k-diffusion and diffusers, in float64 with their recorded noise.

Each run's tolerance comes with it: what rounding may do, from its measured sensitivity.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.predictions.clipping import clipped, thresholded
from scorelab.samplers import SAMPLERS, RecordedNoise
from scorelab.schedules import SCHEDULES, Grid
from tests.paths import TESTDATA

MANIFEST = json.loads((TESTDATA / "solvers.json").read_text())
ARRAYS = dict(np.load(TESTDATA / "solvers.npz"))
TABLES = np.split(ARRAYS["sigmas"], np.cumsum(ARRAYS["lengths"])[:-1])

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


def k_diffusion(family, config):
  """Our sampler and options for a function of k-diffusion; or why there are none."""
  if family == "dpm_fast":
    return "lays its steps out by itself, of orders 3, 2 and 1 in turn: no grid is given"
  if family == "dpm_adaptive":
    return "chooses its steps by DPM-Solver's own estimate of its error; adaptive_ode by Tsit5's"
  options = {{"s_churn": "churn"}.get(name, name): value for name, value in config.items()}
  name = {"dpm_2": "dpm_solver_2", "dpm_2_ancestral": "dpm_solver_2_ancestral"}.get(family, family)
  if name == "euler_ancestral":
    options = {"eta": 1.0, **options}
  if name == "dpmpp_3m_sde":
    options["curvature"] = 0.5
  return name, options, "ve"


def diffusers(family, config, num_steps, degenerate):
  """Our sampler and options for a scheduler of diffusers; or why there are none."""
  order = config.get("solver_order", 2)
  process = "vp" if family in ("dpmpp", "unipc", "deis", "pndm", "dpmpp_single") else "ve"
  if family == "ddim":
    if config.get("timestep_spacing") == "linspace":
      return "steps from t to t - T // N, and calls the network at another level of linspace"
    return "ddim", {"eta": config["eta"]}, "vp"
  if family == "ddpm":
    large = config["variance_type"] == "fixed_large"
    if large and config.get("timestep_spacing") == "trailing":
      return "adds noise of variance beta to the data in the step onto them"
    return "ancestral", {"variance": "large" if large else "small"}, "vp"
  final = config.get("lower_order_final", True) and num_steps < 15
  final = final and not degenerate  # it spent its first-order step on the one of no width
  if family in ("dpmpp", "edm_dpm"):
    algorithm = config.get("algorithm_type", "dpmsolver++")
    if algorithm == "sde-dpmsolver":
      return "solves the SDE with the noise for a polynomial: unstable, as its authors say"
    options = {"solver_type": config.get("solver_type", "midpoint")}
    if algorithm == "sde-dpmsolver++":
      return "dpmpp_2m_sde", options, process
    options["view"] = "noise" if algorithm == "dpmsolver" else "x0"
    options["lower_order_final"] = final
    if order == 1:
      return "ddim", {}, process
    if order == 3:
      return "dpmpp_3m", {**options, "curvature": 0.5}, process
    return "dpmpp_2m", options, process
  if family == "unipc":
    corrected = [i not in config.get("disable_corrector", []) for i in range(num_steps)]
    options = {
      "order": order,
      "solver_type": config.get("solver_type", "bh2"),
      "view": "x0" if config.get("predict_x0", True) else "noise",
      "lower_order_final": True,
    }
    if not all(corrected):
      options["uncorrected"] = corrected.index(True)
    return "unipc", options, process
  if family == "deis":
    return "deis", {"order": 2, "lower_order_final": final}, process
  if family == "lms":
    return "lms", {"order": 4}, process
  if family == "pndm":
    if config.get("timestep_spacing") == "linspace":
      return "steps from t to t - T // N, and calls the network at another level of linspace"
    if "prediction_type" in config:
      return "combines past values of v, where the paper combines noises"
    return "plms", {"warm_up": "heun" if config.get("skip_prk_steps") else "runge_kutta"}, process
  if family == "kdpm2":
    return "kdpm2", {}, process
  if family == "kdpm2_a":
    return "dpm_solver_2_ancestral", {}, process
  if family == "heun":
    return "heun", {}, process
  if family in ("euler", "edm_euler"):
    if "s_churn" in config:
      return "calls the network before churn's noise is added: not EDM's algorithm"
    return "euler", {}, process
  if family == "euler_a":
    return "ddim", {"eta": 1.0}, process
  if family == "dpmpp_single":
    options = {"order": order, "solver_type": config.get("solver_type", "midpoint")}
    return "dpmpp_singlestep", options, process
  if family == "sde_ve":
    return "calls the network at levels of one table and steps between those of another"
  raise ValueError(family)


def degenerate(ratios):
  """Whether the last step has no width, so that it changes nothing but for clipping."""
  return ratios[-2] - ratios[-1] < 1e-9 * ratios[-1]


def ours(run):
  ratios = TABLES[run["sigmas"]]
  if run["library"] == "k-diffusion":
    return k_diffusion(run["family"], run["config"])
  return diffusers(run["family"], run["config"], len(ratios) - 1, degenerate(ratios))


BETAS = {"squaredcos_cap_v2": "cosine_betas", "scaled_linear": "scaled_linear_betas"}


def exact(mixture):
  """The predict function of a mixture of isotropic components, in few operations.

  It is `GaussianMixture.predict`; the manifest gives standard deviations.
  """
  weights, means, stds = (np.array(MANIFEST["mixtures"][mixture][k]) for k in ("w", "mu", "s"))

  def predict(x, level):
    alpha, sigma = level.alpha, level.sigma
    variances = (alpha * stds) ** 2 + sigma**2
    gaps = x[:, None] - alpha * means
    logs = jnp.log(weights / variances) - jnp.sum(gaps**2, -1) / (2 * variances)  # in the plane
    shares = jax.nn.softmax(logs)[..., None]
    pulls = shares * gaps / variances[:, None]
    x0 = jnp.sum(shares * means + alpha * stds[:, None] ** 2 * pulls, 1)
    noise = sigma * jnp.sum(pulls, 1)
    return Prediction.of(x, level, "x0", x0=x0.astype(x.dtype), noise=noise.astype(x.dtype))

  return predict


def clipping(run):
  """The run's clipping of x0, and its options; None if there is none."""
  config, family = run["config"], run["family"]
  keep = ("clip_keep_noise", family == "ddim" and not config.get("use_clipped_model_output"))
  if config.get("thresholding"):
    limits = ("clip_limit", config["sample_max_value"])
    return thresholded, (limits, ("clip_quantile", config["dynamic_thresholding_ratio"]), keep)
  if family in ("ddim", "ddpm") and config.get("clip_sample", True):
    return clipped, (("clip_limit", config.get("clip_sample_range", 1.0)), keep)
  return None


@functools.cache
def program(name, options, mixture, clipping, x64):
  """A compiled sampler of the start, the grid, the draws and the options that are numbers."""
  del x64  # part of the cache's key

  def run(x, grid, draws, numbers):
    predict = exact(mixture)
    if clipping is not None:
      function, limits = clipping
      predict = function(predict, **dict(limits))
    return SAMPLERS[name](RecordedNoise(draws), predict, x, grid, **dict(options), **numbers)

  return jax.jit(run)


DRAWS = {"dpmpp_sde": 2}  # of a step, if not 1


def sampled(run):
  """Our samples for a run."""
  name, options, process = ours(run)
  ratios = TABLES[run["sigmas"]]
  if degenerate(ratios):
    ratios = ratios[:-1]
  if process == "ve":
    alphas, sigmas = np.ones_like(ratios), ratios
  else:  # the first may be infinite: zero terminal SNR
    alphas = 1 / np.sqrt(1 + ratios**2)
    sigmas = np.where(alphas > 0, np.where(alphas > 0, ratios, 0) * alphas, 1)
  grid = Grid.from_arrays(alphas, sigmas, process=process)
  if options.get("warm_up") == "runge_kutta":  # asks the schedule for levels half way in time
    schedule = SCHEDULES[BETAS[run["config"]["beta_schedule"]]]()
    times = jnp.where(ratios > 0, schedule.time(-jnp.log(np.where(ratios > 0, ratios, 1))), 0)
    grid = Grid(schedule, grid.levels._replace(t=times), grid.ends_at_data)
  noise = ARRAYS[f"noise_{run['noise']}"] if "noise" in run else ARRAYS["noise"]
  number = DRAWS.get(name, 1) * grid.num_steps  # the last step may not need its own
  draws = np.resize(noise, (number, *noise.shape[1:]))
  numbers = {k: v for k, v in options.items() if isinstance(v, float)}
  static = tuple((k, v) for k, v in options.items() if k not in numbers)
  compiled = program(name, static, run["mixture"], clipping(run), jax.config.jax_enable_x64)
  return compiled(run["start"] * jnp.asarray(ARRAYS["xT"]), grid, jnp.asarray(draws), numbers)


def comes_apart(run):
  """Whether diffusers steps by T // N where its calls are T / N apart, which is no grid."""
  spacing, num_steps = run["config"].get("timestep_spacing"), int(run["id"].rsplit("-N", 1)[1])
  return run["family"] in ("ddim", "pndm") and spacing == "trailing" and 1000 % num_steps > 0


# Every run of a setting that our options express. By default two or three of a family, of 5 steps,
# the fastest; with e2e all of 5 steps, and in float32 each family's first of them.
EXPRESSED = [
  (i, run)
  for i, run in enumerate(MANIFEST["runs"])
  if not isinstance(ours(run), str) and not comes_apart(run)
]


def params(runs, quick, e2e):
  """Test parameters: runs with their index, e2e or slow but for those whose id ends as given."""

  def marks(name):
    return (
      () if name.endswith(quick) else pytest.mark.e2e if name.endswith(e2e) else pytest.mark.slow
    )

  return [pytest.param(i, r, id=r["id"], marks=marks(r["id"])) for i, r in runs]


@pytest.mark.parametrize(
  ("index", "run"), params(EXPRESSED, ("-00-N5", "-01-N5", "unipc-04-N5"), "-N5")
)
def test_samplers_are_the_libraries(index, run):
  samples = sampled(run)
  tolerance = run["tol_f64"]
  if np.isinf(TABLES[run["sigmas"]][0]):
    # From pure noise at eta = 1 nothing of it is kept; the library keeps the root of what should
    # cancel, 1 - alpha_bar' - variance: 1.05e-8 of the noise.
    tolerance = 5e-8
  np.testing.assert_allclose(samples.x, ARRAYS["final"][index], 0, tolerance)


CONDITIONED = [(i, run) for i, run in EXPRESSED if not run.get("ill_conditioned")]


@pytest.mark.parametrize(("index", "run"), params(CONDITIONED, "euler-00-N5", "-00-N5"))
def test_samplers_are_the_libraries_in_float32(index, run):
  """Where rounding is not amplified, by the library's own difference between its precisions."""
  with jax.enable_x64(False):
    samples = sampled(run)
    assert samples.x.dtype == jnp.float32
  np.testing.assert_allclose(samples.x, ARRAYS["final"][index], 0, run["tol_f32"])


def test_what_is_not_expressed():
  """Few settings, each for a reason: printed by pytest -s."""
  reasons = {run["id"].rsplit("-N", 1)[0]: ours(run) for run in MANIFEST["runs"]}
  declined = {name: reason for name, reason in reasons.items() if isinstance(reason, str)}
  for name, reason in declined.items():
    print(f"{name}: {reason}")
  print(f"{len(declined)} of {len(reasons)} settings are not expressed")
  apart = [run["id"] for run in MANIFEST["runs"] if comes_apart(run)]
  print(f"nor are these runs of others, which step between levels by T // N: {', '.join(apart)}")
  assert len(EXPRESSED) + len(apart) > 0.9 * len(MANIFEST["runs"])
  assert (len(declined), len(reasons)) == (14, 147)
  assert len(declined) < 0.1 * len(reasons)
