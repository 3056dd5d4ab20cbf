"""scripts/exact_budgets.py: its rows are the exact engine's, and its figure has their slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import flow_kl, gaussian_law
from scorelab.plotting import read_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import VariancePreserving, karras
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d
from scripts import exact_budgets
from scripts.drawing import exact_budgets as drawing


@pytest.mark.parametrize("entry", exact_budgets.ENTRIES, ids=lambda entry: entry.label)
def test_a_budget_is_spent(entry):
  """By the most steps within it, as the sampler counts its evaluations."""
  row = exact_budgets._row("two modes", entry, "karras", 9)
  assert row["nfe"] <= 9 < row["nfe"] + entry.calls
  counted = []

  def run(key):
    grid, x = karras(VariancePreserving(), row["num_steps"]), jnp.ones((1, 1))
    samples = SAMPLERS[entry.sampler](key, two_modes_1d().predict, x, grid, **entry.options)
    counted.append(samples.nfe)
    return samples.x

  jax.eval_shape(run, jax.random.key(0))
  assert counted == [row["nfe"]]


def test_the_fast_study(tmp_path, capsys, x64):
  assert exact_budgets.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "exact_budgets.csv")
  assert [(row["target"], row["label"], row["nfe"]) for row in rows] == [
    *(("gaussian", label, nfe) for label in ("dpmpp_2m", "ancestral") for nfe in (4, 8)),
    ("two modes", "dpmpp_2m", 4),
  ]
  target = GaussianMixture([1.0], np.zeros((1, 64)), np.arange(1, 65)[None] ** -1.5)
  grid = karras(VariancePreserving(), 8)
  law = gaussian_law(SAMPLERS["ancestral"], target, grid)
  assert rows[3]["kl"] == pytest.approx(law.kl(target), rel=1e-10)
  assert rows[3]["kl_prior"] + rows[3]["kl_discretisation"] == pytest.approx(rows[3]["kl"])
  modes = two_modes_1d()
  exact = flow_kl(
    SAMPLERS["dpmpp_2m"], modes.predict, modes, karras(VariancePreserving(), 4), start="true"
  )
  assert rows[4]["kl"] == pytest.approx(exact.value, rel=1e-10)
  assert rows[4]["kl_error"] < 1e-6 * rows[4]["kl"]
  assert (tmp_path / "exact_budgets.png").stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert "5 exact budgets in" in printed
  assert f"{law.kl(target):.2g} (karras)" in printed


def test_slopes_are_orders():
  nfe = np.array([4, 8, 16, 32, 64])
  assert drawing.slope(nfe, 5.0 * nfe**-2.0) == pytest.approx(2)
  assert np.isnan(drawing.slope(nfe[:3], nfe[:3]))
