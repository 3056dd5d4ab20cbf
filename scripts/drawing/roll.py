"""The figures of 2015's chain on a swiss roll: what `scripts/figures.py diffusion2015_*` draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import evaluation, training
from scorelab.losses.variational import bound_terms
from scorelab.metrics.budget import budget
from scorelab.plotting import chains, read_csv, save, style, write_csv
from scorelab.predictions import noised
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.signals import StopFlag
from scorelab.schedules import GRIDS, Schedule
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.points import roll
from scorelab.typing import Array, Params
from scripts.drawing import nine_modes
from scripts.drawing.source import Source

FORMS = {
  "diffusion2015_swissroll": ("corrected", style.BLUE, "o"),
  "diffusion2015_swissroll_published": ("published form", style.VERMILLION, "s"),
}
METRIC = "sliced_wasserstein"
_KL_POINTS = 20_000


def through_time(source: Source, num_points: int = 5000) -> None:
  """The published figure: the forward process at t = 0, T/2 and T, the reverse one below."""
  experiment, row = source.experiment, source.experiment.evaluation.rows[0]
  num_steps = row.num_steps + 1
  halves = (0, num_steps // 2, num_steps)
  data_key, noise_key, start_key, key = jax.random.split(source.key(0), 4)
  x0 = experiment.target.sample(data_key, num_points)
  levels = experiment.schedule.at(jnp.array(halves[1:]) / num_steps)
  later = jax.vmap(lambda level: noised(noise_key, x0, level)[0])(levels)
  forward = [np.asarray(x0), *np.asarray(later)]

  @jax.jit
  def sample(params: Params) -> tuple[Array, Array]:
    start = row.prior(start_key, (num_points, 2))
    return start, row.run(key, experiment.parameterization.bind(params), start).path

  start, path = (np.asarray(a) for a in sample(source.params))
  reverse = [path[-1], path[num_steps - halves[1] - 1], start]  # path[k] is at t = T - 1 - k
  names = [f"t = {t}" for t in halves]
  figure = chains.through_time(
    forward,
    reverse,
    (names, ["t = 1, where the chain ends", *names[1:]]),
    (1.7, 2.4, 3.6),
    f"{num_points} points each, T = {num_steps}; the reverse chain starts from N(0, I)",
  )
  save(figure, source.out / "through_time.png", source.command)
  rows: list[dict[str, Any]] = []
  for process, clouds in (("forward", forward), ("reverse", reverse)):
    for t, x in zip(halves, clouds, strict=True):
      mean, std = x.mean(0), x.std(0)
      rows.append({"process": process, "t": t, "mean_x1": mean[0], "mean_x2": mean[1],
                   "std_x1": std[0], "std_x2": std[1]})  # fmt: skip
  write_csv(source.out / "through_time.csv", rows, source.command)


def learning(source: Source) -> None:
  """KL per dimension and sliced W2 against training steps, both forms where both were drawn."""
  experiment = source.evaluating(source.experiment.evaluation.rows, (METRIC,))
  T = experiment.evaluation.rows[0].num_steps + 1
  x0 = experiment.target.sample(source.key(1), _KL_POINTS)
  grid = GRIDS["uniform"](experiment.schedule, T)

  @jax.jit
  def divergences(params: Params) -> Array:
    predict = experiment.parameterization.bind(params)
    terms = bound_terms(source.key(2), predict, x0, grid, variance="learned")
    return terms.steps.mean(axis=1)[::-1] / x0.shape[1]

  records, steps = [], np.zeros(T - 1)
  for step, params in kept(source):
    steps = np.asarray(divergences(params), float)
    sets = evaluation.draw_sets(experiment, params, StopFlag())
    found = budget(evaluation.measure(experiment, sets, StopFlag())[0][0])
    records.append(
      {
        "step": step,
        "kl_per_dim": steps.mean(),
        METRIC: found["value"],
        **{f"{METRIC}_{name}": found[name] for name in ("sem", "floor", "floor_sem")},
      }
    )
    print(f"  step {step}: KL {steps.mean():.4f}, sliced W2 {found['value']:.4f}", flush=True)
  write_csv(source.out / "learning.csv", records, source.command)
  least = optimum(experiment.schedule, T)
  rows = [
    {"t": t, "kl_per_dim": found, "optimum": best}
    for t, found, best in zip(range(2, T + 1), steps, least, strict=True)
  ]
  write_csv(source.out / "learning_steps.csv", rows, source.command)
  forms = []
  for name, (label, colour, marker) in FORMS.items():
    folder = source.out if name == source.name else source.others / name
    if (folder / "learning_steps.csv").exists():
      of_steps = [row["kl_per_dim"] for row in read_csv(folder / "learning_steps.csv")]
      history = read_csv(folder / "learning.csv")
      forms.append(chains.Learning(label, history, np.array(of_steps), colour, marker))
  protocol = experiment.evaluation
  text = (
    f"KL: {_KL_POINTS} points at each t; optimum: the least by a diagonal Gaussian, by quadrature "
    f"along the roll\nsliced W2: {protocol.num_samples} samples v {protocol.num_reference} points, "
    f"{experiment.config['evaluation']['num_projections']} projections, mean and standard error "
    f"over {source.keys} keys"
  )
  save(chains.learning(forms, least, text), source.out / "learning.png", source.command)


def kept(source: Source) -> list[tuple[int, Params]]:
  """(training steps, evaluated parameters) of the last checkpoint, one at half its steps, ..."""
  template = training.init_state(source.experiment)
  with Checkpoints(source.workdir.checkpoints, read_only=True) as checkpoints:
    steps = checkpoints.steps()
    chosen = [steps[-1]]
    for step in reversed(steps):
      if step <= chosen[-1] / 2:
        chosen.append(step)
    states = [(step, checkpoints.restore_step(template, step)) for step in reversed(chosen)]
  return [(step, training.evaluated_params(state)) for step, state in states]


def optimum(schedule: Schedule, num_steps: int, num_points: int = 2000) -> np.ndarray:
  """The least KL of each step of a chain per dimension, [num_steps - 1] from t = 2.

  A Gaussian of diagonal covariance, of x_t's choice, does best with the moments of q(x_s | x_t).
  With x_0's posterior variance v it then costs log(1 + (SNR_s - SNR_t) v) / 2 a coordinate. The
  roll is taken as 2^13 points equally far apart in u.
  """
  u = (np.arange(2**13) + 0.5) / 2**13
  nodes = np.asarray(roll(jnp.asarray(u)))
  law = GaussianMixture(np.ones(len(u)), nodes, np.zeros(len(u)))
  x0 = roll(jax.random.uniform(jax.random.key(0), (num_points,)))

  @jax.jit
  def of_step(i: Array, key: Array) -> Array:
    now, nxt = (schedule.at(t / num_steps) for t in (i, i - 1))
    pred = law.predict(noised(key, x0, now)[0], now)
    assert pred.x0_variance is not None
    gain = (nxt.alpha / nxt.sigma) ** 2 - (now.alpha / now.sigma) ** 2
    return jnp.mean(jnp.log1p(gain * pred.x0_variance)) / 2

  keys = jax.random.split(jax.random.key(1), num_steps - 1)
  return np.array([of_step(jnp.asarray(t), keys[t - 2]) for t in range(2, num_steps + 1)], float)


FIGURES: dict[str, Callable[[Source], None]] = {
  "loss": nine_modes.loss,
  "through_time": through_time,
  "learning": learning,
}
