"""Ensembles: each member is its single run, and what they come to is NumPy's mean and error."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import evaluation, training
from scorelab.errors import ConfigError, RefusedError, RunError
from scorelab.evaluation import ensembles as ensemble_evaluation
from scorelab.evaluation.ensemble_figures import draw_ensemble
from scorelab.evaluation.table import format_table
from scorelab.experiment.build import build
from scorelab.metrics.budget import BUDGET
from scorelab.runs.files import read_jsonl
from scorelab.runs.identity import run_id
from scorelab.runs.sharding import ONE_DEVICE
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.training import ensembles
from tests.stopping import StopAfter

OVER = "optimizer.learning_rate=1e-3,1e-2 optimizer.weight_decay=0.1;sampler.eta=0,0.5"


def small_config(**ensemble):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1, num_features=8)
  config.training.update(num_steps=12, log_every=2, checkpoint_every=4, batch_size=32)
  config.training.update(num_validation=64)
  config.target.num_train = 100
  config.sampler.update(name="ddim", num_steps=4)
  config.evaluation.update(rows=(), metrics=("energy_distance",), score_levels=(0.1, 1.0))
  config.evaluation.update(num_samples=100, num_reference=200, score_samples=64)
  config.ensemble.update(ensemble)
  return config


def single_config(member):
  """The config of a member's single run, written by hand."""
  config = small_config()
  config.seed = member.seed
  for field, value in member.over.items():
    section, name = field.split(".")
    config[section][name] = (value,) if name == "ema_decays" else value
  return config


@pytest.fixture(scope="module")
def ensemble():
  return ensembles.build(small_config(seeds=2, over=OVER))


@pytest.fixture(scope="module")
def program(ensemble):
  return ensembles.make_program(ensemble, ONE_DEVICE)


@pytest.fixture(scope="module")
def trained(ensemble, program, tmp_path_factory):
  return run(ensemble, tmp_path_factory.mktemp("straight"), program=program)


def run(ensemble, path, stop=None, program=None):
  workdir = open_workdir(path, ensemble.experiment.config, {})
  program = program or ensembles.make_program(ensemble, ONE_DEVICE)
  return training.train(ensemble.experiment, workdir, stop or StopFlag(), program), workdir


def assert_close(found, expected, **tolerances):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerances)


@pytest.mark.e2e
def test_values_cross_seeds_and_samplers_share_a_training(ensemble):
  names = [member.name for member in ensemble.members]
  assert len(set(names)) == 2 * 2 * 2
  assert names[0] == "learning_rate=0.001,weight_decay=0.1,eta=0,seed=0"
  assert names[-1] == "learning_rate=0.01,weight_decay=0.1,eta=0.5,seed=1"
  assert [member.slot for member in ensemble.members] == [0, 1, 0, 1, 2, 3, 2, 3]
  assert len(ensemble.trained) == 4


@pytest.mark.e2e
def test_a_member_is_its_single_run(ensemble, trained, tmp_path):
  """Losses, validations, parameters and averages, to some float32 roundings of 12 steps."""
  state, workdir = trained
  member = ensemble.trained[3]  # of the second value and the second seed
  experiment = build(single_config(member))
  single_dir = open_workdir(tmp_path, experiment.config, {})
  single = training.train(experiment, single_dir, StopFlag())
  own = ensembles.state_of(state, member)
  assert_close((own.params, own.ema), (single.params, single.ema), atol=1e-5)
  lines = zip(read_jsonl(workdir.metrics), read_jsonl(single_dir.metrics), strict=True)
  for line, expected in lines:
    assert line["members"].keys() == expected.keys() - {"step"}
    for name in ("loss", "grad_norm", "val_loss", "score_error"):
      if name in expected:
        np.testing.assert_allclose(line["members"][name][3], expected[name], rtol=1e-5)


@pytest.mark.e2e
def test_lines_have_means(trained):
  for line in read_jsonl(trained[1].metrics):
    np.testing.assert_allclose(line["loss"], np.mean(line["members"]["loss"]))
    np.testing.assert_allclose(line["band_loss"], np.mean(line["members"]["band_loss"], axis=0))


@pytest.mark.e2e
def test_stopped_and_resumed_is_uninterrupted(ensemble, program, trained, tmp_path):
  """Bit for bit, as of a single run."""
  with pytest.raises(Preempted):
    run(ensemble, tmp_path, StopAfter(3), program)
  resumed, workdir = run(ensemble, tmp_path, program=program)
  jax.tree.map(np.testing.assert_array_equal, trained[0], resumed)
  assert workdir.metrics.read_text() == trained[1].metrics.read_text()


