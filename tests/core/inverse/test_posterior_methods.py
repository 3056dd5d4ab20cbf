"""Methods predict -> predict: where theory says that they are exact, and by autodiff elsewhere."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.inverse import (
  POSTERIORS,
  Conditional,
  CountedPredict,
  Observation,
  ddnm,
  dps,
  mmps,
  pigdm,
  proximal,
  tmpd,
)
from scorelab.samplers import SAMPLERS, ancestral, ddim
from scorelab.schedules import Level, LinearFlow, VarianceExploding, VariancePreserving, karras
from scorelab.targets import GaussianMixture, grid25

LEVELS = {"ve": (1.0, 0.3), "vp": (0.6, 0.8), "noisy": (0.01, 1.0), "little": (1.0, 1e-3)}


def level_at(name):
  return Level(None, *(jnp.asarray(number) for number in LEVELS[name]))


def gaussian(d=4, isotropic=False):
  rng = np.random.default_rng(0)
  factor = rng.normal(size=(d, d))
  covariance = 0.49 * np.eye(d) if isotropic else factor @ factor.T / d + 0.1 * np.eye(d)
  return GaussianMixture([1.0], rng.normal(size=(1, d)), covariance[None])


def observation(d=4, m=2, noise_std=0.3):
  rng = np.random.default_rng(1)
  return Observation(rng.normal(size=(m, d)), rng.normal(size=m), noise_std)


def points(d=4):
  return jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, d)))


EXACT = {
  "pigdm": (lambda predict, seen: pigdm(predict, seen, prior_std=0.7), True),
  "tmpd": (tmpd, False),
  "mmps": (lambda predict, seen: mmps(predict, seen, iterations=2), False),
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("level", LEVELS)
def test_exact_on_a_gaussian(name, level, x64):
  """Score, x0 and log p(y | x_t) of the exact posterior, to rounding in float64."""
  method, isotropic = EXACT[name]
  target, seen, x, level = gaussian(isotropic=isotropic), observation(), points(), level_at(level)
  conditional = method(target.predict, seen)
  here, there = conditional.twist(x, level), target.given(seen).predict(x, level)
  scale = jnp.abs(there.score).max()
  np.testing.assert_allclose(here.posterior.score, there.score, atol=1e-9 * scale)
  np.testing.assert_allclose(here.posterior.x0, there.x0, atol=1e-9)
  if here.log_likelihood is not None:
    evidence = there.log_density - here.prior.log_density + target.log_evidence(seen)
    np.testing.assert_allclose(here.log_likelihood, evidence, atol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("name", EXACT)
def test_levels_may_be_batched_and_pure_noise(name, x64):
  """A level per point gives what each gives alone; at alpha = 0, x0 is the posterior mean of y."""
  method, isotropic = EXACT[name]
  target, seen, x = gaussian(isotropic=isotropic), observation(), points()[:, 0]
  levels = [level_at(name) for name in ("ve", "vp", "noisy")]
  stacked = Level(
    None, *(jnp.stack([getattr(one, f) for one in levels]) for f in Level._fields[1:])
  )
  together = method(target.predict, seen)(x, stacked)
  for i, level in enumerate(levels):
    alone = method(target.predict, seen)(x[i], level)
    np.testing.assert_allclose(together.score[i], alone.score, rtol=1e-9)
  pred = method(target.predict, seen)(x, Level(None, jnp.zeros(()), jnp.ones(())))
  expected = jnp.broadcast_to(target.given(seen).mean, x.shape)
  np.testing.assert_allclose(pred.x0, expected, atol=5e-3)  # of a signal of 1e-3


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dps", "pigdm"])
def test_fixed_covariances_by_autodiff(name, x64):
  """On a mixture: the gradient of log N(y; A x0(x), S) by autodiff of scipy's density."""
  target, seen, x, level = grid25(4), observation(m=2), points()[0, 0], level_at("vp")
  conditional = POSTERIORS[name](target.predict, seen)
  a = np.asarray(seen.matrix)
  spread = 0.0 if name == "dps" else 0.8**2 / (0.6**2 + 0.8**2)
  covariance = spread * a @ a.T + 0.3**2 * np.eye(2)

  def log_likelihood(x):
    mean = a @ target.predict(x, level).x0
    return jax.scipy.stats.multivariate_normal.logpdf(seen.y, mean, covariance)

  value, gradient = jax.value_and_grad(log_likelihood)(x)
  twisted = conditional.twist(x, level)
  np.testing.assert_allclose(twisted.log_likelihood, value, rtol=1e-9)
  np.testing.assert_allclose(twisted.posterior.score - twisted.prior.score, gradient, rtol=1e-8)
  x0 = (x + level.sigma**2 * twisted.posterior.score) / level.alpha
  np.testing.assert_allclose(twisted.posterior.x0, x0, rtol=1e-9)


