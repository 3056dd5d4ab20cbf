"""Measures quality against NFE for every sampler, target and score.

  python scripts/pareto.py                              # all of it, then the table and the figure
  python scripts/pareto.py --targets nine_modes ring    # of these targets
  python scripts/pareto.py --report                     # the table and the figure of what is there
  python scripts/pareto.py --fast                       # a small part of it, as a test

A cell is a sampler at a budget of network evaluations, on a target, with the exact score or a
learned one: the grid with most steps within the budget, from ten standard deviations of the target
to the data, out of four (Karras with rho 7, or uniform in log-SNR, to a sixth or to half of a
mode's width), chosen by three pilot keys that are used for nothing else. It is measured with ten
keys: 2000 samples against 10,000 points, 1000 projections, the same starts and references for all
cells of a target. The nine modes' best samplers of few evaluations are measured again with 90 other
keys.

Networks are trained first, as configs/ncsn_gmm.py says but for the target, the largest level and
the number of steps. Every cell is kept in results/pareto/ as soon as it is measured, and not
measured again: the same command resumes where it was stopped, and several may run side by side on
targets of their own. The table and the figure go there too, or to --out; --reference writes the
committed ones, in which targets without rows in results/pareto/ keep their lines. NumPy's threads
gain nothing here: set OPENBLAS_NUM_THREADS=1 where cores are shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from scorelab.cli.exit import exit_with
from scorelab.experiment.spec import Experiment
from scorelab.metrics import max_sliced_wasserstein
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.samplers import SAMPLERS, adaptive_ode
from scorelab.schedules import Grid
from scorelab.typing import Array, Key, Predict
from scripts import outputs
from scripts.drawing import pareto as drawing
from scripts.pareto_study import (
  ENTRIES,
  FAST,
  TARGETS,
  Cell,
  Entry,
  Protocol,
  Subject,
  cells_of,
  grids,
  open_subject,
)

HEADLINE_BUDGET = 10  # the nine modes' best samplers up to it are measured with many keys


def make_run(cell: Cell, score: str, experiment: Experiment) -> Any:
  """`(model, grid, key, x, options) -> (samples, mean NFE)`, jitted: the numbers are traced."""
  sampler: Any = adaptive_ode
  if cell.entry.sampler != "adaptive_ode":
    sampler = SAMPLERS[cell.entry.sampler]

  def bind(model: Any) -> Predict:
    if score == "exact":
      return model.predict
    params, data_std = model
    scaled: Any = experiment.parameterization
    return dataclasses.replace(scaled, data_std=data_std).bind(params)

  @jax.jit
  def run(model: Any, grid: Grid, key: Key, x: Array, options: dict[str, float]) -> Any:
    found = sampler(key, bind(model), x, grid, **cell.entry.options, **options)
    return found.x, jnp.mean(jnp.asarray(found.nfe, jnp.float32))

  return run


def sample(
  run: Any, subject: Subject, score: str, cell: Cell, grid: Grid, number: int
) -> tuple[np.ndarray, float]:
  """The samples of a key, and what they took."""
  key, start, *_ = subject.draw(number)
  x, nfe = run(subject.models[score], grid, key, grid[0].sigma * start, cell.options)
  return np.asarray(x), float(nfe)


def choose_grid(run: Any, subject: Subject, score: str, cell: Cell) -> str:
  """The name of the grid with the least mean max-sliced W2 over the pilot keys."""

  def of(grid: Grid) -> float:
    found = []
    for number in subject.protocol.pilot_keys:
      x, _ = sample(run, subject, score, cell, grid, number)
      key = jax.random.key(number)
      reference = subject.draw(number)[2]
      found.append(max_sliced_wasserstein(key, x, reference, num_projections=200))
    mean = float(np.mean(found))
    return mean if np.isfinite(mean) else float("inf")

  tried = {name: of(grid) for name, grid in grids(subject.target, cell.num_steps).items()}
  return min(tried, key=tried.__getitem__)


def grid_for(run: Any, subject: Subject, score: str, cell: Cell) -> str:
  """The name of a cell's grid: what is kept of it, for either score, or else by the pilot keys."""
  known = [subject.rows.get((s, cell.name, len(subject.protocol.keys))) for s in subject.models]
  return next((row["grid"] for row in known if row), None) or choose_grid(run, subject, score, cell)


