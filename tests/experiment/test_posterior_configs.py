"""Configs of inverse problems: the law is the posterior, the budget adds up, one-line mistakes."""

import jax
import numpy as np
import pytest

from configs import ncsn_gmm, posterior_digits, posterior_gmm
from scorelab.errors import ConfigError
from scorelab.evaluation.draw import draw_sets
from scorelab.evaluation.evaluator import POSTERIOR_SETS, measure
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_metrics
from scorelab.inverse import tmpd
from scorelab.metrics import Reference
from scorelab.metrics.budget import POSTERIOR_BUDGET, budget
from scorelab.metrics.consistency import measurement_misfit
from scorelab.runs.signals import StopFlag


def gmm(**changes):
  config = posterior_gmm.get_config("fast")
  config.sampler.num_steps = 4
  config.evaluation.update(num_keys=2, num_samples=40, batch_size=None, num_reference=50)
  config.evaluation.rows = ("tds:4:particles=2:twist=tmpd",)
  for name, value in changes.items():
    section, _, field = name.partition("__")
    config[section][field] = value
  return config


def refused(config, match):
  with pytest.raises(ConfigError, match=match) as error:
    build(config)
  assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def experiment():
  return build(gmm())


def test_the_law_is_the_exact_posterior(experiment):
  seen, law = experiment.evaluation.observation, experiment.law
  expected = experiment.target.given(seen)
  np.testing.assert_array_equal(law.means, expected.means)
  np.testing.assert_array_equal(law.log_weights, expected.log_weights)
  values = np.linalg.svd(np.asarray(seen.matrix), compute_uv=False)
  assert seen.matrix.shape == (2, 8) and (values < 1).all()


@pytest.mark.e2e
def test_parts_are_differences_of_the_sets_that_they_name(experiment):
  """With 2 particles, 8 and the exact conditional score, each drawn on its own here."""
  sets = draw_sets(experiment, {}, StopFlag())
  guided, particles = sets["rows"]
  assert (guided["nfe"], particles["nfe"]) == (4, 8)
  np.testing.assert_array_equal(guided["largest"], guided["network"])
  assert not np.allclose(particles["largest"], particles["network"])
  row = experiment.evaluation.rows[0]
  predict = tmpd(experiment.target.predict, experiment.evaluation.observation)
  x = row.prior(jax.random.key(0), (3, 8))
  level = row.grid[1]
  bound = row.predict(experiment.parameterization.bind, {})
  np.testing.assert_allclose(bound(x, level).x0, predict(x, level).x0, rtol=1e-6)
  table = measure(experiment, sets, StopFlag())
  assert table[1].shape[1] == 1 + len(POSTERIOR_SETS) == len(POSTERIOR_BUDGET)
  for values in table[1]:
    parts = budget(values)
    total = sum(parts[name] for name in POSTERIOR_BUDGET)
    np.testing.assert_allclose(total, parts["value"], rtol=1e-6)
    np.testing.assert_allclose(parts["particles"], np.mean(values[4] - values[3]), rtol=1e-5)


@pytest.mark.e2e
def test_without_a_method_the_exact_score_samples_the_posterior():
  config = gmm(sampler__posterior=None, sampler__num_steps=100, evaluation__num_samples=400)
  config.evaluation.rows = ()
  made = build(config)
  (row,) = draw_sets(made, {}, StopFlag())["rows"]
  np.testing.assert_array_equal(row["network"], row["prior"])
  x, law = row["network"][0], made.law
  error = 5 * np.sqrt(np.asarray(law.variance) / len(x)) + 0.05
  assert (np.abs(x.mean(0) - np.asarray(law.mean)) < error).all()


def test_y_is_read_from_a_file(tmp_path):
  a, y = np.eye(2, 8), np.array([1.0, 2.0])
  np.savez(tmp_path / "seen.npz", A=a, y=y)
  path = str(tmp_path / "seen.npz")
  seen = build(
    gmm(observation__name=None, observation__rank=None, observation__path=path)
  ).evaluation.observation
  np.testing.assert_array_equal(seen.matrix, a)
  np.testing.assert_array_equal(seen.y, y)
  np.savez(tmp_path / "bare.npz", A=a)
  path = str(tmp_path / "bare.npz")
  refused(gmm(observation__name=None, observation__rank=None, observation__path=path), "no array y")
  (tmp_path / "text.npz").write_text("A")
  path = str(tmp_path / "text.npz")
  refused(gmm(observation__path=path), "is no NPZ file")


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"observation__name": "mask"}, "observation.name = 'mask' is not an operator"),
    ({"observation__rank": 9}, "observation: rank = 9 must be at most 8"),
    ({"observation__factor": 2}, "observation.factor = 2 is not an option of random_matrix"),
    ({"observation__noise_std": 0.0}, "noise_std = 0 must be > 0"),
    ({"sampler__posterior": "tmdp"}, "did you mean 'tmpd'"),
    ({"sampler__strength": 2.0}, "sampler.strength = 2.0 is not an option"),
    ({"sampler__name": "ddrm"}, "sampler.posterior = 'tmpd' is not for ddrm"),
    ({"evaluation__exact": True}, "evaluation.exact = True does not go with an observation"),
    ({"evaluation__rows": ("ula:5:step_size=0.1",)}, "ula follows no grid"),
  ],
)
def test_mistakes_are_one_line(changes, match):
  if changes == {"observation__noise_std": 0.0}:
    with pytest.raises(ConfigError, match=match):
      check_metrics(build(gmm(**changes)))
    return
  refused(gmm(**changes), match)


def test_methods_need_an_observation_and_networks_a_method():
  config = ncsn_gmm.get_config("fast")
  config.sampler.posterior = "pigdm"
  refused(config, "sampler.posterior = 'pigdm' needs an observation")
  config.observation.update(name="random_matrix")
  build(config)
  config.sampler.posterior = None
  refused(config, "of a network does not use the observation: set sampler.posterior")


def test_the_digits_have_no_truth_but_a_misfit():
  """A test digit without noise misfits as its noise does, and other digits by far more."""
  made = build(posterior_digits.get_config("fast"))
  seen = made.evaluation.observation
  assert made.law is None and not made.evaluation.comparable
  assert seen.matrix.shape == (32, 64)
  digits = np.asarray(made.target.splits["test"])
  own, others = (
    measurement_misfit(None, x, Reference(digits, observation=seen))
    for x in (digits[:1], digits[1:])
  )
  assert 0.6 < own < 1.4 and others > 5
