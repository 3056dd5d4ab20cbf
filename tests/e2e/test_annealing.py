"""scripts/annealing.py: the exact law of its reference, and the study at small size."""

import jax
import numpy as np

from scorelab.plotting import read_csv
from scorelab.schedules import VarianceExploding
from scripts import annealing


def test_the_cube_is_the_mixture_to_its_power():
  """Log-densities differ from 3 log p by one number, near modes and between overlapping ones."""
  target = annealing.forty_modes()
  law = annealing.cubed(target)
  x = law.sample(jax.random.key(0), 500)
  apart = np.asarray(law.log_prob(x) - 3 * target.log_prob(x))
  np.testing.assert_allclose(apart, np.median(apart), atol=1e-3)  # weights below 1e-9, float32
  # The number is -log E_p[p^2], here from draws of p.
  drawn = np.exp(2 * np.asarray(target.log_prob(target.sample(jax.random.key(1), 100_000)), float))
  error = 4 * drawn.std() / len(drawn) ** 0.5 / drawn.mean()
  np.testing.assert_allclose(np.median(apart), -np.log(drawn.mean()), atol=error)


def test_the_annealed_score_is_three_times_the_score():
  target, level = annealing.forty_modes(), VarianceExploding(0.02, 200.0).at_ratio(2.0)
  x = target.sample(jax.random.key(0), 20)
  pred = annealing.annealed(target, np.inf)(x, level)
  truth = target.predict(x, level)
  np.testing.assert_allclose(pred.score, 3 * truth.score, rtol=1e-5)
  np.testing.assert_allclose(pred.log_density, 3 * truth.log_density, rtol=1e-5)
  np.testing.assert_allclose(pred.x0_variance, truth.x0_variance / 3, rtol=1e-5)


def test_the_fast_study(tmp_path, capsys):
  assert annealing.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "annealing.csv")
  assert [row["method"] for row in rows] == [method.name for method in annealing.METHODS]
  assert len(capsys.readouterr().out.splitlines()) == len(rows)
  assert all(row["w1"] > 0.8 * row["floor"] > 0 for row in rows)
  assert rows[-1]["w1"] < rows[0]["w1"]  # the power that rises late against the SDE alone
