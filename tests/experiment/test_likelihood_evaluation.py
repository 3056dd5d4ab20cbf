"""Held-out likelihood as evaluation.json has it: against entropies, and against what bounds it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm, ula_gmm
from scorelab.errors import ConfigError
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.evaluation.table import align
from scorelab.experiment.build import build
from scorelab.predictions import Exact
from scorelab.runs.signals import StopFlag
from scorelab.targets.mixtures import GaussianMixture, nine_modes


def config_of(**likelihood):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update({f"likelihood_{name}": value for name, value in likelihood.items()})
  return config


def measure(experiment, predict):
  experiment = dataclasses.replace(experiment, parameterization=Exact(predict))
  protocol = experiment.evaluation.likelihood
  return likelihood_evaluation.measure_likelihood(experiment, {}, protocol, StopFlag())


@pytest.mark.e2e
def test_of_the_truth():
  """Nine modes: apart as they are, the entropy is that of the choice and of one mode, at 0.02 too.

  KL is the prior's, 2e-4, and RK4's error of 64 steps. The chain's steps are too wide.
  """
  result = measure(build(config_of(points=200, num_steps=64, bound_steps=50)), nine_modes().predict)
  weights = np.asarray(nine_modes().weights, float)
  entropy = -np.sum(weights * np.log(weights)) + np.log(2 * np.pi * np.e * (0.1 + 0.02**2))
  for name in ("truth", "flow"):
    assert abs(result[name] + entropy) < 4 * result[f"{name}_sem"]
  logs = np.log(weights)
  variance = 1 + np.sum(weights * logs**2) - np.sum(weights * logs) ** 2
  assert result["truth_sem"] == pytest.approx((variance / 200) ** 0.5, rel=0.3)
  assert abs(result["kl"]) < 4 * result["kl_sem"] + 2e-3 and result["kl_sem"] < 2e-3
  assert result["bound"] < result["flow"] and result["bound_kl"] > 4 * result["bound_kl_sem"]
  assert result["bits_per_dim"] == pytest.approx(-result["flow"] / 2 / np.log(2))
  assert (result["points"], result["source"], result["failed"]) == (200, "fresh", 0)
  assert result["nfe"] == 256 and result["sigma"] == pytest.approx(0.02)


@pytest.mark.e2e
@pytest.mark.parametrize(
  "schedule",
  [
    {"name": "variance_preserving", "shift": -5.0},
    {"name": "gaussian_channel", "alpha_min": 0.01, "alpha_max": 10.0},
  ],
  ids=lambda schedule: schedule["name"],
)
def test_densities_are_in_units_of_the_data_where_the_signal_is_scaled(schedule):
  """At the cleanest level x / alpha = x_0 + r noise, of which the entropy is a closed form.

  There alpha is 0.54 (VP moved to more noise) and 10: without d log alpha in the density, that of x
  instead of x / alpha, the numbers would be 1.2 and 4.6 nats off. The nine modes overlap little.
  """
  config = config_of(points=200, num_steps=64, bound_steps=2)
  config.schedule.update(sigma_min=None, sigma_max=None, rho=None, **schedule)
  config.sampler.update(sigma_min=None)
  config.evaluation.update(rows=(), score_levels=(2.0,))
  experiment = build(config)
  result = measure(experiment, nine_modes().predict)
  weights = np.asarray(nine_modes().weights, float)
  variance = 0.1 + result["sigma"] ** 2
  entropy = -np.sum(weights * np.log(weights)) + np.log(2 * np.pi * np.e * variance)
  for name in ("truth", "flow"):
    assert abs(result[name] + entropy) < 4 * result[f"{name}_sem"] + 0.03
    assert result[f"{name}_sem"] < 0.1
  alpha = experiment.schedule.at(jnp.asarray(experiment.schedule.t_min)).alpha
  assert abs(2 * jnp.log(alpha)) > 1


@pytest.mark.e2e
def test_of_a_wrong_model_it_is_the_kl():
  """The score of another Gaussian: the model's law, and the KL that a closed form has."""
  experiment = build(config_of(points=100, method="adaptive", bound_steps=2))
  law, other = (
    GaussianMixture([1.0], np.array([[mean, 0.0]]), np.array([v]))
    for mean, v in ((0.0, 1.0), (0.3, 1.5))
  )
  result = measure(dataclasses.replace(experiment, target=law), other.predict)
  ratio = 1 / 1.5
  kl = ratio - 1 - np.log(ratio) + 0.3**2 / 1.5 / 2
  # The model starts from the prior, not from its own law at sigma = 80: less than 1e-3 apart.
  assert abs(result["kl"] - kl) < 4 * result["kl_sem"] + 2e-3
  assert result["kl_sem"] < 0.06 and result["failed"] == 0
  assert 20 < result["nfe"] < 200


