"""Every published figure and number of a system, and whether ours agree with them.

  python scripts/reproduce.py --list
  python scripts/reproduce.py C D                 # runs, figures and studies of these, the verdicts
  python scripts/reproduce.py --all               # of all of them: many hours on two cores
  python scripts/reproduce.py --all --dry-run     # the commands of what is missing, in order
  python scripts/reproduce.py --all --fast        # runs of seconds, to try it: no verdicts
  python scripts/reproduce.py --report            # the verdicts from the CSVs that are there
  python scripts/reproduce.py --report --reference    # from the committed ones

Runs go to results/<config>/<run id>, as main.py has them, and figures, tables and verdicts.csv to
results/reproduced/ (or below --runs and to --out; with --fast to results/fast/); --reference writes
the committed ones, results/reference/. What is done is not done again: a run that has its DONE,
figures that are younger than their run, a study that has ended. Ctrl-C and SIGTERM let the run
save, and the same command resumes; what failed is tried again.

The published numbers are in scripts/published.csv. Exit codes: 0, 1 where something failed, 75
where it was stopped, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
import sys
import threading
from collections.abc import Iterable, Sequence

from scorelab.plotting import write_csv
from scorelab.runs.signals import PREEMPTED_EXIT_CODE
from scorelab.sweep.plan import Row, SweepError, Task, make_rows
from scorelab.sweep.tasks import Signals, make_slots, run_task
from scripts import outputs, published
from scripts.outputs import REFERENCE, RESULTS


@dataclasses.dataclass(frozen=True)
class System:
  """Figures and numbers that were published together.

  Attributes:
    title: title and source of the publication.
    configs: configs to run and draw.
    studies: scripts that start their own runs.
    sheets: figures of scripts/figures.py that need no run.
    missing: parts that are not reproduced here, and how to; or ''.
  """

  title: str
  configs: tuple[str, ...]
  studies: tuple[str, ...] = ()
  sheets: tuple[str, ...] = ()
  missing: str = ""


SYSTEMS = {
  "A": System(
    "score matching and NCSN/DDIM on a nine-mode mixture (JAX notebook)",
    (
      *("ula_gmm", "hyvarinen_gmm_published", "hyvarinen_gmm", "hutchinson_gmm", "ssm_gmm"),
      *("ssm_vr_gmm", "dsm_gmm_published", "dsm_gmm", "ncsn_gmm_published", "ncsn_gmm"),
    ),
    ("wander", "score_matching", "optimise_grid", "pareto"),
  ),
  "B": System(
    "one denoising step, DDPM and re-noising on two circles (JAX notebook)",
    (
      *("one_step_circles", "ddpm_circles_published", "ddpm_circles"),
      *("renoise_circles_published", "renoise_circles", "memorisation_circles"),
    ),
    ("circles",),
  ),
  "C": System(
    "the diffusion of 2015 on a swiss roll (PyTorch notebook)",
    ("diffusion2015_swissroll_published", "diffusion2015_swissroll"),
  ),
  "D": System(
    "score SDEs on 8 by 8 digits (PyTorch blog)",
    (
      *("sbgm_digits_published", "sbgm_digits", "sbgm_digits_sigma25"),
      *("vp_digits", "subvp_digits"),
    ),
    sheets=("digits", "flow_1d"),
  ),
  "E": System(
    "denoising diffusion on images (PyTorch blog)",
    ("ddpm_digits",),
    missing="ddpm_flowers needs its data set and a GPU: python main.py "
    "--config=configs/ddpm_flowers.py, and python scripts/throughput.py for images a second",
  ),
}


@dataclasses.dataclass(frozen=True)
class Study:
  """A script that runs what it needs.

  Attributes:
    arguments: for what results/reference/ has.
    fast: the same, for seconds a run.
    folder: of results/reference/ that it writes to.
    keeps_runs: whether it takes --runs.
    of: the config whose run it takes as its --workdir, or ''.
  """

  arguments: tuple[str, ...] = ()
  fast: tuple[str, ...] = ("--seeds=1", "--fast")
  folder: str = "."
  keeps_runs: bool = True
  of: str = ""


_SMALL = ("--iterations=2", "--keys=2", "--size=50")
STUDIES = {
  "wander": Study(folder="ncsn_gmm_published"),
  "score_matching": Study(),
  "circles": Study(),
  "optimise_grid": Study((), _SMALL, "optimised_grid", keeps_runs=False, of="ncsn_gmm"),
  "pareto": Study(fast=("--fast",), folder="pareto"),
}


@dataclasses.dataclass(frozen=True)
class Step:
  """One command: a run of main.py, its figures, or a study.

  Attributes:
    name: what it makes.
    task: the command and the folder of its DONE.
    run: the run, where it is one of main.py.
    after: steps whose results it is made from.
  """

  name: str
  task: Task
  run: Row | None = None
  after: tuple[Step, ...] = ()

  @property
  def stamp(self) -> pathlib.Path:
    """Written when the command has ended well; what it holds is the command."""
    return self.task.workdir / "DONE"

  @property
  def command(self) -> str:
    """The command as a person would type it."""
    return shlex.join(["python", *self.task.arguments])

  @property
  def done(self) -> bool:
    """True if nothing is left to do."""
    if self.run is not None:
      return self.run.done
    if not self.stamp.exists() or self.stamp.read_text().strip() != self.command:
      return False
    written = self.stamp.stat().st_mtime
    return all(step.done and step.stamp.stat().st_mtime <= written for step in self.after)


@dataclasses.dataclass(frozen=True)
class Places:
  """Output folders, and the size of the runs.

  Attributes:
    runs: folder of the runs.
    out: folder of the figures and tables.
    fast: whether runs take seconds.
  """

  runs: pathlib.Path
  out: pathlib.Path
  fast: bool

  def step(self, name: str, arguments: Sequence[str], after: tuple[Step, ...] = ()) -> Step:
    """A command whose DONE is kept apart from what it makes."""
    cwd = pathlib.Path.cwd()
    folder = cwd / self.runs / "reproduced" / name.replace(" ", "-")
    return Step(name, Task(tuple(arguments), cwd, folder, 0), after=after)

  def to(self, folder: str) -> list[str]:
    """The option of a script that says where its results go."""
    return ["--reference"] if self.out == REFERENCE else [f"--out={self.out / folder}"]

  def run(self, config: str) -> Step:
    """A run of main.py."""
    file = f"configs/{config}.py" + ":fast" * self.fast
    (row,) = make_rows(file, (), [{}], self.runs / config)
    task = dataclasses.replace(row.task, arguments=("main.py", *row.task.arguments))
    return Step(config, task, dataclasses.replace(row, task=task))

  def figures(self, name: str, of: Step | None, after: tuple[Step, ...] = ()) -> Step:
    """All figures of a config's run, or of what needs none."""
    arguments = ["scripts/figures.py", name]
    if of is not None:
      arguments += ["--workdir", of.task.shown()]
      arguments += ["--keys=2"] * self.fast
    arguments += self.to(name)
    return self.step(f"figures {name}", arguments, (of,) if of else after)

  def study(self, name: str) -> Step:
    """A script that runs what it needs."""
    study = STUDIES[name]
    arguments = [f"scripts/{name}.py", *(study.fast if self.fast else study.arguments)]
    if study.keeps_runs and self.runs != RESULTS:
      arguments.append(f"--runs={self.runs / name}")
    after: tuple[Step, ...] = ()
    if study.of:
      after = (self.run(study.of),)
      arguments += ["--workdir", after[0].task.shown()]
    arguments += self.to(study.folder)
    return self.step(f"study {name}", arguments, after)

  def steps(self, system: System) -> list[Step]:
    """Every command of a system, in order."""
    found = []
    for config in system.configs:
      run = self.run(config)
      found += [run, self.figures(config, run)]
    found += [self.study(name) for name in system.studies]
    drawn = tuple(step for step in found if step.name.startswith("figures "))
    return found + [self.figures(name, None, drawn) for name in system.sheets]


