"""A run that is disturbed again and again, compared bit for bit with one that is not.

  python scripts/chaos.py                                       # 50 kills by SIGKILL
  python scripts/chaos.py kills --kills 20 --signal SIGTERM
  python scripts/chaos.py full_disk read_only clock two_starts  # or all
  python scripts/chaos.py --config=configs/ncsn_gmm.py --kills 200 --seed 1
  python scripts/chaos.py --config=configs/vp_digits.py:fast --config.seed=3 --keep=results/chaos

kills        ended at random moments of every phase: starting, training, saving, sampling,
             evaluating, drawing; after each the same command is given again
clock        six kills, and a clock that goes back by a day at each start
full_disk    a disk with room for a part of the run only, then for more of it, ...
read_only    a folder that is read-only at first, in mid-run, and when it is done
two_starts   the second start is refused and names the first; that one is killed, a third resumes

Afterwards the final state (parameters, averages, optimiser), metrics.jsonl, evaluation.json,
samples and figures must have the same bits as in the undisturbed run, which is made twice; in
between every start must resume from the newest checkpoint, and each refusal is one line.
Where the system allows mounts, in a namespace of their own, disks and folders are real ones in
memory; elsewhere files are limited in size, and permissions taken away.

Exit codes: 0 where all is the same, 1 where anything differs, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import random
import signal
import sys
import tempfile
from collections.abc import Sequence

# A few seconds of training in 150 lines, so that kills have something to fall into.
DEFAULT = [
  "--config=configs/ncsn_gmm.py:fast",
  "--config.training.num_steps=3000",
  "--config.training.log_every=20",
  "--config.training.checkpoint_every=100",
]
NAMES = ("kills", "clock", "full_disk", "read_only", "two_starts")
MOUNTS = "SCORELAB_CHAOS_MOUNTS"  # set in a process that has mounts of its own
_DAY = 24 * 3600


def make_parser() -> argparse.ArgumentParser:
  """The command line; --config.FIELD=VALUE is left to main.py."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}, all [kills]")
  parser.add_argument("--config", help="configs/NAME.py[:fast] [ncsn_gmm:fast, 3000 steps]")
  parser.add_argument("--kills", type=int, default=50, metavar="N", help="[50]")
  parser.add_argument("--signal", choices=("SIGKILL", "SIGTERM"), default="SIGKILL")
  parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
  parser.add_argument("--keep", type=pathlib.Path, help="an empty folder for the runs [none]")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Disturbs and compares; the exit code."""
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  names = list(NAMES) if "all" in args.names else args.names or ["kills"]
  if unknown := [name for name in names if name not in NAMES]:
    parser.error(f"{unknown[0]!r} is none of {', '.join(NAMES)}, all")
  if unknown := [argument for argument in rest if not argument.startswith("--config.")]:
    parser.error(f"{unknown[0]!r} is not a flag")
  if args.kills < 1:
    parser.error(f"--kills {args.kills}: at least 1")
  if args.keep and args.keep.exists() and any(args.keep.iterdir()):
    parser.error(f"--keep {args.keep}: is not empty")
  from scripts.chaos_trials.faults import mount_command

  if {"full_disk", "read_only"} & set(names) and MOUNTS not in os.environ:
    os.environ[MOUNTS] = "1" if (command := mount_command()) else ""
    if command:
      typed = sys.argv[1:] if argv is None else argv
      os.execvp(command[0], [*command, sys.executable, __file__, *typed])
  arguments = [f"--config={args.config}"] if args.config else list(DEFAULT)
  name, colon, variant = arguments[0].removeprefix("--config=").partition(":")
  arguments[0] = f"--config={pathlib.Path(name).absolute()}{colon}{variant}"
  with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
    root = (args.keep or pathlib.Path(temporary)).absolute()
    return run_trials(names, [*arguments, *rest], root, args)


def run_trials(
  names: Sequence[str], arguments: Sequence[str], root: pathlib.Path, args: argparse.Namespace
) -> int:
  """Makes the undisturbed run and each of the others; the exit code."""
  from scripts.chaos_trials.faults import fill_disk, forbid_writing, start_twice
  from scripts.chaos_trials.kills import kill_runs
  from scripts.chaos_trials.runs import BrokenError, Lab
  from scripts.chaos_trials.trial import make_trial, print_line

  number, rng = signal.Signals[args.signal], random.Random(args.seed)
  mounts = bool(os.environ.get(MOUNTS))
  disturbances = {
    "kills": lambda trial: kill_runs(trial, "kills", args.kills, number, rng),
    "clock": lambda trial: kill_runs(trial, "clock", 6, number, rng, ahead=-_DAY),
    "full_disk": lambda trial: fill_disk(trial, "full_disk", mounts),
    "read_only": lambda trial: forbid_writing(trial, "read_only", mounts),
    "two_starts": lambda trial: start_twice(trial, "two_starts"),
  }
  cache = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", root / "cache"))
  failed = False
  with contextlib.closing(Lab(arguments, cache)) as lab:
    try:
      trial = make_trial(lab, root)
    except BrokenError as error:
      print_line(f"undisturbed: {error}")
      return 1
    for name in names:
      try:
        disturbances[name](trial)
      except BrokenError as error:
        print_line(f"{name}: {error}")
        failed = True
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
