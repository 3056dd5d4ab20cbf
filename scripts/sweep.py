r"""Many runs of one config: grids, random draws or Optuna's search; here, on Slurm or on Ray.

  python scripts/sweep.py --config=configs/ncsn_gmm.py --grid network.width=128,256 --seeds 4
  python scripts/sweep.py --config=configs/ncsn_gmm.py --config.sampler.name=ddim \
      --grid sampler.eta=0,.1,.5,1 --metric energy_distance
  python scripts/sweep.py --config=configs/ncsn_gmm.py --random 20 \
      --range optimizer.learning_rate=1e-4:1e-2:log --range network.width=32:256
  python scripts/sweep.py --config=configs/ncsn_gmm.py --optuna 20 \
      --range optimizer.learning_rate=1e-4:1e-2:log --metric energy_distance
  python scripts/sweep.py --config=configs/ncsn_gmm.py --grid seed=0,1,2,3 --engine=slurm \
      --resource slurm_partition=gpu --resource gpus_per_node=1 --resource timeout_min=60

What is typed as --config.FIELD=VALUE holds for all runs. Without --grid and --range the config
file's own `sweep()` says what is run. Fields are checked before anything starts.

Each run is a process of main.py in the folder that main.py would give it, results/<config>/<run id>
(or --out/<run id>); --dry-run prints the commands. Runs that differ only in what training does not
depend on (sampler.*, evaluation.*) share one training, in <run id>, and each is measured in a copy
of it, <run id>-<hash>: one row for each value. The same command goes on where it was stopped: what
is done is not run again, and what failed is only listed, but with --retry. Ctrl-C and SIGTERM let
the runs save and end.

Here, every run has an equal share of the cores and GPUs, and --jobs of them run side by side. On
Slurm a run is a job of its own, and one that is preempted is queued again; --resource takes the
names of submitit's update_parameters (cluster=local tries it without Slurm). On Ray, the options of
ray.remote (num_cpus, num_gpus) and the address of a cluster (address=auto). Both need folders that
all machines share.

The table at the end is kept as CSV beside the runs. Exit codes: 0, 1 where a run failed, 75 where
the sweep was stopped, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # works without installing, too

if TYPE_CHECKING:
  from scripts.sweeping.plan import Point, Range, Row
  from scripts.sweeping.tasks import Outcome


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
    program: what is run in main.py's place, with its arguments.

  Returns:
    The exit code.
  """
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  common = [argument for argument in rest if argument.startswith("--config.")]
  command = shlex.join(["python", "scripts/sweep.py", *(sys.argv[1:] if argv is None else argv)])
  from scripts.sweeping.plan import SweepError

  try:
    if unknown := [argument for argument in rest if argument not in common]:
      raise SweepError(f"{unknown[0]!r} is not a flag; see --help")
    return run(args, common, command, program)
  except SweepError as error:
    print(error, file=sys.stderr)
    return 2


def run(
  args: argparse.Namespace, common: Sequence[str], command: str, program: Sequence[str] | None
) -> int:
  """What `main` does, where a mistake is a SweepError."""
  from scripts.sweeping import plan
  from scripts.sweeping.tasks import default_jobs

  for name, least in (("seeds", 1), ("random", 1), ("optuna", 1), ("jobs", 1), ("draw_seed", 0)):
    if (value := getattr(args, name)) is not None and value < least:
      raise plan.SweepError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
  bare = plan.resolve(args.config, common, {})
  grid = plan.by_field(map(plan.parse_grid, args.grid))
  ranges = plan.by_field(plan.parse_range(spec, bare) for spec in args.range)
  for field in {*grid, *ranges}:
    if field in ranges and field in grid:
      raise plan.SweepError(f"{field} is given twice")
  seeds: dict[str, list[str]] = {}
  if args.seeds is not None:
    if "seed" in {*grid, *ranges}:
      raise plan.SweepError("--seeds and the field seed are the same")
    seeds = {"seed": [str(seed) for seed in range(args.seeds)]}
  points = first_points(args, grid, ranges)
  resolved = [point | seed for point in points for seed in plan.grid_points(seeds)]
  for point in resolved:
    plan.resolve(args.config, common, point)
  plan.check(args.config, common, points)

  name = pathlib.Path(args.config.partition(":")[0]).stem
  root = args.out or pathlib.Path("results", name)
  sweep = Sweep(args, common, command, root, seeds, args.jobs or default_jobs(), program)
  if args.optuna is not None:
    return sweep.search(grid, ranges)
  return sweep.run(plan.make_rows(args.config, common, resolved, root))


