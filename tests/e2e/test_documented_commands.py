"""Runs every command of the README, the docs and the docstrings at small size, in a copy.

`pytest -s tests/e2e/test_documented_commands.py -k listed -m e2e` prints what is found and excused.
"""

import pathlib
import re
import shlex
import shutil

import pytest

from tests.documented_commands import EXCUSED, SMALL_TABLES, SYSTEMS, Command, find
from tests.forked_main import Forked
from tests.paths import ROOT, TESTDATA, copy_checkout, git

COMMANDS = find()
RUN = [command for command in COMMANDS if not command.excuse and not command.extra]
GROUPS = {group: [c for c in RUN if c.group == group] for group in {c.group for c in RUN}}
ELSEWHERE = list(EXCUSED.values())[:2]  # run by other tests: every config, and fast studies
# Groups of half a minute and more whose commands other e2e tests cover: run whole by -m slow.
TESTED = {"ncsn_gmm", "chaos", "export", "optimise_grid", "sweep", "figures", "benchmark", "pareto"}
TESTED |= {"score_matching", "overfit_gmm", "posterior_digits"}
MODEL = TESTDATA / "pretrained" / "class_cond_modern"

SCRIPT = """
import dataclasses, functools, importlib, sys
sys.path.insert(0, ".")
sys.argv = {argv!r}
script = importlib.import_module("scripts.{name}")
{tables}
from scorelab.cli.exit import exit_with
exit_with(script.main)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  """A checkout of its own: the files here that git does not ignore, committed."""
  folder = tmp_path_factory.mktemp("copy")
  copy_checkout(folder)
  git(folder, "init", "-q")
  git(folder, "add", "-A")
  git(folder, "commit", "-qm", "copy")
  return folder


@pytest.fixture(scope="module")
def python(copy):
  with Forked(copy, copy, PYTHONPATH=str(copy)) as forked:
    yield forked.python


def run(text, python):
  """A command; a script with its tables made small."""
  program, file, *arguments = shlex.split(text)
  name = pathlib.Path(file).stem
  if program == "pytest":
    return python(["-m", "pytest", file, *arguments])
  assert program == "python", text
  if file.startswith("scripts/") and name in SMALL_TABLES:
    code = SCRIPT.format(argv=[file, *arguments], name=name, tables=SMALL_TABLES[name])
    return python(["-c", code])
  return python([file, *arguments])


@pytest.fixture(scope="module")
def finished_run(copy, python, tmp_path_factory):
  """The id of a finished small run of configs/NAME.py, in the folder that main.py gives it.

  An earlier command may have evaluated it in another way: it is as it was when it had finished.
  """
  kept = {}

  def find_or_run(name):
    if name not in kept:
      result = run(Command(f"python main.py --config=configs/{name}.py", "").small(), python)
      assert result.returncode == 0, result.stderr
      folder = result.stdout.strip().splitlines()[-1].removesuffix(": already done")
      assert (copy / folder / "DONE").exists()
      kept[name] = folder, shutil.copytree(copy / folder, tmp_path_factory.mktemp(name) / "run")
    folder, source = kept[name]
    shutil.rmtree(copy / folder)
    shutil.copytree(source, copy / folder)
    return pathlib.Path(folder).name

  return find_or_run


def filled(command, copy, finished_run):
  """The command at small size, its placeholders replaced by what a user would type."""
  text = command.small()
  for name in dict.fromkeys(re.findall(r"results/(\w+)", text)):
    if (copy / "configs" / f"{name}.py").exists():
      text = text.replace(f"results/{name}/<run id>", f"results/{name}/{finished_run(name)}")
  where = f"results/exported-{COMMANDS.index(command)}"
  text = re.sub(r"(--to=)DIR(ECTORY)?", rf"\1{where}", text)
  text = re.sub(r"(path=)DIR(ECTORY)?", rf"\1{MODEL}", text)
  assert not re.search(r"<\w|\b[A-Z]{3,}\b(?!=)", text.replace("SIGTERM", "")), (
    f"placeholder: {text}"
  )
  return text


def test_what_is_found_is_run_or_listed(capsys):
  with capsys.disabled():
    excused = [command for command in COMMANDS if command.excuse]
    left_out = len(COMMANDS) - len(RUN) - len(excused)
    print(f"\n{len(COMMANDS)} documented commands: {len(RUN)} run, {len(excused)} excused")
    print(f"{left_out} need extras that are not installed")
    for command in excused:
      print(f"  {command.place}: {command.text}\n    {command.excuse}")
  own = [command for command in excused if command.excuse not in ELSEWHERE]
  assert len(COMMANDS) >= 150 and len(own) <= 60
  assert len(RUN) >= 80 and {*SYSTEMS.split("|")} <= GROUPS.keys()
  places = {command.place.partition(":")[0] for command in COMMANDS}
  assert {"README.md", "CONTRIBUTING.md", "main.py", "scorelab/cli/sweep.py"} <= places
  configs = {f"configs/{file.name}" for file in (ROOT / "configs").glob("*.py")}
  assert configs - places <= {"configs/base.py"}


def test_files_that_are_named_exist():
  assert not {f"{c.place}: {c.text}": c.missing for c in COMMANDS if c.missing}


CHECKED = """
import sys
from scorelab.cli import train
train.execute = lambda *given: None
sys.exit(train.main({argv!r}))
"""


def test_options_of_the_main_config_pass_every_check(copy, python, finished_run):
  """All that is checked before a run trains or evaluates; -m slow runs the commands themselves."""
  commands = {filled(command, copy, finished_run): command.place for command in GROUPS["ncsn_gmm"]}
  assert len(commands) > 12
  finished_run("ncsn_gmm")
  for text, place in commands.items():
    result = python(["-c", CHECKED.format(argv=shlex.split(text)[1:])])
    assert result.returncode == 0 and "Traceback" not in result.stderr, f"{place}: {text}\n{result}"


@pytest.mark.parametrize(
  "group",
  [
    pytest.param(group, marks=[pytest.mark.slow] if group in TESTED else [])
    for group in sorted(GROUPS, key=lambda group: (-len(GROUPS[group]), group))
  ],
)
def test_commands_run_and_leave_the_checkout_clean(group, copy, python, finished_run):
  done = set()
  for command in GROUPS[group]:
    if "--mode=eval" in command.text and command.group != "pretrained":
      finished_run(command.group)
    text = filled(command, copy, finished_run)
    if text in done:
      continue
    done.add(text)
    result = run(text, python)
    said = f"{command.place}: {text}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    assert result.returncode == 0, said
    assert "Traceback" not in result.stderr, said
    assert not git(copy, "status", "--porcelain"), said
