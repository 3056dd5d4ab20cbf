"""The budget's statistics: expectations and correlations in closed form, errors that cover, keys.

A Gaussian on the line seen through an affine sampler stays Gaussian: each set of samples is a
linear map of independent normals, so every mean, variance and correlation has a closed form.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import ncsn_gmm
from scorelab import evaluation
from scorelab.experiment.build import build
from scorelab.experiment.keys import Stream
from scorelab.metrics import energy_distance
from scorelab.metrics.budget import budget
from scorelab.predictions import Exact
from scorelab.runs.signals import StopFlag
from scorelab.targets.mixtures import GaussianMixture
from scorelab.typing import Samples

KEYS, POINTS, REFERENCE, SEEDS = 5, 24, 40, 200
STDS = (1.0, 1.3)  # of the law, and of the one whose score the network has
SETS = ("exact", "reference", "true_start", "prior", "network")


def gaussian(std):
  return GaussianMixture([1.0], np.zeros((1, 1)), np.array([std**2]))


def shift(key, x, reference):
  """A metric whose values are normal: the difference of means."""
  del key
  return float(np.mean(x) - np.mean(reference.points))


@pytest.fixture(scope="module")
def experiment():
  config = ncsn_gmm.get_config("fast")
  config.schedule.sigma_max = 2.0
  config.network.update(width=8, depth=1, num_features=4)
  config.sampler.update(name="ddim", num_steps=3, sigma_min=0.1, eta=1.0)
  config.evaluation.update(num_keys=KEYS, num_samples=POINTS, num_reference=REFERENCE, rows=())
  made = build(config)
  protocol = dataclasses.replace(
    made.evaluation, metrics={"shift": shift, "energy_distance": energy_distance}
  )
  law, model = map(gaussian, STDS)
  return dataclasses.replace(
    made, target=law, parameterization=Exact(model.predict), evaluation=protocol
  )


@pytest.fixture(scope="module")
def evaluations(experiment):
  """Sets' means [sets, seeds * keys] and the measured table [seeds, metrics, 4, keys]."""
  programs, means, tables = {}, [], []
  for seed in range(SEEDS):
    here = dataclasses.replace(experiment, config=experiment.config | {"seed": seed})
    sets = evaluation.draw_sets(here, {}, StopFlag(), programs=programs)
    named = {**sets, **sets["rows"][0]}
    means.append([named[name].mean((1, 2)) for name in SETS])
    tables.append(evaluation.measure(here, sets, StopFlag())[0])
  return np.concatenate(means, axis=1), np.stack(tables)


def affine(levels, std, start):
  """DDIM at eta = 1 with the score of N(0, std^2), as weights of `start` and of each step's noise.

  By hand, for alpha = 1: the posterior mean is x std^2 / (std^2 + r^2), and each step draws from
  the Bayes posterior, N((r'^2 x + (r^2 - r'^2) x0) / r^2, r'^2 (r^2 - r'^2) / r^2).
  """
  weights = np.append(start, np.zeros(len(levels) - 1))
  for i, (r, s) in enumerate(itertools.pairwise(levels)):
    kept = (s**2 + (r**2 - s**2) * std**2 / (std**2 + r**2)) / r**2
    weights *= kept
    weights[len(start) + i] = s * np.sqrt(r**2 - s**2) / r
  return weights


def laws(experiment):
  """Weights of the sets on (own draw, data, start's noise, the steps' noise): [sets, ...]."""
  levels = np.asarray(experiment.evaluation.rows[0].grid.levels.sigma, float)
  sets = {
    "true_start": affine(levels, STDS[0], [STDS[0], levels[0]]),
    "prior": affine(levels, STDS[0], [0.0, levels[0]]),
    "network": affine(levels, STDS[1], [0.0, levels[0]]),
  }
  own = {name: np.zeros(len(levels) + 1) for name in ("exact", "reference")}
  table = np.stack([np.pad((own | sets)[name], (2, 0)) for name in SETS])
  table[0, 0] = table[1, 1] = STDS[0]
  return table


def expected_energy(x_std, y_std, n, m):
  """Of the V-statistic of n draws from N(0, x_std^2) against m from N(0, y_std^2).

  E |N(0, v)| = sqrt(2 v / pi); pairs of a point with itself are 0.
  """
  between = 2 * np.hypot(x_std, y_std)
  within = np.sqrt(2) * (x_std * (1 - 1 / n) + y_std * (1 - 1 / m))
  return np.sqrt(2 / np.pi) * (between - within)


