"""scripts/exact_budgets.py: its rows are the exact engine's, and its figure has their slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import flow_kl, gaussian_law
from scorelab.plotting import read_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import VariancePreserving, uniform
from scripts import exact_budgets
from scripts.drawing import exact_budgets as drawing


@pytest.mark.parametrize("entry", exact_budgets.ENTRIES, ids=lambda entry: entry.label)
def test_a_budget_is_spent(entry):
  """By the most steps within it, as the sampler counts its evaluations."""
  num_steps = entry.steps(9)
  nfe = exact_budgets.nfe_of(entry, num_steps)
  assert nfe <= 9 < nfe + entry.calls
  counted = []

  def run(key):
    grid, x = uniform(VariancePreserving(), num_steps), jnp.ones((1, 1))
    predict = exact_budgets.line().predict
    samples = SAMPLERS[entry.sampler](key, predict, x, grid, **entry.options)
    counted.append(samples.nfe)
    return samples.x

  jax.eval_shape(run, jax.random.key(0))
  assert counted == [nfe]


def test_there_are_37_grids():
  assert len({spacing.name for spacing in exact_budgets.SPACINGS}) == 37


def test_the_fast_study(tmp_path, capsys, x64):
  assert exact_budgets.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "exact_budgets.csv")
  grids = [spacing.name for spacing in exact_budgets.FAST.spacings]
  assert [(row["target"], row["label"], row["nfe"], row["grid"]) for row in rows] == [
    (target, label, nfe, grid)
    for label, targets in (("dpmpp_2m", ("gaussian", "two modes")), ("ancestral", ("gaussian",)))
    for nfe in (4, 8)
    for target in targets
    for grid in grids
  ]
  target, grid = exact_budgets.gaussian(), uniform(VariancePreserving(), 8)
  law = gaussian_law(SAMPLERS["ancestral"], target, grid)
  true = gaussian_law(SAMPLERS["ancestral"], target, grid, start="true")
  row = next(r for r in rows if (r["label"], r["nfe"], r["grid"]) == ("ancestral", 8, "uniform"))
  assert row["kl"] == pytest.approx(law.kl(target), rel=1e-10)
  assert row["w2"] - row["w2_prior"] == pytest.approx(true.w2(target), rel=1e-8)
  modes = exact_budgets.line()
  grid = uniform(VariancePreserving(), 4)
  exact = flow_kl(SAMPLERS["dpmpp_2m"], modes.predict, modes, grid, start="true")
  row = next(r for r in rows if (r["target"], r["grid"]) == ("two modes", "uniform"))
  assert row["kl"] == pytest.approx(exact.value, rel=1e-7)
  assert row["kl_error"] < 1e-6 * row["kl"]
  assert (tmp_path / "exact_budgets.png").stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert "24 exact budgets in" in printed
  assert drawing.front_table(rows) in printed


def test_the_front():
  """A row is on it if no other of as many evaluations is as good; of each sampler's best grid."""
  base = {"target": "gaussian", "budget": 8}
  rows = [
    base | {"label": label, "nfe": nfe, "grid": grid, "kl": kl}
    for label, nfe, grid, kl in [
      ("a", 4, "x", 1.0),
      ("a", 4, "y", 0.5),
      ("b", 5, "x", 0.7),
      ("b", 8, "x", 0.1),
      ("a", 8, "y", 0.2),
    ]
  ]
  front = drawing.front(rows, "gaussian", "kl")
  assert [(row["label"], row["nfe"], row["grid"]) for row in front] == [
    ("a", 4, "y"),
    ("b", 8, "x"),
  ]


def test_slopes_are_orders():
  nfe = np.array([4, 8, 16, 32, 64])
  assert drawing.slope(nfe, 5.0 * nfe**-2.0) == pytest.approx(2)
  assert np.isnan(drawing.slope(nfe[:3], nfe[:3]))