def keep_cell(
  subject: Subject, score: str, cell: Cell, grid: str, nfe: float, values: list[dict[str, float]]
) -> None:
  """Keeps what was measured of a cell."""
  entry = cell.entry
  row = {"score": score, "cell": cell.name, "sampler": entry.sampler, "label": entry.label}
  row |= {"budget": cell.budget, "tolerance": cell.options.get("rtol"), "grid": grid}
  subject.keep(row | {"num_steps": cell.num_steps, "nfe": nfe}, values)


def measure_cell(run: Any, subject: Subject, score: str, cell: Cell) -> None:
  """Measures a cell with every key, and keeps it."""
  chosen = grid_for(run, subject, score, cell)
  grid = grids(subject.target, cell.num_steps)[chosen]
  values, nfe = [], 0.0
  for number in subject.protocol.keys:
    x, nfe = sample(run, subject, score, cell, grid, number)
    values.append(subject.measure(number, x))
  keep_cell(subject, score, cell, chosen, nfe, values)


def measure_floor(subject: Subject, keys: range) -> None:
  """Exact samples against the references of the keys."""
  if ("floor", "floor", len(keys)) not in subject.rows:
    values = [subject.measure(number, subject.draw(number)[3]) for number in keys]
    subject.keep({"score": "floor", "cell": "floor"}, values)


def measure_headline(subject: Subject, entries: tuple[Entry, ...], stop: StopFlag) -> None:
  """Many keys for the best cells: keys outermost, so that each one's reference is made once."""
  keys = subject.protocol.headline_keys
  todo = [t for t in headline(subject, entries) if (t[0], t[1].name, len(keys)) not in subject.rows]
  if not todo:
    return
  runs = [make_run(cell, score, subject.experiment) for score, cell in todo]
  names = [grid_for(run, subject, *t) for run, t in zip(runs, todo, strict=True)]
  of_floor, of_cells = [], [[] for _ in todo]
  nfe = [0.0 for _ in todo]
  for number in tqdm(keys, "best cells", unit="key", dynamic_ncols=True, mininterval=_interval()):
    of_floor.append(subject.measure(number, subject.draw(number)[3]))
    for i, ((score, cell), run, name) in enumerate(zip(todo, runs, names, strict=True)):
      stop.check()
      grid = grids(subject.target, cell.num_steps)[name]
      x, nfe[i] = sample(run, subject, score, cell, grid, number)
      of_cells[i].append(subject.measure(number, x))
  if ("floor", "floor", len(keys)) not in subject.rows:
    subject.keep({"score": "floor", "cell": "floor"}, of_floor)
  for (score, cell), name, calls, values in zip(todo, names, nfe, of_cells, strict=True):
    keep_cell(subject, score, cell, name, calls, values)


def headline(subject: Subject, entries: tuple[Entry, ...]) -> list[tuple[str, Cell]]:
  """The cells measured with many keys: the three best of each small budget, of each score."""
  cells = {cell.name: cell for entry in entries for cell in cells_of(entry, subject.protocol)}
  few, metric = len(subject.protocol.keys), "max_sliced_wasserstein"
  found = []
  for score in subject.models:
    for budget in (b for b in subject.protocol.budgets if b <= HEADLINE_BUDGET):
      rows = [
        subject.rows.get((score, name, few)) for name in cells if cells[name].budget == budget
      ]
      finite = [row for row in rows if row and None not in row["values"][metric]]
      finite.sort(key=lambda row: np.mean(row["values"][metric]))
      found += [(score, cells[row["cell"]]) for row in finite[:3]]
  return found


def _interval() -> float:
  """Seconds between two states of a progress bar: fewer lines where they stay."""
  return 0.1 if sys.stderr.isatty() else 60


