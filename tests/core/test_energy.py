"""Networks whose score is the gradient of an energy: against autodiff and the exact mixture."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from configs import ncsn_gmm
from scorelab import evaluation, training
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.losses import LEVELS, LOSSES
from scorelab.networks.mlp import MLP
from scorelab.predictions import PARAMETERIZATIONS, log_sigma
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules import LinearFlow, VarianceExploding, VariancePreserving
from scorelab.targets.mixtures import GaussianMixture
from scorelab.typing import Context

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROCESSES = {
  "ve": VarianceExploding(0.02, 10.0, 5.0),
  "vp": VariancePreserving(),
  "flow": LinearFlow(),
}
# Those of a density; a consistency network and a step of a chain have none, and refuse.
READINGS = sorted(PARAMETERIZATIONS.keys() - {"consistency", "reverse_step"})
NETWORK = MLP(widths=(8, 8), norms=(True, False), activation="silu")


def random_network(dim=3):
  """A smooth network and its parameters, all of them random."""
  params = NETWORK.init(jax.random.key(0), jnp.ones((1, dim)), jnp.ones(1))["params"]
  flat, unravel = ravel_pytree(params)
  return unravel(jnp.asarray(np.random.default_rng(0).normal(size=flat.shape) / 2))


@functools.cache
def measurement(name):
  """A program for the score, the log-density and their derivatives: one for all processes."""
  predict = PARAMETERIZATIONS[name](NETWORK.apply, log_sigma, energy=True).bind(random_network())

  @jax.jit
  def measure(x, levels):
    def one(x, level):
      gradient = jax.grad(lambda x: predict(x, level).log_density)(x)
      return gradient, jax.jacfwd(lambda x: predict(x, level).score)(x)

    together = predict(x, levels)
    return together.score, together.log_density, jax.vmap(jax.vmap(one))(x, levels)

  return measure


@pytest.mark.e2e
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", READINGS)
def test_the_score_is_the_gradient_of_the_log_density(name, process, x64):
  """By autodiff, point by point, where the network saw them together; so it has no curl."""
  levels = PROCESSES[process].at(np.linspace(0.1, 0.9, 6).reshape(2, 3))
  x = np.random.default_rng(1).normal(size=(2, 3, 3))
  score, log_density, (gradient, jacobian) = measurement(name)(x, levels)
  assert log_density.shape == (2, 3)
  scale = np.abs(jacobian).max()
  np.testing.assert_allclose(score, gradient, 1e-9, 1e-12 * scale)  # rounding
  np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, -1, -2), 1e-9, 1e-12 * scale)
  assert np.abs(jacobian[..., 0, 1]).min() > 1e-3 * np.abs(jacobian).min()  # not by being diagonal


@functools.cache
def made_of_the_truth(name):
  """A program for the predictions of the exact mixture and of a network made of it.

  The network has the output that each reading wants of the mixture, integrated along rays from 0.
  Any constant may be added to that integral I: here -40, so that f = u (1 - sqrt(1 - 2 I / |u|^2))
  is real, of which <u, f> - |f|^2 / 2 = I.
  """
  covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.8]]]
  target = GaussianMixture([0.3, 0.7], np.array([[1.0, 0.5], [-0.7, 0.4]]), np.array(covariances))
  construct = functools.partial(PARAMETERIZATIONS[name], conditioning=log_sigma)
  reading = construct(lambda *_: None)
  nodes, weights = np.polynomial.legendre.leggauss(60)

  @jax.jit
  def run(x, level):
    def wanted(u):
      x = u / reading.scale_input(jnp.ones(()), level)
      none, unit = (reading.read(x, level, jnp.full_like(x, value)).score for value in (0.0, 1.0))
      return (target.predict(x, level).score - none) / (unit - none)

    def network(variables, u, c, rngs=None):
      along = jax.vmap(lambda s: jnp.sum(u * wanted(s * u), axis=-1))(jnp.asarray(1 + nodes) / 2)
      integral = jnp.asarray(weights / 2) @ along - 40
      return u * (1 - jnp.sqrt(1 - 2 * integral / jnp.sum(u**2, axis=-1)))[:, None]

    predictions = construct(network, energy=True).bind(None)(x, level), target.predict(x, level)
    return [(p.score, p.log_density) for p in predictions]

  return run


@pytest.mark.e2e
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", READINGS)
def test_a_network_made_of_the_truth_knows_its_log_ratios(name, process, x64):
  """Its score is the mixture's, and so are the ratios of its densities."""
  x = np.random.default_rng(2).normal(size=(20, 2))
  (score, log_density), (true_score, truth) = made_of_the_truth(name)(
    x, PROCESSES[process].at_ratio(0.8)
  )
  # The quadrature is exact to 1e-9 here; -40 costs two digits.
  np.testing.assert_allclose(score, true_score, 1e-7, 1e-7)
  np.testing.assert_allclose(log_density - log_density[0], truth - truth[0], 1e-7, 1e-7)


