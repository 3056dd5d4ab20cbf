"""Compares what two checkouts compute: run ids, metrics.jsonl and evaluation.json, bit for bit.

  python scripts/compare_checkouts.py ../before .                  # every config, :fast
  python scripts/compare_checkouts.py ../before . ncsn_gmm edm_gmm --steps 20

For a change that moves code and no number. Each config is run once in each checkout, by the same
interpreter and with the same compilation cache, in --out. A run that is there already is not run
again, so that a stopped comparison continues. Configs of data that are missing are named and left
out.

Writes <out>/comparison.csv. Exit codes: 0, 1 if anything differs, 2 for an unknown
config or a directory that is not a checkout.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

FILES = ("metrics.jsonl", "evaluation.json")


def command_of(config: str, steps: int | None) -> list[str]:
  """Returns the command that runs a config at small size."""
  command = [sys.executable, "main.py", f"--config=configs/{config}.py:fast"]
  if steps is not None:
    every = ("log_every", "checkpoint_every")
    command.append(f"--config.training.num_steps={steps}")
    command += [f"--config.training.{name}={steps}" for name in every]
    command.append("--config.training.keep_every=0")
  return command


def run(checkout: pathlib.Path, out: pathlib.Path, config: str, steps: int | None) -> str:
  """Runs a config in a checkout, with its run in out/results.

  Returns:
    The run id; or the last line of what the command said, if it failed.
  """
  environment = os.environ | {
    "PYTHONPATH": str(checkout),
    "JAX_COMPILATION_CACHE_DIR": str(out.parent / "cache"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }
  out.mkdir(parents=True, exist_ok=True)
  for name in ("configs", "main.py"):  # the command names them relative to where it runs
    if not (out / name).exists():
      (out / name).symlink_to(checkout / name)
  done = subprocess.run(
    command_of(config, steps), cwd=out, env=environment, capture_output=True, text=True, check=False
  )
  lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
  last = lines[-1] if lines else ""
  if done.returncode:
    return last
  return pathlib.Path(last.removesuffix(": already done")).name


def differences(old: pathlib.Path, new: pathlib.Path) -> list[str]:
  """Returns the files of two run directories that are not equal, byte by byte."""
  return [name for name in FILES if (old / name).read_bytes() != (new / name).read_bytes()]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs and compares; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("old", type=pathlib.Path, help="a checkout")
  parser.add_argument("new", type=pathlib.Path, help="another one")
  parser.add_argument("configs", nargs="*", help="names of configs [all]")
  parser.add_argument("--steps", type=int, help="training steps [those of :fast]")
  parser.add_argument("--out", type=pathlib.Path, help="directory of the runs [a temporary one]")
  given = parser.parse_args(argv)
  old, new = given.old.resolve(), given.new.resolve()
  for checkout in (old, new):
    if not (checkout / "main.py").is_file():
      print(
        f"compare_checkouts.py: {checkout} is not a checkout: it has no main.py", file=sys.stderr
      )
      return 2
  known = sorted(f.stem for f in (new / "configs").glob("*.py") if f.stem != "base")
  if unknown := set(given.configs) - set(known):
    print(f"compare_checkouts.py: no config {', '.join(sorted(unknown))}", file=sys.stderr)
    return 2
  out = (given.out or pathlib.Path(tempfile.mkdtemp())).resolve()
  rows = []
  for config in given.configs or known:
    ids = [run(c, out / n, config, given.steps) for c, n in ((old, "old"), (new, "new"))]
    folders = [out / n / "results" / config / i for n, i in zip(("old", "new"), ids, strict=True)]
    if not all((folder / "DONE").exists() for folder in folders):
      verdict = "did not run" if ids[0] == ids[1] else f"differs: {ids}"
    elif ids[0] != ids[1]:
      verdict = f"differs: run ids {ids}"
    else:
      found = differences(*folders)
      verdict = f"differs: {', '.join(found)}" if found else "equal"
    rows.append((config, ids[0], verdict))
    print(f"{config}: {verdict} ({ids[0]})", flush=True)
  with (out / "comparison.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("config", "run", "verdict"), *rows])
  return int(any(verdict.startswith("differs") for *_, verdict in rows))


if __name__ == "__main__":
  sys.exit(main())
