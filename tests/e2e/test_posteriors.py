"""scripts/posteriors.py: rows are resumed, and the exact score's is near the floor."""

import re

import numpy as np
import pytest

from scorelab.plotting import read_csv
from scorelab.runs.files import append_jsonl, read_jsonl
from scripts import posteriors
from tests.paths import ROOT

pytestmark = pytest.mark.e2e


def test_the_study_is_resumed(tmp_path, capsys):
  """A row that is there is kept; one that exploded is counted and left out of the means."""
  problem = posteriors.Problem(8, 2, 0.1, 0)
  row = {**problem._asdict(), "method": "ours", "sliced_w1": None, "floor": 0.1}
  append_jsonl(
    tmp_path / "posteriors.jsonl", row | {"mode_weight_tv": None, "nfe": 1, "gradients": 0}
  )
  assert posteriors.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_jsonl(tmp_path / "posteriors.jsonl")
  assert [row["method"] for row in rows] == ["ours", "exact", "pigdm"]
  exact, pigdm, ours = read_csv(tmp_path / "posteriors.csv")
  assert exact["over_floor"] < 1.5 < pigdm["over_floor"]
  assert ours["exploded"] == 1 and np.isnan(ours["sliced_w1"])
  assert (pigdm["nfe"], pigdm["gradients"], pigdm["published"]) == (20, 20, 0.94)
  assert "| 8 | 2 | pigdm | 1 | 0 |" in capsys.readouterr().out


def test_problems_are_those_of_the_protocol():
  """Singular values are in (0, 1), sorted; every cell has its seeds."""
  target, seen = posteriors.make(posteriors.Problem(80, 4, 0.01, 3))
  values = np.linalg.svd(np.asarray(seen.matrix), compute_uv=False)
  assert seen.matrix.shape == (4, 80) and target.dim == 80
  assert (values > 0).all() and (values < 1).all()
  run = posteriors.protocol(fast=False, seeds=2, methods=("exact",), only={"d": 80})
  assert len(run.problems) == 18


def test_a_wrong_field_is_one_line(capsys):
  with pytest.raises(SystemExit) as error:
    posteriors.main(["--only", "dim=8"])
  assert error.value.code == 2
  assert "'dim=8' must be one of d, d_y, noise_std, seed=number" in capsys.readouterr().err


def test_the_example_of_the_page_runs():
  """docs/posteriors.md: samples of the exact score, of a method and of particles are finite."""
  example = (ROOT / "docs" / "posteriors.md").read_text().partition("## Methods")[0]
  names = {}
  exec("\n".join(re.findall(r"^    (.*)$", example, re.MULTILINE)), names)
  for samples in ("exact", "approximate", "particles"):
    assert np.isfinite(names[samples]).all(), samples
