"""Every way to learn a score, judged against the exact one: each loss, budget and seed.

  python scripts/score_matching.py                     # all runs, then the table and the figure
  python scripts/score_matching.py --seeds 1 --fast    # seconds a run, to try it
  python scripts/score_matching.py --list

Two studies of the nine modes, at equal budgets. `data`: the score of the data themselves, learned
from points alone by the implicit losses, sampled by ULA from N(0, 100 I). `levels`: one network for
all levels of noise from 0.02 to 80, all losses weighted alike, so that they share the expected
gradient and differ in its variance and its cost; sampled by annealed Langevin dynamics.

Runs go to results/score_matching/, and what is there is not run again. The table and the figure go
there too, or to --out; --reference writes the committed ones.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from configs.presets.score_matching import score_matching
from scorelab import evaluation, training
from scorelab.cli.exit import exit_with
from scorelab.experiment.build import build
from scorelab.metrics.statistics import mean_and_sem
from scorelab.plotting import save, write_csv
from scorelab.plotting.studies import Line, loss_comparison
from scorelab.runs.workdir import Workdir
from scripts import outputs
from scripts.studies import run

BUDGETS = (1000, 4000)
METRICS = ("max_sliced_wasserstein", "energy_distance", "mode_weight_tv", "off_mode_share")
PROBED = {"hutchinson": "rademacher", "sliced_vr": "gaussian", "sliced": "gaussian"}
PROBED |= {"sliced_fd": "gaussian"}


def at_data(loss: str) -> ConfigDict:
  """The data's own score, by an implicit loss."""
  config = score_matching(loss)
  config.loss.probes = PROBED.get(loss)
  return config


def at_levels(loss: str) -> ConfigDict:
  """The score at every level, by any loss; sigma^2 on its squared error."""
  config = base.get_config()
  config.network.update(width=128, depth=2)
  config.schedule.update(sigma_min=0.02, sigma_max=80.0)
  config.optimizer.learning_rate = 3e-3
  config.loss.update(name=loss, levels="log_uniform")
  if loss != "ncsn":
    config.loss.update(score_weighting="sigma_squared", probes=PROBED.get(loss))
  config.sampler.update(name="annealed_langevin", grid="uniform_log_snr", num_steps=100)
  config.sampler.update(steps_per_level=5, rule="ncsnv2", denoise=True)
  return config


STUDIES: dict[str, tuple[Callable[[str], ConfigDict], tuple[str, ...]]] = {
  "data": (at_data, ("hyvarinen", "hutchinson", "sliced_vr", "sliced", "sliced_fd")),
  "levels": (at_levels, ("ncsn", "hyvarinen", "hutchinson", "sliced", "sliced_fd")),
}


def configure(study: str, loss: str, budget: int, seed: int, fast: bool) -> ConfigDict:
  """The config of one run."""
  config = STUDIES[study][0](loss)
  config.seed = seed
  config.training.update(num_steps=budget, checkpoint_every=budget)
  config.evaluation.update(rows=(), metrics=METRICS, num_keys=2)
  return base.variant(config, "fast" if fast else "")


def seconds_per_step(study: str, fast: bool, repeats: int = 5) -> dict[str, float]:
  """The median time of a training step of each loss, the losses in turn within each repeat."""
  length = 5 if fast else 50
  chunks = {}
  for loss in STUDIES[study][1]:
    experiment = build(configure(study, loss, BUDGETS[0], 0, fast))
    chunk = training.make_chunk(experiment)
    state, _ = chunk(training.init_state(experiment), experiment.data, length=length)
    chunks[loss] = (chunk, jax.block_until_ready(state))
  times: dict[str, list[float]] = {loss: [] for loss in chunks}
  for _ in range(repeats):
    for loss, (chunk, state) in chunks.items():
      begun = time.perf_counter()
      moved, _ = jax.block_until_ready(chunk(state, {}, length=length))
      times[loss].append((time.perf_counter() - begun) / length)
      chunks[loss] = (chunk, moved)
  return {loss: statistics.median(values) for loss, values in times.items()}


