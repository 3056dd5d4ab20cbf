"""Deterministic samplers as maps: against closed forms, other quadrature, products and draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from scorelab import samplers
from scorelab.exact import GaussianLaw, flow_distances, flow_kl, gaussian_law
from scorelab.exact.quadrature import integrate
from scorelab.metrics import energy_distance
from scorelab.schedules import (
  LinearFlow,
  VarianceExploding,
  VariancePreserving,
  karras,
  uniform,
  uniform_log_snr,
)
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d
from scorelab.typing import Samples

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP, VE = VariancePreserving(), VarianceExploding(0.02, 10.0)


def gaussian(mean, variance):
  return GaussianMixture([1.0], [[mean]], [variance])


@pytest.mark.parametrize(
  ("name", "start"), [("dpmpp_2m", "prior"), pytest.param("heun", "true", marks=pytest.mark.e2e)]
)
def test_a_gaussian_in_closed_form(name, start):
  """All distances from the law that derivatives give; on a grid that ends in noise, too."""
  target, sampler = gaussian(0.7, 0.4), getattr(samplers, name)
  for grid in (karras(VP, 6), uniform(VP, 6, t_max=0.9, t_min=0.1, to_data=False)):
    law = gaussian_law(sampler, target, grid, start=start)
    last = target.perturbed(grid[-1].alpha, grid[-1].sigma)
    found = flow_distances(sampler, target.predict, target, grid, start=start)
    assert found["kl"].value == pytest.approx(law.kl(last), rel=1e-9)
    assert found["w2"].value == pytest.approx(law.w2(last), rel=1e-9)
    assert all(0 < exact.error <= 1e-8 * exact.value for exact in found.values())
    w1, energy = between(law, GaussianLaw.of(last))
    assert found["w1"].value == pytest.approx(w1, rel=1e-7)
    assert found["energy"].value == pytest.approx(energy, rel=1e-7)


def between(law, last):
  """W1 and the energy distance of two Gaussians, by SciPy's quadrature."""
  p, q = (scipy.stats.norm(g.mean[0], g.variances[0] ** 0.5) for g in (law, last))
  bounds = p.mean() - 12, p.mean() + 12
  options = {"limit": 500, "epsabs": 1e-13, "points": [p.mean(), q.mean()]}
  w1 = scipy.integrate.quad(lambda y: abs(p.cdf(y) - q.cdf(y)), *bounds, **options)[0]
  square = scipy.integrate.quad(lambda y: (p.cdf(y) - q.cdf(y)) ** 2, *bounds, **options)[0]
  return w1, 2 * square


@pytest.mark.e2e
def test_a_learned_score_of_another_law():
  """The wrong Gaussian's score: the law is that Gaussian's sampler's, the target another."""
  wrong, target, grid = gaussian(0.2, 0.9), gaussian(0.7, 0.4), karras(VE, 5)
  law = gaussian_law(samplers.dpmpp_2m, wrong, grid)
  found = flow_kl(samplers.dpmpp_2m, wrong.predict, target, grid)
  assert found.value == pytest.approx(law.kl(target), rel=1e-9)


def cubic(key, predict, x, grid):
  """Folds twice: x^3 / 4 - x."""
  y = x**3 / 4 - x
  return Samples(y, y[None], 1)