def execute(steps: Iterable[Step], places: Places) -> int:
  """Runs what is not done, one after the other; the exit code."""
  (slot,) = make_slots(1, (places.runs / "compiled").absolute())
  stop, failed = threading.Event(), set[str]()
  with Signals(stop, print):
    for step in steps:
      if step.done:
        print(f"{step.name}: done already", flush=True)
        continue
      if lacking := [before.name for before in step.after if before.name in failed]:
        failed.add(step.name)
        print(f"{step.name}: left out, as {lacking[0]} failed", flush=True)
        continue
      print(f"{step.name}: {step.command}", flush=True)
      outcome = run_task(step.task, slot, (sys.executable,), stop)
      if outcome.state == "stopped":
        print("stopped and saved; run the same command to resume", file=sys.stderr)
        return PREEMPTED_EXIT_CODE
      if outcome.state == "failed":
        failed.add(step.name)
        print(f"{step.name}: {outcome.line}", file=sys.stderr, flush=True)
        continue
      if step.run is None:
        step.stamp.write_text(step.command + "\n")
      print(f"{step.name}: {outcome.seconds:.0f} s", flush=True)
  return 1 if failed else 0


def report(out: pathlib.Path, systems: Sequence[str]) -> None:
  """Writes all verdicts, and shows those of these systems and how many there are of each."""
  lines = published.verdicts(out)
  write_csv(out / "verdicts.csv", lines, "python scripts/reproduce.py --report")
  shown = [line for line in lines if line["system"] in systems]
  print(published.as_markdown(shown))
  found = [line["verdict"] for line in shown]
  counts = [f"{found.count(each)} {each.removesuffix('s')}" for each in dict.fromkeys(found)]
  print(f"\n{len(shown)} published numbers: {', '.join(counts)}" if counts else "\nno numbers")


