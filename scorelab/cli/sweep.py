r"""Sweeps of one config: grids, random draws or Optuna; on this machine, on Slurm or on Ray.

  scorelab-sweep --config=configs/ncsn_gmm.py --grid network.width=128,256 --seeds 4
  scorelab-sweep --config=configs/ncsn_gmm.py --config.sampler.name=ddim \
      --grid sampler.eta=0,.1,.5,1 --metric energy_distance
  scorelab-sweep --config=configs/ncsn_gmm.py --random 20 \
      --range optimizer.learning_rate=1e-4:1e-2:log --range network.width=32:256
  scorelab-sweep --config=configs/ncsn_gmm.py --optuna 20 \
      --range optimizer.learning_rate=1e-4:1e-2:log --metric energy_distance
  scorelab-sweep --config=configs/ncsn_gmm.py --grid seed=0,1,2,3 --engine=slurm \
      --resource slurm_partition=gpu --resource gpus_per_node=1 --resource timeout_min=60

Every --config.FIELD=VALUE applies to all runs. Without --grid and --range the sweep is the return
value of the config file's `sweep()`: a dict of values by field, or a list of such dicts. A list of
values means that all are combined with the other fields' values. Fields are checked before anything
starts.

Each run is a process of its own in the folder that `scorelab` would give it, results/<config>/<run
id> (or --out/<run id>); --dry-run prints the commands. Runs that differ only in fields that
training does not depend on (sampler.*, evaluation.*) share one training, in <run id>. Each is
evaluated in a copy of it, <run id>-<hash>: one row for each value. The same command resumes:
finished runs are skipped, and failed runs are only listed, unless --retry is given. Ctrl-C and
SIGTERM let the runs save and end.

On this machine every run has an equal share of the cores and GPUs, and --jobs of them run in
parallel. On Slurm every run is a job, and a preempted one is queued again; --resource takes the
names of submitit's update_parameters (cluster=local tests it without Slurm). On Ray, --resource
takes the options of ray.remote (num_cpus, num_gpus) and the address of a cluster (address=auto).
Both need folders that all machines share.

The final table is also written as CSV next to the runs. Exit codes: 0; 1 if a run failed; 75 if the
sweep was stopped; 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from scorelab.cli.typed import typed
from scorelab.config.importing import make_importable
from scorelab.config.shipped import root, shipped


def make_parser() -> argparse.ArgumentParser:
  """The command line; --config.FIELD=VALUE is left to ml_collections."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("--config", required=True, help="configs/NAME.py[:fast]")
  parser.add_argument(
    "--grid", action="append", default=[], metavar="FIELD=VALUE,VALUE", help="values to combine"
  )
  parser.add_argument(
    "--range",
    action="append",
    default=[],
    metavar="FIELD=LOW:HIGH[:log]",
    help="numbers to draw from, with --random or --optuna; whole where the field is",
  )
  parser.add_argument("--seeds", type=int, metavar="N", help="each with the seeds 0 to N - 1")
  parser.add_argument("--random", type=int, metavar="N", help="N draws from --range and --grid")
  parser.add_argument("--optuna", type=int, metavar="N", help="N trials of Optuna's search")
  parser.add_argument("--draw-seed", type=int, default=0, help="of --random and --optuna [0]")
  parser.add_argument(
    "--metric",
    action="append",
    metavar="NAME",
    help="of the table, and the first is what Optuna lowers: a metric of the main sampler, "
    "NAME@ROW of another row (energy_distance@heun-16), or a path in evaluation.json "
    "(girsanov.total) [the first three]",
  )
  parser.add_argument("--maximise", action="store_true", help="Optuna raises it instead")
  parser.add_argument("--engine", choices=("local", "slurm", "ray"), default="local")
  parser.add_argument("--jobs", type=int, help="runs side by side [the GPUs, or half the cores]")
  parser.add_argument(
    "--resource", action="append", default=[], metavar="NAME=VALUE", help="of --engine"
  )
  parser.add_argument("--out", type=pathlib.Path, help="folder of the runs [results/<config>]")
  parser.add_argument("--csv", type=pathlib.Path, help="the table's file [<out>/sweep.csv]")
  parser.add_argument("--retry", action="store_true", help="runs what has failed again")
  parser.add_argument("--dry-run", action="store_true", help="only print what would be run")
  return parser


def main(argv: Sequence[str] | None = None, program: Sequence[str] | None = None) -> int:
  """Plans, checks, runs and reports.

  Args:
    argv: the command line.
    program: what runs a config, with its arguments, by default this package.

  Returns:
    The exit code.
  """
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  common = [argument for argument in rest if argument.startswith("--config.")]
  command = typed("sweep", argv)
  args.config = shipped(args.config)
  make_importable(root())
  # Only now: --help is answered at once.
  from scorelab.sweep.plan import SweepError
  from scorelab.sweep.study import run

  try:
    if unknown := [argument for argument in rest if argument not in common]:
      raise SweepError(f"{unknown[0]!r} is not a flag; see --help")
    return run(args, common, command, program)
  except SweepError as error:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main())
