"""scorelab-sweep: what it plans, how it runs it, and what it makes of it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from scorelab.cli import sweep
from scorelab.config.command_line import read_config
from scorelab.plotting import read_csv
from scorelab.runs.identity import run_id
from scorelab.sweep import plan, results, tasks
from scorelab.sweep.plan import Range
from tests.paths import ROOT

CONFIG = "configs/ncsn_gmm.py"
STAND_IN = [sys.executable, str(pathlib.Path(__file__).parent / "stand_in.py")]
TINY = ["--config.network.width=16", "--config.network.depth=1", "--config.evaluation.rows=()"]
TINY += ["--config.training.batch_size=32", "--config.evaluation.num_projections=20"]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
  """The stand-in runs in a process of its own."""
  root = str(ROOT)
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def unchecked(monkeypatch):
  """Experiments are not built first: that is most of the time of a sweep of stand-ins."""
  monkeypatch.setattr(plan, "check", lambda *_: None)


def sweep_of(out, *arguments, config=CONFIG):
  every = ["--jobs", "2", "--out", str(out), "--metric", "energy_distance"]
  return sweep.main([f"--config={config}", *every, *arguments], STAND_IN)


def apart(out, *arguments):
  """The same sweep as a command of its own."""
  code = f"""
import sys
from scorelab.cli import sweep
from scorelab.sweep import plan
plan.check = lambda *_: None
sys.exit(sweep.main(sys.argv[1:], {STAND_IN!r}))
"""
  every = [f"--config={CONFIG}", "--jobs", "2", "--out", str(out), "--metric", "energy_distance"]
  return [sys.executable, "-c", code, *every, *arguments]


ENGINES = {
  "local": (),
  "slurm": ("--engine=slurm", "--resource", "cluster=local"),
  "ray": ("--engine=ray", "--resource", "num_cpus=1"),
}
MODULES = {"local": "sys", "slurm": "submitit", "ray": "ray"}
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ENGINES if name != "local"]


def worked(out):
  """How often each folder was trained and evaluated."""
  return {file.parent.name: file.read_text().split() for file in out.glob("*/worked")}


# Planning.


def test_values_are_split_outside_brackets_and_quotes():
  assert plan.split_values("0,.1, 1") == ["0", ".1", "1"]
  assert plan.split_values("(64,64),(128,)") == ["(64,64)", "(128,)"]
  assert plan.split_values("'a,b',\"c\"") == ["'a,b'", '"c"']


def test_a_grid_is_every_combination_once():
  points = plan.grid_points({"a": ["1", "2"], "b": ["x", "y", "z"]})
  assert len(points) == 6 and points[1] == {"a": "1", "b": "y"}
  assert {tuple(p.values()) for p in points} == {(a, b) for a in "12" for b in "xyz"}


def test_random_draws_are_uniform_and_the_first_are_kept():
  ranges = {"rate": Range(1e-4, 1e-2, log=True), "width": Range(3, 5, whole=True)}
  many = plan.random_points(500, {"name": ["a", "b"]}, ranges, seed=0)
  assert many[:20] == plan.random_points(20, {"name": ["a", "b"]}, ranges, seed=0)
  assert many[:20] != plan.random_points(20, {"name": ["a", "b"]}, ranges, seed=1)
  logs = np.log10([float(point["rate"]) for point in many])
  # Uniform on [-4, -2]: mean -3, std 0.577; four standard errors of the mean.
  assert abs(logs.mean() + 3) < 4 * 0.577 / np.sqrt(len(logs))
  assert -4 <= logs.min() < -3.9 and -2.1 < logs.max() <= -2
  assert {point["width"] for point in many} == {"3", "4", "5"}
  shares = np.mean([point["name"] == "a" for point in many])
  assert abs(shares - 0.5) < 4 * 0.5 / np.sqrt(len(many))


BAD = {
  "field": (["--grid", "sampler.etta=0"], "not a field; did you mean 'config.sampler.eta'?"),
  "value": (["--grid", "network.width=8,x"], "config.network.width=x"),
  "option": (["--grid", "sampler.eta=0"], "sampler.eta = 0.0 is not an option of dpmpp_2m"),
  "form": (["--grid", "network.width"], "must read FIELD=VALUE,VALUE"),
  "twice": (["--grid", "seed=1", "--seeds", "2"], "--seeds and the field seed are the same"),
  "flag": (["--gird", "a=1"], "'--gird' is not a flag"),
  "range alone": (["--range", "network.width=1:9"], "needs --random N or --optuna N"),
  "range field": (
    ["--random", "1", "--range", "network.widht=1:9"],
    "did you mean 'config.network.width'?",
  ),
  "range of names": (["--random", "1", "--range", "loss.name=1:9"], "loss.name is not a number"),
  "range order": (["--random", "1", "--range", "network.width=9:1"], "LOW must be below HIGH"),
  "both": (["--random", "1", "--optuna", "1", "--grid", "seed=1"], "choose one"),
  "jobs": (["--grid", "seed=1", "--jobs", "0"], "must be at least 1"),
  "resource": (["--grid", "seed=1", "--resource", "num_gpus=1"], "is for --engine=slurm"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_and_code_2_and_starts_nothing(
  arguments, message, tmp_path, capsys, monkeypatch
):
  if message.startswith("is for"):
    monkeypatch.setattr(plan, "check", lambda *_: None)
  assert sweep.main([f"--config={CONFIG}", "--out", str(tmp_path / "out"), *arguments]) == 2
  error = capsys.readouterr().err.strip()
  assert message in error and len(error.splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_a_config_without_a_sweep_is_told_what_to_give(capsys):
  assert sweep.main(["--config=configs/flow_moons.py"]) == 2
  assert "has no sweep(): give --grid, --range or --seeds" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys):
  assert sweep.main(["--config=configs/ncsn_gm.py", "--seeds", "1"]) == 2
  assert "did you mean 'configs/ncsn_gmm.py'?" in capsys.readouterr().err


def test_a_dry_run_is_a_shell_script_that_does_what_the_sweep_does(
  unchecked, tmp_path, capsys, monkeypatch
):
  grid = ["--config.sampler.name=ddim", "--grid", "sampler.eta=0,1", "--grid", "seed=0,1"]
  assert sweep_of(tmp_path / "a", *grid, "--dry-run") == 0
  lines = capsys.readouterr().out.splitlines()
  trainings = [line for line in lines if "--mode=train" in line]
  evaluations = [line for line in lines if "--mode=eval" in line]
  assert (len(trainings), len(evaluations), len(lines)) == (2, 4, 2 + 3 * 4)
  assert not (tmp_path / "a").exists()
  script = "\n".join(lines).replace("python -m scorelab", " ".join(STAND_IN))
  subprocess.run(["bash", "-euc", script], check=True)
  by_hand = worked(tmp_path / "a")
  assert sweep_of(tmp_path / "b", *grid) == 0
  assert worked(tmp_path / "b") == by_hand
  assert sorted(map(tuple, by_hand.values())) == [("evaluated",)] * 4 + [("trained",)] * 2
  capsys.readouterr()
  assert sweep_of(tmp_path / "b", *grid, "--dry-run") == 0
  assert capsys.readouterr().out == ""  # nothing is left to run


def test_a_run_that_shares_no_training_is_in_main_pys_own_folder(unchecked, tmp_path, capsys):
  """results/<config>/<run id>, by one command without a mode."""
  arguments = [f"--config={CONFIG}", "--grid", "network.width=16", "--dry-run"]
  assert sweep.main(arguments) == 0
  (line,) = capsys.readouterr().out.splitlines()
  config = read_config(CONFIG, ["--config.network.width=16"])
  where = f"--workdir=results/ncsn_gmm/{run_id(json.loads(config.to_json()))}"
  assert line == f"python -m scorelab --config={CONFIG} --config.network.width=16 {where}"


def test_ensembles_are_swept_too(tmp_path):
  """One seed is the single run, in its folder; a mistake in an ensemble is said at once."""
  points = [{}, {"ensemble.seeds": "1"}, {"ensemble.seeds": "2"}]
  single, two = plan.make_rows(CONFIG, [], points, tmp_path)
  assert single.config["ensemble"]["seeds"] is None and two.config["ensemble"]["seeds"] == 2
  bad = {"ensemble.over": "network.width=8,16"}
  with pytest.raises(plan.SweepError, match=r"network.width cannot be varied within one program"):
    plan.check(CONFIG, [], [bad])


def test_a_configs_own_sweep(unchecked, tmp_path, capsys):
  config = tmp_path / "mine.py"
  config.write_text(
    "from configs.ncsn_gmm import get_config\n"
    "def sweep():\n"
    "  return [{'network.width': [16, 32], 'seed': 1}, {'evaluation.score_levels': (1.0, 2.0)}]\n"
  )
  assert sweep_of(tmp_path / "out", "--dry-run", config=config) == 0
  lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
  assert sum("--config.network.width=" in line for line in lines) == 2
  assert sum("'--config.evaluation.score_levels=(1.0, 2.0)'" in line for line in lines) == 1
  points = plan.points_of_config(CONFIG)  # the one that comes with the project
  assert points is not None and len(points) == len({str(point) for point in points}) == 12
  plan.check(CONFIG, [], points[:1])
  config.write_text("from configs.ncsn_gmm import get_config\ndef sweep(): return 3\n")
  assert sweep_of(tmp_path / "out", config=config) == 2
  assert "must return a dict" in capsys.readouterr().err


# Running.


def test_one_row_for_each_value_and_one_training_for_all(unchecked, tmp_path, capsys):
  grid = ["--config.sampler.name=ddim", "--grid", "sampler.eta=0,.5", "--seeds", "3"]
  assert sweep_of(tmp_path, *grid, "--grid", "optimizer.learning_rate=.1") == 0
  counts = sorted(map(tuple, worked(tmp_path).values()))
  assert counts == [("evaluated",)] * 6 + [("trained",)] * 3
  rows = read_csv(tmp_path / "sweep.csv")
  found = {(row["sampler.eta"], row["seed"]): row["energy_distance"] for row in rows}
  expected = {(eta, seed): 0.01 + eta + seed for eta in (0, 0.5) for seed in (0, 1, 2)}
  assert found == pytest.approx(expected)
  # Seeds 0, 1 and 2 add 1 on average, with a standard deviation of 1.
  means = capsys.readouterr().out.split("over seeds\n")[1].splitlines()
  assert means[1].split() == ["0", "3", "1.01", "+-", "0.58"]
  assert means[2].split() == [".5", "3", "1.51", "+-", "0.58"]
  for row in rows:  # a folder of its own, with the training in it
    folder = pathlib.Path(row["workdir"])
    assert (folder / "checkpoints").is_dir() and (folder / "metrics.jsonl").exists()


def test_what_is_done_is_skipped_and_what_failed_is_retried_on_request(unchecked, tmp_path, capsys):
  grid = ["--grid", "optimizer.learning_rate=.1,.5"]
  assert sweep_of(tmp_path, *grid) == 1
  assert "no run has learned at this rate" in capsys.readouterr().err
  (done,) = worked(tmp_path)
  (failed,) = {path.parent.name for path in tmp_path.glob("*/FAILED")}
  log = tmp_path / failed / "stderr.txt"
  first = log.stat().st_mtime_ns
  assert sweep_of(tmp_path, *grid) == 1
  output = capsys.readouterr()
  assert "2 runs: 1 done before, 1 failed before" in output.err
  assert "no run has learned at this rate" in output.err  # it is listed
  assert log.stat().st_mtime_ns == first  # but was not run
  assert worked(tmp_path)[done] == ["trained", "evaluated"]
  assert sweep_of(tmp_path, *grid, "--dry-run") == 0
  assert capsys.readouterr().out == ""
  assert sweep_of(tmp_path, *grid, "--retry") == 1
  assert log.stat().st_mtime_ns > first
  assert [row["state"] for row in read_csv(tmp_path / "sweep.csv")] == ["done", "failed"]


def test_a_killed_run_has_failed_and_says_so(unchecked, tmp_path, capsys):
  assert sweep_of(tmp_path, "--grid", "training.batch_size=9") == 1
  assert "killed by SIGKILL" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["local", *OTHERS])
def test_a_stopped_sweep_lets_its_runs_save(engine, tmp_path):
  pytest.importorskip(MODULES[engine])
  grid = ["--grid", "training.batch_size=7", "--seeds", "2", *ENGINES[engine]]
  process = subprocess.Popen(
    apart(tmp_path, *grid), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
  )
  deadline = time.monotonic() + 120
  while len(list(tmp_path.glob("*/config.json"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGINT if engine == "local" else signal.SIGTERM)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 75, error
  assert b"run the same command to resume" in error
  while len(list(tmp_path.glob("*/saved"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)  # submitit's own process may end before what it has started
  assert len(list(tmp_path.glob("*/saved"))) == 2
  assert not list(tmp_path.glob("*/FAILED"))


@pytest.mark.parametrize("engine", OTHERS)
def test_other_engines_run_the_same_sweep(engine, tmp_path):
  pytest.importorskip(MODULES[engine])
  grid = ["--config.sampler.name=ddim", "--grid", "sampler.eta=0,.5"]
  grid += ["--grid", "optimizer.learning_rate=.1,.5", *ENGINES[engine]]
  result = subprocess.run(apart(tmp_path, *grid), capture_output=True, text=True, check=False)
  assert result.returncode == 1, result.stderr
  assert "no run has learned at this rate" in result.stderr
  counts = sorted(map(tuple, worked(tmp_path).values()))
  assert counts == [("evaluated",)] * 2 + [("trained",)]


def test_a_run_of_a_killed_sweep_is_waited_for(unchecked, tmp_path):
  """Two processes never work in one folder: the child of a killed sweep keeps its lock."""
  (row,) = plan.make_rows(CONFIG, [], [{"training.batch_size": "8"}], tmp_path)
  code = f"""
