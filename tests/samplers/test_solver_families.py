"""Whole samplers against k-diffusion and diffusers, in float64 with their recorded noise.

Their noise stands in for our keys: splitting takes the first draws, and a draw is the key itself.
Each run's tolerance comes with it: what rounding may do, from its measured sensitivity.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.clipping import clipped, thresholded
from scorelab.samplers import SAMPLERS
from scorelab.schedules import SCHEDULES, Grid
from scorelab.targets.mixtures import GaussianMixture

TESTDATA = pathlib.Path(__file__).parents[1] / "testdata"
MANIFEST = json.loads((TESTDATA / "solvers.json").read_text())
ARRAYS = dict(np.load(TESTDATA / "solvers.npz"))
TABLES = np.split(ARRAYS["sigmas"], np.cumsum(ARRAYS["lengths"])[:-1])

pytestmark = pytest.mark.usefixtures("x64")


def k_diffusion(family, config):
  """Our sampler and options for a function of k-diffusion and its keyword arguments."""
  options = {{"s_churn": "churn"}.get(name, name): value for name, value in config.items()}
  name = {"dpm_2": "dpm_solver_2", "dpm_2_ancestral": "dpm_solver_2_ancestral"}.get(family, family)
  if name == "dpmpp_3m_sde":
    options["curvature"] = 0.5
  return name, options, "ve"


def diffusers(family, config, num_steps, degenerate):
  """Our sampler and options for a scheduler of diffusers; None where we decline."""
  order = config.get("solver_order", 2)
  process = "vp" if family in ("dpmpp", "unipc", "deis", "pndm", "dpmpp_single") else "ve"
  if family == "ddim":
    if config.get("timestep_spacing") == "linspace":
      return None  # steps to t - T // N, which is no level
    return "ddim", {"eta": config["eta"]}, "vp"
  if family == "ddpm":
    large = config["variance_type"] == "fixed_large"
    if large and config.get("timestep_spacing") == "trailing":
      return None  # adds noise to the data
    return "ancestral", {"variance": "large" if large else "small"}, "vp"
  final = config.get("lower_order_final", True) and num_steps < 15
  final = final and not degenerate  # it spent its first-order step on the one of no width
  if family in ("dpmpp", "edm_dpm"):
    algorithm = config.get("algorithm_type", "dpmsolver++")
    if algorithm == "sde-dpmsolver":
      return None  # the SDE in the noise: unstable, as its authors say
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
    if config.get("timestep_spacing") == "linspace" or "prediction_type" in config:
      return None  # steps to t - T // N, which is no level; combines v where we combine noises
    return "plms", {"warm_up": "heun" if config.get("skip_prk_steps") else "runge_kutta"}, process
  if family == "kdpm2":
    return "kdpm2", {}, process
  if family == "kdpm2_a":
    return "dpm_solver_2_ancestral", {}, process
  if family == "heun":
    return "heun", {}, process
  if family in ("euler", "edm_euler"):
    # Its churn calls the network before the noise is added: not EDM's algorithm.
    return None if "s_churn" in config else ("euler", {}, process)
  if family == "euler_a":
    return "ddim", {"eta": 1.0}, process
  if family == "dpmpp_single":
    options = {"order": order, "solver_type": config.get("solver_type", "midpoint")}
    return "dpmpp_singlestep", options, process
  if family == "sde_ve":
    return None  # calls the network at other levels than it steps between
  raise ValueError(family)


def degenerate(ratios):
  """Whether the last step has no width, so that it changes nothing but for clipping."""
  return ratios[-2] - ratios[-1] < 1e-9 * ratios[-1]


def ours(run):
  ratios = TABLES[run["sigmas"]]
  if run["library"] == "k-diffusion":
    return k_diffusion(run["family"], run["config"])
  return diffusers(run["family"], run["config"], len(ratios) - 1, degenerate(ratios))


def python_scan(step, carry, inputs):
  """`jax.lax.scan` without its compilation, which would take most of the time."""
  inputs, outputs = jax.tree.map(np.asarray, inputs), []
  for i in range(len(jax.tree.leaves(inputs)[0])):
    carry, output = step(carry, jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), inputs))
    outputs.append(output)
  return carry, jnp.stack(outputs)


BETAS = {"squaredcos_cap_v2": "cosine_betas", "scaled_linear": "scaled_linear_betas"}
PREDICTS = {}


def exact(mixture):
  """The predict function of a mixture; the manifest gives standard deviations."""
  if mixture not in PREDICTS:
    q = MANIFEST["mixtures"][mixture]
    target = GaussianMixture(q["w"], np.array(q["mu"]), np.array(q["s"]) ** 2)
    PREDICTS[mixture] = jax.jit(target.predict)
  return PREDICTS[mixture]


def bounded(predict, run):
  """The predict function with x0 clipped or thresholded as the run says."""
  config, family = run["config"], run["family"]
  keep_noise = family == "ddim" and not config.get("use_clipped_model_output")
  if config.get("thresholding"):
    options = {"quantile": config["dynamic_thresholding_ratio"], "keep_noise": keep_noise}
    return thresholded(predict, limit=config["sample_max_value"], **options)
  if family in ("ddim", "ddpm") and config.get("clip_sample", True):
    return clipped(predict, config.get("clip_sample_range", 1.0), keep_noise=keep_noise)
  return predict


def sampled(run, monkeypatch):
  """Our samples for a run, and whether the count of calls is the library's."""
  name, options, process = ours(run)
  ratios = TABLES[run["sigmas"]]
  if degenerate(ratios):
    ratios = ratios[:-1]
  alphas = {"ve": np.ones_like(ratios), "vp": 1 / np.sqrt(1 + ratios**2)}[process]
  grid = Grid.from_arrays(alphas, ratios * alphas, process=process)
  if options.get("warm_up") == "runge_kutta":  # asks the schedule for levels half way in time
    schedule = SCHEDULES[BETAS[run["config"]["beta_schedule"]]]()
    times = jnp.where(ratios > 0, schedule.time(-jnp.log(np.where(ratios > 0, ratios, 1))), 0)
    grid = Grid(schedule, grid.levels._replace(t=times), grid.ends_at_data)
  noise = jnp.asarray(ARRAYS[f"noise_{run['noise']}"] if "noise" in run else ARRAYS["noise"])

  def split(key, num):
    shape = (num,) if isinstance(num, int) else num
    draws = np.resize(key, (np.prod(shape), *key.shape[1:]))  # the last step may not need its own
    return jnp.asarray(draws.reshape(*shape, *key.shape[1:]))

  monkeypatch.setattr(jax.lax, "scan", python_scan)
  monkeypatch.setattr(jax.random, "split", split)
  monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: key)
  return SAMPLERS[name](
    noise,
    bounded(exact(run["mixture"]), run),
    run["start"] * jnp.asarray(ARRAYS["xT"]),
    grid,
    **options,
  )


EXPRESSED = [
  pytest.param(i, run, id=run["id"], marks=() if run["id"].endswith("-N5") else pytest.mark.slow)
  for i, run in enumerate(MANIFEST["runs"])
  if ours(run) is not None
]


@pytest.mark.parametrize(("index", "run"), EXPRESSED)
def test_samplers_are_the_libraries(index, run, monkeypatch):
  samples = sampled(run, monkeypatch)
  np.testing.assert_allclose(samples.x, ARRAYS["final"][index], 0, run["tol_f64"])
