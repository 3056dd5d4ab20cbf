"""What is installed, imported and shipped."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.e2e

ROOT = pathlib.Path(__file__).parent.parent
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


@pytest.mark.slow
def test_a_wheel_runs_the_main_job_from_any_folder(tmp_path):
  """Unpacked beside what is installed here; without a checkout, its configs are its own."""
  wheel = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
  subprocess.run([sys.executable, *wheel], check=True)
  (file,) = tmp_path.glob("scorelab-*.whl")
  with zipfile.ZipFile(file) as archive:
    archive.extractall(tmp_path / "site")
  environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
  here = tmp_path / "here"
  here.mkdir()

  def scorelab(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "scorelab", *arguments],
      cwd=here,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )

  refused = scorelab("--config=configs/ncsn_gm.py")
  assert refused.returncode == 2
  assert "did you mean" in refused.stderr and "configs/ncsn_gmm.py" in refused.stderr
  run = scorelab("--config=configs/ncsn_gmm.py:fast", "--config.training.num_steps=20")
  assert run.returncode == 0, run.stderr
  (done,) = here.glob("results/ncsn_gmm/*/DONE")
  assert list(done.parent.glob("figures/*.png"))
