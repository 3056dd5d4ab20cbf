"""A schedule of two functions does all that one with closed forms does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.likelihood import log_likelihood
from scorelab.losses import LOSSES
from scorelab.predictions import PARAMETERIZATIONS, Prediction, log_sigma
from scorelab.samplers import SAMPLERS
from scorelab.schedules import (
  GRIDS,
  SCHEDULES,
  CosineFlow,
  LinearFlow,
  Schedule,
  Shifted,
  VarianceExploding,
  VariancePreserving,
  uniform_log_snr,
)
from scorelab.targets.mixtures import nine_modes
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Arc(Schedule):
  def alpha(self, t):
    return jnp.cos(t * jnp.pi / 2)

  def sigma(self, t):
    return jnp.sin(t * jnp.pi / 2)


class Power(Schedule):
  exponent: float = 3.0

  def alpha(self, t):
    return 1 - t

  def sigma(self, t):
    return t**self.exponent


def two_functions_of(schedule):
  """Alpha and sigma of a schedule, and nothing else of it."""

  class Own(Schedule):
    def alpha(self, t):
      return schedule.alpha(t)

    def sigma(self, t):
      return schedule.sigma(t)

  return Own()


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_by_bisection_is_the_closed_form(name):
  """In float32 the ratio at the time found is off by its own rounding and by that of t."""
  known = SCHEDULES[name]()
  t = np.linspace(0.004, 0.98, 41, dtype=np.float32)
  log_snr = jax.jit(known.log_snr)(t)
  found = two_functions_of(known).time(log_snr)
  slope = np.abs(np.gradient(np.asarray(log_snr, float), t))
  # 1e-6 of log-SNR, of size 10, moves t by 1e-6 / slope; t itself has 6e-8.
  np.testing.assert_array_less(np.abs(found - t), 3e-6 / slope + 3e-7)


@pytest.mark.usefixtures("x64")
def test_time_keeps_the_digits_of_small_times_and_stays_in_the_unit_interval():
  for t in (1e-12, 1e-6, 0.3, 1 - 1e-9):
    np.testing.assert_allclose(Power().time(Power().log_snr(t)), t, 1e-13)
  np.testing.assert_array_equal(Power().time(np.array([-np.inf, -800, 800, np.inf])), [1, 1, 0, 0])
  own = two_functions_of(VarianceExploding(0.02, 80.0))
  np.testing.assert_array_equal(own.time(-np.log([1000.0, 80.1, 0.0199, 0.001])), [1, 1, 0, 0])


@pytest.mark.usefixtures("x64")
def test_derivatives_of_time_are_those_of_the_inverse():
  """By the log-SNR against the closed form's, and by the schedule's numbers against differences."""
  log_snr = jnp.linspace(-4, 4, 7)
  for derivative in (jax.jacfwd, jax.jacrev):
    found = derivative(two_functions_of(CosineFlow()).time)(log_snr)
    np.testing.assert_allclose(found, jax.jacfwd(CosineFlow().time)(log_snr), 1e-9, 1e-12)
  by_number = jax.jit(jax.grad(lambda p: Power(p).time(0.4)))(2.0)
  difference = (Power(2.0 + 1e-5).time(0.4) - Power(2.0 - 1e-5).time(0.4)) / 2e-5
  np.testing.assert_allclose(by_number, difference, 1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("known", [LinearFlow(), CosineFlow(), VarianceExploding(0.02, 80.0)])
def test_levels_are_those_of_the_closed_forms(known):
  """By log-SNR and by ratio inside the ends, and in the ratio beyond them."""
  own = two_functions_of(known)
  ends = known.log_snr(jnp.array([0.99, 0.01]))
  inside = jnp.linspace(*ends, 9)
  for found, expected in (
    (own.at_log_snr(inside), known.at_log_snr(inside)),
    (own.at_ratio(jnp.exp(-inside)), known.at_ratio(jnp.exp(-inside))),
  ):
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, 1e-9)
  for log_snr in (-30.0, 30.0):
    np.testing.assert_allclose(own.at_log_snr(log_snr).log_snr, log_snr, 1e-12)
  assert jax.tree.map(float, own.at_ratio(0.0)) == (0, 1, 0)


def test_default_ends_are_where_a_ratio_is_a_thousandth():
  """As `LinearFlow` has them; where a process does not go so far, its own ends."""
  own = two_functions_of(LinearFlow())
  np.testing.assert_allclose([own.t_min, own.t_max], [1 / 1001, 1000 / 1001], 1e-6)
  exploding = two_functions_of(VarianceExploding(0.02, 80.0))
  assert (exploding.t_min, exploding.t_max) == (0, 1)
  wide = two_functions_of(VarianceExploding(1e-5, 1e5))
  np.testing.assert_allclose(wide.sigma(wide.t_min), 1e-3, 1e-4)
  np.testing.assert_allclose(wide.sigma(wide.t_max), 1e3, 1e-4)


def test_prior_std():
  """1 of a variance-preserving process; else that of noised data of std 1."""
  level = Arc().at(np.array([0.2, 0.9]))
  np.testing.assert_allclose(Arc().prior_std(level), 1, 1e-6)
  own = two_functions_of(VarianceExploding(0.02, 30.0))
  np.testing.assert_allclose(own.prior_std(own.at(1.0)), (1 + 30.0**2) ** 0.5, 1e-6)


@pytest.mark.e2e
@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid(name, to_data):
  """The closed form's grid, jitted; and from pure noise where a cosine's zero is -4e-8."""
  options = {"log_snrs": (-3.0, -1.0, 0.0, 1.0, 2.0, 3.0)[: 6 - to_data]} if name == "given" else {}
  if name == "timesteps":
    options = {"spacing": "leading", "steps_offset": 1}
  grids = [
    jax.jit(lambda s: GRIDS[name](s, 5, to_data=to_data, **options))(schedule)
    for schedule in (Arc(), two_functions_of(CosineFlow()), CosineFlow())
  ]
  ends = {} if name in ("given", "timesteps") else {"t_min": 1e-3}
  for found in grids[:2]:
    assert found.num_steps == 5 and found.ends_at_data == to_data
    assert (np.diff(found.levels.log_snr[: 5 + (not to_data)]) > 0).all()
    if not ends:
      for a, b in zip(found.levels, grids[2].levels, strict=True):
        np.testing.assert_allclose(a, b, 2e-5, 1e-6)


@jax.jit
def on(schedule):
  return uniform_log_snr(schedule, 6, sigma_max=100.0, sigma_min=0.02)


# By default one for each thing that a sampler asks of a schedule, and one that asks for none.
ASKING = ("consistency", "ddim", "dpm_solver_2", "dpmpp_sde", "euler_maruyama", "euler_time")
ASKING += ("heun", "plms", "rk4")
DIFFERENT = {sampler: name for name, sampler in reversed(SAMPLERS.items())}.values()
OTHERS = [pytest.param(n, marks=pytest.mark.e2e) for n in DIFFERENT if n not in ASKING]


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*ASKING, *OTHERS])
def test_every_sampler(name):
  """The closed form's samples, for the same key; near noise alpha = 1 - t is known to 6e-6 only."""
  x = 100 * jax.random.normal(jax.random.key(0), (4, 2))

  @jax.jit
  def run(grid):
    start = x * grid[0].alpha
    return SAMPLERS[name](jax.random.key(1), predict, start, grid).x

  def predict(x, level):
    kind = "consistency" if name == "consistency" else "x0"
    return Prediction.of(x, level, kind, **{kind: jnp.tanh(x)})

  found, expected = (run(on(s)) for s in (two_functions_of(LinearFlow()), LinearFlow()))
  np.testing.assert_allclose(found, expected, 2e-3, 2e-3)


