"""Fields of configs: from the signatures of the parts, and from nowhere else."""

import re
import subprocess
import sys
from typing import Annotated, Literal

import pytest

from scorelab.config import fields, generate
from scorelab.config.options import check_bounds
from scorelab.config.parts import METRIC_PARTS, PARTS, range_of
from scorelab.config.sections import SECTIONS
from scorelab.errors import ConfigError
from scorelab.ranges import AtLeast, Between, Count, OneOf
from scorelab.samplers import SAMPLERS
from scorelab.signatures import options_of_part

PART_OPTIONS = [
  (section, name, option)
  for section, selectors in PARTS.items()
  for parts in selectors.values()
  for name, part in parts.items()
  for option in options_of_part(part).values()
]


def test_the_file_is_what_the_signatures_say():
  text = generate.as_text(generate.described_parts())
  assert fields.FILE.read_text() == text, "run python -m scorelab.config.generate"


def test_every_option_of_every_part_has_its_own_help():
  """Not a reference to another part's, which `scorelab options` would not show."""
  lacking = [
    f"{section}.{name} {option.name}: {option.help!r}"
    for section, selectors in (PARTS | {"metric": METRIC_PARTS}).items()
    for parts in selectors.values()
    for name, part in parts.items()
    for option in options_of_part(part).values()
    if option.kind and re.match(r"$|(as for|see|like) `", option.help)
  ]
  assert lacking == []


def test_help_is_that_of_the_function_it_refers_to():
  helps = {name: options_of_part(SAMPLERS[name]) for name in ("euler", "heun", "dpmpp_3m_sde")}
  assert helps["heun"]["s_noise"].help == helps["euler"]["s_noise"].help != ""
  assert helps["dpmpp_3m_sde"]["solver_type"].help.endswith("; k-diffusion has 0.5 and 'heun'.")


def test_parts_agree_on_the_type_of_a_shared_option():
  kinds = {}
  for section, _, option in PART_OPTIONS:
    kinds.setdefault((section, option.name), set()).add(option.kind)
  assert {option: found for option, found in kinds.items() if len(found) > 1} == {}


def test_an_option_of_a_part_is_a_field_unless_a_config_cannot_hold_it():
  config = fields.make_config()
  missing = {(s, option.name) for s, _, option in PART_OPTIONS if option.name not in config[s]}
  assert missing == {("parameterization", "of_class")}  # a function


def test_a_default_is_in_its_own_range():
  for section, name, option in PART_OPTIONS:
    if option.range and option.default is not None:
      values = option.default if isinstance(option.default, tuple) else (option.default,)
      assert all(map(option.range.allows, values)), (section, name, option)
  check_bounds(fields.make_config())


def test_every_field_of_a_section_has_help():
  for section, own in SECTIONS.items():
    for option in options_of_part(own).values():
      assert option.help, (section, option.name)


def part(
  key,
  *,
  plain=0.5,
  eta: Annotated[float, AtLeast(0)] | None = None,
  sizes: Annotated[tuple[int, ...], Count(9)] = (1, 2),
  way: Literal["up", "down"] = "up",
  parent=None,
):
  """A part.

  Args:
    key: ignored.
    plain, eta: the first line,
      and the second: of both.
    sizes: whole numbers.

  Returns:
    way: not an option's help.
  """


def test_options_are_read_from_signature_and_docstring():
  options = options_of_part(part)
  assert {name: option.kind for name, option in options.items()} == {
    "plain": "float",
    "eta": "float",
    "sizes": "tuple",
    "way": "str",
  }
  assert options["eta"].range == AtLeast(0)
  assert options["sizes"].range == Count(9)
  assert options["plain"].range is None
  assert options["plain"].help == options["eta"].help == "the first line, and the second: of both."
  assert options["sizes"].help == "whole numbers."
  assert options["way"].help == ""
  assert (options["plain"].default, options["eta"].default) == (0.5, None)


@pytest.mark.parametrize(
  ("allowed", "inside", "outside", "words"),
  [
    (AtLeast(0), (0, 1e30), (-1e-9, float("nan")), "at least 0"),
    (Between(0, 1, "[)"), (0, 0.5), (1, -0.1, float("nan")), "in [0, 1)"),
    (Between(0, 1, "(]"), (1, 1e-9), (0, 1.1), "in (0, 1]"),
    (Between(0, 1, slack=0.1), (-0.05, 1.05), (-0.2, 1.2), "in [0, 1]"),
    (Count(3), (1, 3), (0, 4), "from 1 to 3"),
    (OneOf(1, 2, 4), (1, 4), (3,), "1, 2 or 4"),
  ],
)
def test_ranges(allowed, inside, outside, words):
  assert allowed.description == words
  assert all(map(allowed.allows, inside))
  assert not any(map(allowed.allows, outside))


def test_the_range_is_that_of_the_named_part(tmp_path, monkeypatch):
  """Also of a part of one's own, whose range is wider than the registry's, or of another option."""
  (tmp_path / "ranged_part.py").write_text(
    "from typing import Annotated\n"
    "from scorelab.ranges import AtLeast\n"
    "def own(key, predict, x, grid, *, eta: Annotated[float, AtLeast(-1)] = 0.0): ...\n"
  )
  monkeypatch.chdir(tmp_path)
  assert range_of("sampler", "eta", {"name": "ddim"}).description == "at least 0"
  assert range_of("sampler", "eta", {"name": "dpmpp_2m"}).description == "at least 0"
  assert range_of("sampler", "eta", {"name": "ranged_part.own"}).description == "at least -1"
  assert range_of("", "seed", {}).description == "from 0 to 4294967295"
  config = fields.make_config()
  config.sampler.update(name="ranged_part.own", eta=-0.5)
  check_bounds(config)
  config.sampler.name = "ddim"
  with pytest.raises(ConfigError, match=r"sampler\.eta = -0\.5, must be at least 0"):
    check_bounds(config)


def test_fields_are_there_without_jax():
  code = "import sys; from configs import base; base.get_config(); print('jax' in sys.modules)"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert run.stdout == "False\n"