def measure_missing(todo: list[tuple[Subject, str, Cell]], stop: StopFlag, what: str) -> None:
  """Every cell of the list that is not kept; one program for all that follow with its shapes."""
  before, run = None, None
  bar = tqdm(todo, what, unit="cell", dynamic_ncols=True, mininterval=_interval())
  for subject, score, cell in bar:
    stop.check()
    if (score, cell.name, len(subject.protocol.keys)) in subject.rows:
      continue
    bar.set_postfix_str(f"{subject.name} {score} {cell.name}", refresh=False)
    if (score, cell.name) != before:
      before, run = (score, cell.name), make_run(cell, score, subject.experiment)
    measure_cell(run, subject, score, cell)


def measure_all(subjects: list[Subject], entries: tuple[Entry, ...]) -> None:
  """Every cell that is missing, the cheap ones first, and many keys where they are asked for.

  Targets of one dimension share compiled programs.
  """
  protocol = subjects[0].protocol
  for subject in subjects:
    measure_floor(subject, protocol.keys)
  cells = [cell for entry in entries for cell in cells_of(entry, protocol)]
  cells.sort(key=lambda cell: cell.budget or protocol.budgets[-1] + 1)
  dims = dict.fromkeys(s.experiment.target.event_shape for s in subjects)
  todo = [
    (subject, score, cell)
    for cell in cells
    for dim in dims
    for score in ("exact", "learned")
    for subject in subjects
    if subject.experiment.target.event_shape == dim and score in subject.models
  ]
  cheap = [t for t in todo if 0 < t[2].budget <= HEADLINE_BUDGET]
  with StopFlag() as stop:
    measure_missing(cheap, stop, "few evaluations")
    for subject in (s for s in subjects if s.name == "nine_modes"):
      measure_headline(subject, entries, stop)
    measure_missing(todo, stop, "all")


def main(argv: list[str] | None = None) -> int:
  """Measures what is missing, then writes the table and the figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
  parser.add_argument("--samplers", nargs="+", metavar="NAME", help="these alone")
  parser.add_argument("--report", action="store_true", help="measure nothing")
  parser.add_argument("--fast", action="store_true", help="few keys, small sets, two budgets")
  parser.add_argument("--runs", type=pathlib.Path, help="[results/pareto]")
  outputs.add_arguments(parser, "the folder of the runs", "pareto")
  args = parser.parse_args(argv)
  entries = [e for e in ENTRIES if args.samplers is None or e.sampler in args.samplers]
  if unknown := set(args.samplers or ()) - {entry.sampler for entry in ENTRIES}:
    known = ", ".join(dict.fromkeys(entry.sampler for entry in ENTRIES))
    parser.error(f"--samplers {' '.join(sorted(unknown))}: not in the table (known: {known})")
  protocol = FAST if args.fast else Protocol()
  runs = args.runs or outputs.RESULTS / ("pareto_fast" if args.fast else "pareto")
  out = outputs.directory(parser, args, runs, "pareto")
  runs.mkdir(parents=True, exist_ok=True)
  if not args.report:
    jax.config.update("jax_compilation_cache_dir", str(runs.absolute() / "compiled"))
    measure_all([open_subject(name, runs, protocol) for name in args.targets], tuple(entries))
  files = [runs / f"{name}.jsonl" for name in TARGETS]
  lines = [line for file in files if file.exists() for line in read_jsonl(file)]
  if all(line["score"] == "floor" for line in lines):
    print(f"{runs}: nothing has been measured yet", file=sys.stderr)
    return 1
  sizes = (protocol.num_samples, protocol.num_reference, protocol.num_projections)
  text = "{} samples against {}, {} projections".format(*sizes)
  table = drawing.summarise(lines)
  if args.reference:
    table += drawing.other_rows(out, {line["target"] for line in table})
    table.sort(key=lambda line: list(TARGETS).index(line["target"]))
  drawing.write(table, out, "python scripts/pareto.py", text, len(protocol.keys))
  return 0


if __name__ == "__main__":
  exit_with(main)
