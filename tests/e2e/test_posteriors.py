"""scripts/posteriors.py: rows are resumed, and the exact score's is near the floor."""

import re

import numpy as np
import pytest

from scorelab.plotting import read_csv
from scorelab.runs.files import append_jsonl, read_jsonl
from scripts import posterior_tables, posteriors
from tests.paths import ROOT

pytestmark = pytest.mark.e2e


def test_the_study_is_resumed(tmp_path, capsys):
  """A row that is there is kept; one that exploded is counted and left out of the means."""
  problem = posteriors.Problem("pooled", 80, 2, 0.1, 0)
  row = {**problem._asdict(), "method": "ours", "distance": None, "floor": 0.1}
  row |= {"mode_weight_tv": None, "nfe": 1, "gradients": 0, "particles": 1, "num_steps": 1}
  append_jsonl(tmp_path / "posteriors.jsonl", row)
  assert posteriors.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_jsonl(tmp_path / "posteriors.jsonl")
  assert [row["method"] for row in rows] == ["ours", "exact_start", "exact", "pigdm"]
  exact, _, pigdm, ours = read_csv(tmp_path / "posteriors.csv")
  assert exact["over_floor"] < 1.5 < pigdm["over_floor"]
  assert ours["exploded"] == 1 and np.isnan(ours["sliced_w1"])
  assert (pigdm["nfe"], pigdm["gradients"]) == (20, 20)
  assert "| 80 | 2 | pigdm | 1 | 20 | 1 | 0 |" in capsys.readouterr().out
  (budget,) = read_csv(tmp_path / "budgets.csv")
  parts = ("floor", "discretisation", "prior", "likelihood")
  assert budget["method"] == "pigdm" and np.isnan(budget["particles"])
  np.testing.assert_allclose(sum(budget[part] for part in parts), budget["value"], rtol=1e-3)
  published = read_csv(tmp_path / "published.csv")
  (cell,) = [
    line
    for line in published
    if (line["method"], line["d"], line["d_y"]) == ("pigdm", 80, 2) and line["protocol"] == "pooled"
  ]
  assert (cell["published"], cell["ours"], cell["problems"]) == (1.68, pigdm["sliced_w1"], 1)


def test_problems_are_those_of_the_protocol():
  """Singular values are in (0, 1), sorted; every cell has its seeds."""
  target, seen = posteriors.make(posteriors.Problem("pooled", 80, 4, 0.01, 3))
  values = np.linalg.svd(np.asarray(seen.matrix), compute_uv=False)
  assert seen.matrix.shape == (4, 80) and target.dim == 80
  assert (values > 0).all() and (values < 1).all()
  pairs, _ = posteriors.plan(fast=False, seeds=2, methods=("exact", "tmpd"), only={"d": 80})
  assert len(pairs) == 36 and all(problem.seed == 0 for problem, _ in pairs[:18])
  target, seen = posteriors.make(posteriors.Problem("authors", 8, 2, None, 1))
  assert np.ptp(np.asarray(target.weights)) > 0.01
  assert 0 < float(seen.noise_std) < np.linalg.svd(np.asarray(seen.matrix))[1].max()


def test_steps_are_the_same_in_every_dimension():
  """Levels of `ours` in units of the modes' distances."""
  grids = [posteriors.make_grid(d, "modes", 10) for d in (8, 800)]
  sigma = [np.asarray(grid.levels.sigma) for grid in grids]
  np.testing.assert_allclose(10 * sigma[0], sigma[1], rtol=1e-4)


def test_coordinates_outside_have_the_width_that_a_sampler_gives_them():
  """Ancestral steps of the exact variance keep N(0, 1) exactly; three standard errors."""
  sizes = posteriors.Sizes(100, 20)
  width = posteriors.width("exact", 8, sizes)
  np.testing.assert_allclose(width, 1, atol=3 / (2 * posteriors._REST) ** 0.5 + 0.02)


@pytest.mark.parametrize(
  "value, error, verdict",
  [(0.2, 0, "agrees"), (0.1, 0.05, "near"), (0.1, 0.01, "lower"), (1.9, 0.01, "higher")],
)
def test_verdicts_follow_the_rule(value, error, verdict):
  """A published midpoint of 1 allows 0.15 to 1.85."""
  assert posterior_tables._verdict(value, error, 0.15, 1.85) == verdict


def test_a_wrong_field_is_one_line(capsys):
  with pytest.raises(SystemExit) as error:
    posteriors.main(["--only", "dim=8"])
  assert error.value.code == 2
  assert "'dim=8' must be one of protocol, d, d_y, noise_std, seed=value" in capsys.readouterr().err


def test_the_example_of_the_page_runs():
  """docs/posteriors.md: samples of the exact score, of a method and of particles are finite."""
  example = (ROOT / "docs" / "posteriors.md").read_text().partition("## Methods")[0]
  names = {}
  exec("\n".join(re.findall(r"^    (.*)$", example, re.MULTILINE)), names)
  for samples in ("exact", "approximate", "particles"):
    assert np.isfinite(names[samples]).all(), samples
