"""Output directories of scripts: never results/reference unless it is asked for."""

import argparse
import pathlib

import pytest

from scripts import circles, figures, outputs, pareto, reproduce, score_matching, wander

OWN = pathlib.Path("runs")


@pytest.mark.parametrize(
  ("arguments", "where"),
  [
    ([], OWN),
    (["--out=elsewhere"], pathlib.Path("elsewhere")),
    (["--reference"], pathlib.Path("results/reference/name")),
  ],
)
def test_results_go_to_the_runs_own_directory(arguments, where):
  parser = argparse.ArgumentParser()
  outputs.add_arguments(parser, "runs", "name")
  args = parser.parse_args(arguments)
  assert outputs.directory(parser, args, OWN, "name") == where


@pytest.mark.parametrize("script", [circles, pareto, score_matching, wander, reproduce])
def test_runs_of_seconds_are_not_committed(script, tmp_path, monkeypatch, capsys):
  """Refused in one line before anything runs; --out and --reference exclude each other."""
  monkeypatch.chdir(tmp_path)
  arguments = ["A"] if script is reproduce else []
  for given in (["--fast", "--reference"], ["--reference", "--out=x"]):
    try:
      code = script.main([*arguments, *given])
    except SystemExit as end:
      code = end.code
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert given[0].lstrip("-") in line or "not allowed with" in line
  assert not any(tmp_path.rglob("*.*"))


def test_figures_without_a_run_go_to_results(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert figures.main(["digits", "--only", "sigma"]) == 0
  assert (tmp_path / "results" / "digits" / "sigma.csv").exists()
  assert not (tmp_path / "results" / "reference").exists()
