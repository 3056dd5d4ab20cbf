"""Exact laws of samplers: against recursions by hand, against draws, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from scorelab import samplers
from scorelab.exact import (
  GaussianLaw,
  end_law,
  gaussian_budget,
  gaussian_law,
  gaussian_laws,
  gaussian_laws_on,
  gaussian_path,
)
from scorelab.samplers import SAMPLERS
from scorelab.schedules import (
  LinearFlow,
  SubVP,
  VarianceExploding,
  VariancePreserving,
  karras,
  uniform,
)
from scorelab.targets.gaussian_mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP = VariancePreserving(0.1, 20.0)
PROCESSES = {
  "ve": (VarianceExploding(0.02, 10.0, 5.0), 0.9, 0.3),
  "vp": (VariancePreserving(), 0.9, 0.1),
  "sub-vp": (SubVP(), 0.9, 0.2),
  "flow": (LinearFlow(), 0.9, 0.1),
}
MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
AFFINE = {
  sampler: name
  for name, sampler in reversed(SAMPLERS.items())
  if name not in ("predictor_corrector", "consistency", "feynman_kac")
}


def diagonal(variances, mean=0.0):
  variances = np.asarray(variances, float)
  return GaussianMixture([1.0], np.full((1, len(variances)), mean), variances[None])


def digits():
  """The 64 eigenvalues of scikit-learn's digits, in units of a pixel's range."""
  return np.maximum(np.linalg.eigvalsh(np.cov(load_digits().data.T / 16)), 0)


# Pierret and Galerne's protocol


def recursion(scheme, lam, num_steps, eps, steps=None):
  """The variance of a centred Gaussian by eigenvalue, from N(0, 1) at t = 1 to eps, by hand.

  After all steps, or the first few.

  VP with beta_min = 0.1 and beta_max = 20, uniform times: arXiv 2405.14250, table 5. An SDE's step
  is written from its drift, the others from the posterior or from the flow in sigma / alpha.
  """
  t = np.linspace(1, eps, num_steps + 1)
  integral = 0.1 * t + 19.9 * t**2 / 2
  beta, alpha, var = 0.1 + 19.9 * t, np.exp(-integral / 2), -np.expm1(-integral)
  r = np.sqrt(var) / alpha
  v = np.ones_like(lam)

  def flow(r):  # dy / dr = noise = slope y
    return r / np.where(lam + r**2 > 0, lam + r**2, 1)

  for i in range(num_steps if steps is None else steps):
    dt, total = t[i] - t[i + 1], alpha[i] ** 2 * lam + var[i]
    noise, a, h = 0.0, alpha[i] / alpha[i + 1], r[i + 1] - r[i]
    if scheme == "euler_maruyama":
      gain, noise = 1 + dt * beta[i] * (0.5 - 1 / total), dt * beta[i]
    elif scheme == "euler_time":
      gain = 1 + dt * beta[i] / 2 * (1 - 1 / total)
    elif scheme in ("small", "large"):
      step = 1 - a**2  # DDPM's beta_i
      noise = step * (var[i + 1] / var[i] if scheme == "small" else 1)
      noise *= var[i + 1] > 0  # none is added to the data
      gain = (1 - step / total) / a  # DDPM, eq. 11, with noise = sigma x / total
    else:
      one, two = flow(r[i]), flow(r[i + 1])
      half = flow((r[i] + r[i + 1]) / 2)
      if scheme == "ddim":
        gain = 1 + h * one
      elif scheme == "heun":
        gain = 1 + h * (one + two * (1 + h * one)) / 2
      else:
        k2 = half * (1 + h / 2 * one)
        k3 = half * (1 + h / 2 * k2)
        gain = 1 + h / 6 * (one + 2 * k2 + 2 * k3 + two * (1 + h * k3))
      gain = gain / a
    v = gain**2 * v + noise
  return v


SCHEMES = {
  "euler_maruyama": ("euler_maruyama", {}),
  "euler_time": ("euler_time", {}),
  "small": ("ancestral", {"variance": "small"}),
  "large": ("ancestral", {"variance": "large"}),
  "ddim": ("ddim", {}),  # the exponential integrator of the flow
  "heun": ("heun", {}),
  "rk4": ("rk4", {}),
}


def check_protocol(scheme, num_steps, eps, lam):
  name, options = SCHEMES[scheme]
  grid = uniform(VP, num_steps, t_max=1.0, t_min=eps, to_data=False)
  target = diagonal(lam)
  law = gaussian_law(SAMPLERS[name], target, grid, **options)
  expected = recursion(scheme, lam, num_steps, eps)
  np.testing.assert_allclose(law.variances, expected, 1e-10, 1e-17)  # of variances up to 1
  np.testing.assert_array_equal(law.mean, 0)
  by_hand = np.sqrt(np.sum((np.sqrt(expected) - np.sqrt(lam)) ** 2))
  assert law.w2(target) == pytest.approx(by_hand, rel=1e-8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_published_protocol_on_digits(scheme):
  for eps in (1e-5, 1e-3):
    check_protocol(scheme, 50, eps, digits())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_steps", [50, 250, 500, 1000])
def test_published_protocol(scheme, num_steps):
  """All of the table's steps and ends, on the digits and on 3072 eigenvalues k^-1.5."""
  for eps in (0, 1e-5, 1e-4, 1e-3, 1e-2):
    for lam in (digits(), np.arange(1, 3073) ** -1.5):
      check_protocol(scheme, num_steps, eps, lam)


