"""The published NCSN under annealed Langevin dynamics, during its training: it wanders.

  python scripts/wander.py                # three seeds, then the table
  python scripts/wander.py --seeds 1 --fast

The notebook's network is that of its last step, at a constant learning rate and without an average.
Each seed is trained as in configs/ncsn_gmm_published.py with a checkpoint at every hundredth step;
those of the last third are sampled over the published 100 levels, 5 steps at each. Runs go to
results/wander/, where they are resumed and not done twice. The table, wander.csv, goes there too,
or to --out; --reference writes the committed one.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import ncsn_gmm_published
from scorelab import evaluation, training
from scorelab.cli.exit import exit_with
from scorelab.metrics.budget import budget
from scorelab.plotting import write_csv
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.signals import StopFlag
from scripts import outputs, studies

METRICS = ("max_sliced_wasserstein", "off_mode_share")


def configure(seed: int, fast: bool) -> ConfigDict:
  """The published training, its checkpoints kept, and the sampler that is measured."""
  config = ncsn_gmm_published.get_config("fast" if fast else "")
  config.seed = seed
  every = 20 if fast else 100
  config.training.update(checkpoint_every=every, keep_every=every)
  config.sampler.update(name="annealed_langevin", num_steps=10 if fast else 100, grid="karras")
  config.sampler.update(sigma_max=10.0, sigma_min=0.02, rho=5.0, eta=None)
  config.sampler.update(steps_per_level=5, step_size=1e-4)
  config.evaluation.update(rows=(), num_keys=2, metrics=METRICS)
  return config


def measure(config: ConfigDict, path: pathlib.Path, stop: StopFlag) -> list[dict[str, float]]:
  """Trains, unless that is done, and measures each checkpoint of the last third."""
  with studies.opened(config, path) as (experiment, workdir):
    training.train(experiment, workdir, stop)
  template, table = training.init_state(experiment), []
  with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
    for step in checkpoints.steps():
      if 3 * step < 2 * experiment.num_steps:
        continue
      params = training.evaluated_params(checkpoints.restore_step(template, step))
      sets = evaluation.draw_sets(experiment, params, stop)
      budgets = map(budget, evaluation.measure(experiment, sets, stop)[0])
      values = {name: found["value"] for name, found in zip(METRICS, budgets, strict=True)}
      table.append({"seed": config.seed, "step": step, **values})
      print(table[-1], flush=True)
  return table


def main(argv: list[str] | None = None) -> int:
  """Runs what is missing, measures, and writes the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", type=int, default=3, help="[3]")
  parser.add_argument("--fast", action="store_true", help="runs of seconds")
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("results/wander"))
  outputs.add_arguments(parser, "the folder of the runs", "ncsn_gmm_published")
  args = parser.parse_args(argv)
  if args.seeds < 1:
    parser.error(f"--seeds {args.seeds}: must be at least 1")
  out = outputs.directory(parser, args, args.runs, "ncsn_gmm_published")
  args.runs.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(args.runs.absolute() / "compiled"))
  with StopFlag() as stop:
    paths = [args.runs / f"seed-{seed}" for seed in range(args.seeds)]
    tables = [measure(configure(i, args.fast), path, stop) for i, path in enumerate(paths)]
  command = f"python scripts/wander.py --seeds {args.seeds}"
  write_csv(out / "wander.csv", [row for table in tables for row in table], command)
  values = [[row[METRICS[0]] for row in table] for table in tables]
  print(f"{METRICS[0]}: {np.min(values):.2f} to {np.max(values):.2f}, mean {np.mean(values):.2f}")
  return 0


if __name__ == "__main__":
  exit_with(main)
