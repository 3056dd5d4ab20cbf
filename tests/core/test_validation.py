"""Wrong calls of the library: each gets one line, and nothing is added to a compiled program."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab import likelihood, losses, schedules
from scorelab.losses import levels, variational
from scorelab.metrics import METRICS
from scorelab.predictions import (
  CONDITIONINGS,
  EDM,
  PARAMETERIZATIONS,
  Parameterization,
  Prediction,
  clipping,
  guidance,
)
from scorelab.samplers import KERNELS, SAMPLERS
from scorelab.schedules import Grid, VarianceExploding, VariancePreserving
from scorelab.signatures import options_of_part
from scorelab.targets import TARGETS
from scorelab.targets.empirical import Empirical
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Context
from scorelab.validation import Registry, UnknownNameError, parts_of

VE = VarianceExploding()
GRID = schedules.karras(VE, 4)
KEY = jax.random.key(0)
X = np.ones((3, 2), np.float32)
TARGET = GaussianMixture([1.0], [[0.0, 0.0]], [1.0])
LEVEL = VE.at_ratio(1.0)
NETWORK = Parameterization(lambda v, u, c, rngs=None: u, CONDITIONINGS["log_sigma"], "x0")
SIGMAS = np.geomspace(80, 0.02, 9)


def sample(name, *args, predict=TARGET.predict, x=X, grid=GRID, key=KEY, **options):
  return SAMPLERS[name](key, predict, x, grid, *args, **options)


def narrow(x, level):
  return TARGET.predict(x[:1], level)


def single(x, level):
  return Prediction.of(x, level, "x0", x0=jnp.zeros((1, 2)))


def array(x, level):
  return x


# Numbers out of range: a function of the number, the number, and what is said.
NUMBERS = {
  "karras num_steps": (lambda v: schedules.karras(VE, v), 0, "num_steps = 0 must be from 1"),
  "uniform num_steps": (lambda v: schedules.uniform(VE, v), -1, "num_steps = -1 must be from 1"),
  "quadratic num_steps": (lambda v: schedules.quadratic(VE, v), 2.5, "must be a whole number"),
  "karras sigma_min": (
    lambda v: schedules.karras(VE, 8, sigma_min=v),
    0.0,
    "sigma_min = 0.0 must be above 0",
  ),
  "karras order": (
    lambda v: schedules.karras(VE, 8, sigma_min=v, sigma_max=1.0),
    10.0,
    "sigma_min = 10.0 and sigma_max = 1.0 must satisfy sigma_min < sigma_max",
  ),
  "karras beyond the schedule's end": (
    lambda v: schedules.karras(VE, 8, sigma_min=v),
    90.0,
    "sigma_min = 90.0 and sigma_max = ",
  ),
  "karras rho": (lambda v: schedules.karras(VE, 8, rho=v), 0.0, "rho = 0.0 must be above 0"),
  "spectral variances": (
    lambda v: schedules.spectral(VE, 8, variances=(1.0, v)),
    -1.0,
    "variances holds -1, and must be at least 0",
  ),
  "uniform t_max": (lambda v: schedules.uniform(VE, 8, t_max=v), 1.5, "t_max = 1.5 must be in"),
  "quadratic order": (
    lambda v: schedules.quadratic(VE, 8, t_min=v, t_max=0.5),
    0.75,
    "t_min = 0.75 and t_max = 0.5 must satisfy t_min < t_max",
  ),
  "time": (VE.at, -1.0, "t = -1.0 must be in [0, 1]"),
  "a grid's times": (
    VE.grid,
    np.array([0.5, 0.7]),
    "sigma / alpha must fall towards the data: ",
  ),
  "times": (VE.at, np.array([0.5, 1.5]), "t holds 1.5, and must be in [0, 1]"),
  "nan time": (VE.at, np.nan, "t = nan must be in [0, 1]"),
  "ratio": (VE.at_ratio, -1.0, "ratio = -1.0 must be at least 0"),
  "schedule sigma_min": (lambda v: VarianceExploding(sigma_min=v), 0.0, "must be above 0"),
  "schedule order": (
    lambda v: VarianceExploding(sigma_min=v),
    100.0,
    "sigma_min = 100.0 and sigma_max = 80.0 must satisfy",
  ),
  "beta_min": (lambda v: VariancePreserving(beta_min=v), -1.0, "beta_min = -1.0 must be above 0"),
  "offset": (lambda v: schedules.Cosine(offset=v), -0.5, "offset = -0.5 must be at least 0"),
  "tau": (lambda v: schedules.Sigmoid(tau=v), 0.0, "tau = 0.0 must be above 0"),
  "b": (lambda v: schedules.Laplace(b=v), 0.0, "b = 0.0 must be above 0"),
  "base": (lambda v: schedules.SigmaPower(base=v), 1.0, "base = 1.0 must be above 1"),
  "eta": (lambda v: sample("ddim", eta=v), -1.0, "eta = -1.0 must be at least 0"),
  "eta of the SDE": (lambda v: sample("dpmpp_2m_sde", eta=v), np.nan, "eta = nan must be"),
  "churn": (lambda v: sample("heun", churn=v), -1.0, "churn = -1.0 must be at least 0"),
  "churn's range": (
    lambda v: sample("euler", s_tmin=v, s_tmax=1.0),
    2.0,
    "s_tmin = 2.0 and s_tmax = 1.0 must satisfy s_tmin <= s_tmax",
  ),
  "s_noise": (lambda v: sample("heun", s_noise=v), 0.0, "s_noise = 0.0 must be above 0"),
  "snr": (lambda v: sample("predictor_corrector", snr=v), 0.0, "snr = 0.0 must be above 0"),
  "step_size": (lambda v: sample("annealed_langevin", step_size=v), -1.0, "must be above 0"),
  "an unstable step": (
    lambda v: sample("annealed_langevin", step_size=v),
    1e-3,
    "step_size = 0.001 must be below 0.0008, 2 (sigma / alpha)^2",
  ),
  "friction": (
    lambda v: KERNELS["underdamped_langevin"](
      KEY, TARGET.score, X, step_size=0.1, num_steps=2, friction=v
    ),
    0.0,
    "friction = 0.0 must be above 0",
  ),
  "data_std": (
    lambda v: EDM(NETWORK.apply, CONDITIONINGS["log_sigma"], data_std=v),
    0.0,
    "data_std = 0.0 must be above 0",
  ),
  "gamma": (lambda v: levels.min_snr_weight(LEVEL, gamma=v), 0.0, "gamma = 0.0 must be above 0"),
  "edm's data_std": (lambda v: levels.edm_weight(LEVEL, data_std=v), 0.0, "must be above 0"),
  "level_std": (
    lambda v: levels.log_normal(VE, jnp.array([0.5]), level_std=v),
    0.0,
    "level_std = 0.0 must be above 0",
  ),
  "the levels' ends": (
    lambda v: levels.log_uniform(VE, jnp.array([0.5]), sigma_min=v, sigma_max=1.0),
    2.0,
    "sigma_min = 2.0 and sigma_max = 1.0 must satisfy",
  ),
  "the level's sigma": (
    lambda v: levels.fixed_level(VE, jnp.array([0.5]), sigma=v),
    0.0,
    "sigma = 0.0 must be above 0",
  ),
  "rescale": (
    lambda v: guidance.autoguidance(TARGET.predict, TARGET.predict, guidance_rescale=v),
    2.0,
    "guidance_rescale = 2.0 must be in [0, 1]",
  ),
  "clip_limit": (
    lambda v: clipping.clipped(TARGET.predict, clip_limit=v),
    0.0,
    "clip_limit = 0.0 must be above 0",
  ),
  "the likelihood's data_std": (
    lambda v: likelihood.log_likelihood(KEY, TARGET.predict, X, GRID, data_std=v),
    0.0,
    "data_std = 0.0 must be above 0",
  ),
}
STATIC = {"karras num_steps", "uniform num_steps", "quadratic num_steps"}

# Arguments of another kind: a call, and what is said.
KINDS = {
  "a list for x": (lambda: sample("ddim", x=[[0.0, 0.0]]), "x must be an array of floats"),
  "whole numbers for x": (lambda: sample("heun", x=np.ones((3, 2), int)), "int64 array"),
  "points of another dimension": (
    lambda: sample("ddim", x=np.ones((5, 3), np.float32)),
    "x has shape (5, 3), must be [*batch, 2]",
  ),
  "another dimension's log_prob": (
    lambda: TARGET.log_prob(jnp.ones(3)),
    "x has shape (3,), must be [*batch, 2]",
  ),
  "another dimension's data": (
    lambda: Empirical(X).predict(jnp.ones((5, 3)), LEVEL),
    "x has shape (5, 3), must be [*batch, 2]",
  ),
  "sigmas for a grid": (
    lambda: sample("ddim", grid=SIGMAS),
    "grid = <float64 array of shape (9,)> must be a Grid",
  ),
  "a float for a level": (lambda: TARGET.predict(X, 0.5), "level = 0.5 must be a Level"),
  "a level of another batch": (
    lambda: NETWORK.bind({})(X, VE.at_ratio(jnp.ones(2))),
    "level has shape (2,), must be [] or x's leading axes",
  ),
  "a float for a schedule": (lambda: schedules.karras(0.5, 8), "schedule = 0.5 must be a Schedule"),
  "a target for a predict": (
    lambda: sample("ddim", predict=TARGET),
    "predict = <GaussianMixture> must be a function; did you mean predict=target.predict?",
  ),
  "a predict of fewer points": (
    lambda: sample("ddim", predict=narrow),
    "predict returned shape (1, 2), must return x's, (3, 2)",
  ),
  "a predict of one point": (
    lambda: sample("ddim", predict=single),
    "x0 has shape (1, 2), must be x's, (3, 2)",
  ),
  "a predict that is no Prediction": (
    lambda: sample("ddim", predict=array),
    "must return a Prediction",
  ),
  "a seed for a key": (lambda: sample("ddim", key=0), "key = 0 must be a key"),
  "a name for a weighting": (
    lambda: losses.ncsn(NETWORK, VE, weighting="edm"),
    "weighting = 'edm' must be a function: names are for configs; did you mean"
    " weighting=edm_weight",
  ),
  "a name for levels": (
    lambda: losses.ddpm(NETWORK, VE, levels="log_norml"),
    "did you mean levels=log_normal",
  ),
  "a name for uniforms": (
    lambda: losses.flow_matching(NETWORK, VE, uniforms="shifted"),
    "did you mean uniforms=shifted",
  ),
  "a name for a score weighting": (
    lambda: losses.hyvarinen(NETWORK, VE, score_weighting="sigma_squared"),
    "did you mean score_weighting=sigma_squared_weight",
  ),
  "a name for a conditioning": (
    lambda: Parameterization(NETWORK.apply, "time", "x0"),
    "did you mean conditioning=time",
  ),
  "an array for a batch": (
    lambda: losses.ncsn(NETWORK, VE)({}, KEY, X, Context(jnp.zeros(()), {})),
    "must be a dict of arrays",
  ),
  "text for a number": (lambda: sample("ddim", eta="high"), "eta = 'high' must be a number"),
  "text for a truth value": (
    lambda: sample("annealed_langevin", denoise="no"),
    "denoise = 'no' must be True or False",
  ),
}

# Names and orders that are not known.
NAMES = {
  "order": (lambda: sample("unipc", order=4), "order = 4 must be one of 1, 2, 3"),
  "order of lms": (lambda: sample("lms", order=0), "order = 0 must be one of 1, 2, 3, 4"),
  "solver_type": (lambda: sample("dpmpp_2m", solver_type="huen"), "did you mean 'heun'?"),
  "view": (lambda: sample("dpmpp_2m", view="eps"), "view = 'eps' must be one of x0, noise"),
  "variance": (lambda: sample("ancestral", variance="lerned"), "did you mean 'learned'?"),
  "rule": (lambda: sample("annealed_langevin", rule="ncsn"), "did you mean 'ncsnv2'?"),
  "warm_up": (lambda: sample("plms", warm_up="euler"), "must be one of heun, runge_kutta"),
  "spacing": (lambda: schedules.timesteps(VE, 8, spacing="traling"), "did you mean 'trailing'?"),
  "spacing of levels": (
    lambda: levels.grid_levels(VE, jnp.ones(1), spacing="uniforn"),
    "did you mean 'uniform'?",
  ),
  "kind": (
    lambda: Parameterization(NETWORK.apply, CONDITIONINGS["time"], "noize"),
    "did you mean 'noise'?",
  ),
  "norm": (lambda: losses.ddpm(NETWORK, VE, norm="l3"), "norm = 'l3' must be one of huber, l1"),
  "probes": (lambda: losses.sliced(NETWORK, VE, probes="gausian"), "did you mean 'gaussian'?"),
  "coupling": (lambda: losses.flow_matching(NETWORK, VE, coupling="ot"), "coupling = 'ot' must"),
  "divergence": (lambda: losses.hyvarinen(NETWORK, VE, divergence="back"), "forward, reverse"),
  "bound's variance": (
    lambda: variational.bound_terms(KEY, TARGET.predict, X, GRID, variance="smal"),
    "did you mean 'small'?",
  ),
  "method": (
    lambda: likelihood.log_likelihood(KEY, TARGET.predict, X, GRID, method="rk5"),
    "did you mean 'rk4'?",
  ),
  "process": (
    lambda: Grid.from_arrays(np.ones(9), SIGMAS, process="vpe"),
    "process = 'vpe' must be one of ve, vp",
  ),
}


def said(call):
  with pytest.raises(ValueError) as error:
    call()
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range(name):
  function, value, line = NUMBERS[name]
  assert line in said(lambda: function(value))
  if np.ndim(value) == 0 and name not in STATIC:  # also as an array
    assert line.partition(" = ")[2] in said(lambda: function(jnp.asarray(value)))


@pytest.mark.e2e
@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in STATIC])
def test_traced_numbers_are_not_checked(name):
  """The same calls, as an argument of a program: there are no values yet."""
  function, value, _ = NUMBERS[name]

  def program(v):
    result = function(v)
    return () if callable(result) or hasattr(result, "apply") else result

  jax.eval_shape(program, jnp.asarray(value, jnp.float32))


@pytest.mark.parametrize(("call", "line"), [*KINDS.values(), *NAMES.values()], ids=[*KINDS, *NAMES])
def test_arguments_of_another_kind_and_unknown_names(call, line):
  assert line in said(call)


@pytest.mark.parametrize(
  ("registry", "name", "meant"),
  [
    (SAMPLERS, "dpmp_2m", "dpmpp_2m"),
    (KERNELS, "malla", "mala"),
    (schedules.SCHEDULES, "cosin", "cosine"),
    (schedules.GRIDS, "karas", "karras"),
    (losses.LOSSES, "ddmp", "ddpm"),
    (losses.WEIGHTINGS, "minsnr", "min_snr"),
    (losses.LEVELS, "lognormal", "log_normal"),
    (PARAMETERIZATIONS, "emd", "edm"),
    (CONDITIONINGS, "log_sgima", "log_sigma"),
    (METRICS, "energy_distence", "energy_distance"),
    (TARGETS, "nine_mode", "nine_modes"),
    (guidance.GUIDANCES, "clasifier", "classifier"),
    (clipping.CLIPPINGS, "statik", "static"),
  ],
  ids=lambda value: value if isinstance(value, str) else "registry",
)
def test_registries_answer_unknown_names(registry, name, meant):
  for error in (KeyError, ValueError):
    with pytest.raises(error, match=f"{name}' must be one of .*; did you mean '{meant}'"):
      registry[name]
  assert registry.get(name) is None
  assert name not in registry


def test_registries_are_dicts():
  registry = Registry("part") | {"a": 1}
  registry["b"] = 2
  assert isinstance(registry | {"c": 3}, Registry)
  assert dict(registry) == {"a": 1, "b": 2}
  with pytest.raises(UnknownNameError, match="part = 'aa' must be one of a, b"):
    registry["aa"]


def test_parts_are_named_as_they_are_imported_and_classes_in_snake_case():
  module = types.ModuleType("registry")
  vars(module).update(UNet2D=1, DiT=2, GatedMLP=3, SubVP=4, dpmpp_2m=5, _helper=6)
  named = {"unet2d": 1, "dit": 2, "gated_mlp": 3, "sub_vp": 4, "dpmpp_2m": 5}
  assert parts_of(module) == named


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m_sde", "heun", "predictor_corrector"])
def test_nothing_is_added_to_a_program(name):
  """The traced program is that of the function without its checks, to the letter."""

  def program(sampler):
    return str(jax.make_jaxpr(lambda x: sampler(KEY, TARGET.predict, x, GRID).x)(X))

  assert program(SAMPLERS[name]) == program(SAMPLERS[name].__wrapped__)


def test_every_number_of_a_sampler_has_a_range():
  """Of samplers, grids and kernels, in their signatures; the curvature's sign is a choice."""
  for name, function in {**SAMPLERS, **schedules.GRIDS, **KERNELS}.items():
    assert hasattr(function, "__wrapped__"), f"{name} is not checked"
    for option in options_of_part(function).values():
      assert option.range or option.kind != "float", (name, option)


@pytest.mark.e2e
def test_valid_calls_of_every_sampler_pass():
  """The checks let the defaults through: the program is traced, not run."""
  for name, sampler in SAMPLERS.items():
    if name != "consistency":
      jax.eval_shape(functools.partial(sampler, KEY, TARGET.predict, grid=GRID), x=X)
