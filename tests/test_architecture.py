"""The layers of the package: what may import what, how long a file is, and the map of it all."""

import ast
import importlib
import re

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "scorelab"
LAYERS = {
  "core": (
    *("errors", "early_stop", "moved", "pytree", "ranges", "signatures", "validation", "typing"),
    *("schedules", "predictions", "targets", "networks", "losses", "samplers", "likelihood"),
    *("metrics", "exact", "inverse", "optimizers"),
  ),
  "io": ("runs", "data", "pretrained", "plotting"),
  "experiment": ("config", "experiment", "training", "evaluation"),
  "app": ("__main__", "cli", "sweep", "report"),
}
MAX_LINES = 400
NOT_IN_CORE = {
  *("ml_collections", "absl", "logging", "matplotlib", "orbax", "pathlib", "os", "io", "shutil"),
  *("json", "csv", "tempfile", "subprocess"),
}
LONG: set[str] = set()  # not yet split


def modules(root=PACKAGE):
  """The file of every module of a package, by dotted name."""
  files = (f for f in root.rglob("*.py") if "shipped" not in f.parts)
  names = {".".join(f.relative_to(root.parent).with_suffix("").parts): f for f in files}
  return {name.removesuffix(".__init__"): file for name, file in names.items()}


def imports(name, file, known):
  """Every import of a module, also those inside functions, without those for type checkers."""

  def walk(node):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.If) and "'TYPE_CHECKING'" in ast.dump(child.test):
        continue
      if isinstance(child, ast.Import):
        yield from (alias.name for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        whole = (f"{child.module}.{alias.name}" for alias in child.names)
        yield from (other if other in known else child.module for other in whole)
      else:
        yield from walk(child)

  return set(walk(ast.parse(file.read_text()))) - {name}


def layer_of(module):
  """The layer's index of a module of scorelab; the package itself is below all."""
  part = module.split(".")[1] if "." in module else None
  found = [i for i, parts in enumerate(LAYERS.values()) if part in parts]
  return 0 if part is None else found[0]


def upward(graph):
  """Every import that points up a layer."""
  return [
    f"{name} imports {other}"
    for name, others in graph.items()
    for other in others & graph.keys()
    if layer_of(other) > layer_of(name)
  ]


def circles(graph):
  """Modules left when those that import nothing that is left are taken away, again and again."""
  left = {name: others & graph.keys() for name, others in graph.items()}
  while free := {name for name, others in left.items() if not others}:
    left = {name: others - free for name, others in left.items() if name not in free}
  return sorted(left)


FILES = modules()


@pytest.fixture(scope="module")
def graph():
  """The imports of every module."""
  return {name: imports(name, file, FILES) for name, file in FILES.items()}


def test_every_part_has_a_layer():
  parts = {name.split(".")[1] for name in FILES if "." in name}
  assert parts <= {part for layer in LAYERS.values() for part in layer}


def test_imports_never_point_up(graph):
  assert upward(graph) == []


def test_modules_import_each_other_in_no_circle(graph):
  assert circles(graph) == []


def test_packages_import_each_other_in_no_circle(graph):
  packages = {}
  for name, others in graph.items():
    if "." in name:
      package = name.split(".")[1]
      known = {other.split(".")[1] for other in others & graph.keys() if "." in other}
      packages[package] = packages.get(package, set()) | (known - {package})
  assert circles(packages) == []


@pytest.mark.parametrize("folder", ["scorelab", "configs", "scripts"])
def test_no_module_is_too_long(folder):
  files = {str(f.relative_to(ROOT)): f for f in (ROOT / folder).rglob("*.py")}
  sizes = {name: len(f.read_text().splitlines()) for name, f in files.items()}
  assert {name: n for name, n in sizes.items() if n > MAX_LINES}.keys() <= LONG


def test_core_knows_no_file_config_or_figure(graph):
  edges = {
    f"{name} imports {other}"
    for name, others in graph.items()
    if layer_of(name) == 0 and "." in name and name.split(".")[1] not in ("early_stop", "errors")
    for other in others
    if other.partition(".")[0] in NOT_IN_CORE
  }
  assert edges == set()


def test_contributing_lists_every_part():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  listed = set(re.findall(r"^    scorelab/(\w+?)(?:\.py|/)  ", text, re.M))
  assert listed == {name.split(".")[1] for name in FILES if "." in name}


def test_the_checks_see_faults(tmp_path):
  """An upward import, a circle: each is found."""
  package = tmp_path / "scorelab"
  for name, text in {
    "schedules/a.py": "def f():\n  from scorelab.training import b",
    "training/b.py": "import scorelab.schedules.a\nfrom scorelab.training import c",
    "training/c.py": "from scorelab.training.b import x",
  }.items():
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text(text)
  files = modules(package)
  graph = {name: imports(name, file, files) for name, file in files.items()}
  assert upward(graph) == ["scorelab.schedules.a imports scorelab.training.b"]
  assert circles(graph) == ["scorelab.schedules.a", "scorelab.training.b", "scorelab.training.c"]


def test_old_paths_are_the_new_modules():
  from scorelab.moved import MOVED

  for old, new in MOVED.items():
    with pytest.warns(DeprecationWarning, match=f"scorelab.{old} is now scorelab.{new}"):
      module = importlib.import_module(f"scorelab.{old}")
    assert module is importlib.import_module(f"scorelab.{new}")
    assert module.__name__ == module.__spec__.name == f"scorelab.{new}"


@pytest.mark.parametrize(
  "name", [name for name, file in FILES.items() if file.name == "__init__.py" and "." in name]
)
def test_public_names_are_there(name):
  package = importlib.import_module(name)
  for public in getattr(package, "__all__", ()):
    assert getattr(package, public) is not None
