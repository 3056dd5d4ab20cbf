"""The pages in docs/ name what there is."""

import pathlib
import re

import pytest

from scorelab import samplers
from scorelab.options import accepted_options
from scorelab.samplers import SAMPLERS

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "samplers.md").read_text()
EQUIVALENTS = [
  [cell.strip() for cell in line.strip("|").split("|")]
  for line in PAGE.split("<!-- equivalents -->")[1].splitlines()
  if line.startswith("| `")
]


def test_every_sampler_of_other_libraries_is_in_the_table():
  """All but those that no library has under a name of its own."""
  named = {name for row in EQUIVALENTS for name in re.findall(r"`(\w+)`", row[0])}
  own = {"annealed_langevin", "euler_maruyama", "euler_time", "midpoint", "renoise", "rk4"}
  assert set(SAMPLERS) - named == own


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
      assert name in SAMPLERS or hasattr(samplers, name) or name == "adaptive_ode"