@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["euler_maruyama", "small", "heun"])
def test_laws_after_every_step_of_the_protocol(scheme):
  """The recursion stopped there, on more axes than the interpolation has points."""
  name, options = SCHEMES[scheme]
  lam = np.append(0.0, np.arange(1, 301) ** -1.5)
  grid = uniform(VP, 12, t_max=1.0, t_min=1e-3, to_data=False)
  path = gaussian_path(SAMPLERS[name], diagonal(lam), grid, **options)
  assert len(path) == 13
  for steps, law in enumerate(path):
    expected = recursion(scheme, lam, 12, 1e-3, steps)
    np.testing.assert_allclose(law.variances, expected, 1e-10, 1e-17)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "scheme",
  ["euler_maruyama", *(pytest.param(s, marks=pytest.mark.slow) for s in ("small", "heun"))],
)
def test_laws_after_each_of_a_thousand_steps(scheme):
  name, options = SCHEMES[scheme]
  lam = np.arange(1, 3073) ** -1.5
  grid = uniform(VP, 1000, t_max=1.0, t_min=1e-5, to_data=False)
  path = gaussian_path(SAMPLERS[name], diagonal(lam), grid, **options)
  for steps in (0, 1, 10, 500, 999, 1000):
    expected = recursion(scheme, lam, 1000, 1e-5, steps)
    np.testing.assert_allclose(path[steps].variances, expected, 1e-10, 1e-17)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m_sde", "deis"])
def test_the_last_law_of_a_path(name):
  """Histories, noise, a mean, rotated axes, both starts: the law of the whole run."""
  target, grid = GaussianMixture([1.0], MEAN[None], COVARIANCE[None]), karras(VP, 6)
  for start in ("prior", "true"):
    path = gaussian_path(SAMPLERS[name], target, grid, start=start)
    law = gaussian_law(SAMPLERS[name], target, grid, start=start)
    np.testing.assert_allclose(path[-1].mean, law.mean, rtol=1e-11)
    np.testing.assert_allclose(path[-1].covariance, law.covariance, rtol=1e-10)


# Histories, starts, bases


