"""Docstrings and comments in plain technical English, as far as a program can tell."""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

FILES = [
  ROOT / "main.py",
  *sorted(
    path
    for folder in ("scorelab", "scripts", "configs", "docs")
    for path in (ROOT / folder).rglob("*.py")
  ),
]
OPENINGS = re.compile(r"(What|Where|How|Which|Who|Whose|When|Whether|Of|As)\b")
"""Openings of relative clauses, and of fragments that need the name above the docstring."""

WORDS = {
  "afresh": "new",
  "anew": "again, or new",
  "beside": "next to",
  "besides": "in addition to",
  "brings": "writes, provides",
  "brought": "written, provided",
  "dealt": "split, assigned",
  "go on": "resume, continue",
  "goes on": "resumes, continues",
  "last words": "message",
  "mended": "fixed",
  "nobody": "no process, no one",
  "told": "conditioned on, given",
}
"""Words that docstrings and comments avoid, each with the word of the field."""


@functools.cache
def docstrings(text: str) -> list[tuple[int, str]]:
  """Returns line and text of the docstrings of a module, its classes, functions and constants."""
  found = []
  for node in ast.walk(ast.parse(text)):
    match node:
      case ast.Expr(value=ast.Constant(value=str(value))):
        found.append((node.lineno, value))
  return sorted(found)


def comments(text: str) -> Iterator[tuple[int, str]]:
  """Yields line and text of comments."""
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string


def badly_opened(text: str) -> list[int]:
  """Returns the lines of docstrings that open with a relative clause or a fragment."""
  return [line for line, doc in docstrings(text) if OPENINGS.match(doc.strip())]


def unfinished(text: str) -> list[int]:
  """Returns the lines of docstrings whose first line is no sentence or title."""
  return [line for line, doc in docstrings(text) if _first_line(doc)[-1:] not in (".", ":")]


def house_words(text: str) -> list[tuple[int, str]]:
  """Returns line and word of every word of WORDS in docstrings and comments."""
  found = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
  return [
    (line + above, match.group())
    for line, prose in [*docstrings(text), *comments(text)]
    for above, row in enumerate(prose.splitlines())
    for match in found.finditer(row)
  ]


def _first_line(doc: str) -> str:
  return doc.strip().partition("\n")[0].rstrip()


@pytest.mark.parametrize("check", [badly_opened, unfinished])
def test_docstrings_open_with_a_phrase_that_stands_alone(check):
  """Returns ..., Draws ..., or a title: never What, Where, Whether, Of ...; and it ends."""
  found = [f"{path.relative_to(ROOT)}:{n}" for path in FILES for n in check(path.read_text())]
  assert not found, "\n".join(["", *found])


def test_prose_uses_the_words_of_the_field():
  """Each finding names its line, the word, and the word to use."""
  found = [
    f"{path.relative_to(ROOT)}:{line}: {word}: {WORDS[word.lower()]}"
    for path in FILES
    for line, word in house_words(path.read_text())
  ]
  assert not found, "\n".join(["", *found])


def test_the_checks_find_what_they_look_for():
  """A module with one fault of each kind, and words that only look like one."""
  text = "\n".join(
    [
      '"""Whether it is so."""',
      "def f():",
      '  """Of one point\n\n  told anew."""',
      "  x = 1  # beside y",
      "class A:",
      '  """Offsets: Astronomical."""',
      "BETA = 1",
      '"""As above."""',
    ]
  )
  assert badly_opened(text) == [1, 3, 10]
  assert unfinished(text) == [3]
  assert house_words(text) == [(5, "told"), (5, "anew"), (6, "beside")]
