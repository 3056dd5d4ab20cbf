"""scripts/chaos.py: what it would find, and that there is nothing to find."""

import collections
import random
import subprocess
import sys
import types

import numpy as np
import pytest

from scorelab.runs.files import append_jsonl, write_json
from scripts import chaos
from scripts.chaos_trials import faults, kills, runs, trial, watched

TIMES = trial.Timetable(dict.fromkeys(("starting", *kills._TRAINING, *kills._AFTER), 1.0), 150)


def test_kills_are_planned_for_every_phase_and_get_further():
  moments = kills.plan(50, TIMES, random.Random(0))
  assert len(moments) == 50
  counts = collections.Counter(kill.phase for kill in moments)
  assert counts == {
    **{"training": 12, "saving": 12, "starting": 6},
    **{"sampling": 7, "evaluating": 7, "drawing": 6},
  }
  progress = [kill.progress for kill in moments]
  assert progress == sorted(progress)
  # What is due while it trains is due before it has trained.
  assert max(kill.progress for kill in moments if kill.phase in ("training", "saving")) < 1
  assert all(0 <= kill.delay <= 1 for kill in moments)
  assert (
    moments == kills.plan(50, TIMES, random.Random(0)) != kills.plan(50, TIMES, random.Random(1))
  )
  assert len(kills.plan(1, TIMES, random.Random(0))) == 1
  no_evaluation = trial.Timetable({"starting": 1.0, "training": 1.0}, 150)
  phases = {kill.phase for kill in kills.plan(9, no_evaluation, random.Random(0))}
  assert phases == {"starting", "training"}


def test_a_process_says_its_phase(tmp_path):
  file, module = tmp_path / "phase", types.SimpleNamespace()

  def read():
    return file.read_text().strip()

  module.draw_sets = read
  module.evaluate = lambda fails: (read(), module.draw_sets(), read(), 1 / fails)
  phase = watched.Phase(str(file))
  assert read() == "starting"
  phase.during(module, "evaluate", "evaluating")
  phase.during(module, "draw_sets", "sampling")
  assert module.evaluate(1)[:3] == ("evaluating", "sampling", "evaluating")
  assert read() == "between"
  with pytest.raises(ZeroDivisionError):
    module.evaluate(0)
  assert read() == "between"


@pytest.fixture
def two(tmp_path):
  """Two folders as runs leave them, but for the clock's share."""
  for name in ("a", "b"):
    folder = tmp_path / name
    (folder / "checkpoints" / "000000002").mkdir(parents=True)
    for step in (1, 2):
      append_jsonl(folder / "metrics.jsonl", {"step": step, "loss": 0.1})
    append_jsonl(folder / "timings.jsonl", {"step": 1, "time": len(name)})
    write_json(folder / "evaluation.json", {"rows": []})
    write_json(folder / "environment.json", {"jax": "1", "git": name})
    (folder / "LOCK").write_text(name)
    (folder / "checkpoints" / "000000002" / "x").write_text(name)
  return tmp_path / "a", tmp_path / "b"


def test_runs_that_differ_by_the_clock_only_are_the_same(two):
  assert trial.differences(*two) == []
  assert runs.saved_step(two[0]) == 2 and runs.count_lines(two[0]) == 2


METRICS = {
  "lost": ('{"step": 1, "loss": 0.1}\n', "has 1 lines, not 2"),
  "doubled": ('{"step": 1, "loss": 0.1}\n' * 3, "has 3 lines, not 2; line 2 is the first"),
  "torn": ('{"step": 1, "loss": 0.1}\n{"step": 2, "lo', "line 2 is the first that differs"),
  "another number": ('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.3}\n', "line 2"),
}


@pytest.mark.parametrize(("text", "said"), METRICS.values(), ids=METRICS)
def test_every_kind_of_bad_line_is_found(two, text, said):
  (two[1] / "metrics.jsonl").write_text(text)
  (found,) = trial.differences(*two)
  assert said in found


def test_every_other_file_is_compared(two):
  a, b = two
  (b / "evaluation.json").write_text("{}")
  write_json(b / "environment.json", {"jax": "2"})
  (a / "DONE").touch()
  (b / "config.json.tmp").touch()
  found = ["DONE is missing", "config.json.tmp is too much"]
  assert trial.differences(a, b) == [*found, "environment.json differs", "evaluation.json differs"]


def test_states_are_compared_by_their_bits():
  old = {"a": np.float32([0.0, np.nan]), "b": np.int32(1)}
  assert trial.state_differences(old, {"a": old["a"].copy(), "b": np.int32(1)}) == []
  assert trial.state_differences(old, {**old, "a": np.float32([-0.0, np.nan])}) == ["a differs"]
  assert trial.state_differences(old, {"a": old["a"]}) == ["the state has other arrays"]


BAD = {
  "name": (["kill"], "'kill' is none of kills, clock"),
  "flag": (["--sigma=1"], "'--sigma=1' is not a flag"),
  "number": (["--kills", "0"], "at least 1"),
  "signal": (["--signal", "SIGINT"], "invalid choice"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_mistakes_end_with_code_2(arguments, message, capsys):
  with pytest.raises(SystemExit) as ended:
    chaos.main(arguments)
  assert ended.value.code == 2
  assert message in capsys.readouterr().err


def run_chaos(*arguments):
  command = [sys.executable, "scripts/chaos.py", *arguments]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "number"), [("SIGKILL", 50), ("SIGTERM", 20)])
def test_kills_leave_no_trace(signal, number):
  said = run_chaos("kills", "--kills", str(number), "--signal", signal)
  assert "kills-1: the same bits" in said
  (summary,) = [line for line in said.splitlines() if line.startswith("kills: ") and "," in line][
    :1
  ]
  phases = dict(part.rsplit(" ", 1) for part in summary.rpartition("while ")[2].split(", "))
  assert len(phases) >= 5, summary


@pytest.mark.slow
def test_no_disturbance_leaves_a_trace():
  said = run_chaos("clock", "full_disk", "read_only", "two_starts")
  for name in ("clock-1", "full_disk", "two_starts"):
    assert f"{name}: the same bits" in said
  if faults.mount_command():
    assert "read_only: the same bits" in said


@pytest.mark.slow
def test_where_mounts_are_not_allowed_files_are_limited(monkeypatch):
  monkeypatch.setenv(chaos.MOUNTS, "")
  assert "full_disk: the same bits" in run_chaos("full_disk")
