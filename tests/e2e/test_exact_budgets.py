"""scripts/exact_budgets.py: its rows are the exact engine's, and its figure has their slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import flow_kl, gaussian_law
from scorelab.plotting import read_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import VariancePreserving, uniform
from scorelab.targets import nine_modes
from scripts import exact_budgets
from scripts.drawing import exact_budgets as drawing


@pytest.mark.parametrize("entry", exact_budgets.ENTRIES, ids=lambda entry: entry.label)
def test_a_budget_is_spent(entry):
  """By the most steps within it, as the sampler counts its evaluations."""
  num_steps = entry.steps(9)
  nfe = exact_budgets.nfe_of(entry, num_steps)
  assert nfe <= 9 < nfe + entry.calls
  counted, predict = [], exact_budgets.line().predict

  def run(key):
    grid, x = uniform(VariancePreserving(), num_steps), jnp.ones((1, 1))
    samples = SAMPLERS[entry.sampler](key, predict, x, grid, **entry.options)
    counted.append(samples.nfe)
    return samples.x

  jax.eval_shape(run, jax.random.key(0))
  assert counted == [nfe]


def test_the_study_has_as_many_grids_and_samplers_as_the_docs_say():
  assert len({spacing.name for spacing in exact_budgets.SPACINGS}) == 37
  assert len({entry.label for entry in exact_budgets.ENTRIES}) == 25
  assert len(exact_budgets.DETERMINISTIC) == 14


def test_the_fast_study(tmp_path, capsys, x64):
  assert exact_budgets.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "exact_budgets.csv")
  grids = [spacing.name for spacing in exact_budgets.PROTOCOLS["fast"].spacings]
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


def test_the_plane():
  """One sampler on one grid: the exact engine's number, and a map that folds is on no front."""
  entry, steps = exact_budgets.DETERMINISTIC[11], (16, 32)
  few = exact_budgets.Protocol((entry,), exact_budgets.SPACINGS[:1], steps, ("nine modes",))
  with jax.enable_x64(True):
    rows = exact_budgets.measure(entry, few)
    target, grid = nine_modes(), uniform(VariancePreserving(), 32)
    exact = flow_kl(SAMPLERS["dpmpp_2m"], target.predict, target, grid, start="true", rtol=1e-3)
  named = [(row["label"], row["nfe"], row["grid"]) for row in rows]
  assert named == [("dpmpp_2m", nfe, "uniform") for nfe in steps]
  assert rows[0]["kl_error"] == np.inf
  assert rows[1]["kl"] == pytest.approx(exact.value, abs=rows[1]["kl_error"])
  assert list(drawing.best_within(rows, "nine modes", "kl")) == [32]
  assert "`dpmpp_2m`, uniform" in drawing.front_table(rows, drawing.PLANE)
  assert drawing.error_against_nfe(rows, drawing.PLANE).axes[0].get_yscale() == "log"


ROWS = [
  {"target": target, "budget": budget, "label": label, "nfe": nfe, "grid": grid, "kl": kl, "w2": kl}
  for label, budget, nfe, grid, kl in [
    ("a", 4, 4, "x", 1.0),
    ("a", 4, 4, "y", 0.005),
    ("b", 4, 3, "x", 0.7),
    ("b", 8, 7, "x", 0.001),
    ("a", 8, 8, "y", 0.02),
    ("a", 16, 16, "y", 0.01),
    ("b", 16, 15, "y", 0.002),
  ]
  for target in ("gaussian", "two modes")
]


def test_the_front():
  """Of each sampler's best grid, the best row within the budget, which may be of a smaller one."""
  front = drawing.best_within(ROWS, "gaussian", "kl")
  found = [(budget, row["label"], row["nfe"], row["grid"]) for budget, row in front.items()]
  assert found == [(4, "a", 4, "y"), (8, "b", 7, "x"), (16, "b", 7, "x")]
  assert "| 16 | 0.001: `b`, x |" in drawing.front_table(ROWS)


def test_fewest_evaluations_are_those_from_which_on_the_limit_holds():
  """`a` is within 0.01 at 4, outside at 8, and within at 16."""
  table = drawing.fewest_table(ROWS)
  assert "| `a` | 16 | 16 | 16 | 16 |" in table
  assert "| `b` | 7 | 7 | 7 | 7 |" in table


def test_slopes_are_orders():
  nfe = np.array([4, 8, 16, 32, 64])
  assert drawing.slope(nfe, 5.0 * nfe**-2.0) == pytest.approx(2)
  assert np.isnan(drawing.slope(nfe[:3], nfe[:3]))