def summarise(
  study: str, loss: str, budget: int, runs: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
  """A line of the table from the evaluation.json of each seed."""
  errors = [run["score_error"] for run in runs]
  # At the data the parts are the modes, else the levels.
  parts = [e["relative_by_mode"] if study == "data" else e["relative"] for e in errors]
  numbers = {
    "median_score_error": [float(np.median(p)) for p in parts],
    "worst_score_error": [max(p) for p in parts],
    **{name: [run["rows"][0]["metrics"][name]["value"] for run in runs] for name in METRICS},
  }
  if study == "levels":
    numbers["kl_bound"] = [run["girsanov"]["total"] for run in runs]
  line: dict[str, Any] = {"study": study, "loss": loss, "steps": budget, "seeds": len(runs)}
  for name, values in numbers.items():
    line[name], sem = mean_and_sem(values)
    line[f"{name}_sem"] = sem if len(values) > 1 else None
  for name in METRICS:
    floors = [run["rows"][0]["metrics"][name]["floor"] for run in runs]
    line[f"{name}_floor"] = float(np.mean(floors))
  line["worst_seed_score_error"] = max(numbers["worst_score_error"])
  for name in ("kl_bound", "kl_bound_sem"):
    line.setdefault(name, None)  # one level alone bounds nothing
  return line | {"seconds_per_step": seconds}


def as_markdown(table: list[dict[str, Any]]) -> str:
  """The table in Markdown: mean and standard error over the seeds."""
  header = ["study", "loss", "steps", "score error, median", "worst", "worst of any seed"]
  header += ["max-SW2", "energy distance", "mode-weight TV", "off-mode", "ms a step", "KL bound"]
  lines = [header, ["---"] * len(header)]
  for row in table:

    def with_error(name: str, digits: int, row: dict[str, Any] = row) -> str:
      error = row[f"{name}_sem"]
      return f"{row[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")

    cells = [row["study"], f"`{row['loss']}`", str(row["steps"])]
    cells += [with_error(f"{part}_score_error", 4) for part in ("median", "worst")]
    cells += [f"{row['worst_seed_score_error']:.4f}", with_error("max_sliced_wasserstein", 2)]
    cells += [with_error("energy_distance", 3), with_error("mode_weight_tv", 3)]
    cells += [f"{row['off_mode_share']:.1%}", f"{1000 * row['seconds_per_step']:.1f}"]
    cells += ["" if row["kl_bound"] is None else with_error("kl_bound", 3)]
    lines.append(cells)
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def curves(runs: dict[tuple[str, str, int], list[dict[str, Any]]]) -> dict[int, list[Line]]:
  """The score error and the cost of each loss by level and budget; at the data, level 0."""
  by_budget: dict[int, list[Line]] = {budget: [] for budget in sorted({k[2] for k in runs})}
  for (study, loss, budget), of_seeds in runs.items():
    levels = np.array(of_seeds[0]["score_error"]["sigma"])
    values = np.array([run["score_error"]["relative"] for run in of_seeds])
    bounds = [run["girsanov"] for run in of_seeds if "girsanov" in run]
    cost_levels = np.array(bounds[0]["sigma"] if bounds else [])
    costs = np.array([bound["density"] for bound in bounds])
    by_budget[budget].append(Line(loss, study, levels, values, cost_levels, costs))
  return by_budget


def main(argv: list[str] | None = None) -> int:
  """Runs what is missing, then writes the table and the figure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", type=int, default=5, help="seeds of every cell [5]")
  parser.add_argument("--study", choices=sorted(STUDIES), help="this one alone")
  parser.add_argument("--fast", action="store_true", help="runs of seconds")
  parser.add_argument("--list", action="store_true", help="list the runs and end")
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("results/score_matching"))
  outputs.add_arguments(parser, "the folder of the runs", ".")
  args = parser.parse_args(argv)
  if args.seeds < 1:
    parser.error(f"--seeds {args.seeds}: must be at least 1")
  out = outputs.directory(parser, args, args.runs, ".")
  chosen = [args.study] if args.study else list(STUDIES)
  cells = [(s, loss, b) for b in BUDGETS[::-1] for s in chosen for loss in STUDIES[s][1]]
  runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {cell: [] for cell in cells}
  # Seeds of a cell run the same programs: they are compiled once.
  args.runs.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(args.runs.absolute() / "compiled"))
  for number, (cell, seed) in enumerate((c, s) for c in cells for s in range(args.seeds)):
    path = args.runs / "-".join([*map(str, cell), str(seed)])
    print(f"{number + 1}/{len(cells) * args.seeds}  {path}", flush=True)
    if not args.list:
      run(configure(*cell, seed, args.fast), path)
      runs[cell].append(evaluation.read(Workdir(path)))
  if args.list:
    return 0
  seconds = {s: seconds_per_step(s, args.fast) for s in chosen}
  table = [summarise(*cell, of_seeds, seconds[cell[0]][cell[1]]) for cell, of_seeds in runs.items()]
  command = f"python scripts/score_matching.py --seeds {args.seeds}"
  write_csv(out / "score_matching.csv", table, command)
  save(loss_comparison(curves(runs), args.seeds), out / "score_matching.png", command)
  print(as_markdown(table))
  return 0


if __name__ == "__main__":
  exit_with(main)