@pytest.mark.e2e
def test_numbers_of_every_section_are_traced():
  """Where they are arguments of the program, the loss is that of the config which has them."""
  over = "schedule.sigma_max=50 loss.sigma_min=0.05 parameterization.data_std=2"
  over += " optimizer.b2=0.99 optimizer.ema_decays=0.9 optimizer.clip_norm=0.1"
  ensemble = ensembles.build(small_config(over=over))
  member = ensemble.members[0]
  program, experiment = ensembles.make_program(ensemble, ONE_DEVICE), build(single_config(member))
  state, metrics = program.chunk(program.init(), *program.feed(None).take(4), length=4)
  chunk, first = training.make_chunk(experiment), training.init_state(experiment)
  single, expected = chunk(first, experiment.data, length=4)
  np.testing.assert_allclose(metrics["loss"][:, 0], expected["loss"], rtol=1e-5)
  own = training.evaluated_params(ensembles.state_of(state, member))
  assert_close(own, training.evaluated_params(single), atol=1e-5)


REFUSED = {
  "size": (
    "network.width=16,32",
    "network.width cannot be varied .* sweep it with scorelab-sweep",
  ),
  "steps": (
    "sampler.num_steps=4,8",
    "sampler.num_steps cannot be varied within one program; sweep",
  ),
  "batch": ("training.batch_size=32,64", "training.batch_size cannot be varied within one program"),
  "name": ("sampler.name=ddim,heun", "sampler.name cannot be varied within one program"),
  "target": ("target.std=0.1,0.2", "target.std cannot be varied within one program; sweep it"),
  "seed": ("seed=1,2", "seeds are varied by ensemble.seeds"),
  "field": ("optimizer.leaning_rate=1", "is not a field; did you mean 'optimizer.learning_rate'"),
  "number": ("sampler.eta=0,one", "'sampler.eta=0,one' must read field=number,number"),
  "twice": ("sampler.eta=0,0.0", "the numbers and the fields all different"),
  "no value": ("sampler.eta", "'sampler.eta' must read field=number,number"),
  "clip": ("optimizer.clip_norm=0,1", "clip_norm = 0 is a program without clipping; sweep it"),
}


@pytest.mark.parametrize(("over", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_single_program_is_refused(over, message):
  with pytest.raises(ConfigError, match=message) as error:
    ensembles.build(small_config(over=over))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("training.patience", 2, "training.patience = 2 must be 0 in an ensemble, .* sweep it"),
    ("evaluation.checkpoint", "best", "evaluation.checkpoint = 'best' must be 'last' in an ens"),
    ("training.sharding", "fsdp", "training.sharding = 'fsdp' must be 'replicated'"),
    ("ensemble.seeds", 0, "ensemble.seeds = 0, must be from 1 to 10000"),
  ],
)
def test_what_members_cannot_do_together_is_refused(field, value, message):
  config = small_config(seeds=2)
  section, name = field.split(".")
  config[section][name] = value
  with pytest.raises(ConfigError, match=message):
    ensembles.build(config)


def test_values_are_checked_as_of_any_config():
  with pytest.raises(ConfigError, match=r"optimizer.learning_rate = -1.0, must be above 0"):
    ensembles.build(small_config(over="optimizer.learning_rate=1e-3,-1"))


@pytest.mark.e2e
def test_a_field_that_a_program_must_know_is_refused():
  """A table of betas is made in NumPy, once."""
  config = small_config(over="schedule.beta_max=0.01,0.02")
  config.schedule.update(name="linear_betas", sigma_min=None, sigma_max=None, rho=None)
  config.sampler.update(grid="uniform", sigma_min=None)
  with pytest.raises(ConfigError, match=r"schedule.beta_max cannot be varied .* sweep it"):
    ensembles.build(config)


