"""scripts/score_matching.py: its runs, what it makes of them, and that it goes on where it was."""

import numpy as np
import pytest

from scorelab.experiment.build import build
from scorelab.plotting import read_csv
from scorelab.plotting.studies import Line, loss_comparison
from scorelab.runs.signals import Preempted
from scripts import score_matching

ALL = [(study, loss) for study, (_, losses) in score_matching.STUDIES.items() for loss in losses]


@pytest.mark.parametrize(("study", "loss"), ALL)
def test_every_cell_is_an_experiment(study, loss):
  experiment = build(score_matching.configure(study, loss, 1000, 3, fast=False))
  assert experiment.config["loss"]["name"] == loss
  assert experiment.num_steps == experiment.checkpoint_every == 1000
  assert (experiment.evaluation.score_levels == (0.0,)) == (study == "data")


@pytest.fixture
def tiny(monkeypatch):
  """One loss of each study, in runs of a few steps."""

  def small(make):
    def configure(loss):
      config = make(loss)
      config.network.update(width=16, depth=1, num_features=8)
      config.training.log_every = 2
      config.sampler.num_steps = 3
      config.evaluation.update(num_samples=50, num_reference=50, score_samples=64)
      return config

    return configure

  studies = {
    "data": (small(score_matching.at_data), ("sliced",)),
    "levels": (small(score_matching.at_levels), ("ncsn",)),
  }
  configure = score_matching.configure

  def brief(study, loss, budget, seed, fast):
    config = configure(study, loss, budget, seed, fast=False)
    config.training.update(batch_size=32, num_validation=32)
    config.optimizer.warmup_steps = 1
    return config

  monkeypatch.setattr(score_matching, "STUDIES", studies)
  monkeypatch.setattr(score_matching, "BUDGETS", (2, 4))
  monkeypatch.setattr(score_matching, "configure", brief)


@pytest.mark.slow
def test_the_table_and_going_on(tiny, tmp_path, monkeypatch):
  arguments = ["--seeds", "2", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
  train = score_matching.training.train
  seen = []

  def stopped_once(experiment, workdir, stop):
    seen.append(workdir.path.name)
    if len(seen) == 4:
      raise Preempted
    return train(experiment, workdir, stop)

  monkeypatch.setattr(score_matching.training, "train", stopped_once)
  with pytest.raises(Preempted):
    score_matching.main(arguments)
  assert score_matching.main(arguments) == 0
  assert len(seen) == 9 and len(set(seen)) == 8  # one of the eight begun twice
  table = read_csv(tmp_path / "out" / "score_matching.csv")
  assert [(row["study"], row["loss"], row["steps"]) for row in table] == [
    ("data", "sliced", 4),
    ("levels", "ncsn", 4),
    ("data", "sliced", 2),
    ("levels", "ncsn", 2),
  ]
  for row in table:
    assert row["seeds"] == 2
    assert row["median_score_error"] <= row["worst_score_error"] <= row["worst_seed_score_error"]
    assert 0 < row["seconds_per_step"] < 10
  assert (tmp_path / "out" / "score_matching.png").exists()
  assert not any(score_matching.main([*arguments, "--list"]) for _ in range(2))


def test_a_line_of_the_table_by_hand():
  def made_up(relative, value):
    numbers = {"value": value, "floor": 1.0}
    metrics = dict.fromkeys(score_matching.METRICS, numbers)
    bound = {"girsanov": {"total": value / 100}}
    return {"score_error": {"relative": relative}, "rows": [{"metrics": metrics}], **bound}

  runs = [made_up([0.1, 0.2, 0.9], 2.0), made_up([0.3, 0.4, 0.5], 4.0)]
  line = score_matching.summarise("levels", "ncsn", 4, runs, 0.5)
  assert line["median_score_error"] == pytest.approx(0.3)
  assert line["median_score_error_sem"] == pytest.approx(0.1)  # |0.4 - 0.2| / 2
  assert line["worst_score_error"] == pytest.approx(0.7)
  assert line["worst_seed_score_error"] == 0.9
  assert line["energy_distance"] == 3.0 and line["energy_distance_sem"] == pytest.approx(1.0)
  assert line["energy_distance_floor"] == 1.0 and line["kl_bound"] == pytest.approx(0.03)
  (*_, text) = score_matching.as_markdown([line]).splitlines()
  assert text.startswith("| levels | `ncsn` | 4 | 0.3000 ± 0.1000 | 0.7000 ± 0.2000 | 0.9000 |")
  assert text.endswith("| 500.0 | 0.030 ± 0.010 |")


def test_the_figure_shows_every_loss():
  values = np.array([[1.0, 4.0], [4.0, 16.0]])
  lines = [
    Line("ncsn", "levels", np.array([0.1, 1.0]), values, np.array([0.2, 2.0]), values / 100),
    Line("sliced", "data", np.zeros(1), values[:, :1], np.zeros(0), np.zeros((0,))),
  ]
  figure = loss_comparison({100: lines, 400: lines}, 2)
  for ax, scale in zip(figure.axes, (1, 1, 0.01, 0.01), strict=True):
    curve = next(line for line in ax.lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(curve.get_ydata(), [2 * scale, 8 * scale])  # geometric means
    assert ax.get_xscale() == ax.get_yscale() == "log"
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["ncsn", "sliced"]
