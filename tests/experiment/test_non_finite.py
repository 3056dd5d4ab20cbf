"""A table that is not finite says so: which row or table, from which level on, and why."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import evaluation
from scorelab.evaluation import non_finite
from scorelab.evaluation.non_finite import in_one_line
from scorelab.evaluation.table import format_table
from scorelab.experiment import sampler_spec as rows
from scorelab.experiment.build import build
from scorelab.predictions import Exact, Prediction
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules import VarianceExploding
from scorelab.targets import TARGETS
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import nine_modes
from tests.paths import ROOT

KEY = jax.random.key(0)
TARGET = GaussianMixture([0.3, 0.7], [[-4.0, 0.0], [3.0, 1.0]], [0.5, 1.0])
X = jnp.array([[0.5, -1.0], [2.0, 0.3]])


def row(spec, **options):
  main = {"name": "ddim", "num_steps": 4, "grid": "karras"}
  return rows.make_row(rows.parse_row(spec, main, "row"), "row", VarianceExploding(), True)


def test_the_level_from_which_samples_are_lost():
  """A predict that is nan below sigma = 1 is lost at the step that starts there."""

  def broken(x, level):
    pred = TARGET.predict(x, level)
    return Prediction.of(x, level, "x0", x0=jnp.where(level.sigma < 1, jnp.nan, pred.x0))

  ddim = row("ddim:8")
  assert non_finite.first_level(ddim, KEY, TARGET.predict, X) == ""
  line = non_finite.first_level(ddim, KEY, broken, X)
  first = int(np.flatnonzero(np.asarray(ddim.grid.levels.sigma) < 1)[0])
  ratio = float(ddim.grid[first].sigma)
  assert line == f"from step {first + 1} of 8 on, at sigma / alpha = {ratio:.3g}"
  chain = row("ula:400:step_size=5.0:sigma=0.5")
  assert non_finite.first_level(chain, KEY, TARGET.predict, X).startswith("from step ")


def test_faults_of_a_table():
  fine = dict.fromkeys(("value", "floor", "prior", "discretisation", "learning"), 0.5)
  lacking = fine | {"learning": None, "value": None}

  def table(**metrics):
    return {
      "rows": [{"label": "ddim-8", "metrics": metrics}],
      "score_error": {"sigma": [1.0, 2.0], "relative": [0.1, 0.2]},
    }

  assert non_finite.find(table(a=fine)) == []
  lost = {"ddim-8": {"lost": {"network": "from step 2 of 8 on"}}}
  (line,) = non_finite.find(table(a=lacking, b=fine), lost)
  assert line == "ddim-8: a (samples are not finite from step 2 of 8 on, with the network alone)"
  lost["ddim-8"]["lost"]["prior"] = ""
  assert "with the exact score too" in non_finite.find(table(a=lacking), lost)[0]
  assert "the samples are finite" in non_finite.find(table(a=lacking))[0]
  # No sample on a mode: there is no std of such samples, and nothing is wrong.
  assert non_finite.find(table(within_mode_std=lacking)) == []
  assert non_finite.find(table(class_imbalance=lacking)) == []  # a class does not occur
  assert non_finite.find(table(within_mode_std=lacking), lost)
  exact_only = fine | dict.fromkeys(("prior", "discretisation", "learning"))
  assert non_finite.find(table(a=exact_only), exact=False) == []
  assert non_finite.find(table(a=exact_only)) != []


class Lost:
  """A network that is the truth, and nan above the level that its parameters say."""

  def bind(self, params, label=None):
    del label

    def predict(x, level):
      pred = nine_modes().predict(x, level)
      lost = level.sigma > params["above"]
      return Prediction.of(x, level, "x0", x0=jnp.where(lost, jnp.nan, pred.x0))

    return predict


@pytest.fixture(scope="module")
def programs():
  """What `Lost` is evaluated with, compiled once for every level from which it is nan."""
  return {}


def measured(tmp_path, network, params, programs=None, **changed):
  """evaluation.json of a small experiment with such a network."""
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.evaluation.update(num_keys=2, num_samples=20, num_reference=20, num_projections=4)
  config.evaluation.update(metrics=("energy_distance",), rows=())
  config.evaluation.update(score_levels=(0.1, 2.0), score_samples=16)
  config.evaluation.update(likelihood_points=10, likelihood_num_steps=8, likelihood_bound_steps=4)
  config.evaluation.update(changed)
  experiment = dataclasses.replace(build(config), parameterization=network)
  workdir = open_workdir(tmp_path, experiment.config, {})
  result = evaluation.evaluate(experiment, params, workdir, StopFlag(), programs=programs)
  assert json.loads(workdir.evaluation.read_text()) == result  # no NaN, which is no JSON
  return result


@pytest.mark.e2e
def test_every_table_of_a_network_that_fails_above_a_level(tmp_path, programs):
  """nan above sigma = 1: at 2 of two score levels, and at the levels of Girsanov's bound above 1.

  Sampling and the likelihood's solver go through these levels too.
  """
  result = measured(tmp_path, Lost(), {"above": 1.0}, programs)
  faults = result["non_finite"]
  row, score, bound, flow, chain = faults
  above = sum(sigma > 1 for sigma in result["girsanov"]["sigma"])
  # Besides those of the bound, the level of the score error.
  cause = f"(the network is not finite at sigma / alpha = 80 and {above} other levels)"
  assert "from step 1 of 16 on, at sigma / alpha = 80, with the network alone" in row
  assert score == f"score error at sigma = 2 {cause}"
  assert bound.startswith("Girsanov's bound: learning, total at sigma / alpha = 80 and ")
  assert f" 80 and {above - 1} other levels (" in bound
  assert flow == f"log-likelihood by the probability flow: flow, kl {cause}"
  assert chain.startswith(
    "log-likelihood by the variational bound: bound, bound_kl (the network is"
  )
  assert result["score_error"]["relative"][1] is None is not result["score_error"]["relative"][0]
  assert "-" in format_table(result)
  assert in_one_line(faults) == "; ".join(faults[:4]) + "; and 1 more in evaluation.json"


@pytest.mark.e2e
def test_tables_of_a_sound_network_have_no_faults(tmp_path, programs):
  assert "non_finite" not in measured(tmp_path, Lost(), {"above": np.inf}, programs)


@pytest.mark.e2e
def test_an_exact_score_that_fails_is_named(tmp_path, monkeypatch):
  """A truth that is nan at sigma = 2 alone: a level of the score error, and of nothing else."""
  honest = GaussianMixture.predict

  def broken(self, x, level):
    pred = honest(self, x, level)
    at = jnp.abs(level.sigma - 2.0) < 1e-4
    return Prediction.of(
      x,
      level,
      "score",
      score=jnp.where(at, jnp.nan, pred.score),
      x0=pred.x0,
      x0_variance=pred.x0_variance,
      log_density=pred.log_density,
    )

  monkeypatch.setattr(GaussianMixture, "predict", broken)
  network = Exact(lambda x, level: honest(nine_modes(), x, level))
  result = measured(tmp_path, network, {}, likelihood_points=0)
  assert result["non_finite"] == [
    "score error at sigma = 2 (the exact score is not finite at sigma / alpha = 2)"
  ]


@pytest.mark.e2e
def test_a_mode_without_weight_has_no_error_and_is_no_fault(tmp_path, monkeypatch):
  """It has no part of q_t: None in the file, where nan is no JSON."""
  target = GaussianMixture([1.0, 0.0], [[0.0, 0.0], [3.0, 0.0]], [1.0, 1.0])
  monkeypatch.setitem(TARGETS, "nine_modes", lambda: target)
  result = measured(tmp_path, Exact(target.predict), {}, likelihood_points=0)
  assert "non_finite" not in result
  assert result["score_error"]["relative_by_mode"] == [0.0, None]


def test_points_that_a_fixed_solver_loses_are_a_fault_and_given_up_ones_are_not():
  likelihood = {"bin_width": None, "points": 10, "method": "rk4", "failed": 3}
  likelihood |= dict.fromkeys(("flow", "truth", "kl", "bound", "bound_kl"), 0.5)
  assert non_finite._faults(likelihood, True) == ["probability flow: 3 of 10 points"]
  assert non_finite._faults(likelihood | {"method": "adaptive"}, True) == []
  lacking = likelihood | {"failed": 0, "truth": None, "kl": None}
  assert non_finite._faults(lacking, False) == []  # no exact law to compare with
  assert non_finite._faults(lacking, True) == ["probability flow: kl"]


NETWORK = """
import jax.numpy as jnp
from flax import linen as nn