@pytest.mark.e2e
def test_folds_are_counted_and_summed_over():
  """x^3 / 4 - x of a standard normal: its density by the roots of a polynomial."""
  target, grid = gaussian(0.1, 2.0), karras(VP, 3)
  found = flow_distances(cubic, target.predict, target, grid)
  fold = (4 / 3) ** 0.5
  edge = abs(fold**3 / 4 - fold)
  goal, normal = scipy.stats.norm(0.1, 2.0**0.5), scipy.stats.norm()

  def roots(y):
    found = np.roots([0.25, 0, -1, -y])
    return found.real[abs(found.imag) < 1e-7 * (1 + abs(found.real))]

  def density(y):
    x = roots(y)
    return np.sum(normal.pdf(x) / abs(0.75 * x**2 - 1))

  def below(y):
    x = np.sort(roots(y))
    parts = normal.cdf(x)
    return parts[0] if len(x) == 1 else parts[0] + parts[2] - parts[1]

  def over(function):
    pieces = [(-60, -8), (-8, -edge), (-edge, 0), (0, edge), (edge, 8), (8, 60)]
    return sum(scipy.integrate.quad(function, *p, limit=400, epsabs=1e-10)[0] for p in pieces)

  kl = over(lambda y: density(y) * (np.log(density(y)) - goal.logpdf(y)))
  energy = 2 * over(lambda y: (below(y) - goal.cdf(y)) ** 2)
  w1 = over(lambda y: abs(below(y) - goal.cdf(y)))
  assert {exact.folds for exact in found.values()} == {2}
  assert found["kl"].value == pytest.approx(kl, rel=1e-6)
  assert found["energy"].value == pytest.approx(energy, rel=1e-6)
  assert found["w1"].value == pytest.approx(w1, rel=1e-5)
  assert all(exact.error < 1e-7 * exact.value for exact in found.values())

  def unfolded(x, _):
    logs = normal.logpdf(x) - np.log(abs(0.75 * x**2 - 1))
    return normal.pdf(x) * (logs - goal.logpdf(x**3 / 4 - x))

  single = integrate(unfolded, np.array([-9, -fold, fold, 9.0]))
  assert found["kl"].value - single.value[0] > 0.1


@pytest.mark.e2e
def test_modes_apart_by_draws():
  """Two modes, a start from the prior, folds and jumps: samples' energy distance and moments."""
  target, grid = two_modes_1d(separation=6.0), karras(VE, 5)
  found = flow_distances(samplers.dpmpp_2m, target.predict, target, grid)
  start = grid.schedule.prior_std(grid[0]) * jax.random.normal(jax.random.key(0), (20_000, 1))
  x = jax.jit(lambda x: samplers.dpmpp_2m(jax.random.key(0), target.predict, x, grid).x)(start)
  y = target.sample(jax.random.key(1), 20_000)
  drawn = energy_distance(None, x, y, unbiased=True)
  assert drawn == pytest.approx(found["energy"].value, abs=0.004)
  assert found["energy"].value > 0.01
  sorted_gap = np.sort(x[:, 0]) - np.sort(y[:, 0])
  assert np.mean(abs(sorted_gap)) == pytest.approx(found["w1"].value, abs=0.1)
  assert all(exact.error <= 1e-6 * exact.value for exact in found.values())


def product(first, second):
  """The law of independent coordinates, one from each of two mixtures on the line."""
  rows = [
    (wa * wb, [ma[0], mb[0]], [va[0], vb[0]])
    for wa, ma, va in zip(first.weights, first.means, first.variances, strict=True)
    for wb, mb, vb in zip(second.weights, second.means, second.variances, strict=True)
  ]
  return GaussianMixture(*(np.array(a, float) for a in zip(*rows, strict=True)))


@pytest.mark.e2e
@pytest.mark.parametrize("start", ["prior", "true"])
def test_independent_coordinates_add_up(start):
  """In the plane, KL of a product is the sum: two modes and a Gaussian, by other quadrature."""
  one, two, grid = two_modes_1d(separation=2.0, std=0.8), gaussian(0.3, 0.5), karras(VP, 5)
  run = functools.partial(flow_kl, samplers.ddim, start=start, grid=grid)
  both = product(one, two)
  found = run(predict=both.predict, target=both)
  parts = [run(predict=law.predict, target=law).value for law in (one, two)]
  assert found.value == pytest.approx(sum(parts), rel=1e-7)
  assert found.error < 1e-6 * found.value
  assert found.folds == 0


@pytest.mark.e2e
def test_a_multistep_method_folds_two_modes():
  """As docs/exact.md says: four folds in 8 steps on modes 20 apart."""
  modes = GaussianMixture([0.5, 0.5], [[-10.0], [10.0]], [1.0, 1.0])
  found = flow_kl(samplers.dpmpp_2m, modes.predict, modes, karras(VariancePreserving(), 8))
  assert found.folds == 4 and found.error < 1e-6 * found.value


@pytest.mark.e2e
def test_folds_in_the_plane_are_reported():
  def folding(key, predict, x, grid):
    return cubic(key, predict, x, grid)._replace(
      x=jnp.stack([x[:, 0] ** 3 / 4 - x[:, 0], x[:, 1]], 1)
    )

  target = product(gaussian(0.1, 2.0), gaussian(0.0, 1.0))
  found = flow_kl(folding, target.predict, target, karras(VP, 3))
  assert found.error == np.inf
  share = 2 * scipy.stats.norm.cdf((4 / 3) ** 0.5) - 1
  assert found.folds == pytest.approx(share, abs=0.02)  # its ends are between nodes
  line = flow_kl(cubic, target.predict, gaussian(0.1, 2.0), karras(VP, 3))
  assert found.value < line.value  # a lower bound


