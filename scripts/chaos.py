"""A run that is disturbed again and again, compared bit for bit with one that is not.

  python scripts/chaos.py                                       # 50 kills by SIGKILL
  python scripts/chaos.py kills --kills 20 --signal SIGTERM
  python scripts/chaos.py full_disk read_only clock two_starts  # or all
  python scripts/chaos.py --config=configs/ncsn_gmm.py --kills 200 --seed 1
  python scripts/chaos.py --config=configs/digits.py:fast --config.seed=3 --keep=runs

kills        ended at random moments of every phase: starting, training, saving, sampling,
             evaluating, drawing; after each the same command is given again
clock        six kills, and a clock that goes back by a day at each start
full_disk    a disk with room for a part of the run only, then for more of it, ...
read_only    a folder that is read-only at first, in mid-run, and when it is done
two_starts   the second start is refused and told who is there; that one is killed, a third goes on

Afterwards the final state (parameters, averages, optimiser), metrics.jsonl, evaluation.json,
samples and figures must have the same bits as in the undisturbed run, which is made twice; in
between no start may go on from anything but the newest checkpoint, and each refusal is one line.
Where the system allows mounts, in a namespace of their own, disks and folders are real ones in
memory; elsewhere files are limited in size, and permissions taken away.

Exit codes: 0 where all is the same, 1 where anything differs, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from scripts.disturbing.runs import Lab

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # works without installing, too

# A few seconds of training in 150 lines, so that kills have something to fall into.
DEFAULT = [
  "--config=configs/ncsn_gmm.py:fast",
  "--config.training.num_steps=3000",
  "--config.training.log_every=20",
  "--config.training.checkpoint_every=100",
]
NAMES = ("kills", "clock", "full_disk", "read_only", "two_starts")
_MOUNTS = "SCORELAB_CHAOS_MOUNTS"  # set in a process that has mounts of its own
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
  from scripts.disturbing.others import mounting

  if {"full_disk", "read_only"} & set(names) and _MOUNTS not in os.environ:
    os.environ[_MOUNTS] = "1" if (command := mounting()) else ""
    if command:
      typed = sys.argv[1:] if argv is None else argv
      os.execvp(command[0], [*command, sys.executable, __file__, *typed])
  arguments = [f"--config={args.config}"] if args.config else list(DEFAULT)
  name, colon, variant = arguments[0].removeprefix("--config=").partition(":")
  arguments[0] = f"--config={pathlib.Path(name).absolute()}{colon}{variant}"
  from scripts.disturbing.runs import Lab

  with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
    root = (args.keep or pathlib.Path(temporary)).absolute()
    with contextlib.closing(Lab([*arguments, *rest], root / "cache")) as lab:
      return disturb(names, lab, root, args)


def disturb(names: Sequence[str], lab: Lab, root: pathlib.Path, args: argparse.Namespace) -> int:
  """Makes the undisturbed run, then each of the others; the exit code."""
  from scripts.disturbing.kills import kill_again_and_again, plan, watch
  from scripts.disturbing.others import OTHERS, unmount
  from scripts.disturbing.runs import BrokenError, differences
  from scripts.disturbing.states import final_state, state_differences

  def say(text: str) -> None:
    print(text, flush=True)

  def folder_of(name: str) -> pathlib.Path:
    folder = root / name
    folder.mkdir(parents=True)
    return folder

  mounts = bool(os.environ.get(_MOUNTS))
  rng = random.Random(args.seed)
  try:
    say("undisturbed, which compiles; then again, which is timed")
    watch(lab.start(folder_of("undisturbed")))
    times = watch(lab.start(folder_of("timed")))
  except BrokenError as error:
    say(str(error))
    return 1
  straight = root / "undisturbed" / "run"
  state = final_state(lab.arguments, straight)
  say(", ".join(f"{phase} {seconds:.2g} s" for phase, seconds in times.seconds.items()))

  def compare(folder: pathlib.Path) -> None:
    """Raises BrokenError where the run in a folder is not the undisturbed one."""
    found = differences(straight, folder / "run")
    found += state_differences(state, final_state(lab.arguments, folder / "run"))
    if found:
      raise BrokenError(f"DIFFERS: {'; '.join(found[:10])}")
    lines = f"{times.lines} lines of metrics, evaluation, samples and figures"
    say(f"{folder.name}: the same bits in {len(state)} arrays, {lines}")

  def kill(name: str, number: int, ahead: int = 0) -> None:
    """Kills so often; what a run that ends too early leaves undone falls into the next one."""
    due, phases, rounds = plan(number, times, rng), [], 0
    while due:
      rounds += 1
      folder = folder_of(f"{name}-{rounds}")
      struck = kill_again_and_again(
        lab, folder, due, times, signal.Signals[args.signal], say, ahead
      )
      compare(folder)
      phases, due = [*phases, *struck], due[len(struck) :]
      if not struck:
        raise BrokenError(f"no kill falls into {due[0].phase}")
    counted = ", ".join(f"{phase} {n}" for phase, n in collections.Counter(phases).items())
    say(f"{name}: {len(phases)} kills by {args.signal} in {rounds} runs, while {counted}")

  failed = False
  for name in ("timed", *names):
    try:
      if name == "kills":
        kill(name, args.kills)
      elif name == "clock":
        kill(name, 6, -_DAY)
      else:
        folder = root / name if name == "timed" else folder_of(name)
        if name != "timed":
          OTHERS[name](lab, folder, times, say, mounts)
        compare(folder)
    except BrokenError as error:
      failed = True
      say(f"{name}: {error}")
    finally:
      unmount(root / name)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