import pathlib, sys
from scorelab.sweep import plan, tasks
(row,) = plan.make_rows({CONFIG!r}, [], [{row.point!r}], pathlib.Path(sys.argv[1]))
tasks.run_task(row.task, program={STAND_IN!r})
"""
  orphaned = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
  deadline = time.monotonic() + 60
  while not (row.task.workdir / "config.json").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  orphaned.kill()
  orphaned.wait()
  assert tasks.is_locked(row.task.workdir)
  assert sweep_of(tmp_path, "--grid", "training.batch_size=8") == 0
  assert worked(tmp_path)[row.task.workdir.name] == ["trained", "evaluated"]


def test_slots_share_the_machine(monkeypatch, tmp_path):
  monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
  monkeypatch.setattr(tasks, "usable_cores", lambda: list(range(8)))
  monkeypatch.setattr(tasks, "visible_gpus", lambda: ["0", "1", "2", "3"])
  for jobs, cores, gpus in ((2, 4, 2), (4, 2, 1), (8, 1, 1)):
    slots = tasks.make_slots(jobs, tmp_path)
    assert [len(slot.cores) for slot in slots] == [cores] * jobs
    assert sorted(core for slot in slots for core in slot.cores) == list(range(8))
    shown = [slot.env["CUDA_VISIBLE_DEVICES"].split(",") for slot in slots]
    assert {len(found) for found in shown} == {gpus}
    assert {gpu for found in shown for gpu in found} == {"0", "1", "2", "3"}
    assert {slot.env["OMP_NUM_THREADS"] for slot in slots} == {str(cores)}
  assert float(slots[0].env["XLA_PYTHON_CLIENT_MEM_FRACTION"]) <= 0.5  # two on each GPU


def test_the_mean_over_seeds_of_what_some_runs_lack_is_nan():
  lines = [
    {"a": 1, "seed": s, "state": "done", "w": w, "w_sem": 0.1} for s, w in ((0, 1.0), (1, 3.0))
  ]
  (mean,) = results.over_seeds(lines, ["w"])
  assert (mean["w"], mean["w_sem"], mean["seeds"]) == (2, pytest.approx(1), 2)
  (mean,) = results.over_seeds([*lines, lines[0] | {"w": np.nan}], ["w"])
  assert np.isnan(mean["w"]) and "-" in results.format_lines([mean], ["w"])


def test_metrics_are_read_tolerantly():
  row = {"sampler": "heun", "options": {}, "num_steps": 16, "metrics": {"w": {"value": 2}}}
  other = row | {"sampler": "ddim", "metrics": {"w": {"value": None, "sem": 1.0}}}
  result = {"rows": [row, other], "girsanov": {"total": 0.5, "total_sem": 0.1}}
  assert results.metric_of(result, "w")[0] == 2
  assert results.metric_of(result, "girsanov.total") == (0.5, 0.1)
  for spec in ("w@ddim-16", "v", "w@none", "girsanov.none.total", "rows.w"):
    assert np.isnan(results.metric_of(result, spec)[0])
  assert np.isnan(results.metric_of({}, "w")[0])


@pytest.mark.slow
def test_optuna_finds_the_minimum_and_goes_on(unchecked, tmp_path, capsys):
  pytest.importorskip("optuna")
  search = ["--range", "optimizer.learning_rate=1e-3:.4:log", "--seeds", "2"]
  assert sweep_of(tmp_path, *search, "--optuna", "6") == 0
  before = worked(tmp_path)
  assert len(before) == 12
  assert sweep_of(tmp_path, *search, "--optuna", "6") == 0
  assert worked(tmp_path) == before
  assert sweep_of(tmp_path, *search, "--optuna", "10") == 0
  rows = read_csv(tmp_path / "sweep.csv")
  assert len(rows) == 20 and before.items() <= worked(tmp_path).items()
  best = min(rows, key=lambda row: row["energy_distance"])
  assert best["optimizer.learning_rate"] < 0.02


@pytest.mark.slow
def test_24_runs_killed_half_way_finish_without_redoing_one(tmp_path):
  """The real main.py; SIGKILL to the sweep and to what it has started."""
  arguments = ["scripts/sweep.py", f"--config={CONFIG}:fast", *TINY, "--jobs", "2"]
  arguments += ["--grid", "optimizer.learning_rate=1e-3,3e-3,1e-2", "--seeds", "8"]
  arguments += ["--out", str(tmp_path), "--config.training.num_steps=60"]
  process = subprocess.Popen([sys.executable, *arguments], start_new_session=True)
  deadline = time.monotonic() + 1200
  while len(list(tmp_path.glob("*/DONE"))) < 12 and time.monotonic() < deadline:
    time.sleep(0.2)
  children = subprocess.run(
    ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
  )
  process.kill()
  for pid in children.stdout.split():
    os.kill(int(pid), signal.SIGKILL)
  process.wait()
  finished = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("*/DONE")}
  assert 12 <= len(finished) < 24
  result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  after = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("*/DONE")}
  assert len(after) == 24 and finished.items() <= after.items()
  assert f"24 runs: {len(finished)} done before" in result.stderr
  for name, when in finished.items():  # and nothing was started there
    assert (tmp_path / name / "evaluation.json").stat().st_mtime_ns <= when
  assert len(read_csv(tmp_path / "sweep.csv")) == 24


def test_a_board_elsewhere_than_on_a_terminal_writes_plain_lines(unchecked, tmp_path, capsys):
  assert sweep_of(tmp_path, "--seeds", "1", config="configs/flow_moons.py") == 0
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == "1 run: 0 done before, 0 failed before"
  assert lines[1].split()[1:3] == ["done", "after"] and lines[1].endswith("seed=0")