@pytest.mark.e2e
def test_tmpd_takes_the_covariance_of_the_posterior(x64):
  """On a mixture: A Cov[x_0 | x_t] A' of `GaussianMixture.posterior`; MMPS agrees after m steps."""
  target, seen, x, level = grid25(4), observation(m=3), points()[0, 0], level_at("ve")
  posterior, a = target.posterior(x, level), seen.matrix
  covariance = a @ posterior.covariance @ a.T
  twisted = tmpd(target.predict, seen).twist(x, level)
  expected = jax.scipy.stats.multivariate_normal.logpdf(
    seen.y, a @ posterior.mean, covariance + 0.09 * jnp.eye(3)
  )
  np.testing.assert_allclose(twisted.log_likelihood, expected, rtol=1e-9)
  pull = posterior.covariance @ a.T
  residual = seen.y - a @ posterior.mean
  moved = pull @ jnp.linalg.solve(covariance + 0.09 * jnp.eye(3), residual)
  np.testing.assert_allclose(twisted.posterior.x0, posterior.mean + moved, rtol=1e-8)
  solved = mmps(target.predict, seen, iterations=3)(x, level)
  np.testing.assert_allclose(solved.x0, twisted.posterior.x0, rtol=1e-6)
  summed = tmpd(target.predict, seen, diagonal=True)(x, level)
  moved = pull @ (residual / (covariance.sum(1) + 0.09))
  np.testing.assert_allclose(summed.x0, posterior.mean + moved, rtol=1e-8)


@pytest.mark.e2e
@pytest.mark.parametrize("name", POSTERIORS)
def test_nothing_observed_changes_nothing(name, x64):
  target, x = grid25(4), points()
  conditional = POSTERIORS[name](target.predict, Observation(np.zeros((2, 4)), [1.0, 2.0], 0.3))
  here, there = conditional(x, level_at("vp")), target.predict(x, level_at("vp"))
  np.testing.assert_allclose(here.x0, there.x0, rtol=1e-12)
  np.testing.assert_allclose(here.score, there.score, rtol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(POSTERIORS.keys() - {"dps"}))
def test_an_invertible_a_without_noise_gives_its_point(name, x64):
  a, x0 = np.random.default_rng(3).normal(size=(4, 4)), np.array([1.0, -2.0, 3.0, 0.5])
  conditional = POSTERIORS[name](
    grid25(4).predict, Observation(a, a @ x0, 0.0), **({"iterations": 4} if name == "mmps" else {})
  )
  found = conditional(points(), level_at("ve")).x0
  # Conjugate gradients lose digits to the condition of A C A', about 1e4.
  np.testing.assert_allclose(found, jnp.broadcast_to(x0, (3, 2, 4)), atol=1e-5)


@pytest.mark.e2e
def test_ddnm_projects(x64):
  """A x0' = y; in the null space, and in the noise, it is the network's prediction."""
  target, seen, x = grid25(4), observation(noise_std=0.0), points()[0]
  a, level = np.asarray(seen.matrix), level_at("vp")
  pred, prior = ddnm(target.predict, seen)(x, level), target.predict(x, level)
  np.testing.assert_allclose(pred.x0 @ a.T, jnp.broadcast_to(seen.y, (2, 2)), atol=1e-10)
  null = np.eye(4) - np.linalg.pinv(a) @ a
  np.testing.assert_allclose(pred.x0 @ null, prior.x0 @ null, atol=1e-10)
  np.testing.assert_array_equal(pred.noise, prior.noise)