class Lattice:
  """Independent coordinates on {-3, -1, 1, 3} / 4, uniform on [-1, 1] where dequantised."""

  event_shape, dim, scale, bin_width = (2,), 2, 3**-0.5, 0.5

  def sample(self, key, n):
    return jax.random.randint(key, (n, 2), 0, 4) / 2 - 0.75

  def dequantise(self, key, x):
    return x + self.bin_width * (jax.random.uniform(key, x.shape) - 0.5)


@pytest.mark.e2e
def test_bits_of_a_lattice():
  """By a Gaussian of the dequantised law's variance, 1 / 3: its entropy, and a bit for the bins.

  That is above the lattice's own 2 bits. At 0.02 the Gaussian is 6e-4 wider.
  """
  experiment = build(config_of(points=1000, num_steps=16, bound_steps=2))
  gaussian = GaussianMixture([1.0], np.zeros((1, 2)), np.array([1 / 3]))
  result = measure(dataclasses.replace(experiment, target=Lattice()), gaussian.predict)
  bits = np.log2(2 * np.pi * np.e / 3) / 2 + 1
  assert abs(result["bits_per_dim"] - bits) < 4 * result["flow_sem"] / 2 / np.log(2) + 2e-3
  assert result["bin_width"] == 0.5 and result["truth"] is None
  table = likelihood_evaluation.table(result, None)
  assert table[0][-1] == "bits/dim, bins of 0.5" and table[1][2:4] == ["-", "-"]


def test_points_are_held_out_ones():
  class Split:
    def __init__(self, **splits):
      self.splits = splits

  train, test = jnp.zeros((50, 2)), jnp.arange(20.0).reshape(10, 2)
  experiment = build(config_of())
  for name in ("test", "validation"):
    own = dataclasses.replace(experiment, target=Split(train=train, **{name: test}))
    points, source = likelihood_evaluation.held_out(own, jax.random.key(0), 4)
    assert source == name and {tuple(x) for x in points.tolist()} < {
      tuple(x) for x in test.tolist()
    }
    assert len(likelihood_evaluation.held_out(own, jax.random.key(0), 99)[0]) == 10


def test_failures_are_counted_and_left_out(monkeypatch):
  """Of 20 points the solver gives up the first three; the others have the exact density."""
  target = GaussianMixture([1.0], np.zeros((1, 2)), np.ones(1))

  def some_fail(key, predict, x, grid, protocol, data_std):
    failed = jnp.arange(len(x)) < 3
    flow = target.perturbed(1.0, grid[-1].sigma).log_prob(x)
    status = jnp.where(failed, 2, 0)
    return {"flow": jnp.where(failed, jnp.nan, flow), "nfe": jnp.full(len(x), 7), "status": status}

  monkeypatch.setattr(likelihood_evaluation, "_flow", some_fail)
  experiment = build(config_of(points=20, method="adaptive", bound_steps=2))
  result = measure(dataclasses.replace(experiment, target=target), target.predict)
  assert result["failed"] == 3 and abs(result["kl"]) < 1e-5
  table = likelihood_evaluation.table(result, {"total": 0.1, "total_sem": 0.01})
  assert "adaptive, 7 NFE, 3 failed" in table[1][0]
  assert table[-1][3] == "<= 0.1000 +- 0.0100"
  assert len({len(line) for line in align(table).splitlines()}) == 1


BAD = {
  "method": ({"method": "rk5"}, "likelihood_method = 'rk5' is not a method; did you mean 'rk4'"),
  "divergence": ({"divergence": "exct"}, "'exct' is not a divergence; did you mean 'exact'"),
  "steps": ({"num_steps": 0}, "evaluation.likelihood_num_steps = 0, must be at least 1"),
  "steps of adaptive": (
    {"method": "adaptive", "num_steps": 9},
    "likelihood_num_steps = 9 is not an option of evaluation.likelihood_method = 'adaptive'",
  ),
  "tolerance of rk4": ({"tolerance": 1e-3}, "tolerance = 0.001 is not an option of .* = 'rk4'"),
  "probes of exact": ({"num_probes": 2}, "num_probes = 2 is not an option of .* = 'exact'"),
}


@pytest.mark.parametrize(("changes", "line"), BAD.values(), ids=BAD)
def test_bad_configs_are_one_line(changes, line):
  with pytest.raises(ConfigError, match=line) as error:
    build(config_of(points=10, **changes))
  assert "\n" not in str(error.value)


def test_a_network_of_one_level_has_no_flow():
  config = config_of(points=10)
  config.parameterization.update(name="scaled_score", conditioning="none")
  config.loss.update(name="hyvarinen", levels="data", weighting=None)
  with pytest.raises(ConfigError, match=r"needs a network of every level, and loss.name = 'hyva"):
    build(config)
  assert build(config_of()).evaluation.likelihood is None
  assert build(config_of(points=0)).evaluation.likelihood is None
  exact = ula_gmm.get_config("fast")
  exact.evaluation.likelihood_points = 5
  assert build(exact).evaluation.likelihood.num_points == 5