def test_folders_are_those_of_what_is_trained(tmp_path):
  """One seed is the run that it was, in the folder that it had; samplers have no part in it."""
  assert not ensembles.is_ensemble(small_config())
  assert not ensembles.is_ensemble(small_config(seeds=1))
  assert ensembles.is_ensemble(small_config(over=OVER))
  before = json.loads(small_config().to_json())
  del before["ensemble"]
  assert run_id(before) == run_id(json.loads(small_config().to_json()))
  seeds, samplers, rates = (
    json.loads(small_config(seeds=2, over=over).to_json())
    for over in (None, "sampler.eta=0,1", "optimizer.b1=0.8;sampler.eta=0,1")
  )
  assert run_id(seeds) == run_id(samplers) != run_id(rates)
  workdir = open_workdir(tmp_path, seeds, {})
  table = workdir.members / "seed=0" / "evaluation.json"
  table.parent.mkdir(parents=True)
  table.touch()
  open_workdir(tmp_path, samplers, {})
  assert not table.exists()  # it is measured again
  with pytest.raises(RefusedError, match=r"ensemble.over = None, not 'optimizer.b1=0.8'"):
    open_workdir(tmp_path, rates, {})
  with pytest.raises(ConfigError, match=r"ensemble.seeds = 2 .* several runs, and this takes one"):
    build(small_config(seeds=2))


