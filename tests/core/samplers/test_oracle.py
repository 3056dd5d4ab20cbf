"""Samplers against k-diffusion and diffusers, in float64 with their recorded noise.

Each run's tolerance comes with it: what rounding may do, from its measured sensitivity.
"""

import functools
import json

import jax
import numpy as np
import pytest

from scorelab.samplers import SAMPLERS, RecordedNoise
from scorelab.schedules import Grid, Level, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture
from tests.paths import TESTDATA

MANIFEST = {
  p: json.loads((TESTDATA / f"{p}.json").read_text()) for p in ("kdiffusion", "diffusers")
}
ARRAYS = {p: np.load(TESTDATA / f"{p}.npz") for p in MANIFEST}
START, NOISE = ARRAYS["kdiffusion"]["xT"], ARRAYS["kdiffusion"]["noise"]

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


def runs(library, *families):
  """Test parameters: the library's runs of these families; those of more than 10 steps are e2e."""

  def marks(name):
    return () if name.endswith(("/N5", "/N10")) else pytest.mark.e2e

  rows = [r for r in MANIFEST[library]["runs"] if r.get("family") in (families or (None,))]
  return [pytest.param(r, id=r["id"], marks=marks(r["id"])) for r in rows]


def exact(library):
  """The predict function of the library's mixture, whose manifest gives standard deviations."""
  q = MANIFEST[library]["mixture"]
  return GaussianMixture(q["w"], np.array(q["mu"]), np.array(q["s"]) ** 2).predict


def grid_of(run):
  sigmas = ARRAYS["kdiffusion"][f"{run['id']}/sigmas"]
  return Grid.from_arrays(np.ones_like(sigmas), sigmas, process="ve")


def assert_final(library, run, x):
  np.testing.assert_allclose(x, ARRAYS[library][f"{run['id']}/final"], 0, run["tol_f64"])


# Each is compiled once for a number of steps: their numbers, and the levels, are traced.


@functools.partial(jax.jit, static_argnames=("name", "library", "variance"))
def sample(x, grid, draws, name, library, variance=None, **options):
  options |= {} if variance is None else {"variance": variance}
  return SAMPLERS[name](RecordedNoise(draws), exact(library), x, grid, **options)


def k_diffusion(run, name, draws, **options):
  grid = grid_of(run)
  return sample(START * grid[0].sigma, grid, draws, name, "kdiffusion", **options)


@pytest.mark.parametrize("run", runs("kdiffusion", "euler_ancestral"))
def test_ddim_is_k_diffusions_euler_ancestral(run):
  options = {"eta": 1.0, "s_noise": 1.0, **run["kwargs"]}
  samples = k_diffusion(run, "ddim", NOISE[: run["nfe"]], **options)
  assert_final("kdiffusion", run, samples.x)


@pytest.mark.parametrize("run", runs("kdiffusion", "euler", "heun"))
def test_churn_is_k_diffusions(run):
  """k-diffusion draws at every step, also without churn."""
  kwargs = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": np.inf, "s_noise": 1.0, **run["kwargs"]}
  churn, num_steps = kwargs.pop("s_churn"), grid_of(run).num_steps
  samples = k_diffusion(run, run["family"], NOISE[:num_steps], churn=churn, **kwargs)
  assert_final("kdiffusion", run, samples.x)
  assert samples.nfe == run["nfe"]


@pytest.mark.parametrize("run", runs("kdiffusion", "dpmpp_2m"))
def test_dpmpp_2m_is_k_diffusions(run):
  samples = k_diffusion(run, "dpmpp_2m", None)  # draws nothing
  assert_final("kdiffusion", run, samples.x)
  assert samples.nfe == run["nfe"]


def diffusers(run, name, **options):
  """Variance-preserving. The step onto the data draws nothing there, and has no effect here."""
  alpha_bars = ARRAYS["diffusers"][f"{run['id']}/alpha_bar"]
  levels = Level(None, np.sqrt(alpha_bars), np.sqrt(1 - alpha_bars))
  grid = Grid(VariancePreserving(), levels, ends_at_data=bool(alpha_bars[-1] == 1))
  return sample(START, grid, NOISE[: grid.num_steps], name, "diffusers", **options)


@pytest.mark.parametrize("run", runs("diffusers"))
def test_ddim_is_diffusers_ddim(run):
  """From zero terminal SNR (ddim-00), with a last step of no width (-07)."""
  samples = diffusers(run, "ddim", eta=run["kwargs"]["eta"])
  if ARRAYS["diffusers"][f"{run['id']}/alpha_bar"][0] == 0:
    # Nothing of the noise is kept then; the library keeps sqrt(1 - alpha_bar' - variance), the root
    # of what should cancel: 1.05e-8 of the noise.
    run = run | {"tol_f64": 5e-8}
  assert_final("diffusers", run, samples.x)


@pytest.mark.parametrize("run", runs("diffusers", "ddpm"))
def test_ancestral_is_diffusers_ddpm(run):
  """Its fixed_small and fixed_large."""
  samples = diffusers(run, "ancestral", variance=run["kwargs"]["variance"])
  assert_final("diffusers", run, samples.x)
