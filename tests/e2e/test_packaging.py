"""What is installed, imported and shipped."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
SOURCES = [
  file
  for folder in ("scorelab", "configs", "scripts")
  for file in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "main.py"]
OWN_DEVICE = {"cuda12", "cuda13", "tpu"}
OWN_SET = {"parity", "torch"}  # next to PyTorch, in an environment of its own

IMPORTS = """
import socket, sys
def refuse(*args, **kwargs): raise OSError("a connection at import")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import scorelab
assert "jax" not in sys.modules
for name in scorelab.__all__:
  if name != "plotting": getattr(scorelab, name)
import scorelab.evaluation, scorelab.training
slow = {"diffrax", "matplotlib", "numpyro", "ot", "scipy.stats", "sklearn", "torch"}
print(sorted(slow & set(sys.modules)))
import scorelab.plotting
"""


def test_what_is_slow_to_import_is_imported_on_use_and_nothing_connects():
  run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stderr
  assert run.stdout == "[]\n"


def test_parts_are_attributes():
  import scorelab

  assert scorelab.samplers.SAMPLERS
  assert {"samplers", "__version__"} <= set(dir(scorelab))
  with pytest.raises(AttributeError, match="no attribute 'sampler'"):
    scorelab.sampler  # noqa: B018


@pytest.mark.parametrize("group", [None, *PROJECT["optional-dependencies"]])
def test_pins_are_in_their_ranges(group):
  """Every requirement has one, but for those of devices and of the parity tests."""
  given = PROJECT["optional-dependencies"]
  requirements = PROJECT["dependencies"] if group is None else given[group]
  pins = {canonicalize_name(name): version for name, version in PINS.items()}
  for requirement in map(Requirement, requirements):
    assert requirement.specifier, f"{requirement} has no oldest version"
    version = pins.get(canonicalize_name(requirement.name))
    if version is None:
      assert group in OWN_DEVICE | OWN_SET, f"{requirement} has no pin"
    else:
      assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_every_pin_has_its_licence_in_the_table():
  table = (ROOT / "docs" / "dependencies.md").read_text().split("<!-- licences -->")[1]
  assert re.findall(r"^\| ([\w.-]+) \| .+ \|$", table, re.M)[1:] == list(PINS)


def calls(tree):
  """(dotted name, keywords) of every call."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
  for file in SOURCES:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      unsafe = {name.partition(".")[0] for name in names} & {"pickle", "dill", "marshal", "shelve"}
      assert not unsafe, f"{file}: {unsafe}"
    for name, keywords in calls(tree):
      assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "__import__"), file
      for keyword in ("shell", "allow_pickle"):
        assert keywords.get(keyword, "False") == "False", f"{file}: {name} with {keyword}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel, unpacked beside what is installed here: (its directory, an empty directory)."""
  folder = tmp_path_factory.mktemp("wheel")
  command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
  subprocess.run([sys.executable, *command], check=True)
  (file,) = folder.glob("scorelab-*.whl")
  with zipfile.ZipFile(file) as archive:
    archive.extractall(folder / "site")
  (folder / "here").mkdir()
  return folder / "site", folder / "here"


SMALL = ["--config.network.width=16", "--config.evaluation.rows=()"]
CONSOLE = """
import pathlib, sys
from importlib.metadata import distribution
sys.path = [p for p in sys.path if not pathlib.Path(p, "configs").is_dir()]  # an editable install
import scorelab
assert scorelab.__file__.startswith(sys.argv[1]), scorelab.__file__
(found,) = (p for p in distribution("scorelab").entry_points if p.name == sys.argv[2])
sys.argv = sys.argv[2:]
sys.exit(found.load()())
"""


def test_a_wheel_trains_sweeps_reports_and_exports_in_an_empty_directory(wheel):
  """By its console scripts; without a checkout, its configs are its own."""
  site, here = wheel
  environment = os.environ | {"PYTHONPATH": str(site)}

  def command(name, *arguments):
    return subprocess.run(
      [sys.executable, "-c", CONSOLE, str(site), name, *arguments],
      cwd=here,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )

  for name in ("scorelab", "scorelab-sweep"):
    refused = command(name, "--config=configs/ncsn_gm.py", *["--seeds=1"][: name != "scorelab"])
    assert refused.returncode == 2, refused.stderr
    assert "did you mean" in refused.stderr and "configs/ncsn_gmm.py" in refused.stderr
  config = ["--config=configs/ncsn_gmm.py:fast", "--config.training.num_steps=20", *SMALL]
  run = command("scorelab", *config)
  assert run.returncode == 0, run.stderr
  (done,) = here.glob("results/ncsn_gmm/*/DONE")
  assert list(done.parent.glob("figures/*.png"))
  swept = command("scorelab-sweep", *config, "--grid", "seed=0,1", "--jobs", "1")
  assert swept.returncode == 0, swept.stderr
  assert "2 runs: 1 done before, 0 failed before" in swept.stderr  # the one above
  table = list(csv.DictReader((here / "results/ncsn_gmm/sweep.csv").open().readlines()[1:]))
  assert [(row["seed"], row["state"]) for row in table] == [("0", "done"), ("1", "done")]
  runs = [here / row["workdir"] for row in table]
  started = json.loads((runs[1] / "environment.json").read_text())["command"][0]
  assert started.startswith(str(site)), started
  made = command("scorelab-report", "results")
  assert made.returncode == 0, made.stderr
  page = (here / "results" / "report.html").read_text()
  assert all(run.name in page for run in runs) and "scorelab-report results" in page
  assert "<style>" in page and "<script>" in page  # its data files are in the wheel
  written = command("scorelab-export", f"--workdir={runs[1]}", "--to=out", "--format=plain")
  assert written.returncode == 0, written.stderr
  assert {file.name for file in (here / "out").iterdir()} == {"model.safetensors", "config.json"}


def test_what_is_in_the_wheel_inserts_no_path_and_runs_no_file():
  for file in (ROOT / "scorelab").rglob("*.py"):
    assert "sys.path.insert" not in (text := file.read_text()), file
    assert "runpy" not in text, file


def test_scripts_import_what_is_installed():
  for file in (ROOT / "scripts").rglob("*.py"):
    assert not re.search(r"sys\.path\.(insert|append)", file.read_text()), file