@pytest.mark.e2e
def test_a_nan_names_its_member(tmp_path):
  config = small_config(seeds=2, over=OVER.replace("1e-2", "1e30"))  # the numbers are arguments
  with pytest.raises(RunError, match=r"member learning_rate=1e\+30,.*,seed=0: training stopped: "):
    run(ensembles.build(config), tmp_path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """Three untrained seeds with two samplers each, stopped in the second member and taken up."""
  config = small_config(seeds=3, over="sampler.eta=0,1")
  config.training.num_steps = 0
  ensemble = ensembles.build(config)
  workdir = open_workdir(tmp_path_factory.mktemp("run"), ensemble.experiment.config, {})
  program = ensembles.make_program(ensemble, ONE_DEVICE)
  params = training.restore_trained(ensemble.experiment, workdir, program).params
  with pytest.raises(Preempted):
    ensemble_evaluation.evaluate(ensemble, params, workdir, StopAfter(5), {})
  assert len(list(workdir.members.glob("*/evaluation.json"))) == 1
  return ensemble, workdir, ensemble_evaluation.evaluate(ensemble, params, workdir, StopFlag(), {})


@pytest.mark.e2e
def test_errors_are_those_of_the_members_tables(evaluated):
  _, workdir, result = evaluated
  assert result == json.loads(workdir.evaluation.read_text())
  assert [row["options"]["eta"] for row in result["rows"]] == [0, 1]
  assert result["protocol"]["seeds"] == [0, 1, 2]
  for group, row, eta in zip(result["groups"], result["rows"], ("0", "1"), strict=True):
    assert group["rows"] == [row]
    folders = [workdir.members / f"eta={eta},seed={seed}" for seed in range(3)]
    tables = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    for part in ("value", *BUDGET):
      values = [table["rows"][0]["metrics"]["energy_distance"][part] for table in tables]
      numbers = row["metrics"]["energy_distance"]
      np.testing.assert_allclose(numbers[part], np.mean(values))
      error = np.std(values, ddof=1) / np.sqrt(3)
      np.testing.assert_allclose(numbers["sem" if part == "value" else f"{part}_sem"], error)
    for name in ("absolute", "relative"):
      errors = np.array([table["score_error"][name] for table in tables])
      np.testing.assert_allclose(group["score_error"][name], errors.mean(axis=0))
      expected = errors.std(axis=0, ddof=1) / np.sqrt(3)
      np.testing.assert_allclose(group["score_error"][f"{name}_sem"], expected)
    totals = [table["girsanov"]["total"] for table in tables]
    np.testing.assert_allclose(group["girsanov"]["total"], np.mean(totals))


@pytest.mark.e2e
def test_a_member_is_evaluated_as_its_single_run(evaluated, tmp_path):
  """To the roundings of a number that is an argument: float32, through four steps."""
  ensemble, workdir, _ = evaluated
  member = ensemble.members[-1]
  config = single_config(member)
  config.training.num_steps = 0
  experiment = build(config)
  state = training.init_state(experiment)
  single_dir = open_workdir(tmp_path, experiment.config, {})
  single = evaluation.evaluate(experiment, state.params, single_dir, StopFlag())
  found = json.loads((workdir.members / member.name / "evaluation.json").read_text())
  assert jax.tree.structure(found) == jax.tree.structure(single)
  for a, b in zip(found["rows"], single["rows"], strict=True):
    assert_close(a["metrics"], b["metrics"], rtol=1e-4, atol=1e-5)
  assert_close(found["score_error"], single["score_error"], rtol=1e-5)


@pytest.mark.e2e
def test_programs_are_compiled_once_for_all_members(evaluated):
  ensemble, _, _ = evaluated
  program = ensembles.make_program(ensemble, ONE_DEVICE)
  state, programs = program.init(), {}
  for member in ensemble.members[::3]:
    params = ensembles.state_of(state.params, member)
    evaluation.draw_sets(member.experiment, params, StopFlag(), programs=programs)
    evaluation.measure_scores(member.experiment, params, programs)
  assert {run._cache_size() for run in programs.values()} == {1}


@pytest.mark.e2e
def test_figures_and_table_show_the_seeds(evaluated):
  ensemble, workdir, result = evaluated
  table = format_table(result)
  assert "mean and standard error over 3 seeds" in table
  assert "ddim-4-eta=1" in table
  draw_ensemble(ensemble.experiment, {}, workdir, StopFlag())
  names = {path.stem for path in workdir.figures.iterdir()}
  assert names == {"loss", "over_sampler.eta", "score_error"}


def test_averages_leave_what_is_the_same():
  tables = [
    {"sigma": [1.0, 2.0], "method": "rk4", "kl": 1.0, "kl_sem": 9.0, "bits": [1.0, None]},
    {"sigma": [1.0, 2.0], "method": "rk4", "kl": 1.0, "kl_sem": 7.0, "bits": [3.0, 1.0]},
  ]
  assert ensemble_evaluation.average(tables) == {
    "sigma": [1.0, 2.0], "method": "rk4", "kl": 1.0, "kl_sem": 0.0,
    "bits": [2.0, None], "bits_sem": [1.0, None],
  }  # fmt: skip


@pytest.mark.slow
def test_sixteen_seeds_are_their_single_runs_at_step_100():
  """Of ncsn_gmm's fast config, which is full width: losses to 1e-4."""
  config = ncsn_gmm.get_config("fast")
  config.training.num_steps = 100
  config.ensemble.seeds = 16
  ensemble = ensembles.build(config)
  program = ensembles.make_program(ensemble, ONE_DEVICE)
  _, metrics = program.chunk(program.init(), *program.feed(None).take(100), length=100)
  config.ensemble.seeds = None
  single = build(config)
  chunk = training.make_chunk(single)
  for member in ensemble.members:
    root = member.experiment.root
    state, line = chunk.func(root, training.init_state(single, root=root), {}, length=100)
    assert int(state.step) == 100
    np.testing.assert_allclose(metrics["loss"][-1, member.slot], line["loss"][-1], rtol=1e-4)


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path):
  """kill -9 in mid-run; afterwards every line and every bit is that of a run left alone."""
  fields = {"network.width": 16, "network.depth": 1, "training.batch_size": 32}
  fields |= {"training.num_steps": 600, "training.checkpoint_every": 50, "ensemble.seeds": 3}
  options = [f"--config.{field}={value}" for field, value in fields.items()]
  states = []
  for name in ("straight", "killed"):
    shared = ["--config=configs/ncsn_gmm.py:fast", f"--workdir={tmp_path / name}", "--mode=train"]
    command = [sys.executable, "main.py", *shared, *options]
    if name == "killed":
      metrics = tmp_path / name / "metrics.jsonl"
      with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (metrics.exists() and metrics.read_text().count("\n") > 12):
          assert process.poll() is None
          time.sleep(0.01)
        process.kill()
    subprocess.run(command, check=True, capture_output=True)
    config = ncsn_gmm.get_config("fast")
    for field, value in fields.items():
      section, key = field.split(".")
      config[section][key] = value
    ensemble = ensembles.build(config)
    workdir = open_workdir(tmp_path / name, ensemble.experiment.config, {})
    program = ensembles.make_program(ensemble, ONE_DEVICE)
    states.append(training.restore_trained(ensemble.experiment, workdir, program))
  jax.tree.map(np.testing.assert_array_equal, *states)
  lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "killed")]
  assert lines[0] == lines[1]


@pytest.mark.slow
def test_devices_share_the_seeds():
  """Sixteen seeds on eight pretended devices, two on each: the losses of one device."""
  found = json.loads(
    subprocess.run(
      [sys.executable, "tests/eight_devices.py", "ensemble"],
      env=os.environ | {"PYTHONPATH": "."},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
  )
  np.testing.assert_allclose(found["losses"]["spread"], found["losses"]["one"], rtol=1e-5)
  assert set(found["shares"]) == {1 / 8}