def loss_of(name, schedule):
  learned, kind = name == "hybrid", "consistency" if name == "consistency" else "noise"
  options = {"schedule": schedule} if name == "consistency" else {"learned_variance": learned}

  def apply(variables, x, c, rngs=None):
    output = x * variables["params"] + jnp.tanh(c)[:, None]
    return jnp.concatenate([output, output / 4], -1) if learned else output

  return LOSSES[name](PARAMETERIZATIONS[kind](apply, log_sigma, **options), schedule)


EXAMPLES = ("consistency", "continuous_bound", "edm", "flow_matching", "hybrid", "hyvarinen")
EXAMPLES += ("stepwise_kl",)
OTHER_LOSSES = [pytest.param(n, marks=pytest.mark.e2e) for n in LOSSES if n not in EXAMPLES]


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*EXAMPLES, *OTHER_LOSSES])
def test_every_loss(name):
  """The closed form's loss and its gradient, for the same key."""
  batch = {"x": jax.random.normal(jax.random.key(0), (8, 2))}

  def slopes(schedule):
    loss, context = loss_of(name, schedule), Context(jnp.ones((), int), {})
    run = jax.jit(jax.value_and_grad(lambda p: loss(p, jax.random.key(1), batch, context)[0]))
    return run(jnp.array([0.3, -0.2]))

  known = VarianceExploding(0.05, 20.0)
  for a, b in zip(slopes(two_functions_of(known)), slopes(known), strict=True):
    np.testing.assert_allclose(a, b, 2e-4, 1e-5)


