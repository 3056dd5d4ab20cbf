"""The pages in docs/ name what there is, and what they show runs."""

import doctest
import re
import subprocess
import sys

import pytest
from matplotlib import pyplot as plt

from scorelab import samplers
from scorelab.config.options import accepted_options
from scorelab.samplers import SAMPLERS
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "samplers.md").read_text()
EQUIVALENTS = [
  [cell.strip() for cell in line.strip("|").split("|")]
  for line in PAGE.split("<!-- equivalents -->")[1].splitlines()
  if line.startswith("| `")
]


def test_every_sampler_of_other_libraries_is_in_the_table():
  """All but those that no library has under a name of its own."""
  named = {name for row in EQUIVALENTS for name in re.findall(r"`(\w+)`", row[0])}
  own = {"annealed_langevin", "euler_maruyama", "euler_time", "feynman_kac", "midpoint", "renoise"}
  assert set(SAMPLERS) - named == {*own, "rk4"}


@pytest.mark.parametrize("row", EQUIVALENTS, ids=lambda row: row[0])
def test_our_names_and_options_exist(row):
  """`name`, `option = value`: a known sampler with that option, and an equivalent of it."""
  name, *rest = re.findall(r"`([^`]+)`", row[0])
  assert name in SAMPLERS
  for text in rest:
    field, sign, _ = text.partition(" = ")
    assert field in (accepted_options(SAMPLERS[name]) if sign else SAMPLERS)
  assert len(row) == 3 and any(row[1:])


def test_every_name_in_the_text_is_known():
  """Samplers named in the table of orders."""
  table = PAGE.split("evaluations of a step |")[1].split("\n\n")[0]
  for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]:
    for name in re.findall(r"`(\w+)`", cell.replace("`order`", "")):
      assert name in SAMPLERS or hasattr(samplers, name)


def test_an_example_of_each_noun_runs():
  page = ROOT / "docs" / "nouns.md"
  blocks = re.findall(r"```pycon\n(.*?)```", page.read_text(), re.S)
  assert len(blocks) == 7
  assert all(len(block.strip().splitlines()) < 15 for block in blocks)
  results = doctest.testfile(str(page), module_relative=False)
  assert results.attempted >= 40 and not results.failed


SMALLER = {  # as the tutorial has them, and for a test of its code alone
  "TRAINING_STEPS, BATCH_SIZE = 1500, 1024": "TRAINING_STEPS, BATCH_SIZE = 2, 64",
  "NUM_SAMPLES, NUM_KEYS = 2000, 4": "NUM_SAMPLES, NUM_KEYS = 100, 1",
  'SOLVERS, BUDGETS = ("ddim", "dpmpp_2m"), (4, 8, 16, 32)': 'SOLVERS, BUDGETS = ("ddim",), (2,)',
}


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_tutorial_runs(full, capsys):
  """In its last row, 32 calls, the truth and the network at its full size are near the floor."""
  plt.switch_backend("agg")
  text = (ROOT / "docs" / "tutorial.py").read_text()
  for ours, smaller in SMALLER.items():
    assert ours in text
    text = text if full else text.replace(ours, smaller)
  exec(compile(text, "docs/tutorial.py", "exec"), {})
  plt.close("all")
  *_, last = capsys.readouterr().out.strip().splitlines()
  truth, ours = map(float, re.fullmatch(r"\w+ +\d+ +([\d.]+) \| ([\d.]+)", last).groups())
  assert not full or max(truth, ours) < 2.5  # 1.6 and 1.7


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
  pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
  build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
  run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stderr
  for page, content in (("reference/samplers", "samplers.ddim.ddim"), ("tutorial", 'class="kn"')):
    assert content in (tmp_path / page / "index.html").read_text()
