"""scripts/published.py: every number points to something, and verdicts against hand-made cases."""

import dataclasses
import importlib
import math
import pathlib

import pytest

from configs import ddpm_flowers, ncsn_gmm_published
from scorelab.plotting import read_csv, write_csv
from scripts import published, reproduce

REFERENCE = pathlib.Path("results/reference")
BLANK = published.Entry(
  *("B", "some_config", "a loss", "", (1.0,), 1, "", ""),
  *("some/table.csv", {"row": "ours", "step": "10"}, "value", "sem", "seeds", "a notebook", ""),
)


def make(**fields):
  return dataclasses.replace(BLANK, **fields)


@pytest.mark.parametrize(
  "entry", published.entries(), ids=lambda e: f"{e.config}-{e.quantity}-{e.at}".replace(" ", "_")
)
def test_every_number_points_to_something(entry):
  """A system, a config, and columns of a committed table; where there are none, a note says why."""
  assert entry.system in reproduce.SYSTEMS and entry.source
  assert importlib.util.find_spec(f"configs.{entry.config}")
  if not entry.file:
    assert entry.note and not entry.value
  elif entry.file != published.PARAMETERS:
    columns = read_csv(REFERENCE / entry.file)[0].keys()
    names = (*entry.where, entry.value, *filter(None, (entry.error, entry.number)))
    assert set(names) <= columns
    found = published.locate(entry, REFERENCE)
    assert found is not None and math.isfinite(found.value)
  if not entry.tolerance and entry.file:  # standard errors decide, and so they must be known
    assert found.error > 0 and found.number > 1


def test_no_number_is_there_twice():
  names = [(e.config, e.quantity, e.at) for e in published.entries()]
  assert len(names) == len(set(names))


def test_counted_networks_are_those_of_the_configs():
  counted = [e.where for e in published.entries() if e.file == published.PARAMETERS]
  configs = (ncsn_gmm_published.get_config(), None, ddpm_flowers.get_config())
  for where, config in zip(counted, configs, strict=True):
    for name in where.keys() - {"shape"} if config else ():
      assert str(config.network[name]) == where[name]
  # Two coordinates and a level: 3, 256, LN, 512, 256, LN, 2.
  by_hand = 3 * 256 + 256 + 2 * 256 + 257 * 512 + 513 * 256 + 2 * 256 + 257 * 2
  assert published.count_parameters(counted[0]) == by_hand


def test_a_tolerance():
  """|1.05 - 1| is within 0.05 and 5 %, to rounding, and not within 4 %."""
  for tolerance, verdict in (("0.0501", "compatible"), ("5.01%", "compatible"), ("4%", "differs")):
    line = published.decide(make(tolerance=tolerance), published.Found(1.05))
    assert line["verdict"] == verdict and line["rule"] == f"within {tolerance}"
    assert line["difference"] == pytest.approx(0.05) and line["errors_apart"] is None
  negative = make(published=(-10.0,), tolerance="1%")
  assert published.decide(negative, published.Found(-9.95))["verdict"] == "compatible"
  exact = published.decide(make(tolerance="0"), published.Found(1.0))
  assert (exact["rule"], exact["verdict"]) == ("exactly", "agrees")


def test_a_rule_that_a_network_of_zeros_would_pass_gives_no_verdict():
  """Of 0.995 within 0.01 a zero network's relative error of 1 is too; within 0.004 it is not."""
  entry = make(published=(0.995,), tolerance="0.01", zero="1")
  line = published.decide(entry, published.Found(0.998))
  assert line["verdict"] == "not compared" and "zeros" in line["note"] and not line["rule"]
  entry = make(published=(0.995,), tolerance="0.004", zero="1")
  assert published.decide(entry, published.Found(0.998))["verdict"] == "compatible"
  assert published.decide(entry, published.Found(1.0))["verdict"] == "differs"


