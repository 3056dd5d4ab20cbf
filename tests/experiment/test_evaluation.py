"""The error budget: that it adds up, and that each part is what it says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import flow_moons, ncsn_gmm, ula_gmm
from scorelab import evaluation
from scorelab.errors import ConfigError
from scorelab.evaluation import figures
from scorelab.evaluation.figures import draw_run
from scorelab.evaluation.table import format_table, row_labels
from scorelab.experiment.build import build
from scorelab.metrics.budget import BUDGET, budget
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import open_workdir


def config_of(**evaluation_fields):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1, num_features=8)
  config.evaluation.update(
    num_keys=4, num_samples=400, num_reference=800, num_projections=20, score_samples=64
  )
  config.evaluation.update({"rows": ("ddim:4:eta=1.0",)} | evaluation_fields)
  return config


def evaluate(config, tmp_path, exact_network=False, programs=None):
  experiment = build(config)
  params = experiment.init_params(jax.random.key(0))
  if exact_network:
    experiment = with_exact_network(experiment)
  workdir = open_workdir(tmp_path, experiment.config, {})
  result = evaluation.evaluate(experiment, params, workdir, StopFlag(), programs=programs)
  return result, experiment, workdir


class Exact:
  """A network that knows the truth."""

  def __init__(self, target):
    self._target = target

  def bind(self, params):
    del params
    return self._target.predict


def with_exact_network(experiment):
  import dataclasses

  return dataclasses.replace(experiment, parameterization=Exact(experiment.target))


LIKELIHOOD = {"likelihood_points": 8, "likelihood_num_steps": 2, "likelihood_bound_steps": 2}


@pytest.fixture(scope="module")
def plain():
  return build(config_of())


@pytest.fixture(scope="module")
def programs():
  """What `evaluated` has compiled."""
  return {}


@pytest.fixture(scope="module")
def evaluated(programs, tmp_path_factory):
  """A network that was not trained, with all that is measured: result, experiment, folder."""
  folder = tmp_path_factory.mktemp("evaluated")
  return evaluate(config_of(**LIKELIHOOD), folder, programs=programs)


@pytest.mark.e2e
def test_budgets_add_up_and_are_written(evaluated):
  result, experiment, workdir = evaluated
  assert result == json.loads(workdir.evaluation.read_text()) == evaluation.read(workdir)
  assert [row["nfe"] for row in result["rows"]] == [16, 4]
  for row in result["rows"]:
    assert row["metrics"].keys() == set(experiment.config["evaluation"]["metrics"])
    for numbers in row["metrics"].values():
      parts = sum(numbers[part] for part in BUDGET)
      # The parts are means of differences in float64: rounding only.
      np.testing.assert_allclose(parts, numbers["value"], rtol=1e-9)
  floors = {row["metrics"]["energy_distance"]["floor"] for row in result["rows"]}
  assert len(floors) == 1
  with np.load(workdir.samples) as samples:
    assert samples["exact"].shape == (400, 2)
    assert {"dpmpp_2m-16", "ddim-4-eta=1.0"} <= set(samples)


def test_labels_say_what_tells_rows_apart():
  def row(sampler, **options):
    return {"sampler": sampler, "num_steps": 8, "options": options}

  rows = [row("heun", grid="karras", rho=5.0), row("ddim", grid="karras", rho=5.0, eta=1.0)]
  assert row_labels(rows) == ["heun-8", "ddim-8-eta=1.0"]
  assert row_labels(rows[1:]) == ["ddim-8-rho=5.0-eta=1.0"]
  rows[0]["options"]["grid"] = "uniform"
  assert row_labels(rows) == ["heun-8-grid=uniform", "ddim-8-grid=karras-eta=1.0"]
  chain = row("mala", step_size=0.1)
  assert row_labels([rows[1], chain])[1] == "mala-8-step_size=0.1"


@pytest.mark.e2e
def test_a_network_that_is_the_truth_has_learned_all(tmp_path):
  """Learning is exactly nothing; so is its standard error, for the keys are paired."""
  result, _, _ = evaluate(config_of(), tmp_path, exact_network=True)
  for row in result["rows"]:
    for numbers in row["metrics"].values():
      assert numbers["learning"] == numbers["learning_sem"] == 0
  np.testing.assert_array_equal(result["score_error"]["relative"], 0)
  np.testing.assert_array_equal(result["score_error"]["relative_by_mode"], 0)
  bound = result["girsanov"]
  assert bound["learning"] == 0 and bound["total"] == bound["prior"] > 0
  assert bound["sigma"][0] == pytest.approx(80) and bound["sigma"][-1] == pytest.approx(0.02)


@pytest.mark.e2e
def test_without_levels_there_is_no_score_error(tmp_path):
  """`--config.evaluation.score_levels="()"`: all else is measured and drawn."""
  config = config_of(score_levels=())
  config.parameterization.name = "exact"
  result, experiment, workdir = evaluate(config, tmp_path)
  assert "score_error" not in result and result["rows"]
  assert "energy_distance" in format_table(result)
  draw_run(experiment, {}, workdir, StopFlag())
  assert {p.stem for p in workdir.figures.iterdir()} == {"loss", "samples", "budget"}
  field = figures.middle_field(experiment, {}, np.zeros((2, 2)), 3)
  assert field.sigma == pytest.approx(float(experiment.target.scale) / 4)


@pytest.mark.e2e
def test_more_steps_and_more_noise_leave_the_floor(tmp_path):
  """With the exact score from far out, prior and discretisation vanish: within 4 errors of 0."""
  config = config_of()
  config.schedule.sigma_max = 1000.0
  config.sampler.num_steps = 100
  result, _, _ = evaluate(config, tmp_path, exact_network=True)
  numbers = result["rows"][0]["metrics"]["energy_distance"]
  for part in ("prior", "discretisation"):
    assert abs(numbers[part]) < 4 * numbers[f"{part}_sem"] + 1e-3


@pytest.mark.e2e
def test_a_prior_that_is_too_narrow_shows_as_prior(tmp_path):
  """Started at sigma = 2 from N(0, 4 I), the outer modes at distance 10 are hardly reached."""
  config = config_of(rows=(), metrics=("energy_distance",), score_levels=())
  config.schedule.sigma_max = 2.0
  config.sampler.num_steps = 30
  result, _, _ = evaluate(config, tmp_path, exact_network=True)
  numbers = result["rows"][0]["metrics"]["energy_distance"]
  assert numbers["prior"] > 1
  assert numbers["prior"] > 10 * abs(numbers["discretisation"])


@pytest.mark.e2e
def test_without_an_exact_score_there_are_a_value_and_a_floor(tmp_path):
  """A network that was not trained, on moons, to the figures: every other part is null."""
  config = flow_moons.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update(num_keys=3, score_samples=8)
  result, experiment, workdir = evaluate(config, tmp_path)
  assert result.keys() == {"protocol", "rows"}
  assert [row["nfe"] for row in result["rows"]] == [31, 128]
  for row in result["rows"]:
    assert row["metrics"].keys() == set(config.evaluation.metrics)
    for numbers in row["metrics"].values():
      known = {name for name, number in numbers.items() if number is not None}
      assert known == {"value", "sem", "floor", "floor_sem", "over_floor", "over_floor_sem"}
      # Its velocity is 0, so that its samples are noise, of std 1 about 0; the moons are not.
      assert numbers["value"] > 3 * numbers["floor"]
  header, first = format_table(result).splitlines()[:2]
  assert header.split()[-4:] == list(BUDGET)
  assert first.split()[-3:] == ["-", "-", "-"]
  params = experiment.init_params(jax.random.key(0))
  numbers = experiment.validate(params, jax.random.key(1), experiment.validation, None)
  assert numbers.keys() == {"val_loss"}
  draw_run(experiment, params, workdir, StopFlag())
  assert {path.name for path in workdir.figures.iterdir()} == {
    *("loss.png", "samples.png", "budget.png")
  }


@pytest.mark.e2e
def test_the_same_command_gives_the_same_bits(evaluated, programs, tmp_path):
  again = evaluate(config_of(**LIKELIHOOD), tmp_path, programs=programs)[2]
  assert evaluated[2].evaluation.read_text() == again.evaluation.read_text()


@pytest.mark.e2e
def test_one_key_has_no_standard_error(tmp_path):
  config = config_of(rows=(), metrics=("mode_weight_tv",), score_levels=())
  config.evaluation.num_keys = 1
  result, _, _ = evaluate(config, tmp_path)
  assert result["rows"][0]["metrics"]["mode_weight_tv"]["sem"] is None
  assert "mode_weight_tv" in format_table(result)


def test_budget_of_numbers_by_hand():
  measured = np.array([[1.0, 3.0], [2.0, 4.0], [4.0, 4.0], [7.0, 5.0]])
  assert budget(measured) == {
    "value": 6.0, "sem": 1.0, "floor": 2.0, "floor_sem": 1.0, "prior": 1.0, "prior_sem": 1.0,
    "discretisation": 1.0, "discretisation_sem": 0.0, "learning": 2.0, "learning_sem": 1.0,
    "over_floor": 3.0, "over_floor_sem": 2.0,  # residuals 7 - 3 and 5 - 9, over the floor's 2
  }  # fmt: skip
  assert budget(np.full((4, 2), np.nan))["value"] is None


@pytest.mark.e2e
def test_a_stop_leaves_nothing_half_written(plain, tmp_path):
  workdir = open_workdir(tmp_path, plain.config, {})
  stop = StopFlag()
  stop.requested = True
  with pytest.raises(Preempted):
    evaluation.evaluate(plain, plain.init_params(jax.random.key(0)), workdir, stop)
  assert not workdir.evaluation.exists()
  assert not workdir.samples.exists()


def test_rows_compile_once_for_all_keys_and_starts(plain):
  row = plain.evaluation.rows[0]
  sample = evaluation.sample_row(row, lambda _: plain.target.predict)
  for seed in (0, 1):
    keys = jax.random.split(jax.random.key(seed), 3)
    x, nfe = sample(None, keys, jnp.full((3, 5, 2), float(seed)))
  assert sample._cache_size() == 1
  assert x.shape == (3, 5, 2)
  assert int(nfe) == row.num_steps


@pytest.mark.e2e
def test_the_table_is_aligned_and_complete(evaluated):
  result, _, workdir = evaluated
  assert evaluation.read(workdir)["likelihood"] == result["likelihood"]
  table = format_table(result)
  blocks = [block.splitlines() for block in table.split("\n\n")]
  # And the scores, by level and by mode, the bound and the likelihood.
  assert len(blocks) == len(result["rows"][0]["metrics"]) + 4
  for block in blocks:
    assert len({len(line) for line in block}) == 1


@pytest.mark.e2e
def test_langevin_rows_start_at_the_data_or_the_prior(tmp_path):
  """Chains do not cross between modes: from the data exact, from one place all prior."""
  config = ula_gmm.get_config("fast")
  config.sampler.update(name="mala", num_steps=20, start_std=1.0)
  config.evaluation.update(rows=("ula:20:step_size=0.001:start_std=1.0",), num_keys=4)
  config.evaluation.metrics = ("mode_weight_tv", "within_mode_std")
  result, _, _ = evaluate(config, tmp_path)
  for row in result["rows"]:
    assert row["nfe"] in (20, 21)  # MALA asks at the start too
    weights, spread = row["metrics"]["mode_weight_tv"], row["metrics"]["within_mode_std"]
    assert weights["prior"] > 0.7  # the middle mode has 9 % of the mass
    assert weights["learning"] == 0
    assert abs(spread["discretisation"]) < 4 * spread["discretisation_sem"] + 0.02


@pytest.mark.parametrize(("levels", "sigma"), [("data", None), ("fixed", 1.0)])
def test_a_network_of_one_level_has_no_bound(plain, levels, sigma):
  config = config_of()
  config.parameterization.update(name="scaled_score", conditioning="none")
  config.loss.update(name="hyvarinen", levels=levels, sigma=sigma, weighting=None)
  assert not build(config).evaluation.girsanov
  assert not build(ula_gmm.get_config("fast")).evaluation.girsanov  # nothing is learned
  assert plain.evaluation.girsanov


def test_kernels_need_what_they_need():
  config = ula_gmm.get_config("fast")
  config.sampler.step_size = None
  with pytest.raises(ConfigError, match=r"sampler.step_size must be set for ula"):
    build(config)
  config = ncsn_gmm.get_config("fast")
  config.sampler.update(name="mala", step_size=0.1, sigma_min=None)
  with pytest.raises(ConfigError, match=r"'mala' needs parameterization.name = 'exact'"):
    build(config)


@pytest.mark.e2e
@pytest.mark.parametrize("size", [3, 8])
def test_samples_in_batches_are_the_same_law_and_all_there(plain, size):
  """A sampler without noise does not see the batches: each start has its own sample."""
  row = plain.evaluation.rows[0]
  sample = evaluation.sample_row(row, lambda _: plain.target.predict)
  keys, starts = (
    jax.random.split(jax.random.key(0), 2),
    jax.random.normal(jax.random.key(1), (2, 7, 2)),
  )
  whole, nfe = sample({}, keys, starts)
  parts, same = evaluation.sample_in_batches(sample, {}, keys, starts, size, StopFlag())
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)  # float32, another shape
  assert nfe == same


def test_batches_draw_noise_of_their_own(plain):
  row = plain.evaluation.rows[1]  # ancestral: the same start ends elsewhere in each batch
  sample = evaluation.sample_row(row, lambda _: plain.target.predict)
  starts = jnp.full((1, 6, 2), 50.0)
  x, _ = evaluation.sample_in_batches(
    sample, {}, jax.random.split(jax.random.key(0), 1), starts, 2, StopFlag()
  )
  assert len({tuple(point) for point in x[0].tolist()}) == 6
