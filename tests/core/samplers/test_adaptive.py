"""The adaptive solver of the probability flow: its error, its count, and when it gives up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers.adaptive import STATUSES, adaptive_ode
from scorelab.schedules import LinearFlow, VarianceExploding, VariancePreserving, uniform
from scorelab.targets.mixtures import GaussianMixture
from tests.paths import TESTDATA

ENDPOINTS = np.load(TESTDATA / "flow_endpoints.npz")
LAWS = {
  "ve": ([0.25, 0.45, 0.3], [[-4.0, 1.5], [3.5, 4.0], [1.0, -5.0]], [0.3, 0.8, 0.5]),
  "vp": ([0.5, 0.3, 0.2], [[-1.2, 0.4], [0.9, 1.1], [0.5, -1.3]], [0.15, 0.25, 0.1]),
}
KEY = jax.random.key(0)
MEAN, STD = np.array([1.0, -0.5]), 0.7

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")


def gaussian():
  return GaussianMixture([1.0], MEAN[None], np.full(1, STD**2))


def exact(x, level):
  return gaussian().predict(x, level)


solve = jax.jit(adaptive_ode, static_argnums=1, static_argnames="max_steps")


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, None, 0))
def solve_to_each(x, grid, tolerance):
  return adaptive_ode(KEY, exact, x, grid, rtol=tolerance, atol=tolerance)


@pytest.mark.e2e
@pytest.mark.parametrize("process", ["vp", pytest.param("ve", marks=pytest.mark.e2e)])
def test_endpoints_of_another_solver(process):
  """Where SciPy, asked for high accuracy, took 16 points of a mixture: to 1e-8."""
  weights, means, stds = LAWS[process]
  target = GaussianMixture(weights, np.array(means), np.array(stds) ** 2)
  if process == "ve":
    grid = uniform(VarianceExploding(0.02, 10.0), 1, to_data=False)
  else:
    grid = uniform(VariancePreserving(0.1, 20.0), 1, t_min=1e-3, to_data=False)
  options = {"rtol": 1e-11, "atol": 1e-11, "max_steps": 20_000}
  run = jax.jit(functools.partial(adaptive_ode, KEY, target.predict, **options))
  found = run(jnp.asarray(ENDPOINTS[f"{process}_xT"]), grid)
  assert not found.status.any()
  np.testing.assert_allclose(found.x, ENDPOINTS[f"{process}_x_end"], 0, 1e-8)


def solution(noise, level):
  """The probability flow of N(m, STD^2 I): each point keeps its place in standard units."""
  return level.alpha * MEAN + noise * np.sqrt((level.alpha * STD) ** 2 + level.sigma**2)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "schedule",
  [
    VarianceExploding(0.02, 10.0),
    pytest.param(VariancePreserving(), marks=pytest.mark.e2e),
    LinearFlow(),
  ],
  ids=["ve", "vp", "flow"],
)
def test_tolerance_for_every_process(schedule):
  """Against the closed form of a Gaussian, also from pure noise; tolerances together or apart."""
  grid = uniform(schedule, 1, t_min=0.01, to_data=False)
  noise = np.random.default_rng(0).normal(size=(5, 2))
  x = solution(noise, grid[0])
  tolerances = np.array([1e-3, 1e-5, 1e-8])
  together = solve_to_each(x, grid, tolerances)
  for i, tolerance in enumerate(tolerances):
    # The solver bounds the error of a step: that of all of them is a few times larger.
    np.testing.assert_allclose(together.x[i], solution(noise, grid[1]), 0, 20 * tolerance)
    if isinstance(schedule, VarianceExploding):
      alone = solve(KEY, exact, x, grid, rtol=tolerance, atol=tolerance)
      np.testing.assert_allclose(together.x[i], alone.x, 1e-9)
      np.testing.assert_array_equal(together.nfe[i], alone.nfe)
  assert (together.nfe[0] < together.nfe[2]).all()


@pytest.mark.e2e
@pytest.mark.parametrize("to_data", [False, True])
def test_nfe_counts_calls(to_data):
  calls = []

  def predict(x, level):
    jax.debug.callback(lambda: calls.append(1))
    return gaussian().predict(x, level)

  grid = uniform(VarianceExploding(0.02, 10.0), 2, to_data=to_data)
  found = jax.jit(lambda x: adaptive_ode(KEY, predict, x, grid))(jnp.ones((1, 2)))
  jax.effects_barrier()
  assert found.nfe.shape == (1,) and found.nfe[0] > 20
  # A solver of fixed structure runs its first stage also where it has it from the step before.
  assert found.nfe[0] <= len(calls) <= found.nfe[0] * 7 / 6 + 3


@pytest.mark.e2e
def test_the_step_onto_the_data():
  """From the last noisy level x0 is returned, which is what the sampler says of it."""
  schedule = VarianceExploding(0.02, 10.0)
  noise = np.random.default_rng(0).normal(size=(2, 2))
  noisy, clean = uniform(schedule, 2, to_data=False), uniform(schedule, 3)
  x = jnp.asarray(solution(noise, noisy[0]))
  ends = [solve(KEY, exact, x, grid, rtol=1e-8).x for grid in (noisy, clean)]
  np.testing.assert_allclose(ends[1], jax.jit(exact)(ends[0], noisy[2]).x0, 1e-6)


@pytest.mark.e2e
def test_a_point_that_cannot_be_solved_hurts_no_other():
  """Too few steps; a jump to nan in half of the plane. Both say so, and give nan."""
  grid = uniform(VarianceExploding(0.02, 10.0), 2, to_data=False)
  x = jnp.asarray([[5.0, 5.0], [-8.0, 5.0]])

  def broken(x, level):
    pred = gaussian().predict(x, level)
    x0 = jnp.where(x[..., :1] < -2, jnp.nan, pred.x0)
    return Prediction.of(x, level, "x0", x0=x0)

  whole = solve(KEY, exact, x, grid, rtol=1e-4)
  found = solve(KEY, broken, x, grid)
  assert [STATUSES[s] for s in found.status] == ["solved", "no step is short enough"]
  np.testing.assert_allclose(found.x[0], whole.x[0], 1e-6)
  assert np.isnan(found.x[1]).all()
  short = solve(KEY, exact, x, grid, max_steps=2)
  assert [STATUSES[s] for s in short.status] == ["too many steps"] * 2
  assert np.isnan(short.x).all()


def centred(x, level):
  return GaussianMixture([1.0], np.zeros((1, 2)), np.array([0.25])).predict(x, level)


@pytest.mark.e2e
@pytest.mark.parametrize("data_std", [0.3, 1.0, 4.0])
def test_the_unit_of_the_angle_does_not_move_the_end(data_std):
  """On N(0, 0.25 I) the flow scales x by the ratio of the marginal stds, whatever s is."""
  variance = 0.25
  grid = uniform(VarianceExploding(0.05, 10.0), 4, to_data=False)
  x = 10.0 * jax.random.normal(jax.random.key(0), (5, 2))
  found = solve(KEY, centred, x, grid, rtol=1e-7, atol=1e-8, data_std=data_std)
  high, low = np.asarray(grid.levels.sigma, float)[[0, -1]]
  expected = x * np.sqrt((variance + low**2) / (variance + high**2))
  np.testing.assert_allclose(found.x, expected, rtol=1e-5, atol=1e-6)
