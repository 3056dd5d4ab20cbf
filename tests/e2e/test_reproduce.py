"""scripts/reproduce.py: what it lists, would run and skips, and one small system for real."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from scorelab.plotting import read_csv
from scorelab.sweep.plan import Task
from scripts import figures, reproduce
from scripts.reproduce import SYSTEMS, Places, Step

ALL = [f"--{name}" for name in ("all", "dry-run")]


def test_lists_what_there_is(capsys, tmp_path):
  assert reproduce.main(["--list", f"--runs={tmp_path}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line[0] for line in lines if line[0] != " "] == list(SYSTEMS)
  numbers = [int(line.split()[-3]) for line in lines if line[0] != " "]
  assert numbers == [49, 12, 0, 1, 4]
  assert sum("ddpm_flowers" in line for line in lines) == 1
  assert not any(line.strip().startswith("done") for line in lines)


def test_every_part_exists():
  for system in SYSTEMS.values():
    for config in system.configs:
      assert pathlib.Path(f"configs/{config}.py").exists() and config in figures.OF_RUNS
    assert set(system.studies) <= set(reproduce.STUDIES)
    assert set(system.sheets) <= set(figures.OF_NO_RUN)
  assert set(reproduce.STUDIES) == {name for s in SYSTEMS.values() for name in s.studies}


def test_prints_the_commands_in_order(capsys, tmp_path):
  """A run before its figures, and those of all before the sheet that reads them."""
  assert reproduce.main(["B", "D", "--dry-run", f"--runs={tmp_path}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 * 6 + 1 + 2 * 5 + 2 and len(set(lines)) == len(lines)
  for run, drawn in zip(lines[0:12:2], lines[1:12:2], strict=True):
    workdir = run.partition("--workdir=")[2]
    assert run.startswith("python main.py --config=configs/") and workdir.startswith(str(tmp_path))
    assert drawn.startswith("python scripts/figures.py ") and f"--workdir {workdir} " in drawn
  assert lines[12] == (
    f"python scripts/circles.py --runs={tmp_path}/circles --out={tmp_path}/reproduced"
  )
  assert lines[-2].startswith("python scripts/figures.py digits --out=")
  assert not any(tmp_path.iterdir())


def test_commands_are_short_where_nothing_is_set(capsys):
  assert reproduce.main(["A", "--dry-run", "--reference"]) == 0
  lines = capsys.readouterr().out.splitlines()
  studies = {f"python scripts/{name}.py --reference" for name in ("wander", "pareto")}
  assert studies <= set(lines)
  assert not any("--out" in line or "--runs" in line or "fast" in line for line in lines)


def test_fast_runs_go_elsewhere(capsys):
  """Nothing of a run of seconds goes to results/reference/."""
  assert reproduce.main([*ALL, "--fast"]) == 0
  lines = capsys.readouterr().out.splitlines()
  for line in lines:
    if "main.py" in line:
      assert ":fast " in line and "--workdir=results/fast/" in line
    else:
      assert "--out=results/fast/reproduced" in line


def test_scripts_take_what_they_are_given():
  """Each study's own parser has the options."""
  for name, study in reproduce.STUDIES.items():
    text = pathlib.Path(f"scripts/{name}.py").read_text()
    assert "outputs.add_arguments(parser," in text  # --out and --reference
    options = [*study.fast, *study.arguments, *["--runs"] * study.keeps_runs]
    for option in options:
      assert f'"{option.partition("=")[0]}"' in text


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["F"], "'F' is not a system (known: A, B, C, D, E)"),
    (["C", "nonsense"], "'nonsense' is not a system (known: A, B, C, D, E)"),
    ([], "give systems, --all, --list or --report"),
    (["C", "--all"], "give systems or --all, not both"),
    (
      ["C", "--fast", "--reference"],
      "--fast: results/reference is not for runs of seconds; give another --out",
    ),
    (["--report", "--fast"], "--report: runs of --fast have no verdicts"),
  ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
  assert reproduce.main(arguments) == 2
  assert capsys.readouterr().err == message + "\n"