def show(places: Places, systems: Sequence[str]) -> None:
  """Prints each system, its commands, and their progress."""
  for name in systems:
    system = SYSTEMS[name]
    numbers = sum(entry.system == name for entry in published.entries())
    print(f"{name}  {system.title}: {numbers} published numbers")
    for step in places.steps(system):
      print(f"   {'done' if step.done else '':5} {step.name}")
    if system.missing:
      print(f"   not here: {system.missing}")


def refuse(message: str) -> int:
  """Says what is wrong with the command; its exit code."""
  print(message, file=sys.stderr)
  return 2


def main(argv: list[str] | None = None) -> int:
  """Runs what is missing and gives the verdicts; the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}")
  parser.add_argument("--all", action="store_true", help="all of them")
  parser.add_argument("--list", action="store_true", help="say what there is, and end")
  parser.add_argument("--dry-run", action="store_true", help="only print what would be run")
  parser.add_argument("--report", action="store_true", help="run nothing: only the verdicts")
  parser.add_argument("--fast", action="store_true", help="runs of seconds, and no verdicts")
  parser.add_argument("--runs", type=pathlib.Path, help="[results, or results/fast]")
  outputs.add_arguments(parser, "RUNS/reproduced", ".")
  args = parser.parse_args(argv)
  for name in args.systems:
    if name not in SYSTEMS:
      return refuse(f"{name!r} is not a system (known: {', '.join(SYSTEMS)})")
  chosen = list(dict.fromkeys(args.systems)) or list(SYSTEMS)
  if args.systems and args.all:
    return refuse("give systems or --all, not both")
  if not (args.systems or args.all or args.list or args.report):
    return refuse("give systems, --all, --list or --report")
  if args.report and args.fast:
    return refuse("--report: runs of --fast have no verdicts")
  runs = args.runs or (RESULTS / "fast" if args.fast else RESULTS)
  out = REFERENCE if args.reference else args.out or runs / "reproduced"
  if args.fast and out.absolute() == REFERENCE.absolute():
    return refuse("--fast: results/reference is not for runs of seconds; give another --out")
  places = Places(runs, out, args.fast)
  try:
    if args.list:
      show(places, chosen)
      return 0
    code = 0
    if not args.report:
      steps = [step for name in chosen for step in places.steps(SYSTEMS[name])]
      if args.dry_run:
        print("\n".join(step.command for step in steps if not step.done))
        return 0
      code = execute(steps, places)
  except SweepError as error:
    return refuse(str(error))
  if args.fast:
    print("no verdicts: these were runs of seconds")
  elif code != PREEMPTED_EXIT_CODE:
    report(places.out, chosen)
  return code


if __name__ == "__main__":
  sys.exit(main())