class Broken(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x, c):
    return jnp.where(c[:, None] > 0, jnp.nan, nn.Dense(x.shape[-1])(x))
"""
UNTRAINED = ["--config=configs/ncsn_gmm.py:fast", "--config.network.name=broken.Broken"]
UNTRAINED += ["--config.training.num_steps=0", "--config.evaluation.score_levels=(0.1,2.0)"]
UNTRAINED += ["--config.evaluation.likelihood_points=10"]


@pytest.mark.e2e
@pytest.mark.parametrize("members", [[], ["--config.ensemble.seeds=2"]], ids=["one", "ensemble"])
def test_main_ends_in_one_line_and_code_1_and_again(members, forked, tmp_path):
  """A network that is nan at high levels; what was computed is on disk, and DONE is not."""
  (tmp_path / "broken.py").write_text(NETWORK)
  workdir = tmp_path / "run"
  command = [ROOT / "main.py", *UNTRAINED, *members, f"--workdir={workdir}"]
  said = []
  for _ in range(2):
    done = forked.python(command, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "not finite" in line]
    assert done.stderr.splitlines()[-1] == line and "Traceback" not in done.stderr
    said.append((line, done.stdout))
  assert said[0] == said[1]
  line, table = said[0]
  assert line.startswith(f"{workdir}: not finite: {'seed=0: ' if members else ''}dpmpp_2m-16")
  assert "at sigma / alpha = 80, with the network alone" in line
  assert "reverse SDE, by Girsanov's theorem" in table
  result = json.loads((workdir / "evaluation.json").read_text())
  faults = " ".join(result["non_finite"])
  for table in ("score error at sigma = 2 (", "Girsanov's bound: ", "by the probability flow: "):
    assert table in faults
  assert (workdir / "samples.npz").exists() and not (workdir / "DONE").exists()