@pytest.fixture
def places(tmp_path):
  return Places(tmp_path, tmp_path / "reference", fast=True)


def a_step(folder, name, code, *after):
  """Runs Python code, in place of a script."""
  file = folder / f"{name}.py"
  file.write_text(code)
  return Step(name, Task((str(file),), pathlib.Path.cwd(), folder / name, 0), after=after)


def test_what_is_done_is_not_done_again(tmp_path, places, capsys):
  """Until what it was made from is younger, or its command is another."""
  note = "import pathlib; f = pathlib.Path({!r}); f.write_text(f.read_text() + 'x')"
  counts = [tmp_path / name for name in ("first_count", "second_count")]
  for count in counts:
    count.write_text("")
  first = a_step(tmp_path, "first", note.format(str(counts[0])))
  second = a_step(tmp_path, "second", note.format(str(counts[1])), first)

  def worked():
    assert reproduce.execute([first, second], places) == 0
    return tuple(len(count.read_text()) for count in counts)

  assert worked() == (1, 1) and worked() == (1, 1)
  assert "second: done already" in capsys.readouterr().out
  later = time.time() + 5
  os.utime(first.stamp, (later, later))
  assert not second.done and first.done
  assert worked() == (1, 2)
  other = dataclasses.replace(
    second, task=dataclasses.replace(second.task, arguments=(*second.task.arguments, "--new"))
  )
  assert not other.done


def test_what_failed_is_said_and_tried_again(tmp_path, places, capsys):
  """The rest goes on, but for what needs it."""
  bad = a_step(tmp_path, "bad", "import sys; sys.exit('out of luck')")
  needs = a_step(tmp_path, "needs", "", bad)
  good = a_step(tmp_path, "good", "")
  assert reproduce.execute([bad, needs, good], places) == 1
  said = capsys.readouterr()
  assert "bad: out of luck" in said.err and "needs: left out, as bad failed" in said.out
  assert good.done and not bad.done and not needs.done
  (tmp_path / "bad.py").write_text("")
  assert reproduce.execute([bad, needs, good], places) == 0 and needs.done


def test_a_signal_stops_it_and_it_goes_on(tmp_path, places, capsys):
  code = f"import time; open({str(tmp_path / 'on')!r}, 'w'); time.sleep(60)"
  slow = a_step(tmp_path, "slow", code)

  def interrupt():
    while not (tmp_path / "on").exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=interrupt)
  thread.start()
  assert reproduce.execute([slow, a_step(tmp_path, "next", "")], places) == 75
  thread.join()
  assert "run the same command to resume" in capsys.readouterr().err
  assert not slow.done and not (tmp_path / "next").exists()
  (tmp_path / "slow.py").write_text("")
  assert reproduce.execute([slow], places) == 0


def test_reports_without_running(tmp_path, capsys):
  """Where no table of ours is there, only parameters are compared."""
  assert reproduce.main(["--report", "E", f"--out={tmp_path}"]) == 0
  said = capsys.readouterr().out
  assert "4 published numbers: 2 agree, 2 not compared" in said
  rows = read_csv(tmp_path / "verdicts.csv")
  assert {row["verdict"] for row in rows} == {"agrees", "not compared", "not measured"}
  assert len(rows) == 66


@pytest.mark.slow
def test_a_small_system_in_full_and_again(tmp_path):
  """System C's runs of seconds, their figures, and nothing the second time."""
  command = [sys.executable, "scripts/reproduce.py", "C", "--fast", f"--runs={tmp_path}"]
  first = subprocess.run(command, capture_output=True, text=True, check=False)
  assert first.returncode == 0, first.stderr
  assert "no verdicts" in first.stdout and first.stdout.count(" s\n") == 4
  for config in SYSTEMS["C"].configs:
    drawn = {path.stem for path in (tmp_path / "reproduced" / config).iterdir()}
    assert set(figures.FIGURES[config]) <= drawn
  again = subprocess.run(command, capture_output=True, text=True, check=True)
  assert again.stdout.count("done already") == 4
  dry = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
  assert not dry.stdout.strip()