def expected_parts(experiment):
  """Of the energy distance, by part."""
  stds = dict(zip(SETS, np.linalg.norm(laws(experiment), axis=1), strict=True))
  values = {
    name: expected_energy(stds[name], STDS[0], POINTS, REFERENCE)
    for name in ("exact", "true_start", "prior", "network")
  }
  return {
    "value": values["network"],
    "floor": values["exact"],
    "discretisation": values["true_start"] - values["exact"],
    "prior": values["prior"] - values["true_start"],
    "learning": values["network"] - values["prior"],
  }


@pytest.mark.e2e
def test_each_part_has_the_expectation_of_a_closed_form(experiment, evaluations):
  """Over 1,000 keys, within 4.5 standard errors: a floor 18 % too low is 9 of them off."""
  _, tables = evaluations
  measured = tables[:, 1].swapaxes(0, 1).reshape(4, -1)
  found = budget(measured)
  for part, value in expected_parts(experiment).items():
    error = found["sem" if part == "value" else f"{part}_sem"]
    assert abs(found[part] - value) < 4.5 * error, part
  assert found["floor_sem"] < 0.03 * found["floor"]
  assert found["prior"] < -4.5 * found["prior_sem"] or found["prior"] > 4.5 * found["prior_sem"]


@pytest.mark.e2e
def test_sets_correlate_as_their_common_noise_has_it(experiment, evaluations):
  """Exact samples, reference and the rest are independent; rows share data, start and noise.

  Correlations of 1,000 pairs of means, whose standard error is (1 - rho^2) / sqrt(1000): within 5.
  """
  means, _ = evaluations
  weights = laws(experiment)
  covariance = weights @ weights.T
  stds = np.sqrt(np.diag(covariance))
  expected = covariance / stds[:, None] / stds
  found = np.corrcoef(means)
  error = (1 - expected**2) / np.sqrt(means.shape[1])
  assert (np.abs(found - expected) <= 5 * error + 1e-6).all(), found - expected
  # What this can see: pairs are far from 0, and from 1 where they share but a part.
  assert expected[2, 3] > 0.8 and expected[3, 4] > 0.9 and (expected[:2, 2:] == 0).all()


@pytest.mark.e2e
@pytest.mark.parametrize("metric", [0, 1], ids=["shift", "energy_distance"])
@pytest.mark.parametrize("part", ["value", "floor", "prior", "discretisation", "learning"])
def test_a_standard_error_covers_as_often_as_student_has_it(experiment, evaluations, part, metric):
  """One standard error of five keys covers the truth with P(|t_4| < 1) = 0.626.

  The shift is normal and has mean 0 in every part. Energy distances are skewed, and their truth is
  the closed form. Of 200 evaluations the count lies in the binomial law's 1e-4 tails at no part,
  and within 0.1 beside for the skew.
  """
  _, tables = evaluations
  truth = expected_parts(experiment)[part] if metric else 0.0
  covered = 0
  for table in tables[:, metric]:
    found = budget(table)
    error = found["sem" if part == "value" else f"{part}_sem"]
    covered += abs(found[part] - truth) <= error
  share = 2 * stats.t.cdf(1, KEYS - 1) - 1
  low, high = stats.binom.ppf([1e-4, 1 - 1e-4], SEEDS, share)
  skew = 0.1 * SEEDS * metric
  assert low - skew <= covered <= high + skew, (covered, low, high)


@pytest.mark.e2e
def test_paired_differences_have_the_smaller_error(evaluations):
  """Of prior and learning, whose two sets share noise and reference; by how much is in the closed
  forms above. The unpaired error is the root of the sum of squares."""
  _, tables = evaluations
  for metric in (0, 1):
    _, true_start, prior, network = tables[:, metric].swapaxes(0, 1).reshape(4, -1)
    for a, b in ((prior, true_start), (network, prior)):
      assert np.std(a - b) < 0.75 * np.hypot(np.std(a), np.std(b))


def code(key, shape=()):
  """A key as four numbers below 2^16, which float32 holds: [*shape, 4]."""
  data = jax.random.key_data(key)
  halves = jnp.concatenate([data >> 16, data & 0xFFFF]).astype(jnp.float32)
  return jnp.broadcast_to(halves, (*shape, 4))


