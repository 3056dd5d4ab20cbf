r"""Mutation run: one fault at a time in a copy of the code, and the nearest tests run on it.

  python scripts/mutants.py                        # every row of scripts/mutants.csv
  python scripts/mutants.py evaluation.py metrics/ # rows whose file has one of these words
  python scripts/mutants.py --survivors            # rows without a verdict, or that survived
  python scripts/mutants.py --check                # only that every row still fits the code

scripts/mutants.csv has a row per mutant: the file; the old text, which must occur in it exactly
once; the new text; and the nearest test files, or tests in them, separated by spaces. The rows were
written from the code alone, without looking at the tests, over formulas, signs, constants and
random keys. A mutant is killed if a test fails, or if the tests take longer than --timeout; it
survives if all pass.

At the end every test that has killed is run once more on the code as it is, and must pass: else
what it killed counts as survived. Byte code is not kept, so that no mutant runs another one's;
compiled programs are, since JAX finds them by a hash of what they compute.

Writes results/mutants.csv, or --out, after every mutant; --reference writes the committed file.
Rows that are not run keep their verdicts. Exit codes: 0, 1 where fewer than --least of a hundred
with a verdict are killed, 2 where a row does not fit the code.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from scripts import outputs

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "scripts" / "mutants.csv"
_FIELDS = ("file", "line", "old", "new", "verdict", "killed_by", "seconds")
_MARKERS = "not slow"


class Mutant(NamedTuple):
  """One row of the table.

  Attributes:
    file: relative to the repository.
    old: text that occurs in it exactly once.
    new: the text in its place.
    tests: test files, or single tests as pytest names them, separated by spaces.
  """

  file: str
  old: str
  new: str
  tests: str

  def line(self, root: pathlib.Path = ROOT) -> int:
    """The number of the line where the old text begins, from 1."""
    text = (root / self.file).read_text()
    return text[: text.index(self.old)].count("\n") + 1


class Outcome(NamedTuple):
  """Result of a test run: whether all passed, the first test that did not, and the seconds."""

  passed: bool
  failed: str
  seconds: float


def read_table(path: pathlib.Path = TABLE) -> list[Mutant]:
  """The mutants of a table."""
  with path.open(newline="") as lines:
    return [Mutant(**row) for row in csv.DictReader(_uncommented(lines))]


def _uncommented(lines: Iterable[str]) -> Iterator[str]:
  return (line for line in lines if not line.startswith("#"))


def misfits(mutants: Sequence[Mutant], root: pathlib.Path = ROOT) -> Iterator[str]:
  """One line for each row that does not fit the code: nothing for a table in order."""
  for mutant in mutants:
    path = root / mutant.file
    count = path.read_text().count(mutant.old) if path.is_file() else 0
    if count != 1:
      files = (root / "scorelab").rglob("*.py")
      found = [str(f.relative_to(root)) for f in files if f.read_text().count(mutant.old) == 1]
      hint = f"; it is in {found[0]}" if len(found) == 1 and found[0] != mutant.file else ""
      yield f"{mutant.file}: {mutant.old!r} occurs {count} times, must occur exactly once{hint}"
    if mutant.old == mutant.new:
      yield f"{mutant.file}: {mutant.old!r} is replaced by itself"
    for test in mutant.tests.split():
      if not (root / test.partition("::")[0]).exists():
        yield f"{mutant.file}: {test} does not exist"


def run_tests(tests: Sequence[str], copy: pathlib.Path, timeout: float) -> Outcome:
  """Runs test files, or single tests, in a copy of the repository, to the first failure."""
  command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", _MARKERS]
  command += ["-x", "--tb=no", *tests]
  quiet = {
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "Agg",
    "JAX_COMPILATION_CACHE_DIR": str(copy.parent / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": str(copy),  # also for the programs that tests start
  }
  begun = time.monotonic()
  process = subprocess.Popen(
    command,
    cwd=copy,
    env=os.environ | quiet,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  try:
    output, _ = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, 9)  # with the processes that tests have started
    process.communicate()
    return Outcome(False, f"no end in {timeout:g} s", time.monotonic() - begun)
  if process.returncode in (4, 5):  # asked wrongly, or nothing to run
    raise RuntimeError(output.strip().splitlines()[-1])
  found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
  last = (output.strip().splitlines() or [""])[-1]
  seconds = time.monotonic() - begun
  return Outcome(process.returncode == 0, found[1] if found else last, seconds)


def clear_false_kills(rows: Sequence[dict[str, object]], copy: pathlib.Path) -> None:
  """Calls a mutant survived if the test that killed it fails without it, too."""
  killers = (str(row["killed_by"]) for row in rows)
  remaining = list(dict.fromkeys(name for name in killers if name.startswith("tests/")))
  while remaining and not (found := run_tests(remaining, copy, 3600)).passed:
    print(f"fails without a mutant: {found.failed}", file=sys.stderr)
    for row in rows:
      if row["killed_by"] == found.failed:
        row |= {"verdict": "survived", "killed_by": "fails without a mutant"}
    if found.failed not in remaining:  # not a test, or not one of these
      return
    remaining = remaining[remaining.index(found.failed) + 1 :]


def try_mutant(mutant: Mutant, copy: pathlib.Path, timeout: float) -> Outcome:
  """Puts a mutant into the copy, runs its tests there, and takes it out again."""
  path = copy / mutant.file
  text = path.read_text()
  path.write_text(text.replace(mutant.old, mutant.new))
  try:
    return run_tests(mutant.tests.split(), copy, timeout)
  finally:
    path.write_text(text)


def copy_tree(to: pathlib.Path) -> None:
  """Copies the repository without its history and what tests and tools leave there."""
  left_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "site")
  shutil.copytree(ROOT, to, ignore=left_out)


def read_verdicts(path: pathlib.Path) -> dict[Mutant, dict[str, object]]:
  """The lines of a result by mutant: those of rows that are still in the table."""
  if not path.exists():
    return {}
  with path.open(newline="") as lines:
    found = {(r["file"], r["old"], r["new"]): r for r in csv.DictReader(_uncommented(lines))}
  return {m: dict(found[m[:3]]) for m in read_table() if m[:3] in found}


def write(verdicts: Mapping[Mutant, Mapping[str, object]], path: pathlib.Path) -> None:
  """Writes the verdicts in the table's order, with the command for all on the first line."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    file.write("# python scripts/mutants.py\n")
    table = csv.DictWriter(file, _FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(verdicts[mutant] for mutant in read_table() if mutant in verdicts)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the mutants; see the module's docstring."""
  parser = argparse.ArgumentParser(description="Mutation run over scripts/mutants.csv.")
  parser.add_argument("words", nargs="*", help="rows whose file has one of them; all by default")
  parser.add_argument("--check", action="store_true", help="only whether the table fits the code")
  parser.add_argument("--survivors", action="store_true", help="rows not known to be killed")
  parser.add_argument("--timeout", type=float, default=300.0, help="seconds per mutant")
  parser.add_argument("--least", type=float, default=95.0, help="of a hundred that must die")
  outputs.add_arguments(parser, "results/mutants.csv", "mutants.csv")
  args = parser.parse_args(argv)
  out = outputs.directory(parser, args, outputs.RESULTS / "mutants.csv", "mutants.csv")
  verdicts = read_verdicts(out)
  mutants = [
    mutant
    for mutant in read_table()
    if (not args.words or any(word in mutant.file for word in args.words))
    and not (args.survivors and verdicts.get(mutant, {}).get("verdict") == "killed")
  ]
  faults = list(misfits(mutants)) if mutants else ["no row is asked for"]
  for fault in faults:
    print(f"scripts/mutants.csv: {fault}", file=sys.stderr)
  if faults or args.check:
    return 2 if faults else 0
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "copy"
    copy_tree(copy)
    for number, mutant in enumerate(mutants, 1):
      found = try_mutant(mutant, copy, args.timeout)
      verdict = "survived" if found.passed else "killed"
      killed_by = "" if found.passed else found.failed
      line = mutant.line()
      print(f"{number:3} {verdict:8} {found.seconds:4.0f} s  {mutant.file}:{line} {mutant.new}")
      print(f"    {killed_by}", flush=True)
      seconds = round(found.seconds, 1)
      values = (mutant.file, line, mutant.old, mutant.new, verdict, killed_by, seconds)
      verdicts[mutant] = dict(zip(_FIELDS, values, strict=True))
      write(verdicts, out)
    clear_false_kills([verdicts[mutant] for mutant in mutants], copy)
    write(verdicts, out)
  killed = sum(row["verdict"] == "killed" for row in verdicts.values())
  print(f"killed {killed} of {len(verdicts)}")
  return 0 if 100 * killed >= args.least * len(verdicts) else 1


if __name__ == "__main__":
  sys.exit(main())
