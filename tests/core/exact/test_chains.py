"""KL of the data from the ancestral sampler: Gaussians, recursions, draws, bounds, refusals."""

import itertools

import jax
import numpy as np
import pytest

from scorelab.exact import GaussianLaw, chains, cleanest_level, gaussian_path, sde_certificate
from scorelab.samplers import ancestral
from scorelab.schedules import VarianceExploding, VariancePreserving, karras, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import nine_modes, two_modes_1d

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP = VariancePreserving()


def ve_grid(steps=8, low=0.02, high=10.0):
  """Geometric levels, in float64."""
  return uniform_log_snr(VarianceExploding(low, high), steps, to_data=False)


def normal(gap, std):
  """Density of N(0, std^2)."""
  return np.exp(-((gap / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))


GAUSSIANS = {
  1: ([1.0], [[0.7]], [0.4]),
  2: ([1.0], [[0.7, -0.3]], [[[1.0, 0.6], [0.6, 0.8]]]),
  3: ([1.0], [[0.0] * 3], [1.0]),
}


@pytest.mark.parametrize(
  ("dim", "make"),
  [
    (1, ve_grid),
    (1, lambda: uniform_log_snr(VP, 8, sigma_min=0.05, to_data=False)),
    pytest.param(2, ve_grid, marks=pytest.mark.e2e),
    pytest.param(2, lambda: karras(VP, 12, sigma_min=0.1), marks=pytest.mark.e2e),
  ],
  ids=["1-ve", "1-vp", "2-ve", "2-vp-to-data"],
)
def test_a_gaussian_in_closed_form(dim, make):
  """After none of the steps, some of them and all noisy ones, within 1e-8 and within the error."""
  target, grid = GaussianMixture(*GAUSSIANS[dim]), make()
  at = (0, 4, 11 if grid.ends_at_data else 8)
  path = gaussian_path(ancestral, target, grid)
  for index, found in zip(at, sde_certificate(target.predict, target, grid, at), strict=True):
    truth = GaussianLaw.of(target).noised(float(grid[index].alpha), float(grid[index].sigma))
    expected = truth.kl(path[index])
    assert found.value == pytest.approx(expected, abs=1e-8)
    assert abs(found.value - expected) <= found.error < 1e-4


def recursion(target, sigmas, prior_std, nodes=4000):
  """KL after every step, by sums over one grid of the line, from the data's own density.

  The kernel is eq. 7 of Ho et al. 2020 for alpha = 1, with E[x_0 | x_t] by quadrature over x_0.
  """
  x = np.linspace(-25, 25, nodes)
  cell = x[1] - x[0]
  x0 = np.linspace(-6, 6, 1500)
  data = np.exp(target.log_prob(x0[:, None]))

  model, found = normal(x, prior_std), []
  for now, nxt in zip(sigmas, [*sigmas[1:], None], strict=True):
    joint = data * normal(x[:, None] - x0, now)
    truth = joint.sum(1) * (x0[1] - x0[0])
    kept = truth > 1e-14
    found.append(cell * np.sum(truth[kept] * np.log(truth[kept] / model[kept])))
    if nxt is not None:
      mean = np.divide(joint @ x0, joint.sum(1), where=joint.sum(1) > 0, out=0 * x)
      share = nxt**2 / now**2
      kernel = normal(x - (share * x + (1 - share) * mean)[:, None], nxt * np.sqrt(1 - share))
      model = cell * model @ kernel
  return found


@pytest.mark.e2e
def test_two_modes_by_another_recursion():
  target = two_modes_1d()
  grid = ve_grid(5, 0.3, 3.0)
  expected = recursion(target, np.asarray(grid.levels.sigma), grid.schedule.prior_std(grid[0]))
  found = sde_certificate(target.predict, target, grid, range(6))
  assert [kl.value for kl in found] == pytest.approx(expected, abs=2e-9)
  for kl, other in zip(found, expected, strict=True):
    assert abs(kl.value - other) <= kl.error < 1e-6


@pytest.mark.e2e
def test_two_modes_in_the_plane_are_those_of_the_line_and_a_gaussian():
  """Independent coordinates add up, also after a rotation, which the lattice knows nothing of."""
  line, other = two_modes_1d(separation=4.0), GaussianMixture([1.0], [[0.0]], [0.25])
  grid, at = ve_grid(low=0.1), (0, 4, 8)
  turn = np.array([[np.cos(0.5), np.sin(0.5)]])
  plane = GaussianMixture(line.weights, np.asarray(line.means) * turn, [0.25, 0.25])
  on_line, across = (sde_certificate(t.predict, t, grid, at) for t in (line, other))
  found = sde_certificate(plane.predict, plane, grid, at)
  for kl, one, two in zip(found, on_line, across, strict=True):
    assert kl.value == pytest.approx(one.value + two.value, abs=1e-6)
    assert abs(kl.value - one.value - two.value) <= kl.error < 1e-4


@pytest.mark.e2e
def test_draws_have_the_moments_of_the_law(monkeypatch):
  """Mean, covariance and E cos of 40,000 paths at the last level, within 4 standard errors."""
  means = [[-2.0, 0.0], [1.0, 1.5], [1.0, -2.0]]
  target, clouds = GaussianMixture([0.5, 0.3, 0.2], means, [0.3, 0.1, 0.2]), []

  def kept(law, cloud):
    clouds.append(cloud)
    return divergence(law, cloud)

  divergence = chains._divergence
  monkeypatch.setattr(chains, "_divergence", kept)
  grid = ve_grid(5, 0.2, 8.0)
  (found,) = sde_certificate(target.predict, target, grid, [5])
  assert 0 < found.error < 1e-4 < found.value
  y, mass = clouds[0].nodes.reshape(-1, 2), clouds[0].mass.ravel()
  first, second = jax.random.split(jax.random.key(0))
  start = grid.prior(first, (40_000, 2))
  x = np.asarray(jax.jit(lambda x: ancestral(second, target.predict, x, grid).x)(start))

  def features(x):
    a, b = x.T
    return np.stack([a, b, a * a, a * b, b * b, np.cos(3 * a), np.cos(3 * b)])

  drawn, expected = features(x), features(y) @ mass
  sem = drawn.std(axis=1) / 200
  assert np.all(np.abs(drawn.mean(axis=1) - expected) < 4 * sem)
  clean = target.perturbed(1.0, 0.2)
  assert abs(float(clean.variance[0] + clean.mean[0] ** 2) - expected[2]) > 4 * sem[2]


def path_divergence(target, grid):
  """KL of the paths down to every level, by quadrature, for alpha = 1 and the exact score.

  A step's is E log q(x_s | x_t) - E log N(x_s; m, v), with q(x_s | x_t) by Bayes' rule and
  E |x_s - m|^2 = v + (1 - r^2)^2 E Var[x_0 | x_t].
  """
  sigmas = np.asarray(grid.levels.sigma)
  x = np.linspace(-90, 90, 45_001)[:, None]
  entropies, spreads = [], []
  for level in grid:
    log_prob = np.asarray(target.perturbed(1.0, level.sigma).log_prob(x))
    weights = np.exp(log_prob) * (x[1, 0] - x[0, 0])
    entropies.append(-weights @ log_prob)
    spreads.append(weights @ np.asarray(target.predict(x, level).x0_variance[:, 0]))
    if len(entropies) == 1:
      prior = normal(x[:, 0], float(grid.schedule.prior_std(level)))
      total = [weights @ (log_prob - np.log(prior))]
  for i, (now, nxt) in enumerate(itertools.pairwise(sigmas)):
    share, beta = (nxt / now) ** 2, now**2 - nxt**2
    v = nxt**2 * (1 - share)
    true = entropies[i] - entropies[i + 1] - np.log(2 * np.pi * np.e * beta) / 2
    own = -np.log(2 * np.pi * v) / 2 - (v + (1 - share) ** 2 * spreads[i]) / (2 * v)
    total.append(total[-1] + true - own)
  return total


@pytest.mark.e2e
def test_a_marginal_costs_at_most_its_paths():
  """The data-processing inequality, at every level; the first level's is the prior's."""
  target, grid = two_modes_1d(), ve_grid()
  bound = path_divergence(target, grid)
  found = sde_certificate(target.predict, target, grid, range(9))
  assert found[0].value == pytest.approx(bound[0], rel=1e-9)
  for kl, most in zip(found[1:], bound[1:], strict=True):
    assert 0 < kl.value < most


@pytest.mark.e2e
def test_many_steps_give_the_reverse_sde():
  """With the exact score its law at t is the prior seen through the data's own q(x_t | x_T).

  p_t(x) / q_t(x) = int N(y; x, sigma_T^2 - sigma_t^2) prior(y) / q_T(y) dy, and KL is less than
  the prior's. The excess falls as the number of steps squared, about.
  """
  target, (top, *_, clean) = two_modes_1d(), ve_grid()
  y, x = np.linspace(-80, 80, 4001), np.linspace(-6, 6, 1001)
  noisy, law = (target.perturbed(1.0, level.sigma) for level in (top, clean))
  prior_std = float(ve_grid().schedule.prior_std(top))
  tilt = normal(y, prior_std) / np.exp(noisy.log_prob(y[:, None]))
  width = float(np.sqrt(top.sigma**2 - clean.sigma**2))
  ratio = normal(y - x[:, None], width) @ tilt * (y[1] - y[0])
  limit = -np.sum(np.exp(law.log_prob(x[:, None])) * np.log(ratio)) * (x[1] - x[0])
  excess = []
  for steps in (32, 64, 128):
    grid = ve_grid(steps)
    prior, last = sde_certificate(target.predict, target, grid, (0, steps))
    assert last.error < 1e-6
    excess.append(last.value - limit)
  assert 0 < limit < 0.1 * prior.value
  assert 3.5 < excess[0] / excess[1] < 6 and 3.5 < excess[1] / excess[2] < 6


@pytest.mark.e2e
@pytest.mark.parametrize("dim", [1, 2])
def test_a_wrong_score_costs_more(dim):
  """Another weight of the modes, in which the end differs by their KL and more."""
  means = np.zeros((2, dim))
  means[:, 0] = -2.0, 2.0
  target = GaussianMixture([0.4, 0.6], means, [0.3, 0.3])
  wrong = GaussianMixture([0.6, 0.4], means, [0.3, 0.3])
  grid = ve_grid(16, 0.1)
  exact, other = (sde_certificate(t.predict, target, grid, [16])[0] for t in (target, wrong))
  by_mode = 0.4 * np.log(0.4 / 0.6) + 0.6 * np.log(0.6 / 0.4)
  assert other.value > exact.value + 0.8 * by_mode
  assert other.error < 1e-4


def test_a_law_without_mass_where_the_data_are():
  """KL is infinite to rounding, and says so."""
  wrong = GaussianMixture([1.0], [[40.0]], [0.4])
  target = GaussianMixture(*GAUSSIANS[1])
  found = sde_certificate(wrong.predict, target, ve_grid(), (0, 8))
  assert found[0].error < 1e-9
  assert found[1].value == found[1].error == np.inf


def test_levels_that_need_too_many_nodes_are_refused_by_name():
  target, grid = nine_modes(), ve_grid(128, high=80.0)
  reach = cleanest_level(target, grid)
  assert 64 < reach < 128
  with pytest.raises(
    ValueError, match=r"sigma / alpha = 0.02 needs too many nodes on this grid of"
  ):
    sde_certificate(target.predict, target, grid, (0, reach, 128))
  assert cleanest_level(two_modes_1d(), grid) == 128


@pytest.mark.parametrize(
  ("dim", "at", "message"),
  [
    (3, [0], "of dimension 1 or 2"),
    (1, [], r"at = \[\] must be increasing indices of noisy levels, from 0 to 5"),
    (1, [2, 1], r"at = \[2, 1\] must be increasing"),
    (1, [-1], r"at = \[-1\] must be increasing"),
    (1, [6], r"at = \[6\] must be increasing indices of noisy levels, from 0 to 5"),
  ],
)
def test_refusals(dim, at, message):
  """The data are no noisy level: the last step has no noise."""
  target = GaussianMixture(*GAUSSIANS[dim])
  with pytest.raises(ValueError, match=message):
    sde_certificate(target.predict, target, karras(VP, 6), at)
