"""Every network of images, by its name, from a config to a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_rows
from scorelab.networks import NETWORKS
from scorelab.targets import TARGETS

pytestmark = pytest.mark.usefixtures("quick_compilation")

UNET = {"dim": 8, "dim_mults": (1,), "num_heads": 2, "head_dim": 4}
TINY = {
  "unet": UNET,
  "modern_unet": UNET | {"attention": ("none",)},
  "dit": {"width": 16, "depth": 1, "num_heads": 2},
}


class Images:
  """Noise in [-1, 1], of 4 x 4 pixels and one channel."""

  event_shape, scale, num_classes = (4, 4, 1), 0.6, 3

  def sample(self, key, n):
    return jax.random.uniform(key, (n, *self.event_shape), minval=-1.0)

  def sample_with_labels(self, key, n):
    return self.sample(key, n), jnp.arange(n) % 3


def config_of(name, **options):
  config = base.variant(base.get_config(), "fast")
  config.target.name = "nine_modes"
  config.evaluation.update(metrics=("energy_distance",), rows=())
  config.network.update(name=name, **TINY[name] | options)
  return config


@pytest.fixture(autouse=True)
def images(monkeypatch):
  monkeypatch.setitem(TARGETS, "nine_modes", Images)


def trainable(name):
  """Of noise and variance, with classes; and four points with labels."""
  config = config_of(name, num_classes=3)
  config.schedule = base.get_config().schedule
  config.schedule.name = "variance_preserving"
  config.loss.update(name="hybrid", num_levels=10)
  config.sampler.update(name="ddim", num_steps=2, grid="uniform")
  config.parameterization.update(name="noise", conditioning="time_index", learned_variance=True)
  experiment = build(config)
  return experiment, {"x": experiment.validation["x"][:4], "label": jnp.array([0, 1, 2, 3])}


def drawn(shapes):
  """Parameters none of which is zero."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(p.dtype), shapes)


def gradient_of(experiment, batch):
  return jax.grad(lambda p: experiment.loss(p, jax.random.key(1), batch, None)[0])


@pytest.mark.e2e
@pytest.mark.parametrize("name", TINY)
def test_images_by_name(name):
  """A config's network is initialised, sampled and trained: shapes only."""
  experiment, batch = trainable(name)
  check_rows(experiment)
  params = jax.eval_shape(experiment.init_params, jax.random.key(0))
  shapes = jax.eval_shape(gradient_of(experiment, batch), params)
  assert jax.tree.structure(shapes) == jax.tree.structure(params)


@pytest.mark.parametrize("name", ["dit", pytest.param("unet", marks=pytest.mark.slow)])
def test_examples_do_not_mix(name):
  """An output knows its own point and its own label, and the variance is apart."""
  experiment, batch = trainable(name)
  shapes = jax.eval_shape(experiment.init_params, jax.random.key(0))
  params = drawn(shapes)

  @jax.jit
  def run(x, label):
    predict = experiment.parameterization.bind(params, label)
    pred = predict(x, experiment.schedule.at(jnp.array([0.1, 0.3, 0.5, 0.7])))
    return pred.noise, pred.variance_fraction

  x, label = batch["x"], batch["label"]
  noise, fraction = run(x, label)
  assert noise.shape == fraction.shape == x.shape
  for other in (run(x.at[2].add(1.0), label), run(x, label.at[2].set(0))):
    changed = np.abs(other[0] - noise).max((1, 2, 3)) > 1e-5
    np.testing.assert_array_equal(changed, np.arange(4) == 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_layer_has_a_gradient(name):
  experiment, batch = trainable(name)
  shapes = jax.eval_shape(experiment.init_params, jax.random.key(0))
  gradient = jax.jit(gradient_of(experiment, batch))(drawn(shapes))
  assert all(np.isfinite(g).all() and g.any() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("unet", {"dim_mults": (1, 1, 1, 1)}, "network: dim_mults = .* multiples of 8, .* are 4 x 4"),
    ("unet", {"block": "rasnet"}, "network: block = 'rasnet' must be one of"),
    ("dit", {"patch_size": 3}, "network: patch_size = 3 must divide"),
    ("dit", {"dropout": 1.0}, "network.dropout = 1.0, must be in .0, 1."),
    ("dit", {"dim": 8}, "network.dim = 8 is not an option of dit"),
  ],
)
def test_refusals(name, options, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(config_of(name, **options))
  assert "\n" not in str(error.value)


def test_every_option_has_a_field():
  """Each option of a network is a field of the config."""
  fields = set(base.get_config().network)
  given = {"parent", "name", "outputs"}
  for network in NETWORKS.values():
    assert set(network().__dataclass_fields__) - given <= fields


def test_networks_of_images_refuse_points(monkeypatch):
  monkeypatch.undo()
  with pytest.raises(ConfigError, match=r"network: a U-Net takes images .* not events \(2,\)"):
    build(config_of("unet"))


def test_labels_that_a_target_cannot_draw_are_refused():
  config = config_of("dit", num_classes=3)
  config.evaluation.labels = "uniform"
  with pytest.raises(ConfigError, match=r"needs a target with sample_of_class.*use 'data'"):
    build(config)