def test_a_multistep_method_by_its_transfer_matrix():
  """DPM-Solver++(2M), eqs. in algorithm 2, on a VE grid of equal steps in log-SNR: (y, last x0)."""
  lam, steps, h = 0.7, 9, 0.4
  ratios = 5.0 * np.exp(-h * np.arange(steps + 1))
  schedule = VarianceExploding(0.02, 10.0, 5.0)
  grid = schedule.grid_at(schedule.at_ratio(ratios), to_data=False)
  state = np.array([1.0, 0.0])
  for i in range(steps):
    now = lam / (lam + ratios[i] ** 2) * state[0]  # x0
    mixed = now if i == 0 else 1.5 * now - 0.5 * state[1]
    state = np.array([np.exp(-h) * state[0] - np.expm1(-h) * mixed, now])
  law = gaussian_law(samplers.dpmpp_2m, diagonal([lam]), grid)
  assert law.variances[0] == pytest.approx((state[0] * ratios[0]) ** 2, rel=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ancestral", "dpmpp_2m", "dpmpp_sde", "ancestral optimal"])
def test_axes_are_only_axes(name):
  """A full covariance gives the law of its axes; 'optimal' asks for coordinates' variances."""
  name, *option = name.split()
  options = {"variance": option[0]} if option else {}
  grid = karras(VP, 5)
  values, basis = np.linalg.eigh(COVARIANCE)
  full = GaussianMixture([1.0], MEAN[None], COVARIANCE[None])
  turned = gaussian_law(SAMPLERS[name], full, grid, **options)
  along = GaussianMixture([1.0], (basis.T @ MEAN)[None], values[None])
  law = gaussian_law(SAMPLERS[name], along, grid, **options)
  if option:
    # The diagonal of the posterior covariance differs from axes to axes.
    assert abs(turned.w2(full) / law.w2(along) - 1) > 0.01
    assert draws("ancestral", full, grid, turned, options) < 4
    return
  np.testing.assert_allclose(turned.mean, basis @ law.mean, 1e-10)
  np.testing.assert_allclose(turned.covariance, basis @ law.covariance @ basis.T, 1e-9, 1e-12)
  assert turned.kl(full) == pytest.approx(law.kl(along), rel=1e-8)


def test_the_budget_has_two_parts():
  """Many steps leave the prior: known in closed form for the flow, forgotten by the reverse SDE."""
  lam = np.array([0.3, 2.0])
  target = diagonal(lam, mean=1.0)
  grid = uniform(LinearFlow(), 400, t_max=0.8, t_min=0.1, to_data=False)
  budget = gaussian_budget(samplers.rk4, target, grid, distance="w2")
  assert budget.value == budget.discretisation + budget.prior
  assert budget.discretisation < 1e-6 < budget.prior
  now, end = GaussianLaw.of(target).noised(0.2, 0.8), end_law(target, grid)
  gain = np.sqrt(end.variances / now.variances)
  flowed = GaussianLaw(end.mean - gain * now.mean, gain**2)
  assert budget.value == pytest.approx(flowed.w2(end), rel=1e-6)
  for distance in ("kl", "reverse_kl"):
    rk4 = gaussian_budget(samplers.rk4, target, grid, distance=distance)
    ddpm = gaussian_budget(samplers.ancestral, target, grid, distance=distance, variance="optimal")
    assert ddpm.discretisation < 1e-20  # exact on a Gaussian
    assert rk4.prior > 10 * ddpm.prior > 0


@pytest.mark.e2e
def test_options_are_the_samplers(x64):
  """Floats are traced and others static; options of noise make the law wider."""
  grid, target = karras(VP, 6), diagonal([0.5, 2.0])
  quiet, noisy = (gaussian_law(samplers.heun, target, grid, churn=c) for c in (0.0, 4.0))
  np.testing.assert_array_equal(
    quiet.variances, gaussian_law(samplers.heun, target, grid).variances
  )
  assert not np.allclose(quiet.variances, noisy.variances, rtol=1e-3)
  bound = functools.partial(samplers.heun, churn=4.0)
  np.testing.assert_allclose(gaussian_law(bound, target, grid).variances, noisy.variances, 1e-13)


def test_float32_is_not_kept():
  """The law is computed in float64 outside of its context too."""
  with jax.enable_x64(False):
    law = gaussian_law(samplers.ddim, diagonal([0.5]), uniform(VP, 4), eta=1.0)
  wide = gaussian_law(samplers.ddim, diagonal([0.5]), uniform(VP, 4), eta=1.0)
  assert law.variances.dtype == np.float64
  np.testing.assert_allclose(law.variances, wide.variances, 1e-5)


# Draws


def draws(name, target, grid, law, options, number=400_000):
  """The largest deviation of moments of the sampler's paths from a law, in standard errors."""

  @jax.jit
  def run(key):
    start, noise = jax.random.split(key)
    x = grid.schedule.prior_std(grid[0]) * jax.random.normal(start, (number, target.dim))
    x = SAMPLERS[name](noise, target.predict, x, grid, **options).x - law.mean[None]
    products = x[:, :, None] * x[:, None, :]
    errors = []
    for values, truth in ((x, jnp.zeros(x.shape[1])), (products, jnp.asarray(law.covariance))):
      spread = jnp.std(values, axis=0) / number**0.5
      errors.append(jnp.max(jnp.abs(jnp.mean(values, axis=0) - truth) / spread))
    return jnp.stack(errors)

  return float(np.max(run(jax.random.key(0))))


def against_paths(name, processes):
  """The deviation of 400,000 paths from a sampler's law on each process, in standard errors."""
  options = {"ddim": {"eta": 0.7}, "euler": {"churn": 3.0}, "heun": {"churn": 3.0}}.get(name, {})
  target = GaussianMixture([1.0], MEAN[None], COVARIANCE[None])
  found = []
  for process in processes:
    schedule, high, low = PROCESSES[process]
    grid = uniform(schedule, 5, t_max=high, t_min=low, to_data=False)
    law = gaussian_law(SAMPLERS[name], target, grid, **options)
    found.append(draws(name, target, grid, law, options))
  return found


# One of each family is tested with every change, the others by -m slow.
FAMILIES = {"ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s_ancestral", "heun", "lms"}


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("name", "process"),
  [
    pytest.param(name, process, marks=[] if name in FAMILIES else [pytest.mark.slow])
    for name, process in zip(sorted(AFFINE.values()), itertools.cycle(PROCESSES), strict=False)
  ],
)
def test_every_sampler_against_paths(name, process):
  """Mean and covariance, each sampler on one of the processes in turn."""
  assert against_paths(name, [process])[0] < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(AFFINE.values()))
