"""scripts/wander.py: a run of seconds, its table, and going on."""

import pytest

from scorelab.plotting import read_csv
from scorelab.runs import lock
from scripts import wander


def test_a_study_keeps_out_of_a_folder_that_is_at_work(tmp_path):
  folder = tmp_path / "runs" / "seed-0"
  with lock.hold(folder), pytest.raises(lock.UnwritableError, match="is using this directory"):
    wander.main(["--seeds=1", "--fast", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"])
  assert not (folder / "config.json").exists()


@pytest.mark.slow
def test_the_table_and_going_on(tmp_path, capsys):
  arguments = ["--seeds=2", "--fast", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]
  assert wander.main(arguments) == 0
  rows = read_csv(tmp_path / "wander.csv")
  assert [(row["seed"], row["step"]) for row in rows] == [(0, 40), (0, 60), (1, 40), (1, 60)]
  assert all(row["max_sliced_wasserstein"] > 0 for row in rows)
  first = (tmp_path / "wander.csv").read_bytes()
  assert wander.main(arguments) == 0
  assert "resuming from step 60" in capsys.readouterr().err
  assert (tmp_path / "wander.csv").read_bytes() == first
