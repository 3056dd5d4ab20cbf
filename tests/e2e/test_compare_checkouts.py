"""scripts/compare_checkouts.py: the runs of two checkouts, file by file."""

import json

import pytest

from scripts import compare_checkouts
from tests.paths import ROOT


@pytest.mark.slow
def test_a_checkout_equals_itself(tmp_path, capsys):
  """Two runs of the same code; run once each, then found."""
  command = [str(ROOT), str(ROOT), "flow_moons", "--steps", "2", "--out", str(tmp_path)]
  assert compare_checkouts.main(command) == 0
  assert capsys.readouterr().out.startswith("flow_moons: equal (")
  (new,) = tmp_path.glob("new/results/flow_moons/*/metrics.jsonl")
  line = json.loads(new.read_text())
  new.write_text(json.dumps(line | {"loss": line["loss"] + 1}) + "\n")
  assert compare_checkouts.main(command) == 1
  assert "differs: metrics.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("new", "config", "line"),
  [(ROOT, "ncsn_gm", "no config ncsn_gm"), (ROOT / "docs", "ncsn_gmm", "it has no main.py")],
)
def test_what_cannot_be_compared_is_one_line(new, config, line, capsys):
  assert compare_checkouts.main([str(ROOT), str(new), config]) == 2
  error = capsys.readouterr().err
  assert line in error and error.count("\n") == 1
