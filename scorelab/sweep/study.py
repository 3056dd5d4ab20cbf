"""Runs a sweep, from its command line to its table."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pathlib
import statistics
import sys
import threading
from collections.abc import Sequence

from scorelab.plotting import write_csv
from scorelab.runs.signals import PREEMPTED_EXIT_CODE
from scorelab.sweep import plan, results, search
from scorelab.sweep.board import Board
from scorelab.sweep.drive import run_rows, tasks_of
from scorelab.sweep.engines import make_engine
from scorelab.sweep.plan import Point, Range, Row, SweepError
from scorelab.sweep.tasks import MAIN, Outcome, Signals, default_jobs, failure, shell_lines


def run(
  args: argparse.Namespace, common: Sequence[str], command: str, program: Sequence[str] | None
) -> int:
  """Plans, checks, runs and reports; the exit code.

  Args:
    args: the command line, as scorelab/cli/sweep.py reads it.
    common: each --config.FIELD=VALUE.
    command: all of it, as it was typed.
    program: what runs a config, with its arguments; None for this package.

  Raises:
    SweepError: a mistake; nothing was started.
  """
  for name, least in (("seeds", 1), ("random", 1), ("optuna", 1), ("jobs", 1), ("draw_seed", 0)):
    if (value := getattr(args, name)) is not None and value < least:
      raise SweepError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
  bare = plan.resolve(args.config, common, {})
  grid = plan.by_field(map(plan.parse_grid, args.grid))
  ranges = plan.by_field(plan.parse_range(spec, bare) for spec in args.range)
  for field in grid.keys() & ranges.keys():
    raise SweepError(f"{field} is given twice")
  points = first_points(args, grid, ranges)
  seeds: dict[str, list[str]] = {}
  if args.seeds is not None:
    if any("seed" in point for point in points):
      raise SweepError("--seeds and the field seed are the same")
    seeds = {"seed": [str(seed) for seed in range(args.seeds)]}
  crossed = [point | seed for point in points for seed in plan.grid_points(seeds)]
  for point in crossed:
    plan.resolve(args.config, common, point)
  plan.check(args.config, common, points)
  name = pathlib.Path(args.config.partition(":")[0]).stem
  root = args.out or pathlib.Path("results", name)
  sweep = Sweep(args, common, command, root, seeds, args.jobs or default_jobs(), program)
  if args.optuna is not None:
    return sweep.search(grid, ranges)
  return sweep.run(plan.make_rows(args.config, common, crossed, root))


def first_points(
  args: argparse.Namespace, grid: dict[str, list[str]], ranges: dict[str, Range]
) -> list[Point]:
  """Returns the points to check: a grid, random draws, the config's sweep, or Optuna's corners."""
  if args.random is not None and args.optuna is not None:
    raise SweepError("--random and --optuna: choose one")
  if args.random is None and args.optuna is None:
    if ranges:
      raise SweepError("--range needs --random N or --optuna N; or give values by --grid")
    points = plan.grid_points(grid) if grid else plan.points_of_config(args.config)
    if points is None and args.seeds is None:
      raise SweepError(f"{args.config}: has no sweep(): give --grid, --range or --seeds")
    return points or [{}]
  if not (grid or ranges):
    raise SweepError("--random and --optuna need --range or --grid")
  if args.random is not None:
    return plan.random_points(args.random, grid, ranges, args.draw_seed)
  ends = {field: [r.at(0.0), r.at(1.0)] for field, r in ranges.items()}
  return plan.grid_points({field: values[:1] for field, values in grid.items()} | ends)


class Sweep:
  """Runs rows and shows their table; shared by all kinds of sweeps."""

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
    for task in tasks_of(rows):
      failed = any(failure(path) for path in (task.workdir, task.source) if path)
      if self._args.retry or not failed:
        print("\n".join(shell_lines(task)))

  def _run(self, rows: list[Row]) -> dict[pathlib.Path, Outcome]:
    args = self._args
    engine = make_engine(args.engine, self._jobs, args.resource, self._root, self._program or MAIN)
    with Board(results.differing(rows)) as board, Signals(self._stop, board.print_line):
      outcomes = run_rows(rows, engine, args.retry, self._stop, board)
      engine.close()
    return outcomes

  def search(self, grid: dict[str, list[str]], ranges: dict[str, Range]) -> int:
    """Runs Optuna's trials, then shows the table of all of them."""
    if self._args.dry_run:
      raise SweepError("--dry-run: what Optuna tries depends on what it finds")
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
    several = [point | seed for point in points for seed in plan.grid_points(self._seeds)]
    return plan.make_rows(self._args.config, self._common, several, self._root)

  def _known(
    self, rows: Sequence[Row], found: dict[pathlib.Path, Outcome]
  ) -> dict[pathlib.Path, Outcome]:
    """Returns the outcomes of rows of earlier sweeps."""
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
    """Returns the mean over a point's seeds; None if one was stopped, nan if one failed."""
    states = {outcomes[row.task.workdir].state for row in rows}
    if states != {"done"}:
      return None if "stopped" in states else math.nan
    found = [results.read_evaluation(row.task.workdir) for row in rows]
    return statistics.fmean(results.metric_of(result, metric)[0] for result in found)

  def _metrics(self, rows: Sequence[Row]) -> list[str]:
    return self._args.metric or results.default_metrics(rows)

  def _report(self, rows: Sequence[Row], outcomes: dict[pathlib.Path, Outcome]) -> int:
    """Prints and writes the table and the failures' last lines; returns the exit code."""
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
      print("stopped and saved; run the same command to resume", file=sys.stderr)
      return PREEMPTED_EXIT_CODE
    return 1 if failed else 0
