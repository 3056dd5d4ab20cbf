"""Two circles over several seeds: the published settings next to the published numbers, and ours.

  python scripts/circles.py                     # all runs, then the table
  python scripts/circles.py --seeds 1 --fast    # seconds a run, to try it

Each seed is a training of its own: the notebook's numbers of two keys differ by more than sampling
explains. Runs go to results/circles/, and what is there is not run again. The table, circles.csv,
goes there too, or to --out; --reference writes the committed one. Losses are means over the 5,000
steps before, per coordinate, and distances those of 1000 samples to the circles.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scorelab import evaluation
from scorelab.cli.exit import exit_with
from scorelab.evaluation.table import row_labels
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import write_csv
from scorelab.runs.files import read_jsonl
from scorelab.runs.workdir import Workdir
from scripts import outputs, published
from scripts.drawing.circles import PUBLISHED_LOSS
from scripts.studies import run

SLIPS = "renoise:100:variance=None:slips=True:denoise=False"
ROWS: dict[str, tuple[str, ...]] = {
  "one_step_circles": (),
  "ddpm_circles_published": (
    "ancestral:100:variance=small",
    SLIPS,
    SLIPS.replace("denoise=False", "denoise=True"),
    "renoise:100",
  ),
  "ddpm_circles": ("ddim:100", "renoise:100"),
}
METRICS = ("support_distance", "component_tv")


def configure(name: str, seed: int, fast: bool) -> ConfigDict:
  """The config of one run."""
  config = importlib.import_module(f"configs.{name}").get_config("fast" if fast else "")
  config.seed = seed
  config.evaluation.update(rows=ROWS[name], metrics=METRICS, num_keys=2, score_samples=1024)
  return config


def compare(quantity: str, row: str, values: list[float], theirs: tuple[float, ...]) -> dict:
  """Returns a line of the table: mean and standard error over seeds, and the published numbers."""
  mean, sem = mean_and_sem(values)
  line: dict[str, Any] = {"quantity": quantity, "row": row, "seeds": len(values)}
  line |= {"value": mean, "sem": sem, "least": min(values), "most": max(values)}
  line |= {"published": None, "published_sem": None, "ratio": None, "errors_apart": None}
  if theirs:
    known, error = mean_and_sem(theirs)
    line |= {"published": known, "published_sem": error, "ratio": mean / known}
    both = np.hypot(np.nan_to_num(sem), np.nan_to_num(error))
    line["errors_apart"] = (mean - known) / both if len(theirs) > 1 and both else None
  return line


def tabulate(name: str, runs: list[Workdir]) -> list[dict[str, Any]]:
  """The lines of one config from its finished runs."""
  results = [evaluation.read(workdir) for workdir in runs]
  lines = []
  for step, known in PUBLISHED_LOSS.get(name, {}).items():
    logged = [{h["step"]: h["loss"] / 2 for h in read_jsonl(w.metrics)} for w in runs]
    if all(step in losses for losses in logged):
      values = [losses[step] for losses in logged]
      lines.append({"config": name} | compare(f"loss at {step}", "", values, (known,)))
  labels = row_labels(results[0]["rows"])
  for index, label in enumerate(labels):
    for metric in METRICS:
      values = [result["rows"][index]["metrics"][metric]["value"] for result in results]
      known = published.select("circles.csv", config=name, quantity=metric, row=label)
      theirs = known[0].published if known else ()
      lines.append({"config": name} | compare(metric, label, values, theirs))
  return lines


def main(argv: list[str] | None = None) -> int:
  """Runs what is missing, then writes the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", type=int, default=5, help="of every config [5]")
  parser.add_argument("--config", choices=sorted(ROWS), help="this one alone, and no table")
  parser.add_argument("--fast", action="store_true", help="runs of seconds")
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("results/circles"))
  outputs.add_arguments(parser, "the folder of the runs", ".")
  args = parser.parse_args(argv)
  if args.seeds < 1:
    parser.error(f"--seeds {args.seeds}: must be at least 1")
  out = outputs.directory(parser, args, args.runs, ".")
  args.runs.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(args.runs.absolute() / "compiled"))
  table = []
  for name in [args.config] if args.config else list(ROWS):
    runs = [args.runs / f"{name}-{seed}" for seed in range(args.seeds)]
    for seed, path in enumerate(runs):
      print(path, flush=True)
      run(configure(name, seed, args.fast), path)
    table += tabulate(name, [Workdir(path) for path in runs])
  if not args.config:
    command = f"python scripts/circles.py --seeds {args.seeds}"
    write_csv(out / "circles.csv", table, command)
  for line in table:
    shown = " ".join(f"{k}={v:.4g}" for k, v in line.items() if isinstance(v, float))
    print(line["config"], line["quantity"], line["row"], shown)
  return 0


if __name__ == "__main__":
  exit_with(main)