@pytest.mark.e2e
def test_the_exact_log_density_is_the_noised_mixtures(x64):
  target = GaussianMixture([0.3, 0.7], np.array([[1.0], [-0.7]]), np.array([0.2, 0.5]))
  level = VariancePreserving().at(0.3)
  x = jnp.linspace(-8, 8, 20_001)[:, None]
  density = np.exp(target.predict(x, level).log_density)
  assert abs(np.trapezoid(density, dx=8e-4) - 1) < 1e-9


# A variance, and a consistency network, bar an energy. One of each kind by default.
EXAMPLES = ("ddpm", "hyvarinen", "sliced", "variational_bound")


@pytest.mark.e2e
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in EXAMPLES else pytest.mark.e2e)
    for name in sorted(LOSSES.keys() - {"hybrid", "consistency"})
  ],
)
def test_losses_are_differentiable_through_it(name, x64):
  """The gradient by the parameters, a third derivative for some, against a central difference."""
  parameterization = PARAMETERIZATIONS["edm"](NETWORK.apply, log_sigma, energy=True)
  of_levels = "levels" in inspect.signature(LOSSES[name]).parameters  # others have a grid
  options = {"levels": LEVELS["log_uniform"]} if of_levels else {}
  loss = LOSSES[name](parameterization, PROCESSES["ve"], **options)
  flat, unravel = ravel_pytree(random_network(dim=2))
  batch = {"x": jnp.asarray(np.random.default_rng(3).normal(size=(6, 2)))}
  direction = jnp.asarray(np.random.default_rng(4).normal(size=flat.shape))

  @jax.jit
  def along(step):
    context = Context(jnp.zeros((), jnp.int32), {})
    return loss(unravel(flat + step * direction), jax.random.key(5), batch, context)[0]

  slope = jax.jit(jax.grad(along))(0.0)
  difference = (along(1e-5) - along(-1e-5)) / 2e-5
  np.testing.assert_allclose(difference, slope, 1e-5)  # step^2, and rounding over the step
  assert slope != 0


def energy_config():
  config = ncsn_gmm.get_config("fast")
  config.target.name = "two_modes_1d"
  config.parameterization.energy = True
  config.network.update(width=32, depth=1, num_features=16, point_scale=2.0)
  config.training.update(num_steps=800, batch_size=256, log_every=200, checkpoint_every=800)
  config.optimizer.ema_decays = (0.98,)
  config.evaluation.score_levels = (0.2, 0.5, 1.0, 4.0, 20.0)
  row = "mala:100:step_size=0.1:sigma=0.5:start_std=2.0"
  config.sampler.num_steps = 4
  config.evaluation.update(rows=(row,), num_samples=500, metrics=("within_mode_std",))
  return config


@pytest.mark.e2e
@pytest.mark.slow
def test_it_learns_and_metropolis_uses_it(tmp_path):
  experiment = build(energy_config())
  workdir = open_workdir(tmp_path, experiment.config, {})
  params = training.evaluated_params(training.train(experiment, workdir, StopFlag()))
  result = evaluation.evaluate(experiment, params, workdir, StopFlag())
  assert max(result["score_error"]["relative"]) < 0.05
  # The chain's law is right where the log-density is.
  _, chain = result["rows"]
  assert chain["sampler"] == "mala" and chain["nfe"] == 101
  assert abs(chain["metrics"]["within_mode_std"]["learning"]) < 0.05
  # The ratio of the modes' peaks: never trained on, but the integral of a score that was.
  level = experiment.schedule.at_ratio(1.0)
  peaks = jnp.asarray([[-2.0], [2.0]])
  network, exact = (
    np.diff(predict(peaks, level).log_density)[0]
    for predict in (experiment.parameterization.bind(params), experiment.target.predict)
  )
  assert exact > 0.5 and abs(network - exact) < 0.1


@pytest.mark.parametrize("energy", [None, False])
def test_metropolis_without_a_density_is_refused(energy):
  config = energy_config()
  config.parameterization.energy = energy
  with pytest.raises(ConfigError) as error:
    build(config)
  assert str(error.value) == (
    "evaluation.rows[0].name = 'mala' needs parameterization.name = 'exact' or "
    "parameterization.energy = True: a score alone has no density"
  )