def test_every_sampler_and_process_against_paths(name):
  """Within 3 standard errors, one in 20."""
  found = against_paths(name, PROCESSES)
  assert max(found) < 4
  assert sorted(found)[1] < 3


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "annealed_langevin"])
def test_two_samplers_against_paths(name):
  schedule, high, low = PROCESSES["vp"]
  grid = uniform(schedule, 5, t_max=high, t_min=low, to_data=False)
  target = diagonal([0.5, 2.0], 1.0)
  options = {"step_size": 1e-3, "steps_per_level": 2} if name == "annealed_langevin" else {}
  law = gaussian_law(SAMPLERS[name], target, grid, **options)
  assert draws(name, target, grid, law, options, 100_000) < 4


# Refusals


@pytest.mark.parametrize(
  ("sampler", "options", "message"),
  [
    (samplers.adaptive_ode, {}, "adaptive_ode has no exact law: it adapts its steps"),
    (
      samplers.predictor_corrector,
      {},
      "predictor_corrector has no exact law: it takes steps whose",
    ),
    (samplers.mala, {}, "mala has no exact law: it accepts or rejects"),
    (samplers.ula, {}, "ula has no exact law: it is a kernel"),
    (samplers.consistency, {}, "consistency has no exact law: it takes the ends of flow lines"),
    (functools.partial(samplers.mala, thin=1), {}, "mala has no exact law"),
    (samplers.euler_time, {"squash": True}, "euler_time is not affine in x"),
    (samplers.ancestral, {"variance": "learned"}, "needs a prediction with variance_fraction"),
    (samplers.ddim, {"start": "truth"}, "start = 'truth' must be one of prior, true"),
  ],
)
def test_refusals_by_name(sampler, options, message):
  grid = uniform(PROCESSES["vp"][0], 3)
  with pytest.raises(ValueError, match=message):
    gaussian_law(sampler, diagonal([0.5], 0.3), grid, **options)


def test_clipped_predictions_are_found_out():
  """A sampler that clips is not affine; one that keeps the norm of its noise is not either."""

  def clipping(key, predict, x, grid):
    return samplers.ddim(key, lambda x, level: predict(jnp.clip(x, -1, 1), level), x, grid)

  def normed(key, predict, x, grid):
    samples = samplers.ddim(key, predict, x, grid, eta=1.0)
    return samples._replace(x=samples.x * jnp.sqrt(1 + jnp.sum(x**2)))

  for sampler in (clipping, normed):
    with pytest.raises(ValueError, match=f"{sampler.__name__} is not affine"):
      gaussian_law(sampler, diagonal([0.5]), karras(VP, 4))


@pytest.mark.e2e
@pytest.mark.parametrize(
  "sampler", [samplers.dpmpp_2m_sde, samplers.heun], ids=lambda s: s.__name__
)
@pytest.mark.parametrize("basis", [None, np.linalg.eigh(COVARIANCE)[1]], ids=["axes", "turned"])
def test_laws_on_many_grids_are_those_of_each(sampler, basis):
  """To 1e-9: one program, vectorised differently."""
  covariance = np.diag([1.0, 0.3]) if basis is None else COVARIANCE
  target = GaussianMixture([1.0], MEAN[None], covariance[None])
  grids = [karras(VP, 5, rho=rho) for rho in (2.0, 5.0, 7.0)]
  together = gaussian_laws_on(grids, sampler, target)
  for grid, laws in zip(grids, together, strict=True):
    for start, law in gaussian_laws(sampler, target, grid).items():
      np.testing.assert_allclose(laws[start].mean, law.mean, 1e-9, 1e-12)
      np.testing.assert_allclose(laws[start].covariance, law.covariance, 1e-9, 1e-12)
  with pytest.raises(ValueError, match="grids must be of as many steps"):
    gaussian_laws_on([*grids, karras(VP, 6)], sampler, target)
