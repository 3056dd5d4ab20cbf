"""The error budget of rows that are guided towards a known law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cond_gmm
from scorelab.evaluation.draw import draw_sets
from scorelab.evaluation.evaluator import TILTED, measure
from scorelab.evaluation.guided import known_law
from scorelab.evaluation.table import format_table
from scorelab.experiment.build import build
from scorelab.metrics.budget import BUDGET, GUIDED_BUDGET, budget
from scorelab.runs.signals import StopFlag
from scorelab.schedules import VarianceExploding, VariancePreserving, karras
from scorelab.schedules.discrete import Discrete, linear_betas
from scorelab.targets import nine_modes
from scorelab.targets.tilted import tilted

GUIDED = (
  "heun:16:guidance=classifier_free:guidance_scale=3.0",
  "heun:16:guidance=tilted:guidance_scale=3.0:guidance_nodes=3",
)


@pytest.fixture(scope="module")
def experiment():
  config = cond_gmm.get_config("fast")
  config.parameterization.name, config.evaluation.rows = "exact", GUIDED
  config.evaluation.update(num_keys=3, num_samples=200, num_reference=200, labels="0")
  config.evaluation.metrics = ("energy_distance",)
  return build(config)


@pytest.fixture(scope="module")
def sets(experiment):
  return draw_sets(experiment, {}, StopFlag())


@pytest.mark.e2e
def test_guidance_is_a_part_of_its_own(experiment, sets):
  """Classifier-free guidance has a bias that steps do not remove, and tilted guidance has none.

  Of nine modes a class's tilted law is nearly the class, from which the guided flow is far.
  Differences of distances have standard errors: 3 of them.
  """
  unguided, free, own = map(budget, (values[0] for values in measure(experiment, sets, StopFlag())))
  assert not unguided.keys() & {"guidance"} and {*GUIDED_BUDGET} <= free.keys()
  for parts, names in ((unguided, BUDGET), (free, GUIDED_BUDGET), (own, GUIDED_BUDGET)):
    np.testing.assert_allclose(sum(parts[name] for name in names), parts["value"], rtol=1e-9)
  assert free["guidance"] > 30 * free["floor"] > 0
  assert abs(free["discretisation"]) < free["guidance"] / 2
  assert abs(own["guidance"]) < 3 * own["guidance_sem"] + own["floor"] / 2
  assert own["floor"] == free["floor"]


@pytest.mark.e2e
def test_the_sets_are_of_the_tilted_law(experiment, sets):
  """Reference, exact samples and start: each is drawn again here from the law of its label."""
  assert known_law(experiment, 0) is None  # not guided
  unguided, free, _ = sets["rows"]
  assert "reference" not in unguided
  for points in (sets["reference"], sets["exact"]):  # labels="0"
    assert (nine_modes().responsibilities(points).argmax(-1) == 0).all()
  assert free["reference"].shape == free["exact"].shape == (3, 200, 2)
  found = nine_modes().responsibilities(free["exact"]).argmax(-1)
  np.testing.assert_array_equal(found, sets["exact_labels"])
  row = experiment.evaluation.rows[1]
  fine = row.refined()
  assert fine.num_steps == 1 + 4 * (row.num_steps - 1)
  np.testing.assert_array_equal(fine.grid.levels.sigma[:-1:4], row.grid.levels.sigma[:-1])


@pytest.mark.e2e
def test_draws_of_every_label_are_those_of_its_law():
  """Means and stds of 20,000 draws within 4 standard errors, where classes overlap."""
  config = cond_gmm.get_config("fast")
  config.parameterization.name, config.target.name = "exact", "ring"
  config.target.update(num_modes=8, std=0.8)
  config.network.num_classes = 8
  config.evaluation.rows = GUIDED[:1]
  made = build(config)
  labels = jnp.arange(40_000) % 2
  x = np.asarray(known_law(made, 1)(jax.random.key(0), labels))
  for label in range(2):
    law, own = tilted(made.target, label, 3.0), x[label::2]
    error = np.sqrt(np.asarray(law.variance) / len(own))
    np.testing.assert_array_less(np.abs(own.mean(0) - law.mean), 4 * error)
    np.testing.assert_allclose(own.var(0), law.variance, rtol=4 * np.sqrt(2 / len(own)))


def test_a_table_shows_parts_that_some_row_has():
  numbers = {"value": 2.0, "sem": 0.1, "over_floor": 2.0, "over_floor_sem": 0.1}
  plain = numbers | dict.fromkeys(BUDGET, 0.5)
  guided = numbers | dict.fromkeys(GUIDED_BUDGET, 0.4)
  row = {"sampler": "heun", "num_steps": 4, "nfe": 7, "options": {}}
  rows = [
    row | {"label": "heun-4", "metrics": {"energy_distance": plain}},
    row | {"label": "guided", "law": TILTED, "metrics": {"energy_distance": guided}},
  ]
  header, first, second, *_, note = format_table({"protocol": {}, "rows": rows}).splitlines()
  assert header.split()[-5:] == list(GUIDED_BUDGET)
  assert first.split()[-4:] == ["-", "+0.5000", "+0.5000", "+0.5000"]
  assert second.split()[-4:] == ["+0.4000"] * 4
  assert note == f"of the law {TILTED}, its floor too: guided"


@pytest.mark.e2e
@pytest.mark.parametrize(
  "schedule",
  [VariancePreserving(), VarianceExploding(), Discrete(linear_betas(num_levels=50))],
  ids=["vp", "ve", "discrete"],
)
def test_a_refined_grid_has_the_levels_of_its_own_and_more(schedule):
  grid = karras(schedule, 5)
  fine = grid.refined(4)
  assert fine.num_steps == 17 and fine.ends_at_data
  for own, more in zip(grid.levels, fine.levels, strict=True):
    if own is not None:
      np.testing.assert_array_equal(more[:-1:4], own[:-1])
  gaps = np.diff(fine.levels.log_snr[:-1]).reshape(4, 4)
  np.testing.assert_allclose(gaps, gaps.mean(1, keepdims=True).repeat(4, 1), rtol=1e-3)


@pytest.mark.e2e
def test_a_refined_grid_from_pure_noise_keeps_it():
  grid = Discrete(linear_betas(num_levels=50), zero_terminal_snr=True).grid(jnp.array([1.0, 0.5]))
  fine = grid.refined(8)
  assert fine.num_steps == 9 and fine[0].alpha == 0
  first = float(fine.levels.log_snr[1])
  assert 0 < float(grid.levels.log_snr[1]) - first < 2
  assert karras(VariancePreserving(), 1).refined(8).num_steps == 1
