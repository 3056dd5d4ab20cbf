"""Every number in README.md, docs/ and the configs' docstrings has a source, and agrees with it."""

import pytest

from scripts import claims, tables
from scripts.claiming import mixtures, others, pages
from scripts.claiming.checking import (
  AtLeast,
  AtMost,
  Claim,
  agrees,
  masked,
  neighbours,
  perturbed,
  problems,
  prose,
)
from tests.paths import ROOT

BOUND = [path for path in claims.FILES if claims.has_claims(path)]


@pytest.mark.parametrize("path", claims.FILES, ids=claims.name_of)
def test_every_number_has_a_source_and_agrees_with_it(path):
  found = problems(prose(path), claims.claims_of(path), claims.exempt_in(path))
  assert not found, "\n".join(found)


@pytest.mark.parametrize("path", BOUND, ids=claims.name_of)
def test_a_change_of_any_number_is_found(path):
  """Each checked number one unit of its last digit higher, and lower: the page is refused."""
  text, bound, exempt = prose(path), claims.claims_of(path), claims.exempt_in(path)
  changed = list(perturbed(text, bound))
  assert len(changed) == 2 * sum(len(claim.numbers) for claim in bound)
  for what, other in changed:
    assert other != text and problems(other, bound, exempt), f"{what}: the change was not found"


@pytest.mark.parametrize("path", claims.FILES, ids=claims.name_of)
def test_a_new_number_needs_a_source(path):
  text = prose(path) + " It is 3.217 times as good."
  found = problems(text, claims.claims_of(path), claims.exempt_in(path))
  assert len(found) == 1 and "3.217 has no source" in found[0]


def test_all_tables_are_those_of_the_committed_files():
  assert tables.main(["--check"]) == 0
  text = "\n".join(page.read_text() for page in tables.PAGES)
  for name in tables.TABLES:
    assert text.count(f"<!-- table: {name} -->\n|") + text.count("<!-- table: benchmarks -->") > 0
  assert text.count("<!-- table: ") == text.count("<!-- /table -->") == len(tables.TABLES)


def test_a_change_of_any_cell_is_found(tmp_path, monkeypatch, capsys):
  """Each digit of each table changed in turn would be found: the table is compared as text."""
  page = tmp_path / "page.md"
  monkeypatch.setattr(tables, "PAGES", (page,))
  monkeypatch.setattr(tables, "ROOT", tmp_path)
  monkeypatch.setitem(tables.TABLES, "small", lambda: "| 1.25 ± 0.01 |")
  page.write_text("<!-- table: small -->\n| 1.26 ± 0.01 |\n<!-- /table -->\n")
  assert tables.main(["--check"]) == 1 and "page.md: differs" in capsys.readouterr().out
  assert tables.main([]) == 0 and "1.25" in page.read_text()
  assert tables.main(["--check"]) == 0
  page.write_text("<!-- table: unknown -->\n<!-- /table -->\n")
  with pytest.raises(ValueError, match="known: headline"):
    tables.main(["--check"])


def test_no_binding_is_of_a_file_that_is_not_there():
  root = ROOT
  assert all((root / name).exists() for name in pages.CLAIMS)
  names = [*mixtures.CLAIMS, *others.CLAIMS]
  stems = [file.stem for file in (root / "configs").rglob("*.py")]
  assert len(names) == len(set(names)) and len(stems) == len(set(stems))
  assert set(names) <= set(stems)


def test_precision_is_that_of_the_print():
  assert agrees("0.36", 0.3639) and not agrees("0.36", 0.3651) and not agrees("0.360", 0.3639)
  assert agrees("10,000", 10_000) and agrees("-0.63", -0.627) and agrees("1.36e-3", 1.3589e-3)
  assert not agrees("1.36e-3", 1.3651e-3)
  assert agrees("0.0035", AtMost(0.00342)) and not agrees("0.0034", AtMost(0.00342))
  assert agrees("0.0034", AtLeast(0.00342)) and not agrees("0.0035", AtLeast(0.00342))
  assert neighbours("10,000") == ["10,001", "9,999"] and neighbours("0.36") == ["0.37", "0.35"]
  assert neighbours("1.36e-3") == ["1.37e-3", "1.35e-3"]


def test_what_is_a_number():
  """Names, formulas' indices, code, links and commands have none."""
  text = "max-SW2 of x_0 in `a 3` is 0.5 +- -0.1 (.97), 2-D, CIFAR-10, x^2, [x](a1.csv), 1e-3."
  found = problems(masked(text), [], ())
  assert [line.split()[0] for line in found] == ["0.5", "-0.1", ".97", "1e-3"]
  assert not problems(masked("a\n\n    f(3)\n\n```\n3\n```\n<!-- 3 -->"), [], ())


def test_a_binding_must_fit_its_text():
  bound = [Claim("costs {} nats", [0.3])]
  assert problems("It costs 0.4 nats.", bound, ()) == ["'costs {} nats': 0.4 is 0.3"]
  assert "is there 0 times" in problems("It is free.", bound, ())[0]
  assert "must have {}" in problems("a 3", [Claim("a 3", [])], ())[0]
