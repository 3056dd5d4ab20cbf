"""Steps and samplers against k-diffusion and diffusers, in float64 with their recorded noise.

Each run's tolerance comes with it: what rounding may do, from its measured sensitivity.
"""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.samplers import (
  ancestral_step,
  churned,
  ddim_step,
  dpmpp_2m,
  euler,
  heun,
  slope_correction,
)
from scorelab.schedules import Grid, Level
from scorelab.targets.mixtures import GaussianMixture

TESTDATA = pathlib.Path(__file__).parents[1] / "testdata"
MANIFEST = {
  p: json.loads((TESTDATA / f"{p}.json").read_text()) for p in ("kdiffusion", "diffusers")
}
ARRAYS = {p: np.load(TESTDATA / f"{p}.npz") for p in MANIFEST}
START, NOISE = ARRAYS["kdiffusion"]["xT"], ARRAYS["kdiffusion"]["noise"]

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


def runs(library, *families):
  """Test parameters: the library's runs of these families."""
  rows = MANIFEST[library]["runs"]
  return [pytest.param(r, id=r["id"]) for r in rows if r.get("family") in (families or (None,))]


def exact(library):
  """The predict function of the library's mixture, whose manifest gives standard deviations."""
  q = MANIFEST[library]["mixture"]
  return GaussianMixture(q["w"], np.array(q["mu"]), np.array(q["s"]) ** 2).predict


def grid_of(run):
  sigmas = ARRAYS["kdiffusion"][f"{run['id']}/sigmas"]
  return Grid.from_arrays(np.ones_like(sigmas), sigmas, process="ve")


def assert_final(library, run, x):
  np.testing.assert_allclose(x, ARRAYS[library][f"{run['id']}/final"], 0, run["tol_f64"])


# Each is compiled once for all runs: their numbers, and the levels, are traced.


churn = jax.jit(churned)


@jax.jit
def euler_ancestral_step(x, now, nxt, z, eta):
  return ddim_step(exact("kdiffusion")(x, now), now, nxt, z, eta)


@jax.jit
def vp_step(x, now, nxt, z, eta):
  return ddim_step(exact("diffusers")(x, now), now, nxt, z, eta)


@functools.partial(jax.jit, static_argnums=4)
def ddpm_step(x, now, nxt, z, variance):
  return ancestral_step(exact("diffusers")(x, now), now, nxt, z, variance)


@jax.jit
def euler_step(x, now, nxt):
  pred = exact("kdiffusion")(x, now)
  return ddim_step(pred, now, nxt, jnp.zeros_like(x), 0.0)


@jax.jit
def heun_step(x, now, nxt):
  predict = exact("kdiffusion")
  pred = predict(x, now)
  x = ddim_step(pred, now, nxt, jnp.zeros_like(x), 0.0)
  slope = (pred.noise + predict(x, nxt).noise) / 2
  return x + slope_correction(pred, slope, now, nxt)


@pytest.mark.parametrize("run", runs("kdiffusion", "euler_ancestral"))
def test_ddim_step_is_k_diffusions_euler_ancestral(run):
  grid, kwargs = grid_of(run), run["kwargs"]
  x = START * grid[0].sigma
  for i, (now, nxt) in enumerate(itertools.pairwise(grid)):
    z = kwargs.get("s_noise", 1.0) * NOISE[i]
    x = euler_ancestral_step(x, now, nxt, z, kwargs.get("eta", 1.0))
  assert_final("kdiffusion", run, x)


@pytest.mark.parametrize("run", runs("kdiffusion", "euler", "heun"))
def test_churned_steps_are_k_diffusions_euler_and_heun(run):
  grid, kwargs = grid_of(run), run["kwargs"]
  gamma = min(kwargs.get("s_churn", 0.0) / grid.num_steps, 2**0.5 - 1)
  s_tmin, s_tmax = kwargs.get("s_tmin", 0.0), kwargs.get("s_tmax", np.inf)
  options = {"schedule": grid.schedule, "noise_scale": kwargs.get("s_noise", 1.0)}
  x = START * grid[0].sigma
  for i, (level, nxt) in enumerate(itertools.pairwise(grid)):
    churns = gamma and s_tmin <= level.sigma <= s_tmax
    x, now = churn(x, level, NOISE[i], gamma, **options) if churns else (x, level)
    second_order = run["family"] == "heun" and nxt.sigma > 0
    x = (heun_step if second_order else euler_step)(x, now, nxt)
  assert_final("kdiffusion", run, x)


def compiled(sampler):
  return jax.jit(lambda x, grid: sampler(jax.random.key(0), exact("kdiffusion"), x, grid))


DETERMINISTIC = {f.__name__: compiled(f) for f in (euler, heun, dpmpp_2m)}
# A number of steps costs a compilation: all of them where no step is tested above.
SAMPLED = runs("kdiffusion", "dpmpp_2m") + [
  p
  for p in runs("kdiffusion", "euler", "heun")
  if not p.values[0]["kwargs"] and p.values[0]["nfe"] in (5, 20, 9, 39)
]


@pytest.mark.parametrize("run", SAMPLED)
def test_samplers_are_k_diffusions(run):
  """Without churn, so that no noise is needed."""
  grid = grid_of(run)
  samples = DETERMINISTIC[run["family"]](START * grid[0].sigma, grid)
  assert_final("kdiffusion", run, samples.x)
  assert samples.nfe == run["nfe"]


@pytest.mark.parametrize("run", runs("diffusers"))
def test_ddim_step_is_diffusers_ddim(run):
  """Variance-preserving: from zero terminal SNR (ddim-00), with a last step of no width (-07)."""
  alpha_bars = ARRAYS["diffusers"][f"{run['id']}/alpha_bar"]
  levels = [Level(None, jnp.sqrt(a), jnp.sqrt(1 - a)) for a in alpha_bars]
  x = START
  for i, (now, nxt) in enumerate(itertools.pairwise(levels)):
    x = vp_step(x, now, nxt, NOISE[i], run["kwargs"]["eta"])
  if alpha_bars[0] == 0:
    # Nothing of the noise is kept then; the library keeps sqrt(1 - alpha_bar' - variance), the root
    # of what should cancel: 1.05e-8 of the noise.
    run = run | {"tol_f64": 5e-8}
  assert_final("diffusers", run, x)


@pytest.mark.parametrize("run", runs("diffusers", "ddpm"))
def test_ancestral_step_is_diffusers_ddpm(run):
  """Its fixed_small and fixed_large; the step onto the data draws nothing, there and here."""
  alpha_bars = ARRAYS["diffusers"][f"{run['id']}/alpha_bar"]
  levels = [Level(None, jnp.sqrt(a), jnp.sqrt(1 - a)) for a in alpha_bars]
  x = START
  for i, (now, nxt) in enumerate(itertools.pairwise(levels)):
    x = ddpm_step(x, now, nxt, NOISE[i], run["kwargs"]["variance"])
  assert_final("diffusers", run, x)
