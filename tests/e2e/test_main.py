"""The command line, as a person or a scheduler uses it: whole processes, most of them forked."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import training
from scorelab.experiment.build import build
from scorelab.runs.lock import hold
from scorelab.runs.workdir import open_workdir
from tests.paths import ROOT

FAST = "--config=configs/ncsn_gmm.py:fast"
SMALL = ["--config.network.width=16", "--config.network.depth=1", "--config.training.batch_size=32"]


def command(*arguments):
  return [sys.executable, "main.py", *map(str, arguments)]


@pytest.fixture(scope="module")
def main(forked):
  return lambda *arguments: forked.run(arguments, timeout=900)


BAD = {
  "field": ([FAST, "--config.nosuchfield=1"], "config.nosuchfield is not a field"),
  "subfield": (
    [FAST, "--config.optimizer.leaning_rate=1"],
    "did you mean 'config.optimizer.learning_rate'?",
  ),
  "type": ([FAST, "--config.seed=abc"], "seed=abc"),
  "file": (["--config=configs/ncsn_gm.py"], "did you mean 'configs/ncsn_gmm.py'?"),
  "argument": (["--config=configs/ncsn_gmm.py:quick"], "'quick' is not known (known: fast)"),
  "no config": ([], "--config must have a value"),
  "flag": ([FAST, "--nosuchflag=1"], "nosuchflag"),
  "mode": ([FAST, "--mode=trian"], "--mode=trian"),
  "twice": ([FAST, "--config=configs/edm_gmm.py"], "--config is given more than once"),
  "workdir": ([FAST, "--workdir=main.py/run"], "main.py/run: cannot be the workdir: Not a dir"),
  "bare word": ([FAST, "configs/ncsn_gmm.py"], "'configs/ncsn_gmm.py' is not a flag"),
  "sub-dict": ([FAST, "--config.training=3"], "--config.training=3"),
  "sampler": ([FAST, "--config.sampler.name=nosuch"], "sampler.name = 'nosuch' is not a sampler"),
  "loss": ([FAST, "--config.loss.name=nosuch"], "loss.name = 'nosuch' is not a loss"),
  "number": ([FAST, "--config.training.num_steps=-5"], "must be at least 0"),
  "size": ([FAST, "--config.training.batch_size=-1"], "must be at least 0"),
  "ensemble": (
    [FAST, "--config.ensemble.over=network.width=16,32"],
    "sweep it with scorelab-sweep",
  ),
  "flag file": (["--flagfile=nosuch"], "--flagfile: [Errno 2] No such file or directory: 'nosuch'"),
  "flag file's name": ([FAST, "--flagfile"], "--flagfile with no argument"),
  "flag folder": (["--flagfile=docs"], "Is a directory: 'docs'"),
  "own part": ([FAST, "--config.sampler.name=nosuch.part"], "there is no module 'nosuch'"),
  "whole": ([FAST, "--config.training.batch_size=0"], "has no fixed ones"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_command_lines_are_one_line_and_code_2(arguments, message, main, tmp_path):
  workdir = tmp_path / "run"
  result = main(f"--workdir={workdir}", *arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
  assert not workdir.exists()


@pytest.fixture(scope="module")
def finished(main, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  result = main(FAST, *SMALL, f"--workdir={workdir}")
  assert result.returncode == 0, result.stderr
  return workdir, result


def test_a_run_leaves_what_it_must(finished):
  workdir, result = finished
  for name in ("config.json", "environment.json", "metrics.jsonl", "timings.jsonl", "DONE"):
    assert (workdir / name).exists()
  assert (workdir / "samples.npz").exists()
  assert list((workdir / "figures").glob("*.png"))
  rows = json.loads((workdir / "evaluation.json").read_text())["rows"]
  assert len(rows) == 2
  assert "max_sliced_wasserstein" in result.stdout
  assert "step 60/60" in result.stderr


def test_done_is_printed_and_not_redone(finished, main):
  workdir, first = finished
  before = (workdir / "evaluation.json").stat().st_mtime_ns
  result = main(FAST, *SMALL, f"--workdir={workdir}")
  assert result.returncode == 0
  assert "already done" in result.stdout
  assert result.stdout.splitlines()[0] == first.stdout.splitlines()[0]
  assert (workdir / "evaluation.json").stat().st_mtime_ns == before


def test_eval_with_another_sampler(finished, main):
  workdir, _ = finished
  changes = ["--config.sampler.name=heun", "--config.evaluation.rows=()", "--mode=eval"]
  result = main(FAST, *SMALL, *changes, f"--workdir={workdir}")
  assert result.returncode == 0, result.stderr
  rows = json.loads((workdir / "evaluation.json").read_text())["rows"]
  assert [(row["sampler"], row["nfe"]) for row in rows] == [("heun", 31)]


def test_eval_of_nothing_is_refused_and_leaves_nothing(main, tmp_path):
  result = main(FAST, "--mode=eval", f"--workdir={tmp_path / 'none'}")
  assert result.returncode == 2
  assert "there is no run here" in result.stderr
  assert not (tmp_path / "none").exists()


def test_another_training_is_refused_in_the_same_folder(finished, main):
  workdir, _ = finished
  before = sorted(path.name for path in workdir.iterdir())
  result = main(FAST, *SMALL, "--config.seed=1", f"--workdir={workdir}")
  assert result.returncode == 2
  assert "seed = 0, not 1" in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
  assert sorted(path.name for path in workdir.iterdir()) == before


def test_a_longer_training_is_told_how(finished, main):
  workdir, _ = finished
  result = main(FAST, *SMALL, "--config.training.num_steps=120", f"--workdir={workdir}")
  assert result.returncode == 2
  assert result.stderr == (
    f"{workdir}: holds a run with training.num_steps = 60, not 120: "
    "to train longer or shorter, start from scratch in another --workdir\n"
  )
  assert (workdir / "DONE").exists()


def test_files_next_to_a_config_and_in_the_current_directory_are_imported(forked, tmp_path):
  """A config that imports its neighbour, flags from a file, and a sampler of one's own."""
  there = tmp_path / "there"
  there.mkdir()
  (there / "neighbour.py").write_text("WIDTH = 16\n")
  config = "from configs import ncsn_gmm\nfrom neighbour import WIDTH\n\n"
  config += "def get_config(arg=''):\n  config = ncsn_gmm.get_config(arg)\n"
  config += "  config.network.width = WIDTH\n  return config\n"
  (there / "mine.py").write_text(config)
  (tmp_path / "flags").write_text("--config=there/mine.py:fast\n# a comment\n--mode=train\n")
  own = "from scorelab.samplers.ddim import ddim\n\n"
  own += "def own(key, predict, x, grid):\n  return ddim(key, predict, x, grid)\n"
  (tmp_path / "own_sampler.py").write_text(own)
  arguments = ["--flagfile=flags", *SMALL[1:], "--config.sampler.name=own_sampler.own"]
  arguments = [ROOT / "main.py", *arguments, "--config.evaluation.rows=()"]
  result = forked.python(arguments, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  (run,) = tmp_path.glob("results/mine/*/config.json")
  recorded = json.loads(run.read_text())["config"]
  assert recorded["network"]["width"] == 16
  assert recorded["sampler"]["name"] == "own_sampler.own"


def test_a_second_start_is_refused_by_the_first_ones_name(main, tmp_path):
  workdir = tmp_path / "run"
  with hold(workdir):
    result = main(FAST, *SMALL, f"--workdir={workdir}")
  assert result.returncode == 2
  assert f"process {os.getpid()} on {socket.gethostname()} is using this directory" in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
  assert [path.name for path in workdir.iterdir()] == ["LOCK"]


# Or are no experiment.
NEED_FILES = {"base", "pretrained", "cond_cifar10", "ddpm_cifar10", "ddpm_flowers"}
EXPERIMENTS = sorted({f.stem for f in pathlib.Path("configs").glob("*.py")} - NEED_FILES)
LONG = [FAST, *SMALL, "--mode=train", "--config.training.num_steps=300"]
LONG += ["--config.training.checkpoint_every=10"]


@pytest.fixture(scope="module")
def straight(main, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("straight")
  result = main(*LONG, f"--workdir={workdir}")
  assert result.returncode == 0, result.stderr
  return workdir


def final_state(workdir):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1)
  config.training.update(batch_size=32, num_steps=300, checkpoint_every=10)
  experiment = build(config)
  return training.restore_trained(experiment, open_workdir(workdir, experiment.config, {}))


def assert_same_run(a, b):
  for x, y in zip(*(jax.tree.leaves(final_state(w)) for w in (a, b)), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
  assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


def start_and_signal(workdir, number, delay):
  """Signals a run this many seconds after its first chunk: earlier there is nothing to lose."""
  timings = workdir / "timings.jsonl"
  before = timings.stat().st_size if timings.exists() else 0
  with subprocess.Popen(
    command(*LONG, f"--workdir={workdir}"), stderr=subprocess.PIPE, start_new_session=True
  ) as process:
    while process.poll() is None and not (timings.exists() and timings.stat().st_size > before):
      time.sleep(0.005)
    time.sleep(delay)
    os.kill(process.pid, number)
    process.communicate(timeout=120)
  return process.returncode


def test_sigterm_saves_exits_75_and_resumes(straight, main, tmp_path):
  code = start_and_signal(tmp_path / "run", signal.SIGTERM, delay=random.uniform(0, 0.2))
  assert code == 75
  assert main(*LONG, f"--workdir={tmp_path / 'run'}").returncode == 0
  assert_same_run(straight, tmp_path / "run")


@pytest.mark.slow
def test_five_kills_and_resumes_are_uninterrupted(straight, main, tmp_path):
  """kill -9 at random moments, also while a checkpoint is written: there are thirty of them."""
  run = tmp_path / "run"
  times = [json.loads(line)["time"] for line in (straight / "timings.jsonl").open()]
  share = (times[-1] - times[0]) / 5
  codes = [start_and_signal(run, signal.SIGKILL, random.uniform(0, share)) for _ in range(5)]
  assert codes.count(-signal.SIGKILL) >= 4  # the last may come too late
  assert main(*LONG, f"--workdir={run}").returncode == 0
  assert_same_run(straight, run)


@pytest.mark.slow
def test_patches_are_killed_and_go_on_to_their_samples(main, tmp_path):
  """kill -9 after a checkpoint: losses, samples and metrics have an uninterrupted run's bits."""
  killed, straight = tmp_path / "killed", tmp_path / "straight"
  flags = ["--config=configs/ddpm_patches.py:fast", "--config.training.num_steps=100"]
  flags += ["--config.training.checkpoint_every=10", "--config.training.keep_every=0"]
  with subprocess.Popen(
    command(*flags, f"--workdir={killed}"), stderr=subprocess.DEVNULL, start_new_session=True
  ) as process:
    while process.poll() is None and not list((killed / "checkpoints").glob("[0-9]" * 9)):
      time.sleep(0.01)
    process.kill()
  assert process.returncode == -signal.SIGKILL
  assert 0 < (killed / "metrics.jsonl").read_text().count("\n") < 10
  errors = []
  for workdir in (killed, straight):
    result = main(*flags, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    errors.append(result.stderr)
  assert "resuming from step" in errors[0]
  assert "resuming" not in errors[1]
  with np.load(killed / "samples.npz") as arrays:
    assert arrays["ddim-4"].shape == (20, 32, 32, 3)
  for name in ("metrics.jsonl", "evaluation.json"):
    assert (killed / name).read_text() == (straight / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_runs(name, main, tmp_path):
  result = main(f"--config=configs/{name}.py:fast", f"--workdir={tmp_path}")
  assert result.returncode == 0, result.stderr
  assert (tmp_path / "DONE").exists()


def test_a_damaged_checkpoint_is_passed_over_in_one_line(finished, main, tmp_path):
  source, _ = finished
  workdir = shutil.copytree(source, tmp_path / "run")
  (workdir / "DONE").unlink(missing_ok=True)
  newest = workdir / "checkpoints" / "000000060"
  largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:1000])
  result = main(FAST, *SMALL, "--mode=train", f"--workdir={workdir}")
  assert result.returncode == 0, result.stderr
  warning, going_on, *_ = result.stderr.splitlines()
  assert "step 60" in warning and "is damaged" in warning and "trying an older one" in warning
  assert going_on.endswith("resuming from step 40")
  assert "Traceback" not in result.stderr and "Exception" not in result.stderr
  for name in ("metrics.jsonl", "evaluation.json"):
    assert (workdir / name).read_bytes() == (source / name).read_bytes()


def test_all_damaged_checkpoints_are_refused(finished, main, tmp_path):
  source, _ = finished
  workdir = tmp_path / "run"
  shutil.copytree(source, workdir)
  (workdir / "DONE").unlink(missing_ok=True)
  for file in (workdir / "checkpoints").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  result = main(FAST, *SMALL, f"--workdir={workdir}")
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert "can be read" in result.stderr.strip().splitlines()[-1]
