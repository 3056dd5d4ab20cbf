"""Girsanov's bound against Gaussians, for which every KL divergence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.metrics import girsanov
from scorelab.schedules import LinearFlow, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture, nine_modes

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

PROCESSES = {
  "ve": VarianceExploding(0.05, 10.0),
  "vp": VariancePreserving(0.1, 5.0),  # stops early: the prior is felt
  "flow": LinearFlow(),
}
DIM = 3
TRUTH, MODEL = (np.full(DIM, 0.5), 1.5), (np.full(DIM, -0.2), 0.8)  # mean and variance
KEY = jax.random.key(0)


def gaussian(mean, variance):
  return GaussianMixture(np.ones(1), mean[None], np.array([variance]))


def levels_of(schedule, num=100):
  ends = (schedule.log_snr(jnp.asarray(t)) for t in (schedule.t_max, max(schedule.t_min, 1e-2)))
  return schedule.at_log_snr(jnp.linspace(*ends, num))


def noised_law(law, level):
  mean, variance = law
  return level.alpha * mean, level.alpha**2 * variance + level.sigma**2


def kl(p, q):
  """KL(N(m, v I) || N(m', v' I))."""
  (m, v), (m2, v2) = p, q
  ratio = v / v2
  return (DIM * (ratio - 1 - np.log(ratio)) + np.sum((m - m2) ** 2) / v2) / 2


def measure(schedule, num_samples=20_000, num=100):
  levels = levels_of(schedule, num)
  noisiest, cleanest = (jax.tree.map(lambda a, i=i: a[i], levels) for i in (0, -1))
  prior_std = schedule.prior_std(noisiest)
  predict = gaussian(*MODEL).predict
  run = jax.jit(
    lambda key: girsanov(key, gaussian(*TRUTH), predict, levels, prior_std, num_samples)
  )
  return run(KEY), levels, noisiest, cleanest, (0 * TRUTH[0], prior_std**2)


@pytest.mark.e2e
@pytest.mark.parametrize("process", PROCESSES)
def test_the_exact_score_of_another_gaussian(process):
  """Two exact reverse SDEs differ, as paths, by the KL of their ends at little noise.

  So the integral is what KL(q_t || q'_t) gains from much noise to little; no score is needed.
  """
  found, levels, noisiest, cleanest, prior = measure(PROCESSES[process])
  assert found.density.shape == found.bound_sem.shape == levels.sigma.shape

  def apart(level):
    return kl(noised_law(TRUTH, level), noised_law(MODEL, level))

  gain = apart(cleanest) - apart(noisiest)
  # 4 standard errors, and 1e-3 of the value for the trapezoidal rule's 100 levels.
  assert abs(found.learning - gain) < 4 * found.learning_sem + 1e-3 * gain
  assert found.learning_sem < 0.02 * gain
  exact_prior = kl(noised_law(TRUTH, noisiest), prior)
  assert abs(found.prior - exact_prior) < 4 * found.prior_sem + 1e-12
  assert found.prior_sem < 0.05 * exact_prior
  np.testing.assert_allclose(found.total, found.prior + found.learning, 1e-12)
  np.testing.assert_allclose([found.bound[0], found.bound[-1]], [found.prior, found.total], 1e-12)
  middle = jax.tree.map(lambda a: a[60], levels)
  at_middle = exact_prior + apart(middle) - apart(noisiest)
  assert abs(found.bound[60] - at_middle) < 4 * found.bound_sem[60] + 1e-3 * at_middle


@pytest.mark.e2e
@pytest.mark.parametrize("process", PROCESSES)
def test_it_bounds_the_models_own_kl(process):
  """The model's law: where its reverse SDE, which is the MODEL's, goes from another start.

  Of jointly Gaussian x_t, x_T with x_t = (alpha_t / alpha_T) (x_T - noise) the conditional law is
  known, and the start is averaged over.
  """
  found, _, noisiest, cleanest, (prior_mean, prior_variance) = measure(PROCESSES[process])
  (mean, variance), (end_mean, end_variance) = (
    noised_law(MODEL, cleanest),
    noised_law(MODEL, noisiest),
  )
  gain = noisiest.alpha / cleanest.alpha * variance / end_variance
  left = variance - gain**2 * end_variance
  law = mean + gain * (prior_mean - end_mean), left + gain**2 * prior_variance
  actual = kl(noised_law(TRUTH, cleanest), law)
  assert 0 < actual < found.total + 4 * found.total_sem


@pytest.mark.e2e
def test_the_trapezoidal_rule_is_of_second_order():
  """On the same draws, halving the steps takes three quarters of the error away."""
  values = [measure(PROCESSES["ve"], 200, num)[0].learning for num in (13, 25, 49)]
  np.testing.assert_allclose((values[0] - values[1]) / (values[1] - values[2]), 4, rtol=0.1)


@pytest.mark.e2e
def test_the_exact_score_costs_nothing_and_a_wide_prior_little():
  target, schedule = nine_modes(), VarianceExploding(0.05, 1000.0)
  levels = levels_of(schedule, 4)
  found = girsanov(KEY, target, target.predict, levels, levels.sigma[0], 1000)
  assert found.learning == found.learning_sem == 0
  # Laws of variances 1 + e apart have KL e^2 / 4 for each coordinate: here of unequal e.
  excess = np.linalg.eigvalsh(target.covariance) / 1e6
  mean = float(jnp.sum(target.mean**2)) / 1e6 / 2
  np.testing.assert_allclose(found.prior, np.sum(excess**2) / 4 + mean, rtol=0.2)
  assert found.prior_sem < 0.1 * found.prior


def test_refusals():
  target, levels = nine_modes(), levels_of(VarianceExploding(), 3)
  with pytest.raises(ValueError, match="num_samples = 1 must be at least 2"):
    girsanov(KEY, target, target.predict, levels, 1.0, 1)
  with pytest.raises(ValueError, match=r"levels \(\) be \[L\]"):
    girsanov(KEY, target, target.predict, jax.tree.map(lambda a: a[0], levels), 1.0, 8)
