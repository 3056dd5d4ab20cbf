"""`scorelab options`: sections, parts, and the options of a part."""

import subprocess
import sys

import pytest

from scorelab.cli import options
from scorelab.config import fields


def lines(capsys, *names):
  assert options.main(["options", *names]) == 0
  return capsys.readouterr().out.splitlines()


def test_a_part_is_listed_with_type_range_default_and_help(capsys):
  text = lines(capsys, "sampler.dpmpp_2m_sde")
  assert text[0].startswith("sampler.dpmpp_2m_sde: Samples by SDE-DPM-Solver++(2M)")
  assert text[1] == "  --config.sampler.name=dpmpp_2m_sde"
  at = text.index("  eta: float, at least 0, default 1.0")
  assert "Anderson" in text[at + 1]
  assert "  solver_type: str, one of midpoint, heun, default 'midpoint'" in text


def test_a_name_of_two_parts_lists_both(capsys):
  text = lines(capsys, "loss.edm")
  assert [line for line in text if line.startswith("  --config")] == [
    "  --config.loss.name=edm",
    "  --config.loss.weighting=edm",
  ]
  assert any(line.startswith("  weighting: str, one of edm, ") for line in text)
  assert text[-2] == "  data_std: float, above 0, default 1.0"


def test_a_section_lists_its_fields_and_every_part_with_its_first_line(capsys):
  text = "\n".join(lines(capsys, "sampler"))
  assert "  num_steps: int, from 1 to 1000000, default 16\n" in text
  for parts in fields.known_parts()["sampler"].values():
    for name, part in parts.items():
      assert f"\n  {name} " in text
      assert part["summary"] in text
      assert part["summary"]


def test_without_a_name_the_sections_are_listed(capsys):
  text = lines(capsys)
  assert [line.split()[0] for line in text] == [*fields.SECTIONS, "metric"]


def test_metrics_are_listed(capsys):
  text = lines(capsys, "metric.sliced_wasserstein")
  assert text[1] == "  --config.evaluation.metrics=\"('sliced_wasserstein',)\""
  assert any(line.startswith("  p: ") for line in text)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("smpler", "'smpler' is not a section of a config; did you mean 'sampler'? (known: ensemble"),
    (
      "sampler.dpmp_2m",
      "sampler.dpmp_2m is not a part; did you mean 'dpmpp_2m'? (known: ancestral",
    ),
    ("training.adam", "training.adam is not a part (known: none)"),
    ("sampler.no_such.part", "sampler.no_such.part: there is no module 'no_such'"),
  ],
)
def test_a_wrong_name_is_one_line_and_code_2(name, message, capsys):
  assert options.main(["options", name]) == 2
  said = capsys.readouterr().err
  assert said.startswith(f"scorelab options: {message}")
  assert said.count("\n") == 1


def test_the_command_answers_without_jax():
  code = (
    "import sys; sys.argv = ['scorelab', 'options', 'sampler.heun', 'training']\n"
    "from scorelab.__main__ import main\n"
    "print(main(), 'jax' in sys.modules)"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert "  churn: float, at least 0, default 0.0\n" in run.stdout
  assert run.stdout.endswith("0 False\n")
