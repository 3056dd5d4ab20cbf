"""scripts/benchmark.py: sides in processes of their own, and what is made of their times."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from scripts import benchmark
from scripts.benchmarks import table
from scripts.benchmarks.paired_timing import Bar, Match, ValuesError, run
from scripts.benchmarks.timed_processes import ROOT, MissingError, Side, SideError, Task, Worker


def says(seconds, value=1.0, amounts=None):
  """A side that says how long it took."""
  return Task(lambda: float(seconds), lambda: np.array(value), amounts or {})


def sleeps(seconds):
  return Task(lambda: time.sleep(seconds))


def allocates(mebibytes):
  return Task(lambda: bool(np.ones(mebibytes * 2**17).sum()))


def lacks():
  raise ModuleNotFoundError("No module named 'x'", name="x")


def fails():
  print("an answer that is none")
  raise ValueError("as it should")


def test_ratios_shares_and_bars():
  """A side of twice the time, and a limit that does ten times the work in half the time."""
  work = {"amounts": {"FLOP": 10.0}}
  match = Match(
    "toy",
    {
      "ours": Side(says, {"seconds": 0.1, **work}),
      "theirs": Side(says, {"seconds": 0.2, "value": 1.01, **work}),
      "without": Side(lacks),
    },
    {"peak": Side(says, {"seconds": 0.05, "amounts": {"FLOP": 100.0}})},
    rtol=0.1,
    bars=(Bar("ratio", "theirs", 1.9), Bar("share", "ours", 0.5), Bar("seconds", "ours", 0.1)),
  )
  result = run(match, 3, pause=0)
  assert result["n"] == 3
  assert result["ratios"] == {"theirs": {"median": 2.0, "quartiles": [2.0, 2.0]}}
  assert result["left_out"] == {"without": "x"}
  assert result["differences"]["theirs"] == pytest.approx(0.01)
  assert result["shares"]["ours"]["of"] == "peak"
  assert result["shares"]["ours"]["median"] == pytest.approx(0.05)
  assert result["shares"]["theirs"]["median"] == pytest.approx(0.025)
  assert [bar["met"] for bar in result["bars"]] == [True, False, True]


def test_an_exponent_is_fitted():
  sizes = (1, 4, 16)
  sides = {str(size): Side(says, {"seconds": 0.1 * size**1.5}) for size in sizes}
  result = run(Match("toy", sides, sizes=sizes), 2, pause=0)
  assert result["exponent"]["median"] == pytest.approx(1.5)
  assert result["exponent"]["last"]["median"] == pytest.approx(1.5)
  assert result["ratios"]["16"]["median"] == pytest.approx(64)


def test_time_and_memory_are_those_of_the_call():
  with Worker(Side(sleeps, {"seconds": 0.02})) as worker:
    assert 0.02 <= worker.turn() < 0.2
    assert worker.output() is None
  with Worker(Side(allocates, {"mebibytes": 64})) as worker:
    assert 60 * 2**20 < worker.memory < 100 * 2**20


def test_a_side_that_cannot_be_compared_is_named(capfd):
  with pytest.raises(SideError, match="fails"):
    Worker(Side(fails))
  assert "as it should" in capfd.readouterr().err
  with pytest.raises(MissingError, match="x"):
    run(Match("toy", {"ours": Side(lacks)}), 1, pause=0)
  sides = {"ours": Side(says, {"seconds": 1}), "theirs": Side(says, {"seconds": 1, "value": 2})}
  with pytest.raises(ValuesError, match="theirs and ours differ"):
    run(Match("toy", sides, rtol=0.1), 1, pause=0)


def test_the_table_has_a_line_for_each_match(tmp_path):
  sides = {"ours": Side(says, {"seconds": 0.1}), "theirs": Side(says, {"seconds": 0.25})}
  matches = [Match("toy", sides), Match("grows", {**sides}, sizes=(1, 2))]
  results, sound = benchmark.measure("case", matches, 2)
  assert sound
  first, second = (
    benchmark.record("case", [result], f"--only {i}", None) for i, result in enumerate(results)
  )
  record = benchmark.record("case", results[1:], "--only 1", first)
  assert record["matches"] == first["matches"] + second["matches"]
  assert [match["command"] for match in record["matches"]] == ["--only 0", "--only 1"]
  elsewhere = first | {"device": "another machine"}
  assert benchmark.record("case", results[1:], "--only 1", elsewhere) == second
  assert record["versions"]["jax"] and "seconds" not in record["matches"][0]
  (tmp_path / "case.json").write_text(json.dumps(record))
  lines = table.table(tmp_path, ["absent", "case"]).splitlines()
  assert "| `case` | toy | theirs 2.5 (2.5 to 2.5) | 2 |  |  |" in lines
  assert "exponent 1.32" in lines[-1]
  with pytest.raises(ValueError, match="has no JSON"):
    table.table(tmp_path, ["absent"])


def command(*arguments, **options):
  line = [sys.executable, "scripts/benchmark.py", *arguments]
  return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_mistakes_are_answered_by_one_line():
  for arguments, said in (
    (("train_ncsm",), "did you mean train_ncsn?"),
    (("--quick",), "--quick needs --out"),
    (("--repeats", "0"), "must be at least 1"),
  ):
    ended = command(*arguments)
    assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr


def test_every_case_says_what_it_times():
  listed = command("--list")
  assert listed.returncode == 0, listed.stderr
  assert [line.split()[0] for line in listed.stdout.splitlines()] == list(benchmark.CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", benchmark.CASES)
def test_every_case_runs(case, tmp_path):
  """At tiny sizes; sides whose library is not installed are left out."""
  ended = command(case, "--quick", "--out", str(tmp_path))
  assert ended.returncode == 0, ended.stderr
  record = json.loads((tmp_path / f"{case}.json").read_text())
  for match in record["matches"]:
    assert match["ratios"] or match["left_out"]
    assert all(np.isfinite(ratio["median"]) for ratio in match["ratios"].values())
