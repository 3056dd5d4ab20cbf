"""Numbers in prose: finds them, and compares them with what they are bound to.

A binding is a `Claim`: a piece of text with `{}` in the place of each number, and the numbers. The
precision is that of the text: 0.36 stands for what rounds to 0.36, `AtMost` and `AtLeast` for what
is rounded up and down. So a change of any printed digit is found.
"""

from __future__ import annotations

import ast
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

NUMBER = (
  r"(?:(?<=[\s(\[])-)?"  # a sign, not a hyphen
  r"(?<![\w.^])(?<![A-Za-z]-)(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?"
  r"(?![\w^]|-[A-Z]\b)"
)
_CODE = re.compile(
  r"```.*?```"  # fenced
  r"|<!-- table: \w+ -->.*?<!-- /table -->"  # written by scripts/tables.py
  r"|<!-- licences -->.*?<!-- licences -->|<!-- equivalents -->.*?\n\n"
  r"|<!--.*?-->|`[^`]*`"
  r"|\]\([^)]*\)"  # a link's target
  r"|(?<=\n) {4,}\S[^\n]*"  # indented
  r"|(?<=\n) *python [^\n#]*",
  re.DOTALL,
)


class Claim(NamedTuple):
  """Text with `{}` for each of the numbers."""

  text: str
  numbers: Sequence[float | AtMost | AtLeast]


class AtMost(NamedTuple):
  """Printed is the value, rounded up."""

  value: float


class AtLeast(NamedTuple):
  """Printed is the value, rounded down."""

  value: float


def masked(text: str) -> str:
  """The text on one line, without the digits of code, links, comments and generated tables."""
  text = _CODE.sub(lambda found: re.sub(r"\d", "#", found[0]), "\n" + text)
  return re.sub(r"\s+", " ", text).strip()


def prose(path: pathlib.Path) -> str:
  """A page, or all docstrings of a Python file."""
  text = path.read_text()
  if path.suffix != ".py":
    return masked(text)
  nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Module | ast.FunctionDef)]
  return masked("\n\n".join(ast.get_docstring(node) or "" for node in nodes))


def agrees(printed: str, number: float | AtMost | AtLeast) -> bool:
  """Returns True if the number is printed like this, at the precision of the print."""
  mantissa, _, exponent = printed.replace(",", "").partition("e")
  unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
  found = round(float(printed.replace(",", "")) / unit)
  match number:
    case AtMost(value):
      return found == math.ceil(value / unit - 1e-9)
    case AtLeast(value):
      return found == math.floor(value / unit + 1e-9)
    case _:
      return found == int(f"{number / unit:.0f}")


def neighbours(printed: str) -> list[str]:
  """The number with its last digit one higher, and one lower."""
  mantissa, mark, exponent = printed.partition("e")
  plain = mantissa.replace(",", "")
  digits = len(plain.partition(".")[2])
  changed = [float(plain) + step * 10.0**-digits for step in (1, -1)]
  comma = "," if "," in mantissa else ""
  return [f"{value:{comma}.{digits}f}{mark}{exponent}" for value in changed]


def places(text: str, claim: Claim) -> Iterator[tuple[tuple[int, int], float | AtMost | AtLeast]]:
  """Finds each number of a claim in the text.

  Raises:
    ValueError: the claim's text is not there once, or has numbers of its own.
  """
  parts = masked(claim.text).split("{}")
  if len(parts) != len(claim.numbers) + 1 or any(re.search(NUMBER, part) for part in parts):
    raise ValueError(f"{claim.text!r} must have {{}} for each of {len(claim.numbers)} numbers")
  pattern = f"({NUMBER})".join(map(re.escape, parts))
  found = list(re.finditer(pattern, text))
  if len(found) != 1:
    raise ValueError(f"{claim.text!r} is there {len(found)} times")
  for group, number in enumerate(claim.numbers, 1):
    yield found[0].span(group), number


def problems(text: str, claims: Sequence[Claim], exempt: Sequence[str]) -> list[str]:
  """Lists the faults of a text: numbers that differ from their source, and numbers without one.

  Args:
    text: as `prose` gives it.
    claims: its bindings.
    exempt: patterns of what is not a claim.
  """
  said, covered = [], set[tuple[int, int]]()
  for claim in claims:
    try:
      found = list(places(text, claim))
    except ValueError as error:
      said.append(str(error))
      continue
    for span, number in found:
      covered.add(span)
      if not agrees(text[slice(*span)], number):
        said.append(f"{claim.text!r}: {text[slice(*span)]} is {number}")
  free = [found.span() for pattern in exempt for found in re.finditer(pattern, text)]
  for found in re.finditer(NUMBER, text):
    start, end = found.span()
    if found.span() not in covered and not any(a <= start and end <= b for a, b in free):
      near = text[max(0, start - 50) : end + 30]
      said.append(f"{found[0]} has no source: ...{near}...")
  return said


def perturbed(text: str, claims: Sequence[Claim]) -> Iterator[tuple[str, str]]:
  """The text with one checked number changed in its last digit, for each of them; and what was."""
  for claim in claims:
    for (start, end), _ in places(text, claim):
      for other in neighbours(text[start:end]):
        yield f"{text[start:end]} in {claim.text!r}", text[:start] + other + text[end:]


Bindings = Callable[[], list[Claim]]
