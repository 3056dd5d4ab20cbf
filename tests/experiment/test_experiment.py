"""Configs: what they resolve to, and what is refused."""

import importlib
import inspect
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import config_flags  # noqa: F401  (registers the flag types)

from configs import base, ncsn_gmm, ncsn_gmm_published
from scorelab.config.options import check_fields
from scorelab.errors import ConfigError
from scorelab.evaluation.draw import draw_sets
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_rows
from scorelab.experiment.keys import Stream
from scorelab.losses import LOSSES
from scorelab.optimizers import learning_rate_shape
from scorelab.runs.signals import StopFlag
from scorelab.schedules import GRIDS
from scorelab.targets import TARGETS
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(f.stem for f in pathlib.Path("configs").glob("*.py") if f.stem != "base")
CONFIGS = {name: importlib.import_module(f"configs.{name}") for name in NAMES}


def fields_of(config):
  """Every field by its dotted name, as JSON values."""
  return {
    f"{section}.{name}" if name else section: value
    for section, values in json.loads(config.to_json()).items()
    for name, value in (values.items() if isinstance(values, dict) else [("", values)])
  }


def changed(name: str) -> str:
  """The fields of a config that differ from the defaults; of 'base', the defaults that are set."""
  fields = fields_of((base if name == "base" else CONFIGS[name]).get_config())
  defaults = dict.fromkeys(fields) if name == "base" else fields_of(base.get_config())
  assert fields.keys() == defaults.keys()
  differing = {k: v for k, v in fields.items() if v != defaults[k]}
  return json.dumps(differing, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", ["base", *CONFIGS])
def test_golden(name):
  """A changed config shows as a diff; running this file with PYTHONPATH=. writes them all."""
  assert changed(name) == (GOLDEN / f"{name}.json").read_text()


NEED_FILES = {"cond_cifar10", "ddpm_cifar10", "ddpm_flowers"}  # images that are not brought along


@pytest.mark.e2e
@pytest.mark.parametrize("arg", [pytest.param("", marks=pytest.mark.e2e), "fast"])
@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - NEED_FILES - {"pretrained"}))
def test_every_config_builds(name, arg):
  build(CONFIGS[name].get_config(arg))


@pytest.mark.e2e
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_builds_with_all_its_options(name):
  """Base settings but for metrics that take any target; each option has a field of the config."""
  config = base.variant(base.get_config(), "fast")
  defaults = {k: p.default for k, p in inspect.signature(TARGETS[name]).parameters.items()}
  config.target.update(name=name, **defaults)
  config.evaluation.metrics = ("energy_distance",)
  experiment = build(config)
  assert experiment.validation["x"].shape[1:] == experiment.target.event_shape


@pytest.mark.e2e
def test_published_network_has_its_parameters():
  experiment = build(ncsn_gmm_published.get_config("fast"))
  params = experiment.init_params(jax.random.key(0))
  assert sum(p.size for p in jax.tree.leaves(params)) == 265_474


def test_keys_differ_by_stream_and_step():
  experiment = build(ncsn_gmm.get_config("fast"))
  keys = [experiment.key(stream, step) for stream in Stream for step in (0, 1)]
  data = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
  assert len(data) == len(keys)


def test_streams_have_the_numbers_that_finished_runs_were_made_with():
  """Two names of one number would be one stream; another number, another run of the same seed."""
  names = [
    "INIT",
    "DATA",
    "LOSS",
    "VALIDATION",
    "TRAIN_SET",
    "EVALUATION",
    "SCORE_ERROR",
    "LIKELIHOOD",
  ]
  assert {name: int(stream) for name, stream in Stream.__members__.items()} == {
    name: number for number, name in enumerate(names)
  }


def test_every_training_point_is_drawn_as_often():
  """Of four points, 4,000 draws: each 1,000 times, within 4.5 binomial standard errors of 27."""
  config = ncsn_gmm.get_config("fast")
  config.target.num_train = 4
  config.training.batch_size = 4000
  experiment = build(config)
  batch = experiment.draw_batch(jax.random.key(0), experiment.data)
  _, counts = np.unique(np.asarray(batch["x"]), axis=0, return_counts=True)
  assert len(counts) == 4 and np.abs(counts - 1000).max() < 4.5 * (4000 * 3 / 16) ** 0.5