def first_points(
  args: argparse.Namespace, grid: dict[str, list[str]], ranges: dict[str, Range]
) -> list[Point]:
  """The points of a grid, of random draws or of the config's own sweep; of Optuna, its corners."""
  from scripts.sweeping import plan

  if args.random is not None and args.optuna is not None:
    raise plan.SweepError("--random and --optuna: choose one")
  if args.random is None and args.optuna is None:
    if ranges:
      raise plan.SweepError("--range needs --random N or --optuna N; or give values by --grid")
    if grid or args.seeds is not None:
      return plan.grid_points(grid)
    points = plan.points_of_config(args.config)
    if points is None:
      raise plan.SweepError(f"{args.config}: has no sweep(): give --grid, --range or --seeds")
    return points
  if not (grid or ranges):
    raise plan.SweepError("--random and --optuna need --range or --grid")
  if args.random is not None:
    return plan.random_points(args.random, grid, ranges, args.draw_seed)
  ends = {field: [r.at(0.0), r.at(1.0)] for field, r in ranges.items()}
  return plan.grid_points({field: values[:1] for field, values in grid.items()} | ends)


class Sweep:
  """What the ways to sweep have in common: rows are run, and their table is shown."""

  def __init__(
    self,
    args: argparse.Namespace,
    common: Sequence[str],
    command: str,
    root: pathlib.Path,
    seeds: dict[str, list[str]],
    jobs: int,
    program: Sequence[str] | None,
  ) -> None:
    self._args, self._common, self._command, self._root = args, common, command, root
    self._seeds, self._jobs, self._program = seeds, jobs, program
    self._stop = threading.Event()

  def run(self, rows: list[Row]) -> int:
    """Runs rows and shows their table."""
    if self._args.dry_run:
      self._print_commands(rows)
      return 0
    outcomes = self._run(rows)
    return self._report(rows, outcomes)

  def _print_commands(self, rows: list[Row]) -> None:
    from scripts.sweeping.drive import tasks_of
    from scripts.sweeping.tasks import failure, shell_lines

    for task in tasks_of(rows):
      failed = any(failure(path) for path in (task.workdir, task.source) if path)
      if self._args.retry or not failed:
        print("\n".join(shell_lines(task)))

  def _run(self, rows: list[Row]) -> dict[pathlib.Path, Outcome]:
    from scripts.sweeping.board import Board
    from scripts.sweeping.drive import run_rows
    from scripts.sweeping.engines import make_engine
    from scripts.sweeping.results import differing
    from scripts.sweeping.tasks import MAIN

    args = self._args
    engine = make_engine(args.engine, self._jobs, args.resource, self._root, self._program or MAIN)
    with Board(differing(rows)) as board, _Signals(self._stop, board.say):
      outcomes = run_rows(rows, engine, args.retry, self._stop, board)
      engine.close()
    return outcomes

  def search(self, grid: dict[str, list[str]], ranges: dict[str, Range]) -> int:
    """Optuna's trials, then the table of all of them."""
    from scripts.sweeping import plan, search

    if self._args.dry_run:
      raise plan.SweepError("--dry-run: what Optuna tries depends on what it finds")
    metric = self._metrics(plan.make_rows(self._args.config, self._common, [{}], self._root))[0]
    about = [self._args.config, self._common, grid, repr(ranges), self._seeds, metric]
    about += [self._args.maximise, self._args.draw_seed]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:10]
    study = search.open_study(self._root, name, self._args.maximise, self._args.draw_seed)
    found: dict[pathlib.Path, Outcome] = {}

    def measure(points: Sequence[Point]) -> list[float | None]:
      by_point = [self._rows([point]) for point in points]
      found.update(self._run([row for rows in by_point for row in rows]))
      return [self._objective(rows, found, metric) for rows in by_point]

    search.search(study, self._args.optuna, self._jobs, grid, ranges, measure)
    rows = self._rows(search.points_tried(study))
    return self._report(rows, found | self._known(rows, found))

  def _rows(self, points: Sequence[Point]) -> list[Row]:
    from scripts.sweeping import plan

    several = [point | seed for point in points for seed in plan.grid_points(self._seeds)]
    return plan.make_rows(self._args.config, self._common, several, self._root)

  def _known(
    self, rows: Sequence[Row], found: dict[pathlib.Path, Outcome]
  ) -> dict[pathlib.Path, Outcome]:
    """How rows of earlier sweeps ended."""
    from scripts.sweeping.tasks import Outcome, failure

    known = {}
    for row in rows:
      if row.task.workdir not in found:
        line = failure(row.task.workdir)
        state = "done" if row.done else "failed" if line is not None else "stopped"
        known[row.task.workdir] = Outcome(state, line or "")
    return known

  def _objective(
    self, rows: Sequence[Row], outcomes: dict[pathlib.Path, Outcome], metric: str
  ) -> float | None:
    """The mean over a point's seeds; None where one was stopped, nan where one failed."""
    from scripts.sweeping.results import metric_of, read_evaluation

    if any(outcomes[row.task.workdir].state == "stopped" for row in rows):
      return None
    values = [metric_of(read_evaluation(row.task.workdir), metric)[0] for row in rows]
    return sum(values) / len(values)

  def _metrics(self, rows: Sequence[Row]) -> list[str]:
    from scripts.sweeping.results import default_metrics

    return self._args.metric or default_metrics(rows)

  def _report(self, rows: Sequence[Row], outcomes: dict[pathlib.Path, Outcome]) -> int:
    """The table, for people and as CSV; what failed, with its last line; the exit code."""
    from scorelab.plotting import write_csv
    from scripts.sweeping import results

    metrics = self._metrics(rows)
    lines = results.collect(rows, outcomes, metrics)
    file = self._args.csv or self._root / "sweep.csv"
    write_csv(file, lines, self._command)
    print(results.format_lines(lines, metrics))
    if self._seeds and (means := results.over_seeds(lines, metrics)):
      print(f"\nmean and standard error over seeds\n{results.format_lines(means, metrics)}")
    print(f"\n{file}")
    failed = [row for row in rows if outcomes[row.task.workdir].state == "failed"]
    if failed:
      print(f"\n{len(failed)} failed; --retry runs them again:", file=sys.stderr)
      for row in failed:
        print(f"  {row.task.shown()}: {outcomes[row.task.workdir].line}", file=sys.stderr)
    if self._stop.is_set() or any(line["state"] == "stopped" for line in lines):
      print("stopped and saved; the same command goes on", file=sys.stderr)
      return 75
    return 1 if failed else 0


class _Signals:
  """Sets an event at the first Ctrl-C, SIGTERM or SIGHUP; the second one ends the sweep at once."""

  def __init__(self, stop: threading.Event, say: Any) -> None:
    self._stop, self._say = stop, say
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      self._previous[number] = signal.signal(number, self._note)

  def __exit__(self, *exc: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: object) -> None:
    del number, frame
    if self._stop.is_set():
      os._exit(75)  # the runs have been told, and save on their own
    self._stop.set()
    self._say("stopping: the runs save and end")


if __name__ == "__main__":
  sys.exit(main())
