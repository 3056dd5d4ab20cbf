"""The run's folder: what is found again, what is refused, and what survives a kill."""

import json
import os
import signal

import pytest

from scorelab.cli.exit import exit_with
from scorelab.errors import RefusedError, RunError
from scorelab.runs import workdir as run
from scorelab.runs.files import append_jsonl, read_jsonl, truncate_jsonl, write_json

CONFIG = {"seed": 0, "training": {"num_steps": 3}, "sampler": {"name": "ddim"}, "evaluation": {}}


def changed(**sections):
  return {**CONFIG, **sections}


def test_the_run_id_depends_on_training_only():
  same = run.run_id(changed(sampler={"name": "heun"}, evaluation={"num_keys": 3}))
  assert same == run.run_id(CONFIG)
  assert run.run_id(changed(seed=1)) != same
  assert run.run_id(changed(training={"num_steps": 4})) != same


def test_a_folder_leaves_its_config_and_environment(tmp_path):
  workdir = run.open_workdir(tmp_path / "a" / "b", CONFIG, {"seed": 0})
  record = json.loads((workdir.path / "config.json").read_text())
  assert record == {"config": CONFIG, "overrides": {"seed": 0}}
  environment = json.loads((workdir.path / "environment.json").read_text())
  assert {"jax", "python", "devices", "git", "matmul_precision"} <= environment.keys()


def test_another_training_is_refused_by_the_fields_name(tmp_path):
  run.open_workdir(tmp_path, CONFIG, {})
  with pytest.raises(RunError, match=r"training\.num_steps = 3, not 4"):
    run.open_workdir(tmp_path, changed(training={"num_steps": 4}), {})
  with pytest.raises(RunError, match="seed = 0, not None"):
    run.open_workdir(tmp_path, {k: v for k, v in CONFIG.items() if k != "seed"}, {})


def test_another_evaluation_is_evaluated_again(tmp_path):
  workdir = run.open_workdir(tmp_path, CONFIG, {})
  workdir.done.touch()
  assert run.open_workdir(tmp_path, CONFIG, {}).done.exists()
  assert not run.open_workdir(tmp_path, changed(sampler={"name": "heun"}), {}).done.exists()


def test_an_option_that_is_not_set_changes_nothing(tmp_path):
  """As when a newer version has more options than the one that made the run."""
  run.open_workdir(tmp_path, CONFIG, {}).done.touch()
  newer = changed(sampler={**CONFIG["sampler"], "option": None}, training={"option": None})
  newer["training"] |= CONFIG["training"]
  assert run.run_id(newer) == run.run_id(CONFIG)
  assert run.open_workdir(tmp_path, newer, {}).done.exists()


def test_json_is_replaced_whole(tmp_path):
  path = tmp_path / "a.json"
  write_json(path, {"a": 1})
  with pytest.raises(ValueError, match="Out of range float values"):
    write_json(path, {"a": float("nan")})
  assert json.loads(path.read_text()) == {"a": 1}


def test_jsonl_drops_a_torn_line_and_what_is_later(tmp_path):
  path = tmp_path / "m.jsonl"
  for step in (1, 2, 3):
    append_jsonl(path, {"step": step})
  path.write_text(path.read_text() + '{"step": 4')
  assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3]
  truncate_jsonl(path, 2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
  truncate_jsonl(tmp_path / "none.jsonl", 2)


def test_a_line_after_a_torn_one_is_whole(tmp_path):
  path = tmp_path / "m.jsonl"
  append_jsonl(path, {"step": 1})
  path.write_text(path.read_text() + '{"step": 2')
  append_jsonl(path, {"step": 3})
  append_jsonl(path, {"step": 4})
  assert [line["step"] for line in read_jsonl(path)] == [1, 3, 4]


def test_a_damaged_config_is_refused_by_name(tmp_path):
  for text in ("", '{"config": ', "[]", "{}"):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RefusedError, match=r"config\.json is damaged"):
      run.open_workdir(tmp_path, CONFIG, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_are_noted_and_handlers_put_back(number):
  before = signal.getsignal(number)
  with run.StopFlag() as stop:
    stop.check()
    os.kill(os.getpid(), number)
    with pytest.raises(run.Preempted):
      stop.check()
  assert signal.getsignal(number) is before


def test_a_script_says_in_a_line_why_it_ends(capsys):
  def stopped():
    raise run.Preempted

  with pytest.raises(SystemExit) as ended:
    exit_with(stopped)
  assert ended.value.code == run.PREEMPTED_EXIT_CODE == 75
  assert capsys.readouterr().err == "stopped and saved; run the same command to resume\n"
  with pytest.raises(SystemExit) as ended:
    exit_with(lambda: 3)
  assert ended.value.code == 3

  for error, code in ((RefusedError("held"), 2), (RunError("loss is nan"), 1)):

    def fails(error=error):
      raise error

    with pytest.raises(SystemExit) as ended:
      exit_with(fails)
    assert (ended.value.code, capsys.readouterr().err) == (code, f"{error}\n")