UNIFORM = "dpmpp_2m:3:grid=uniform:rho=None:sigma_min=None"


def test_rows_keep_the_grid_and_their_own_options():
  config = ncsn_gmm.get_config("fast")
  config.sampler.update(name="ddim", num_steps=7, eta=0.5, grid="karras", rho=5.0)
  config.evaluation.rows = ("heun:4:churn=2", "ddim:9", UNIFORM)
  rows = build(config).evaluation.rows
  assert [(row.sampler, row.num_steps) for row in rows] == [
    ("ddim", 7), ("heun", 4), ("ddim", 9), ("dpmpp_2m", 3)
  ]  # fmt: skip
  assert rows[1].options == {"grid": "karras", "rho": 5.0, "sigma_min": 0.05, "churn": 2}
  assert rows[2].options == {"grid": "karras", "rho": 5.0, "sigma_min": 0.05, "eta": 0.5}
  np.testing.assert_allclose(rows[3].grid.levels.t[:-1], [1.0, 0.5, 0.0], atol=1e-6)


def test_metrics_take_options():
  config = ncsn_gmm.get_config("fast")
  config.evaluation.metrics = ("sliced_wasserstein:p=1", "sliced_wasserstein", "off_mode_share")
  metrics = build(config).evaluation.metrics
  x, y = np.zeros((4, 2)), np.concatenate([np.zeros((2, 2)), np.ones((2, 2))])
  # Half of the mass moves by |u . (1, 1)|: W_1 is half of that, W_2 is its square root's share.
  first = metrics["sliced_wasserstein:p=1"](jax.random.key(0), x, y)
  second = metrics["sliced_wasserstein"](jax.random.key(0), x, y)
  np.testing.assert_allclose(first, np.sqrt(2) * 2 / np.pi / 2, rtol=0.2)  # 50 projections
  np.testing.assert_allclose(second, np.sqrt(1 / 2), rtol=0.2)