def test_the_proximal_step_is_stationary(x64):
  target, seen, x, level = grid25(4), observation(), points()[0, 0], level_at("vp")
  prior = target.predict(x, level)

  def objective(x0):
    fit = jnp.sum((seen.y - seen.matrix @ x0) ** 2) / (2 * 0.3**2)
    return fit + 2.5 * (0.6 / 0.8) ** 2 * jnp.sum((x0 - prior.x0) ** 2) / 2

  found = proximal(target.predict, seen, trust=2.5)(x, level).x0
  np.testing.assert_allclose(jax.grad(objective)(found), 0, atol=1e-9)


# One of each family takes a method with every change, the others by -m slow.
FAMILIES = {"ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "heun", "lms", "predictor_corrector"}


@pytest.mark.slow
def test_one_gaussian_of_a_public_note():
  """N(0, 1) seen as 1.5 with std 0.5: N(1.2, 0.447); ancestral steps of DPS and of MMPS.

  The note has mean 1.452 and std 0.356 for DPS, 1.179 and 0.446 for MMPS. Both of its means are
  0.021 to 0.024 below ours, as sampling errors of some 400 draws with one noise would be.
  """
  target, seen = GaussianMixture([1.0], [[0.0]], [1.0]), Observation([[1.0]], [1.5], 0.5)
  grid = karras(VariancePreserving(), 1000)

  @jax.jit
  def run(key):
    x = grid.prior(key, (20_000, 1))
    methods = {"dps": dps(target.predict, seen), "mmps": mmps(target.predict, seen)}
    found = {name: ancestral(key, m, x, grid).x for name, m in methods.items()}
    return found | {"flow": ddim(key, methods["dps"], x, grid).x}

  samples = run(jax.random.key(0))
  assert samples["flow"].mean() > 1.8 and samples["flow"].std() < 0.2  # of the same score
  for name, mean, std in (("dps", 1.452, 0.356), ("mmps", 1.179, 0.446)):
    x = samples[name]
    np.testing.assert_allclose(x.mean(), mean, atol=0.03)
    np.testing.assert_allclose(x.std(), std, atol=0.01)


def test_costs():
  """Products with J' per call, as declared: each method's own, counted in its program."""
  seen = observation(m=3)
  declared = {"dps": 1, "pigdm": 1, "tmpd": 4, "mmps": 4}
  for name, gradients in declared.items():
    conditional = POSTERIORS[name](grid25(4).predict, seen)
    assert isinstance(conditional, CountedPredict) and isinstance(conditional, Conditional)
    assert conditional.gradients == gradients
  assert tmpd(grid25(4).predict, seen, diagonal=True).gradients == 2


def test_dps_needs_noise():
  with pytest.raises(ValueError, match="noise_std = 0 must be > 0 for dps"):
    dps(grid25(4).predict, observation(noise_std=0.0))


@pytest.mark.e2e
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in FAMILIES else [pytest.mark.slow])
    for name in sorted(SAMPLERS.keys() - {"consistency", "feynman_kac"})
  ],
)
def test_every_sampler_takes_a_posterior_method(name):
  """On one Gaussian MMPS is exact: samples are those of the exact posterior, noise by noise.

  `feynman_kac` takes the variance of x_0 into its steps, which only the exact prediction has.
  """
  target, seen = gaussian(), observation()
  grid = karras(VarianceExploding(sigma_max=20.0), 12)
  options = (
    {"step_size": 1e-4} if "step_size" in inspect.signature(SAMPLERS[name]).parameters else {}
  )

  def run(predict):
    x = grid.prior(jax.random.key(0), (50, 4))
    return jax.jit(lambda: SAMPLERS[name](jax.random.key(1), predict, x, grid, **options).x)()

  here, there = run(mmps(target.predict, seen, iterations=2)), run(target.given(seen).predict)
  assert np.isfinite(there).all()
  np.testing.assert_allclose(here, there, atol=2e-3)


@pytest.mark.e2e
def test_flow_grids_start_at_pure_noise():
  target, seen, grid = gaussian(), observation(), karras(LinearFlow(), 10)
  for conditional in (tmpd(target.predict, seen), ddnm(target.predict, seen)):
    x = grid.prior(jax.random.key(0), (50, 4))
    assert np.isfinite(ddim(jax.random.key(1), conditional, x, grid).x).all()