@pytest.mark.e2e
def test_more_steps_are_nearer():
  """On two modes by Heun's method: KL from the true start falls as a method of second order's."""
  target, errors = two_modes_1d(separation=2.0), []
  for num_steps in (32, 64):
    grid = uniform(LinearFlow(), num_steps, t_max=0.9, t_min=0.1, to_data=False)
    errors.append(flow_kl(samplers.heun, target.predict, target, grid, start="true").value)
  assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.1)  # the square of the error


@pytest.mark.parametrize(
  ("sampler", "options", "message"),
  [
    (samplers.adaptive_ode, {}, "adaptive_ode is no map: it adapts its steps"),
    (samplers.mala, {}, "mala is no map: it is a kernel"),
    (samplers.predictor_corrector, {}, "predictor_corrector is no map: it draws noise"),
    (samplers.ddim, {"eta": 0.5}, "ddim draws noise with these options, and is no map"),
    (samplers.ancestral, {}, "ancestral draws noise with these options"),
    (samplers.ddim, {"start": "truth"}, "start = 'truth' must be one of prior, true"),
  ],
)
def test_refusals_by_name(sampler, options, message):
  target = two_modes_1d()
  with pytest.raises(ValueError, match=message):
    flow_kl(sampler, target.predict, target, karras(VP, 3), **options)


def test_refused_targets():
  grid, wide = karras(VP, 3), GaussianMixture([1.0], np.zeros((1, 3)), [[1.0, 2.0, 3.0]])
  with pytest.raises(ValueError, match="of dimension 3 must be of dimension 1 or 2"):
    flow_kl(samplers.ddim, wide.predict, wide, grid)
  with pytest.raises(ValueError, match="no width along some axis"):
    flow_kl(samplers.ddim, gaussian(0.0, 1.0).predict, gaussian(0.0, 0.0), grid)


def test_quadrature_of_known_integrals():
  """A logarithm and a root at the ends of pieces, and a smooth function: to rounding."""
  breaks = np.array([-1.0, 0.5, 2.0])

  def functions(x, piece):
    return np.stack([np.log(abs(x - 0.5)), 1 / np.sqrt(abs(x - 0.5)), np.exp(x)])

  found = integrate(functions, breaks)
  exact = [3 * (np.log(1.5) - 1), 4 * 1.5**0.5, np.exp(2) - np.exp(-1)]
  np.testing.assert_allclose(found.value, exact, 1e-7)
  np.testing.assert_allclose(found.value[[0, 2]], [exact[0], exact[2]], 1e-12)
  assert (abs(found.value - exact)[[0, 2]] <= 10 * found.error[[0, 2]] + 1e-14).all()


@pytest.mark.e2e
@pytest.mark.parametrize("rtol", [0.1, 1e-3])
def test_modes_far_apart_in_the_plane(rtol):
  """Two modes 20 apart and 0.3 wide: an axis with both is the line's, the other a Gaussian's."""
  ve = VarianceExploding(0.02, 80.0)
  grid = uniform_log_snr(ve, 16, sigma_min=0.05)
  modes = GaussianMixture([0.3, 0.7], [[-10.0], [10.0]], [0.1, 0.1])
  plane = GaussianMixture([0.3, 0.7], [[-10.0, 0.0], [10.0, 0.0]], [0.1, 0.1])
  found = flow_kl(samplers.heun, plane.predict, plane, grid, rtol=rtol)
  other = gaussian_law(samplers.heun, gaussian(0.0, 0.1), grid).kl(gaussian(0.0, 0.1))
  line = flow_kl(samplers.heun, modes.predict, modes, grid).value
  assert found.value == pytest.approx(line + other, abs=found.error)
  assert found.error < rtol * found.value


def test_the_quadratures_tolerance_has_a_range():
  target = gaussian(0.0, 1.0)
  with pytest.raises(ValueError, match="rtol = 2 must be in"):
    flow_kl(samplers.heun, target.predict, target, karras(VP, 3), rtol=2)
