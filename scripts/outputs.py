"""Output directories of scripts: the run's own by default, the committed results on request."""

import argparse
import pathlib

RESULTS = pathlib.Path("results")
REFERENCE = RESULTS / "reference"


def add_arguments(parser: argparse.ArgumentParser, default: str, folder: str) -> None:
  """Adds --out and --reference.

  Args:
    parser: of the script.
    default: the directory without either, for --help.
    folder: of results/reference/ that --reference writes to.
  """
  group = parser.add_mutually_exclusive_group()
  group.add_argument("--out", type=pathlib.Path, help=f"output directory [{default}]")
  committed = str(REFERENCE / folder).removesuffix("/.")
  group.add_argument(
    "--reference", action="store_true", help=f"write the committed results, {committed}"
  )


def directory(
  parser: argparse.ArgumentParser, args: argparse.Namespace, default: pathlib.Path, folder: str
) -> pathlib.Path:
  """Returns the output directory: --out, the committed one with --reference, or the default.

  Ends the program with one line and code 2 for --reference with the results of --fast.
  """
  if args.reference and getattr(args, "fast", False):
    parser.error("--reference: runs of --fast are no results")
  if args.reference:
    return REFERENCE / folder
  return args.out or default
