"""Seeds in one program against seeds in turn."""

from __future__ import annotations

from typing import Any

import jax

from scorelab import training
from scorelab.experiment.build import build
from scorelab.runs.sharding import ONE_DEVICE
from scorelab.training import ensembles
from scripts.benchmarks.paired_timing import Match
from scripts.benchmarks.timed_processes import Side, Task
from scripts.benchmarks.training import config_of

SEEDS = (1, 4, 16, 64)


def together(config: str, seeds: int, steps: int, quick: bool) -> Task:
  """So many seeds as one program."""
  given = config_of(config, quick)
  given.ensemble.seeds = seeds
  program = ensembles.make_program(ensembles.build(given), ONE_DEVICE)
  state: Any = program.init()

  def call() -> None:
    nonlocal state
    state, _ = program.chunk(state, *program.feed(state).take(steps), length=steps)
    jax.block_until_ready(state)

  return Task(call)


def in_turn(config: str, seeds: int, steps: int, quick: bool) -> Task:
  """So many single runs, which share a compiled one."""
  experiment = build(config_of(config, quick))
  chunk = training.make_chunk(experiment)
  roots = [jax.random.key(seed) for seed in range(seeds)]
  states: list[Any] = [training.init_state(experiment, root=root) for root in roots]

  def call() -> None:
    for i, root in enumerate(roots):
      states[i], _ = chunk.func(root, states[i], experiment.data, length=steps)
    jax.block_until_ready(states)

  return Task(call)


def match(config: str, quick: bool) -> Match:
  """A config's seeds in one program, over one run."""
  options = {"config": config, "steps": 2 if quick else 10, "quick": quick}
  sides = {"one run": Side(in_turn, {**options, "seeds": 1})}
  for seeds in (1, 4) if quick else SEEDS:
    sides[f"{seeds} in one program"] = Side(together, {**options, "seeds": seeds})
  sides["16 in turn"] = Side(in_turn, {**options, "seeds": 4 if quick else 16})
  return Match(config, sides, rounds=10)


def ensemble(quick: bool) -> list[Match]:
  """Training steps of 1 to 64 seeds in one program, over those of one run."""
  return [match("ncsn_gmm", quick), match("ddpm_circles", quick)]
