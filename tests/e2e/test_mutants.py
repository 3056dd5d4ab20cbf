"""scripts/mutants.py: its table fits the code, and it tells the killed from those that survive."""

import pytest

from scripts import mutants

MARKERS = "[pytest]\nmarkers =\n  slow: x\n  e2e: x\npythonpath = .\n"


def test_every_row_fits_the_code():
  table = mutants.read_table()
  assert list(mutants.misfits(table)) == []
  assert len(table) == len({(row.file, row.old, row.new) for row in table}) >= 100


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (("a.py", "x = 2", "x = 3", "test_a.py"), "occurs 0 times"),
    (("a.py", "y", "z", "test_a.py"), "occurs 2 times"),
    (("b.py", "y", "z", "test_a.py"), "occurs 0 times"),
    (("a.py", "x = 1", "x = 1", "test_a.py"), "replaced by itself"),
    (("a.py", "x = 1", "x = 2", "test_b.py"), "test_b.py does not exist"),
  ],
)
def test_a_row_that_does_not_fit_is_named(row, message, tmp_path):
  (tmp_path / "a.py").write_text("x = 1\ny, y = 2, 3\n")
  (tmp_path / "test_a.py").touch()
  (found,) = mutants.misfits([mutants.Mutant(*row)], tmp_path)
  assert message in found and row[0] in found


def test_verdicts_are_kept_and_read_again(tmp_path):
  """In the table's order; a row that the table has no more is left out."""
  first, second = mutants.read_table()[:2]
  gone = mutants.Mutant("a.py", "x = 1", "x = 2", "test_a.py")
  rows = {
    mutant: {**mutant._asdict(), "line": 1, "verdict": verdict, "killed_by": "", "seconds": 1.0}
    for mutant, verdict in ((second, "killed"), (gone, "killed"), (first, "survived"))
  }
  for row in rows.values():
    del row["tests"]
  mutants.write(rows, tmp_path / "mutants.csv")
  found = mutants.read_verdicts(tmp_path / "mutants.csv")
  assert [(mutant, row["verdict"]) for mutant, row in found.items()] == [
    (first, "survived"),
    (second, "killed"),
  ]
  assert (tmp_path / "mutants.csv").read_text().startswith("# python scripts/mutants.py\n")
  assert mutants.read_verdicts(tmp_path / "none.csv") == {}


def test_mutants_die_survive_or_hang(tmp_path):
  """And a test that fails anyway has killed nothing."""
  (tmp_path / "pytest.ini").write_text(MARKERS)
  code = "def double(x):\n  return 2 * x\n\n\ndef twice(x):\n  return x + x\n"
  (tmp_path / "formula.py").write_text(code)
  (tmp_path / "test_good.py").write_text(
    "import formula, pytest\n"
    '@pytest.mark.parametrize("x", [3], ids=["a number"])\n'
    "def test_double(x): assert formula.double(x) == 6\n"
  )
  (tmp_path / "tests").mkdir()
  (tmp_path / "tests" / "test_bad.py").write_text("def test_bad(): assert False\n")

  def tried(old, new, tests="test_good.py", timeout=60):
    found = mutants.try_mutant(mutants.Mutant("formula.py", old, new, tests), tmp_path, timeout)
    assert (tmp_path / "formula.py").read_text() == code
    return found

  killed = tried("2 * x", "3 * x")
  assert not killed.passed and killed.failed == "test_good.py::test_double[a number]"
  assert tried("x + x", "3 * x").passed
  hangs = tried("  return 2 * x", "  while True: pass", timeout=5)
  assert not hangs.passed and hangs.failed == "no end in 5 s"
  with pytest.raises(RuntimeError):
    tried("2 * x", "3 * x", tests="test_missing.py")
  false = tried("x + x", "3 * x", tests="tests/test_bad.py")
  rows = [{"verdict": "killed", "killed_by": name} for name in (killed.failed, false.failed)]
  mutants.clear_false_kills(rows, tmp_path)
  assert [row["verdict"] for row in rows] == ["killed", "survived"]