def test_standard_errors_of_published_draws():
  """3, 4 and 5 have a mean of 4 and a standard error of 1 / sqrt(3); 5.2 +- 0.5 is 1.57 away."""
  line = published.decide(make(published=(3.0, 4.0, 5.0)), published.Found(5.2, 0.5, 10))
  assert line["published"] == 4 and line["published_sem"] == pytest.approx(3**-0.5)
  assert line["errors_apart"] == pytest.approx(1.2 / (1 / 3 + 0.25) ** 0.5)
  assert line["verdict"] == "agrees"
  line = published.decide(make(published=(3.0, 4.0, 5.0)), published.Found(5.6, 0.5, 10))
  assert line["errors_apart"] > 2 and line["verdict"] == "differs"


def test_standard_errors_of_one_published_number():
  """Ours of 16 draws is 0.1, so that a draw has 0.4: a mean of four has 0.2, one alone 0.4."""
  for keys, error in ((4, 0.2), (1, 0.4)):
    entry = make(published=(2.0,), keys=keys)
    line = published.decide(entry, published.Found(2.45, 0.1, 16))
    assert line["published_sem"] == pytest.approx(error)
    assert line["errors_apart"] == pytest.approx(0.45 / (0.01 + error**2) ** 0.5)
    assert line["verdict"] == ("differs" if keys == 4 else "agrees")


def test_nothing_to_compare():
  assert published.decide(make(), None)["verdict"] == "not measured"
  assert published.decide(make(file=""), None)["verdict"] == "not compared"
  # One seed has no standard error.
  assert published.decide(make(), published.Found(1.0, math.nan, 1))["verdict"] == "not measured"


def test_locates_rows(tmp_path):
  """By text and by number, however it is written; of several rows, their mean."""
  entry = make()
  assert published.locate(entry, tmp_path) is None
  rows = [
    {"row": name, "step": step, "value": 10 * step + add, "sem": 0.5, "seeds": 3}
    for name, add in (("ours", 1), ("7", 2))
    for step in (10, 20)
  ]
  write_csv(tmp_path / "some/table.csv", rows, "python x.py")
  assert published.locate(entry, tmp_path) == published.Found(101, 0.5, 3)
  same = make(where={"row": "7", "step": "1e1"})
  assert published.locate(same, tmp_path) == published.Found(102, 0.5, 3)
  assert published.locate(make(where={"row": "theirs"}), tmp_path) is None
  several = make(where={"row": "ours"}, error="", number="")
  assert published.locate(several, tmp_path).value == 151


def test_the_table_of_a_readme():
  """What differs only in `at` is one line, which says where it differs."""
  entries = [make(at=f"{n} steps", tolerance="0.1", published=(n / 4,)) for n in (4, 9, 8)]
  lines = [published.decide(entry, published.Found(2.0)) for entry in entries]
  lines.append(published.decide(make(system="C"), published.Found(1234.0, 20.0, 2)))
  head, _, first, second = published.as_markdown(lines).splitlines()
  assert head.count("|") == first.count("|") == second.count("|")
  assert "a loss at 4, 9, 8 steps | 1.00, 2.25, 2.00 | 2.00, 2.00, 2.00 | within 0.1" in first
  assert first.endswith("| differs at 4, 9 steps; compatible at 8 steps |")
  assert "1,234 ± 2e+01" in second
  *_, of_c, of_all = published.counts_as_markdown(lines).splitlines()
  assert of_c == "| C | 0 | 0 | 1 | 0 | 0 |" and of_all == "| all | 0 | 1 | 3 | 0 | 0 |"


def test_the_committed_verdicts_are_those_of_the_committed_tables(tmp_path):
  lines = published.verdicts(REFERENCE)
  assert published.as_markdown(lines) in pathlib.Path("docs/published.md").read_text()
  file = write_csv(tmp_path / "verdicts.csv", lines, "python x")
  again, committed = read_csv(file), read_csv(REFERENCE / "verdicts.csv")
  assert [row.keys() for row in again] == [row.keys() for row in committed]
  for ours, kept in zip(again, committed, strict=True):
    for name, value in ours.items():
      assert kept[name] == (pytest.approx(value, nan_ok=True) if value != str(value) else value)