LOSS_OPTIONS = {
  "ddpm": {"norm": "huber", "huber_delta": 0.5, "levels": "grid", "num_levels": 20},
  "edm": {"level_mean": -1.0},
  "flow_matching": {"coupling": "optimal_transport"},
  "stepwise_kl": {"num_levels": 20, "variance": "large"},
  "variational_bound": {"num_levels": 20, "spacing": "karras", "variance": "learned"},
  "hybrid": {"num_levels": 20, "bound_weight": 0.01},
  "continuous_bound": {"levels": "uniform_time"},
  "ncsn": {"levels": "uniform_time", "weighting": "likelihood"},
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", LOSS_OPTIONS)
def test_losses_by_name(name):
  """From a config to a gradient, in a network's variance too where it has one."""
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.loss = base.get_config().loss
  config.loss.update(name=name, **LOSS_OPTIONS[name])
  learned = name == "hybrid" or LOSS_OPTIONS[name].get("variance") == "learned"
  config.parameterization.learned_variance = learned or None
  experiment = build(config)
  params, key = experiment.init_params(jax.random.key(0)), jax.random.key(1)
  batch = {"x": experiment.validation["x"][:64]}

  gradient = jax.jit(jax.grad(lambda p: experiment.loss(p, key, batch, None)[0]))(params)
  assert np.isfinite(optax.tree.norm(gradient))
  assert experiment.loss_levels is not None
  last = gradient["Dense_3"]["bias"]  # of the last layer, which starts at zero
  assert last.shape == (4 if learned else 2,)
  assert (last != 0).all()


@pytest.mark.e2e
def test_a_chain_s_levels_are_the_loss_s():
  """What a validation looks at are the noisy levels of the loss's own grid."""
  config = ncsn_gmm.get_config("fast")
  config.loss = base.get_config().loss
  for options, num_levels in (({}, 100), ({"num_levels": 7, "spacing": "karras"}, 7)):
    config.loss.update(name="stepwise_kl", **options)
    experiment = build(config)
    u = (np.arange(num_levels) + 0.5) / num_levels
    grid = GRIDS[config.loss.spacing or "uniform"](experiment.schedule, num_levels)
    np.testing.assert_array_equal(experiment.loss_levels(u).sigma, grid.levels.sigma[:-1])
    signature = inspect.signature(LOSSES["stepwise_kl"]).parameters
    assert signature["num_levels"].default == 100


UNSET = ("schedule.sigma_min", "schedule.sigma_max", "schedule.rho", "sampler.sigma_min")
PURE_NOISE = {"schedule.name": "cosine", "sampler.grid": "uniform"} | dict.fromkeys(UNSET)
BAD = {
  "sampler": ({"sampler.name": "dpmp_2m"}, "sampler.name = 'dpmp_2m'.*did you mean 'dpmpp_2m'"),
  "loss": ({"loss.name": "ncns"}, "loss.name = 'ncns' is not a loss; did you mean 'ncsn'"),
  "target": ({"target.name": "nine"}, "target.name = 'nine' is not a target.*nine_modes"),
  "steps": ({"training.num_steps": -5}, "training.num_steps = -5, must be at least 0"),
  "batch": ({"training.batch_size": -1}, "training.batch_size = -1, must be at least 0"),
  "whole set": (
    {"training.batch_size": 0},
    "training.batch_size = 0, all training points, and target.name = 'nine_modes' has no fixed",
  ),
  "train": ({"evaluation.reference": "train"}, "'train' needs target.num_train > 0"),
  "test": ({"evaluation.reference": "test"}, "'test', and target.name = 'nine_modes' has no test"),
  "seed": ({"seed": -1}, "seed = -1, must be from 0"),
  "limits": ({"schedule.sigma_max": 0.01}, "schedule: sigma_min = 0.02 and sigma_max = 0.01"),
  "nan": ({"optimizer.learning_rate": float("nan")}, "learning_rate = nan, must be above 0"),
  "unused": ({"sampler.eta": 0.5}, "sampler.eta = 0.5 is not an option of dpmpp_2m"),
  "unused in loss": ({"loss.gamma": 5.0}, "loss.gamma = 5.0 is not an option of ncsn"),
  "unused in schedule": ({"schedule.beta_min": 1.0}, "schedule.beta_min = 1.0 is not an option"),
  "norm": (
    {"loss.weighting": None, "loss.name": "ddpm", "loss.norm": "l3"},
    "loss: norm = 'l3' must be one of huber",
  ),
  "coupling": (
    {"loss.weighting": None, "loss.name": "flow_matching", "loss.coupling": "ot"},
    "loss: coupling = 'ot' must be one of independent, optimal_transport",
  ),
  "variance": (
    {"loss.weighting": None, "loss.name": "hybrid"},
    "loss: variance = 'learned' needs a network",
  ),
  "huber": ({"loss.name": "ddpm", "loss.huber_delta": 0.0}, "huber_delta = 0.0, must be above 0"),
  "energy": (
    {"parameterization.energy": True, "parameterization.learned_variance": True},
    "parameterization: energy and learned_variance exclude each other",
  ),
  "multiple": ({"training.log_every": 7}, "checkpoint_every = 20 must be a multiple"),
  "kept": ({"training.keep_every": 30}, "keep_every = 30 must be a multiple of training.check"),
  "consistency": (
    {"loss.name": "consistency", "loss.weighting": None},
    "loss.name = 'consistency' and parameterization.name = 'edm': 'consistency' goes with itself",
  ),
  "intervals": (
    {
      **{"loss.name": "consistency", "loss.weighting": None, "loss.max_intervals": 5},
      "parameterization.name": "consistency",
    },
    "loss: min_intervals = 10 and max_intervals = 5 must satisfy min_intervals <= max_intervals",
  ),
  "reverse step": (
    {"parameterization.name": "reverse_step"},
    "parameterization: a reverse step needs a schedule and learned_variance = True",
  ),
  "antithetic": (
    {"loss.uniforms": "antithetic", "training.batch_size": 7},
    "batch_size = 7 must be even",
  ),
  "norms": (
    {"network.name": "mlp", "network.width": None, "network.depth": None, "network.norms": (True,)},
    "network.norms = .* must be as long as network.widths",
  ),
  "decays": ({"optimizer.ema_decays": (0.9, 1.0)}, "ema_decays = .* must be in"),
  "row": ({"evaluation.rows": ("heun",)}, "rows.0. = 'heun' must read 'name:num_steps'"),
  "row's sampler": ({"evaluation.rows": ("hun:3",)}, "'hun' is not a sampler; did you mean 'heun'"),
  "row's option": (
    {"evaluation.rows": ("heun:3:eta=1",)},
    "rows.0..eta = 1 is not an option of",
  ),
  "row's value": ({"evaluation.rows": ("ddim:3:eta=-1",)}, "rows.0..eta = -1, must be at least 0"),
  "row's steps": (
    {"evaluation.rows": ("ddim:0",)},
    "rows.0..num_steps = 0, must be from 1 to 1000000",
  ),
  "metric": ({"evaluation.metrics": ("fid",)}, "evaluation.metrics = 'fid' is not a metric"),
  "metric's option": (
    {"evaluation.metrics": ("energy_distance:p=1",)},
    "'energy_distance:p=1'.p = 1 is not an option of energy_distance",
  ),
  "modes": (
    {"target.name": "moons"},
    "evaluation.metrics = 'mode_weight_tv' needs modes of some width.* target.name = 'moons' has "
    "none .allowed: covariance_error, energy_distance, frechet, interval_error, kernel_distance",
  ),
  "support": (
    {"target.name": "moons", "evaluation.metrics": ("support_distance",)},
    "evaluation.metrics = 'support_distance' needs a target with distance.., and .* 'moons' has",
  ),
  "level features": (
    {"network.name": "mlp", "network.level_features": "harmonic"},
    "network.level_features = 'harmonic' is not a kind of features; did you mean 'harmonics'",
  ),
  "modes without width": (
    {
      "target.name": "two_circles_points",
      "evaluation.metrics": ("wasserstein", "within_mode_std:num_std=3"),
    },
    "evaluation.metrics = 'within_mode_std' needs .* target.name = 'two_circles_points' has none",
  ),
  "truth": (
    {"target.name": "moons", "parameterization.name": "exact"},
    "parameterization.name = 'exact' needs an exact score, and target.name = 'moons' has none",
  ),
  "truth to monitor": (
    {"target.name": "moons", "training.monitor": "score_error"},
    "training.monitor = 'score_error' needs an exact score, and target.name = 'moons' has none",
  ),
  "no levels to monitor": (
    {
      **{"loss.name": "consistency", "loss.weighting": None, "training.monitor": "score_error"},
      "parameterization.name": "consistency",
    },
    "training.monitor = 'score_error' needs a loss of levels, not 'consistency'",
  ),
  "infinite": ({"sampler.sigma_max": float("inf")}, "sigma_max = inf, must be between -3.4e.38"),
  "too large": ({"training.log_every": 2**31}, "= 2147483648, must be between .* and 2147483647"),
  "times": ({"sampler.t_max": 1.5}, r"sampler.t_max = 1.5, must be in \[0, 1\]"),
  "loss's limits": (
    {"loss.sigma_min": 2.0, "loss.sigma_max": 1.0},
    "loss: sigma_min = 2.0 and sigma_max = 1.0 must satisfy sigma_min < sigma_max",
  ),
  "noise": ({"target.name": "moons", "target.noise": -0.1}, "noise = -0.1, must be at least 0"),
  "reference": ({"evaluation.reference": "train"}, "'train' needs target.num_train"),
  "precision": ({"matmul_precision": "tf32"}, "matmul_precision = 'tf32'"),
  "sampler's option": (
    {"evaluation.rows": ("ancestral:3:variance=smal",)},
    "ancestral: variance = 'smal' must be one of small, large",
  ),
  "rule": (
    {"evaluation.rows": ("annealed_langevin:3:rule=ncsn",)},
    "annealed_langevin: rule = 'ncsn' must be one of published, ncsnv2; did you mean 'ncsnv2'",
  ),
  "grid": (
    {"sampler.sigma_max": 0.001},
    "sigma_min = 0.05 and sigma_max = 0.001 must satisfy",
  ),
  "monitor": ({"training.monitor": "loss"}, "training.monitor = 'loss' is not a validation"),
  "checkpoint": (
    {"evaluation.checkpoint": "bst"},
    "'bst' is not a checkpoint.*best",
  ),
  "network at pure noise": (
    PURE_NOISE | {"parameterization.name": "noise"},
    "parameterization.name = 'noise' has no value at alpha = 0, where the grid of dpmpp_2m starts",
  ),
  "conditioning at pure noise": (
    PURE_NOISE | {"parameterization.name": "v"},
    "conditioning = 'log_sigma' has no value at alpha = 0",
  ),
  "activation": ({"network.activation": "rulu"}, "network.activation = 'rulu'.*'relu'"),
  "dim": ({"target.name": "grid25", "target.dim": 3}, "target: dim = 3 must be even"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_configs_are_refused_by_name(changes, message):
  config = ncsn_gmm.get_config("fast")
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=message) as error:
    check_rows(build(config))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("change", "line"),
  [
    (
      lambda c: c.training.update(num_steps="two"),
      "training.num_steps = 'two', must be of type int",
    ),
    (
      lambda c: c.training.update(batch_size=True),
      "training.batch_size = True, must be of type int",
    ),
    (lambda c: c.evaluation.update(metrics=(7,)), r"metrics = \(7,\), must be a tuple of str"),
    (lambda c: c.update(seed=None), "seed = None, must be of type int"),
    (lambda c: c.network.update(widths=(object(),)), "network.widths = .*, must be of type tuple"),
    (lambda c: setattr(c, "loss", 3), "loss = 3 must be a ConfigDict"),
    (lambda c: c.training.update(nosuch=1), "training.nosuch is not a field"),
    (lambda c: c.training.__delattr__("log_every"), "training.log_every is missing"),
  ],
)
def test_fields_and_types_are_the_base_config_s(change, line):
  """Also where a config file has set them with their types ignored."""
  config = ncsn_gmm.get_config("fast")
  check_fields(config, base.get_config())
  with config.unlocked(), config.ignore_type():
    change(config)
  with pytest.raises(ConfigError, match=line) as error:
    check_fields(config, base.get_config())
  assert "\n" not in str(error.value)


class DataSet:
  """The points of a data set [n, 2, 3]: a test split, and training points spread by noise."""

  event_shape, scale = (2, 3), 1.0

  def __init__(self):
    points = jnp.arange(6 * 20.0).reshape(20, 2, 3)
    self.splits = {"train": points[:12], "validation": points[12:15], "test": points[15:]}

  def sample(self, key, n):
    return self.splits["train"][jax.random.randint(key, (n,), 0, 12)]

  def dequantise(self, key, x):
    return x + 0.5 * jax.random.uniform(key, x.shape)


@pytest.mark.e2e
def test_a_data_set_is_trained_on_validated_and_compared_by_its_splits(monkeypatch):
  monkeypatch.setitem(TARGETS, "nine_modes", DataSet)
  config = base.variant(base.get_config(), "fast")
  config.evaluation.update(metrics=("energy_distance",), reference="test", rows=())
  config.training.batch_size = 0
  experiment = build(config)
  splits = experiment.target.splits
  batch = jnp.sort(experiment.draw_batch(jax.random.key(0), experiment.data)["x"], axis=0)
  for points, whole in (
    (batch, splits["train"]),
    (experiment.validation["x"], splits["validation"]),
  ):
    assert (points > whole).all() and (points < whole + 0.5).all()
  params = experiment.init_params(jax.random.key(1))
  sets = draw_sets(experiment, params, StopFlag())
  assert sets["rows"][0]["network"].shape == (2, 200, 2, 3)
  np.testing.assert_array_equal(sets["reference"], [splits["test"]] * 2)
  for exact in sets["exact"]:  # every training point once
    np.testing.assert_array_equal(np.sort(exact.ravel()), splits["train"].ravel())
  config.target.num_train = 5
  with pytest.raises(ConfigError, match=r"num_train = 5 must be 0: .* has its own"):
    build(config)


def test_learning_rate_warms_up_and_decays():
  """Ends and middle of warm-up and cosine, known in closed form."""
  shape = learning_rate_shape(decay="cosine", warmup_steps=200, num_steps=1000)
  steps = np.array([0, 100, 200, 600, 1000])
  values = [float(shape(step)) for step in steps]
  np.testing.assert_allclose(values, [0, 0.5, 1, 0.5, 0], atol=1e-6)


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for config_name in ["base", *CONFIGS]:
    (GOLDEN / f"{config_name}.json").write_text(changed(config_name))
