"""CONTRIBUTING's worked examples, run as they stand there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import training
from scorelab.experiment import build
from scorelab.losses import LOSSES
from scorelab.metrics import energy_distance
from scorelab.samplers import SAMPLERS
from scorelab.schedules import VariancePreserving, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture


@pytest.fixture
def example(request):
  """Runs the block of the part that the test names; its registry is as before afterwards."""
  part, registry = request.param
  text, before = pathlib.Path("CONTRIBUTING.md").read_text(), dict(registry)
  exec(re.search(rf"<!-- example: {part} -->\n```python\n(.*?)```", text, re.S)[1], {})
  yield
  registry.clear()
  registry.update(before)


def of(part, registry):
  return pytest.mark.parametrize("example", [(part, registry)], indirect=True, ids=[part])


@of("loss", LOSSES)
def test_the_example_loss_trains_by_its_name(example):
  config = ncsn_gmm.get_config("fast")
  config.loss.update(name="absolute_noise", weighting=None)
  experiment = build(config)
  chunk = training.make_chunk(experiment)
  state, metrics = chunk(training.init_state(experiment), experiment.data, length=5)
  assert np.isfinite(metrics["loss"]).all()
  # Before it has learned, the noise is predicted as 0 nearly everywhere: E |z|_1 = 2 sqrt(2 / pi).
  assert 0.3 < float(metrics["loss"][0]) < 2 * np.sqrt(2 / np.pi)
  assert not np.allclose(
    jax.tree.leaves(state.params)[0], jax.tree.leaves(training.init_state(experiment).params)[0]
  )


@of("sampler", SAMPLERS)
def test_the_example_sampler_is_of_second_order(example, x64):
  """On N(0, s^2) x / alpha goes as sqrt(s^2 + r^2), in closed form."""
  target, schedule = GaussianMixture([1.0], [[0.0, 0.0]], [4.0]), VariancePreserving(0.1, 20.0)
  errors = []
  for num_steps in (20, 40, 80):
    grid = uniform_log_snr(schedule, num_steps, sigma_max=30.0, sigma_min=0.1, to_data=False)
    samples = SAMPLERS["ralston"](None, target.predict, jnp.ones(2), grid)
    assert samples.nfe == 2 * num_steps
    begun, ended = (level.sigma / level.alpha for level in (grid[0], grid[num_steps]))
    exact = jnp.sqrt((4 + ended**2) / (4 + begun**2)) / grid[0].alpha * grid[num_steps].alpha
    errors.append(float(jnp.abs(samples.x - exact).max()))
  np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)


@of("sampler", SAMPLERS)
def test_the_example_sampler_is_known_by_its_name(example):
  """Twelve steps onto the data with the exact score: 0.022 of 500 points."""
  config = ncsn_gmm.get_config("fast")
  config.sampler.update(name="ralston", num_steps=12)
  experiment = build(config)
  key, target, row = jax.random.key(0), experiment.target, experiment.evaluation.rows[0]
  assert row.sampler == "ralston"
  x = row.run(key, target.predict, row.prior(key, (500, 2))).x
  assert energy_distance(None, x, target.sample(jax.random.key(1), 500)) < 0.06
