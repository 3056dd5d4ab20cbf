"""The table of dependencies and their licences in docs/dependencies.md.

  python scripts/licences.py             # prints it, from the packages installed here
  python scripts/licences.py --write     # puts it into the page

Every package of constraints.txt, with the licence that its metadata state, or else its own file.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from importlib import metadata

ROOT = pathlib.Path(__file__).parent.parent
PAGE, PINS = ROOT / "docs" / "dependencies.md", ROOT / "constraints.txt"
MARK = "<!-- licences -->"
_LONG = 40  # a longer field is the licence's text


def licence(name: str) -> str:
  """The licence of an installed package, in a few words.

  Raises:
    PackageNotFoundError: it is not installed.
  """
  fields = metadata.metadata(name).json
  if expression := fields.get("license_expression"):
    return str(expression)
  stated = str(fields.get("license", ""))
  if 0 < len(stated) < _LONG and stated != "UNKNOWN":
    return stated
  classifiers = [c for c in fields.get("classifier", []) if c.startswith("License ::")]
  named = [classifier.rpartition(" :: ")[2] for classifier in classifiers]
  named = [name for name in named if name != "OSI Approved"]
  return ", ".join(named) or _title(name)


def _title(name: str) -> str:
  """The first two lines of the licence that it ships."""
  for file in metadata.files(name) or []:
    if file.name.startswith("LICEN"):
      lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
      return " ".join(lines[:2]).partition(",")[0]
  return "not stated"


def pinned() -> list[str]:
  """The names in constraints.txt."""
  return re.findall(r"^([\w.-]+)==", PINS.read_text(), re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
  """Prints or writes the table; returns 1 if a package is not installed."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--write", action="store_true", help="put the table into the page")
  args = parser.parse_args(argv)
  try:
    rows = [f"| {name} | {licence(name)} |" for name in pinned()]
  except metadata.PackageNotFoundError as error:
    print(f"{error}: install '.[dev,docs]' -c constraints.txt first", file=sys.stderr)
    return 1
  before, _, after = PAGE.read_text().split(MARK)
  table = "\n".join(["| package | licence |", "|---|---|", *rows])
  if args.write:
    PAGE.write_text(f"{before}{MARK}\n{table}\n{MARK}{after}")
  else:
    print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
