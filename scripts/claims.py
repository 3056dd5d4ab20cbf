"""Checks every number of README.md, docs/ and the configs' docstrings against its source.

  python scripts/claims.py            # lists what differs or has no source; exit code 1 if any does

Bindings are in scripts/claiming/: a committed file under results/reference/, a config's field or
scripts/published.csv for each number. Tables are scripts/tables.py's.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable

from scripts.claiming import exempt, mixtures, others, pages
from scripts.claiming.checking import Claim, problems, prose

ROOT = pathlib.Path(__file__).parent.parent
FILES = (
  ROOT / "README.md",
  *sorted((ROOT / "docs").glob("*.md")),
  *sorted((ROOT / "configs").rglob("*.py")),
)


def name_of(path: pathlib.Path) -> str:
  """A file's path in the repository."""
  return path.relative_to(ROOT).as_posix()


def has_claims(path: pathlib.Path) -> bool:
  """Returns whether a file has bindings, without reading their sources."""
  return _bindings_of(path) is not None


@functools.cache
def claims_of(path: pathlib.Path) -> list[Claim]:
  """The bindings of a file."""
  return bindings() if (bindings := _bindings_of(path)) else []


def _bindings_of(path: pathlib.Path) -> Callable[[], list[Claim]] | None:
  if path.suffix == ".md":
    return pages.CLAIMS.get(name_of(path))
  return {**mixtures.CLAIMS, **others.CLAIMS}.get(path.stem)


def exempt_in(path: pathlib.Path) -> tuple[str, ...]:
  """Patterns of what is no claim in a file."""
  return (*exempt.EVERYWHERE, *exempt.PAGES.get(name_of(path), ()))


def main(argv: list[str] | None = None) -> int:
  """Lists problems; 1 if there is one."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.parse_args(argv)
  number, failed = 0, False
  for path in FILES:
    claims = claims_of(path)
    number += sum(len(claim.numbers) for claim in claims)
    for problem in problems(prose(path), claims, exempt_in(path)):
      failed = True
      print(f"{name_of(path)}: {problem}")
  print(f"{number} numbers checked")
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