@pytest.mark.e2e
def test_likelihood():
  """Log-densities along the flow, with the closed form's at the same levels."""
  target = nine_modes()
  x = target.sample(jax.random.key(0), 5)
  own, known = (
    jax.jit(lambda g: log_likelihood(jax.random.key(1), target.predict, x, g))(on(s))
    for s in (two_functions_of(VariancePreserving()), VariancePreserving())
  )
  np.testing.assert_allclose(own.z, known.z, 1e-3, 1e-4)
  np.testing.assert_allclose(own.log_prob, known.log_prob, 1e-3, 1e-3)


def test_velocity_and_the_sde_are_those_of_the_closed_form():
  known, t = VariancePreserving(), jnp.array([0.1, 0.7])
  own = two_functions_of(known)
  x0, noise = jnp.ones((2, 3)), -jnp.ones((2, 3))
  expected = known.velocity(known.at(t), x0, noise)
  np.testing.assert_allclose(own.velocity(own.at(t), x0, noise), expected, 1e-6)
  np.testing.assert_allclose(own.diffusion_squared(t), known.diffusion_squared(t), 1e-5)


def test_numbers_can_be_traced_and_vmapped():
  """Each of three grids in a vmap is the one built alone, ends and times by bisection included."""
  exponents = jnp.array([1.0, 2.0, 3.0])
  grids = jax.jit(jax.vmap(lambda p: GRIDS["karras"](Power(p), 4).levels))(exponents)
  for i, exponent in enumerate(exponents.tolist()):
    alone = GRIDS["karras"](Power(exponent), 4).levels
    for a, b in zip(grids, alone, strict=True):
      np.testing.assert_allclose(a[i], b, 1e-5, 1e-6)


def test_shifted_adds_to_the_log_snr():
  shifted, t = Shifted(Power(), -0.7), jnp.array([0.2, 0.6])
  np.testing.assert_allclose(shifted.log_snr(t), Power().log_snr(t) - 0.7, 1e-5)
  np.testing.assert_allclose(shifted.time(shifted.log_snr(t)), t, 1e-5)


def test_jit_tells_own_schedules_apart():
  assert jax.tree.structure(Arc()) != jax.tree.structure(two_functions_of(LinearFlow()))
  at = jax.jit(lambda schedule: schedule.at(0.5).sigma)
  own = two_functions_of(LinearFlow())
  np.testing.assert_allclose([at(Arc()), at(own)], [0.5**0.5, 0.5], 1e-6)
  assert jax.tree.leaves(Power(2.0)) == [2.0] and Power(2.0) == Power(2.0) != Power(3.0)


def test_a_missing_function_is_named():
  class Half(Schedule):
    def alpha(self, t):
      return 1 - t

  with pytest.raises(TypeError, match="Half defines no sigma"):
    Half().at(0.5)
