"""Noise sources: keys, zeros against closed forms, and recorded draws of the right number.

Recorded draws of other libraries: test_oracle and test_solver_families; laws by derivatives with
respect to draws: test_laws.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers import (
  KERNELS,
  SAMPLERS,
  KeyNoise,
  RecordedNoise,
  ZeroNoise,
  ancestral,
  annealed_langevin,
  ddim,
  ddim_inference,
  mala,
  predictor_corrector,
  ula,
)
from scorelab.schedules import LinearFlow, VarianceExploding, VariancePreserving, uniform

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

KEY = jax.random.key(0)
MEAN, VARIANCE = np.array([1.0, -0.5]), np.array([1.5, 0.2])
PROCESSES = {
  "ve": VarianceExploding(0.02, 10.0, 5.0),
  "vp": VariancePreserving(),
  "flow": LinearFlow(),
}
VP = PROCESSES["vp"]
START = np.array([[0.3, -2.0], [1.0, 0.4], [-1.0, 3.0]])


def truth(x, level):
  """Of N(m, diag v): E[x_0 | x] = m + alpha v / (alpha^2 v + sigma^2) (x - alpha m)."""
  gain = level.alpha * VARIANCE / (level.alpha**2 * VARIANCE + level.sigma**2)
  return Prediction.of(x, level, "x0", x0=MEAN + gain * (x - level.alpha * MEAN))


def score(x):
  return (MEAN - x) / VARIANCE


def log_prob(x):
  return -jnp.sum((x - MEAN) ** 2 / VARIANCE, -1) / 2


def consistent(x, level):
  views = {"consistency": jnp.tanh(x), "x0": jnp.tanh(x), "noise": x}
  return Prediction.of(x, level, "consistency", **views)


def bound(name):
  """A sampler or a kernel of (noise, x)."""
  if name in KERNELS:
    functions = (score, log_prob) if name == "mala" else (score,)
    return lambda noise, x: KERNELS[name](noise, *functions, x, step_size=0.1, num_steps=4)
  predict = consistent if name == "consistency" else truth
  return lambda noise, x: SAMPLERS[name](noise, predict, x, uniform(VP, 3))


# One of each function, the first: the others are other libraries' names for it.
NAMES = list({sampler: name for name, sampler in reversed(SAMPLERS.items())}.values())


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*NAMES, *KERNELS])
def test_a_key_and_its_source_are_one_program(name):
  """So they agree bit for bit."""
  by_key, by_source = (
    str(jax.make_jaxpr(lambda key, x, f=f: bound(name)(f(key), x).x)(KEY, START))
    for f in (lambda key: key, KeyNoise)
  )
  assert by_key == by_source


@pytest.mark.e2e
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("sampler", [ancestral, functools.partial(ddim, eta=1.0)])
def test_ancestral_steps_without_noise_give_the_posterior_mean(process, num_steps, sampler):
  """Each step is E[x_s | x_t]; of a Gaussian they compose to E[x_0 | x_T], however many there are.

  E[x_0 | x] = m + alpha v / (alpha^2 v + sigma^2) (x - alpha m)
  """
  grid = uniform(PROCESSES[process], num_steps, t_max=0.9)
  alpha, sigma = float(grid[0].alpha), float(grid[0].sigma)
  gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
  x = jax.jit(lambda x: sampler(ZeroNoise(), truth, x, grid).x)(START)
  np.testing.assert_allclose(x, MEAN + gain * (START - alpha * MEAN), 1e-9)


@pytest.mark.parametrize("name", ["ula", "mala"])
def test_langevin_kernels_without_noise_climb_the_gradient(name):
  """x_n = m + (1 - h / v)^n (x_0 - m); MALA, whose uniforms are 0 too, accepts every step."""
  functions = (score, log_prob) if name == "mala" else (score,)
  chain = KERNELS[name](ZeroNoise(), *functions, START, step_size=0.1, num_steps=6, thin=2)
  expected = [MEAN + (1 - 0.1 / VARIANCE) ** n * (START - MEAN) for n in (2, 4, 6)]
  np.testing.assert_allclose(chain.path, expected, 1e-9)


def test_annealed_langevin_without_noise_climbs_the_gradients():
  """In y = x / alpha the variance at a level is v + r^2, and the step h (r / r_last)^2."""
  grid = uniform(VP, 3, t_min=0.3)
  options = {"steps_per_level": 2, "step_size": 1e-3}
  samples = annealed_langevin(ZeroNoise(), truth, START, grid, **options)
  ratios = np.asarray(grid.levels.sigma / grid.levels.alpha)[:-1]
  y = START / float(grid[0].alpha)
  for r in ratios:
    y = MEAN + (1 - 1e-3 * (r / ratios[-1]) ** 2 / (VARIANCE + r**2)) ** 2 * (y - MEAN)
  np.testing.assert_allclose(samples.x, float(grid[2].alpha) * y, 1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_inference_without_noise_is_the_signal(eta):
  grid = uniform(VP, 3)
  path = ddim_inference(ZeroNoise(), START, grid, eta=eta)
  np.testing.assert_allclose(path, np.asarray(grid.levels.alpha)[:, None, None] * START, 1e-9)


def test_mala_takes_normals_and_uniforms():
  """The density halves at x = 0: a step across it is accepted if its uniform is below 1/2."""
  flat, halved = jnp.zeros_like, lambda x: jnp.where(x[:, 0] > 0, jnp.log(0.5), 0.0)
  normals = np.array([[[1.0]], [[1.0]], [[-1.0]]])  # of one chain in one dimension
  cases = (([0.4, 0.9, 0.9], [0.5, 1.5, 0.5]), ([0.6, 0.4, 0.9], [-0.5, 0.5, -0.5]))
  for uniforms, expected in cases:
    noise = RecordedNoise((normals, np.array(uniforms)[:, None]))
    chain = mala(noise, flat, halved, np.array([[-0.5]]), step_size=0.5, num_steps=3)
    np.testing.assert_allclose(chain.path[:, 0, 0], expected, 1e-12)


def test_the_corrector_and_the_predictor_take_their_draws_in_order():
  """Two correctors, whose step size is 0 if z is 0, then the predictor: only its draw counts."""
  grid = uniform(VP, 2, to_data=False)
  draws = np.zeros((6, *START.shape))
  options = {"corrector_steps": 2, "variance": "small"}
  still = predictor_corrector(RecordedNoise(draws), truth, START, grid, **options).path
  draws[2] = 1.0  # the predictor's, of the first step
  moved = predictor_corrector(RecordedNoise(draws), truth, START, grid, **options).path
  alone = ancestral(RecordedNoise(draws[[2, 5]]), truth, START, grid).path
  np.testing.assert_allclose(moved, alone, 1e-9)
  assert (np.abs(moved[0] - still[0]) > 0.01).all()


def test_recorded_draws_can_be_mapped():
  """A batch of recordings by vmap is one sampler per recording."""
  grid, draws = uniform(VP, 3), np.random.default_rng(0).normal(size=(4, 3, *START.shape))

  def run(noise):
    return ddim(noise, truth, START, grid, eta=1.0).x

  together = jax.vmap(run)(RecordedNoise(jnp.asarray(draws)))
  np.testing.assert_allclose(together, [run(RecordedNoise(d)) for d in draws], 1e-12)


@pytest.mark.parametrize(
  ("draws", "message"),
  [
    (np.zeros((2, 3, 2)), "RecordedNoise holds 2 draws, must hold 3 or a multiple"),
    (np.zeros((0, 3, 2)), "RecordedNoise holds 0 draws, must hold 3 or a multiple"),
    (np.zeros((6, 3, 2)), r"holds 2 of shape \(3, 2\) where the sampler takes 1 of shape \(3, 2\)"),
    (np.zeros((3, 2)), r"holds 1 of shape \(2,\) where the sampler takes 1 of shape \(3, 2\)"),
  ],
  ids=["too few", "none", "too many", "another shape"],
)
def test_a_recording_that_does_not_fit_is_one_line(draws, message):
  with pytest.raises(ValueError, match=message) as error:
    ddim(RecordedNoise(draws), truth, START, uniform(VP, 3), eta=1.0)
  assert "\n" not in str(error.value)


def test_a_recording_without_its_parts_is_one_line():
  with pytest.raises(ValueError, match="draws must be a tuple of 2 arrays"):
    mala(RecordedNoise(np.zeros((4, 3, 2))), score, log_prob, START, step_size=0.1, num_steps=4)


def test_sources_of_as_many_fields_are_different_programs():
  """jit tells them apart, although each has one leaf."""

  class Doubled(RecordedNoise):
    def normal(self, shape, dtype):
      return 2 * super().normal(shape, dtype)

    def split(self, shape):
      return Doubled(super().split(shape).draws)

  run = jax.jit(lambda noise: ula(noise, jnp.zeros_like, START, step_size=0.5, num_steps=1).x)
  draws = jnp.ones((1, *START.shape))
  np.testing.assert_allclose(run(RecordedNoise(draws)), START + 1, 1e-12)
  np.testing.assert_allclose(run(Doubled(draws)), START + 2, 1e-12)
