"""Stochastic one-step samplers on the line: against Gaussian laws, draws, and what is refused."""

import jax
import pytest

from scorelab import samplers
from scorelab.exact import GaussianLaw, gaussian_law, step_distances
from scorelab.metrics import energy_distance
from scorelab.schedules import VarianceExploding, VariancePreserving, karras, uniform
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP, VE = VariancePreserving(), VarianceExploding(0.02, 10.0)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("ddim", {"eta": 0.5}),
    pytest.param("ancestral", {"variance": "large"}, marks=pytest.mark.e2e),
    pytest.param("euler_maruyama", {}, marks=pytest.mark.slow),
    pytest.param("dpmpp_2s_ancestral", {"eta": 0.7}, marks=pytest.mark.slow),
    pytest.param("renoise", {}, marks=pytest.mark.e2e),
  ],
)
def test_a_gaussian_in_closed_form(name, options):
  """To the data by a last map, and to a noisy level."""
  target, sampler = GaussianMixture([1.0], [[0.7]], [0.4]), getattr(samplers, name)
  grids = karras(VP, 5, sigma_min=0.1), uniform(VP, 5, t_max=0.9, t_min=0.1, to_data=False)
  for grid in grids:
    law = gaussian_law(sampler, target, grid, **options)
    last = GaussianLaw.of(target.perturbed(grid[-1].alpha, grid[-1].sigma))
    found = step_distances(sampler, target.predict, target, grid, **options)
    assert found["kl"].value == pytest.approx(law.kl(last), rel=1e-7)
    assert found["w2"].value == pytest.approx(law.w2(last), rel=1e-7)
    assert all(exact.error <= 1e-6 * exact.value for exact in found.values())


@pytest.mark.parametrize(
  ("name", "options"), [("ancestral", {"variance": "optimal"}), ("ddim", {"eta": 1.0})]
)
@pytest.mark.e2e
def test_two_modes_by_draws(name, options):
  """The energy distance of 20,000 paths; 'optimal' noise depends on x."""
  target, grid, sampler = two_modes_1d(), karras(VE, 4, sigma_min=0.1), getattr(samplers, name)
  found = step_distances(sampler, target.predict, target, grid, **options)
  first, second, third = jax.random.split(jax.random.key(0), 3)
  start = grid.schedule.prior_std(grid[0]) * jax.random.normal(first, (20_000, 1))
  x = jax.jit(lambda k, x: sampler(k, target.predict, x, grid, **options).x)(second, start)
  drawn = energy_distance(None, x, target.sample(third, 20_000), unbiased=True)
  assert drawn == pytest.approx(found["energy"].value, abs=0.006)  # 3 standard errors
  assert found["energy"].value > 0.01
  assert all(exact.error <= 1e-6 * exact.value for exact in found.values())


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("sampler", "options", "message"),
  [
    (samplers.dpmpp_2m_sde, {}, "dpmpp_2m_sde is no chain of one-step moves: it keeps a history"),
    (samplers.dpmpp_sde, {}, "dpmpp_sde takes 2 draws a step, must take 1"),
    (samplers.heun, {"churn": 5.0}, "heun is not affine in its noise|heun is no chain"),
    (samplers.rk4, {}, "rk4 draws no noise: use flow_distances"),
    (samplers.ddim, {}, "step 0 adds no noise, which only the last may: use flow_distances"),
    (samplers.predictor_corrector, {}, "predictor_corrector has no exact law"),
  ],
)
def test_refusals_by_name(sampler, options, message):
  target = two_modes_1d()
  with pytest.raises(ValueError, match=message):
    step_distances(sampler, target.predict, target, karras(VE, 4), **options)
