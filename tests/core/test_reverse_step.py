"""A network that gives reverse steps, against conditioning of Gaussians by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.losses import LOSSES
from scorelab.losses.variational import bound_terms
from scorelab.predictions import ReverseStep, time_index
from scorelab.samplers import SAMPLERS
from scorelab.samplers.ancestral import ancestral_step
from scorelab.schedules import GRIDS, SCHEDULES
from scorelab.schedules.discrete import Discrete
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

T = 40
X0 = np.array([0.8, -0.5])
CONTEXT = Context(jnp.zeros((), int), {})


def chain(num_steps=T):
  """The schedule of T steps, and its noisy levels as a grid: T - 1 steps."""
  schedule = SCHEDULES["sigmoid_betas"](num_levels=num_steps)
  return schedule, GRIDS["uniform"](schedule, num_steps - 1, to_data=False)


def conditioning(schedule, num_steps=T):
  """(k, m, small, beta) of q(x_s | x_t, x_0) = N(k x_t + m x_0, small I), each [T].

  From the covariance of (x_s, x_t) given x_0; beta is x_t's variance given x_s. 0 at the first.
  """
  t = np.arange(1, num_steps + 1) / num_steps
  alpha, sigma = np.asarray(schedule.alpha(t), float), np.asarray(schedule.sigma(t), float)
  k, m, small, beta = np.zeros((4, num_steps))
  for i in range(1, num_steps):
    step = alpha[i] / alpha[i - 1]
    cov = step * sigma[i - 1] ** 2  # of x_s and x_t
    k[i] = cov / sigma[i] ** 2
    m[i] = alpha[i - 1] - k[i] * alpha[i]
    small[i] = sigma[i - 1] ** 2 - k[i] * cov
    beta[i] = sigma[i] ** 2 - step * cov
  return k, m, small, beta


def network(law, relative, schedule, num_steps=T):
  """A reverse step of law(x, i) -> (mean, variance), i the index of the step, as outputs."""
  small = jnp.asarray(conditioning(schedule, num_steps)[2])

  def apply(variables, x, c, rngs=None):
    i = c.astype(int)[:, None]
    mean, variance = law(x, i)
    log_variance = jnp.log(variance) + jnp.zeros_like(x)
    if relative:
      mean, log_variance = (mean - x) / jnp.sqrt(small[i]), log_variance - jnp.log(small[i])
    return jnp.concatenate([mean, log_variance], axis=-1)

  told = lambda level: time_index(level, num_train_steps=num_steps)  # noqa: E731
  return ReverseStep(
    apply, told, learned_variance=True, schedule=schedule, num_train_steps=num_steps,
    relative=relative,
  )  # fmt: skip


@pytest.mark.parametrize("relative", [False, True])
def test_a_step_is_the_network_s_own_law(relative, x64):
  """The ancestral step draws mean + sqrt(variance) z, whatever they are, from T down to 2."""
  schedule, grid = chain()

  def law(x, i):
    return jnp.sin(3 * x) - 0.1 * i, 0.01 + 0.02 * i

  predict = network(law, relative, schedule).bind({})
  x = np.random.default_rng(0).normal(size=(4, 2))
  step = jax.jit(lambda now, nxt, z: ancestral_step(predict(x, now), now, nxt, z, "learned"))
  for i in (1, 2, 17, T - 1):
    for z in (0.0, 1.0):
      found = step(grid[T - 1 - i], grid[T - i], np.full(x.shape, z))
      expected = np.sin(3 * x) - 0.1 * i + z * np.sqrt(0.01 + 0.02 * i)
      np.testing.assert_allclose(found, expected, 1e-9, 1e-9)


@pytest.mark.e2e
def test_the_exact_posterior_costs_nothing(x64):
  """T = 40, the data one point: q(x_s | x_t, x_0) has KL zero at every step; samples end at x_1."""
  schedule, grid = chain()
  k, m, small, _ = (jnp.asarray(a) for a in conditioning(schedule))
  exact = network(lambda x, i: (k[i] * x + m[i] * X0, small[i]), True, schedule)
  x0 = jnp.broadcast_to(jnp.asarray(X0), (8, 2))
  whole, n = GRIDS["uniform"](schedule, T), 2000
  loss = LOSSES["stepwise_kl"](exact, schedule, num_levels=T, variance="learned")

  @jax.jit
  def run(x0):
    predict = exact.bind({})
    start = grid.prior(jax.random.key(2), (n, 2))
    return (
      bound_terms(jax.random.key(0), predict, x0, whole, variance="learned").steps,
      loss({}, jax.random.key(1), {"x": x0}, CONTEXT)[0],
      SAMPLERS["ancestral"](jax.random.key(3), predict, start, grid, variance="learned"),
    )

  steps, value, samples = run(x0)
  np.testing.assert_allclose(steps, np.zeros((T - 1, 8)), atol=1e-9)
  np.testing.assert_allclose(value, 0, atol=1e-9)
  assert samples.nfe == T - 1
  last = grid[T - 1]
  error = (np.asarray(samples.x) - last.alpha * X0) / float(last.sigma)
  np.testing.assert_allclose(error.mean(0), 0, atol=4 / n**0.5)
  np.testing.assert_allclose(error.std(0), 1, atol=4 / (2 * n) ** 0.5)


@pytest.mark.e2e
@pytest.mark.parametrize("relative", [False, True])
def test_the_loss_is_the_kl_of_the_two_laws(relative, x64):
  """T = 2, one step: a mean that follows x_t as q's does and a wrong offset and variance."""
  schedule = Discrete(np.array([0.1, 0.4]))
  k, m, small, beta = (a[1] for a in conditioning(schedule, 2))
  assert 0 < small < beta
  np.testing.assert_allclose(beta, 0.4)
  offset, variance = np.array([0.3, -0.1]), 1.7 * small
  wrong = network(lambda x, i: (k * x + offset, variance), relative, schedule, 2)
  loss = LOSSES["stepwise_kl"](wrong, schedule, num_levels=2, variance="learned")
  x0 = np.array([[0.8, -0.5], [0.1, 0.2]])
  value = jax.jit(lambda x: loss({}, jax.random.key(0), {"x": x}, CONTEXT)[0])(x0)
  # KL(N(a, u) || N(b, v)) = log(v / u) / 2 + (u + (a - b)^2) / (2 v) - 1 / 2
  gap = m * x0 - offset
  kl = np.log(variance / small) / 2 + (small + gap**2) / (2 * variance) - 0.5
  np.testing.assert_allclose(value, kl.sum(1).mean(), 1e-9)


def test_what_it_cannot_do_without():
  """A variance of its own, and the process that says what the next level is."""
  for lacking in ({"learned_variance": True}, {"schedule": chain()[0]}):
    with pytest.raises(ValueError, match="needs a schedule and learned_variance = True"):
      ReverseStep(lambda *_: None, time_index, **lacking)