class Telling:
  """A target whose points are the key that they were drawn with."""

  event_shape = (4,)
  scale = 1.0

  def sample(self, key, n):
    return code(key, (n,))

  def predict(self, x, level):
    raise NotImplementedError


@pytest.fixture(scope="module")
def telling(experiment):
  """Rows whose samples are the sampler's key, the start, and the data under the start."""
  row = experiment.evaluation.rows[0]

  def own_key(key, predict, x):
    del predict
    return Samples(code(key, x.shape[:1]), x[None], 1)

  def start(key, predict, x):
    del key, predict
    return Samples(x, x[None], 1)

  told = {
    "prior": lambda key, shape: code(key, shape[:-1]),
    "true_start": lambda key, data: code(key, data.shape[:-1]),
  }
  rows = (
    dataclasses.replace(row, run=own_key, **told),
    dataclasses.replace(row, run=start, **told),
    dataclasses.replace(row, run=start, **told | {"true_start": lambda key, data: data}),
  )
  protocol = dataclasses.replace(experiment.evaluation, rows=rows)
  return dataclasses.replace(experiment, target=Telling(), evaluation=protocol)


def distinct(arrays):
  """Whether no key occurs twice among arrays [k, n, 4], one key for each of k."""
  keys = [tuple(key) for array in arrays for key in np.asarray(array)[:, 0].tolist()]
  return len(set(keys)) == len(keys)


def test_keys_of_an_evaluation_are_one_where_they_must_and_differ_elsewhere(telling):
  """Of reference, exact samples, data, starts and samplers, over keys; paired within a row."""
  sets = evaluation.draw_sets(telling, {}, StopFlag())
  sampler, start, data = sets["rows"]
  for array in (sets["reference"], sets["exact"], *sampler.values()):
    if not isinstance(array, int):  # nfe
      assert (array == array[:, :1]).all()  # one key a set
  for row in (sampler, start):  # the network, the truth from the prior, and from the true p_T
    np.testing.assert_array_equal(row["network"], row["prior"])
    np.testing.assert_array_equal(row["true_start"], row["prior"])
  roles = (sets["reference"], sets["exact"], sampler["prior"], start["prior"], data["true_start"])
  assert distinct(roles)

  def tell(key, x, reference):
    del x, reference
    return float(jax.random.key_data(key)[-1])

  protocol = dataclasses.replace(telling.evaluation, metrics={"a": tell, "b": tell})
  run = dataclasses.replace(telling, evaluation=protocol)
  table = np.stack(evaluation.measure(run, sets, StopFlag()))
  assert (table == table[:1, :1, :1]).all()  # projections are one for all that is compared
  assert len(set(table[0, 0, 0])) == KEYS
  drawn = np.concatenate([np.asarray(role)[:, 0] for role in roles])
  last_words = drawn[:, 1] * 2**16 + drawn[:, 3]
  assert not set(table[0, 0, 0]) & set(last_words)
  draws = telling.key(Stream.EVALUATION, 0)  # nor are they those that the draws' were split of
  roots = {
    int(jax.random.key_data(key)[-1]) for n in range(1, 9) for key in jax.random.split(draws, n)
  }
  assert not set(table[0, 0, 0]) & roots


def test_no_key_of_an_evaluation_is_that_of_another_stream(telling):
  """Draws for training, for validation and for the score errors have keys of their own."""
  sets = evaluation.draw_sets(telling, {}, StopFlag())
  others = [
    np.asarray(code(telling.key(stream, step), (1, 1))) for stream in Stream for step in range(3)
  ]
  assert distinct([sets["reference"], sets["exact"], *others])


def test_batches_have_keys_of_their_own(telling):
  """Each batch of each key: noise that came again would repeat samples."""
  row = telling.evaluation.rows[0]
  sample = jax.jit(
    lambda params, keys, starts, labels, weak: (
      jax.vmap(lambda key, x: row.run(key, None, x).x)(keys, starts),
      jnp.ones((), int),
    )
  )
  keys, starts = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 6, 4))
  x, _ = evaluation.sample_in_batches(sample, {}, keys, starts, 2, StopFlag())
  batches = x.reshape(2, 3, 2, 4)
  assert (batches == batches[:, :, :1]).all()
  assert len({tuple(key) for key in batches[:, :, 0].reshape(-1, 4).tolist()}) == 6
