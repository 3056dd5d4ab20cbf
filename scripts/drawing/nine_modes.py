"""The figures of the nine-mode mixture: what `scripts/figures.py ncsn_gmm` draws.

`OF_A_RUN` are those that any run in the plane has, `OF_A_SCORE` those that a truth adds.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab import predictions
from scorelab.evaluation import figures as summary
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.evaluation.table import align, row_labels
from scorelab.experiment.spec import LikelihoodProtocol
from scorelab.metrics import has_modes, mode_weights
from scorelab.metrics.budget import budget as budget_of
from scorelab.plotting import animations, fields, save, style, trajectories, write_csv
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.samplers.ddim import ddim_inference
from scorelab.targets import GaussianMixture, truth_of
from scorelab.typing import Array, Params
from scripts import published
from scripts.drawing import steps
from scripts.drawing.source import Source, target_of

# The mean loss of the published notebook's code over its last 100 steps, and the least possible one
# by quadrature (the notebook's own estimate is 0.8126).
LAST_LOSS = "loss, last 100 steps"
_PUBLISHED_LOSS = {
  "published notebook's code": published.get("ncsn_gmm_published", LAST_LOSS),
  "optimum": 0.8151,
}


def loss(source: Source) -> None:
  """The training and validation loss, and the loss by level."""
  lines = _PUBLISHED_LOSS if source.name == "ncsn_gmm_published" else None
  figure = summary.loss_figure(source.experiment, source.workdir, lines)
  save(figure, source.out / "loss.png", source.command)
  rows = []
  for line in read_jsonl(source.workdir.metrics):
    bands = {f"band_{i}": value for i, value in enumerate(line.get("band_loss", ()))}
    row = {name: line.get(name) for name in ("step", "loss", "val_loss", "grad_norm", "param_norm")}
    rows.append(row | bands)
  write_csv(source.out / "loss.csv", rows, source.command)


def score_error(source: Source) -> None:
  """The score error against the level."""
  result = json.loads(source.workdir.evaluation.read_text())
  figure = summary.score_error_figure(source.experiment, result)
  save(figure, source.out / "score_error.png", source.command)
  names = ("sigma", "absolute", "absolute_sem", "relative", "relative_sem")
  columns = zip(*(result["score_error"][name] for name in names), strict=True)
  rows = [dict(zip(names, values, strict=True)) for values in columns]
  write_csv(source.out / "score_error.csv", rows, source.command)


def girsanov(source: Source) -> None:
  """Cost of learning per level, in nats: Girsanov's bound on the reverse SDE's KL."""
  result = json.loads(source.workdir.evaluation.read_text())
  figure = summary.girsanov_figure(source.experiment, result)
  save(figure, source.out / "girsanov.png", source.command)
  names = ("sigma", "density", "density_sem", "bound", "bound_sem")
  columns = zip(*(result["girsanov"][name] for name in names), strict=True)
  rows = [dict(zip(names, values, strict=True)) for values in columns]
  write_csv(source.out / "girsanov.csv", rows, source.command)


def likelihood(source: Source) -> None:
  """KL of the model from the data: by the flow's likelihood, and what bounds it (a table)."""
  result = json.loads(source.workdir.evaluation.read_text())
  bound = result.get("girsanov")
  found = result.get("likelihood")
  if found is None:  # the run did not measure it
    protocol = LikelihoodProtocol(num_points=1000)
    found = likelihood_evaluation.measure_likelihood(
      source.experiment, source.params, protocol, StopFlag()
    )
  print(align(likelihood_evaluation.table(found, bound)))
  readings = [
    ("truth", found["truth"], 0.0, 0.0),
    ("flow", found["flow"], found["kl"], found["kl_sem"]),
    ("variational bound", found["bound"], found["bound_kl"], found["bound_kl_sem"]),
  ]
  if bound is not None:
    readings.append(("Girsanov", None, bound["total"], bound["total_sem"]))
  names = ("reading", "log_likelihood", "kl", "kl_sem")
  rows = [dict(zip(names, reading, strict=True)) for reading in readings]
  write_csv(source.out / "likelihood.csv", rows, source.command)


def budget(source: Source) -> None:
  """The error budget of the run's own rows."""
  result = json.loads(source.workdir.evaluation.read_text())
  labels = row_labels(result["rows"])
  figure = summary.budget_figure(result)
  save(figure, source.out / "budget.png", source.command)
  rows = [
    {"row": label, "nfe": row["nfe"], "metric": metric, **numbers}
    for label, row in zip(labels, result["rows"], strict=True)
    for metric, numbers in row["metrics"].items()
  ]
  write_csv(source.out / "budget.csv", rows, source.command)


def samples(source: Source) -> None:
  """Plots the data, each sampler's samples, and the network's score next to the exact one."""
  experiment = source.experiment
  figure = summary.samples_figure(experiment, source.params, source.workdir)
  save(figure, source.out / "samples.png", source.command)
  target = experiment.target
  clouds = summary.run_clouds(experiment, source.workdir)
  rows: list[dict[str, Any]] = []
  if has_modes(target):
    rows.append(_shares("target", np.asarray(target.weights)))
    for cloud in clouds:
      shares = mode_weights(cloud.points, target)
      off = None if cloud.off is None else float(cloud.off.mean())
      rows.append(_shares(cloud.title, shares, len(cloud.points), off))
  else:
    for cloud in clouds:
      moments = zip(cloud.points.mean(0), cloud.points.std(0), strict=True)
      numbers = {f"{what}_x{i}": m[k] for i, m in enumerate(moments, 1)
                 for k, what in enumerate(("mean", "std"))}  # fmt: skip
      rows.append({"samples": cloud.title, "number": len(cloud.points), **numbers})
  write_csv(source.out / "samples.csv", rows, source.command)
  if not experiment.evaluation.comparable:
    return
  field = summary.middle_field(experiment, source.params, clouds[0].points)
  columns = np.concatenate([field.x, field.network, field.exact], axis=1).astype(np.float32)
  names = ("x1", "x2", "network1", "network2", "exact1", "exact2")
  rows = [{"sigma": field.sigma, **dict(zip(names, row, strict=True))} for row in columns]
  write_csv(source.out / "samples_score.csv", rows, source.command)


def _shares(
  name: str, shares: np.ndarray, count: int | None = None, off: float | None = None
) -> dict[str, Any]:
  by_mode = {f"mode_{i}": float(share) for i, share in enumerate(shares)}
  return {"samples": name, "number": count, "off_mode_share": off, **by_mode}


def noising(source: Source, num_frames: int = 60, num_points: int = 1500) -> None:
  """The noised target through the levels, from data to noise (animated)."""
  experiment = source.experiment
  data_key, noise_key = jax.random.split(source.key(0))
  x0 = experiment.target.sample(data_key, num_points)
  levels = experiment.schedule.at(jnp.linspace(0, 1, num_frames))
  noised = jax.jit(jax.vmap(lambda level: predictions.noised(noise_key, x0, level)[0]))
  path = np.concatenate([x0[None], noised(levels)])
  sigmas = np.concatenate([[0.0], levels.sigma])
  figure, draw = animations.moving_clouds(
    [path],
    sigmas,
    _reaches(source, sigmas),
    ["exact samples of the noised target"],
    f"{num_points} points; the axes follow them",
    colour=style.BLUE,
  )
  _animate(source, figure, draw, "noising", [path], sigmas, ["exact"])


def ddim(source: Source, num_steps: int = 100, num_points: int = 1500) -> None:
  """DDIM from noise to data at eta 1 and 0.2 (animated)."""
  etas, keys = (1.0, 0.2), jax.random.split(source.key(1))
  bind = source.experiment.parameterization.bind
  paths, sigmas = [], np.zeros(0)
  for eta in etas:
    row, grid = source.sampler(f"ddim:{num_steps}:eta={eta}")
    start = row.prior(keys[0], (num_points, *source.experiment.target.event_shape))
    sample = jax.jit(lambda p, k, x, row=row: row.run(k, bind(p), x).path)
    paths.append(np.concatenate([start[None], sample(source.params, keys[1], start)])[::2])
    sigmas = np.asarray(grid.levels.sigma)[::2]
  figure, draw = animations.moving_clouds(
    paths,
    sigmas,
    _reaches(source, sigmas),
    [f"DDIM, eta = {eta:g}" for eta in etas],
    f"{num_points} points, {num_steps} steps with the network, from the same start;\n"
    "the last steps of 8 in black; the axes follow the points",
    colour=style.sampler_colour("ddim"),
    trails=8,
  )
  names = [f"eta_{eta:g}" for eta in etas]
  _animate(source, figure, draw, "ddim", paths, sigmas, names, suffixes=(".gif", ".mp4"))


def langevin(source: Source, num_levels: int = 100, num_chains: int = 20) -> None:
  """Annealed Langevin dynamics over the score that changes by level (animated), and its metrics."""
  experiment, reach = source.experiment, 26.0
  row, grid = source.sampler(  # the published levels, whatever the run's own are
    f"annealed_langevin:{num_levels}:grid=karras:sigma_max=10.0:sigma_min=0.02:rho=5.0"
    ":steps_per_level=5:step_size=1e-4"
  )
  start_key, key = jax.random.split(source.key(2))
  start = row.prior(start_key, (num_chains, *experiment.target.event_shape))
  levels = jax.tree.map(lambda a: a[:-1:2], grid.levels)
  lattice = fields.lattice(np.full(2, -reach), np.full(2, reach), 24).astype(np.float32)

  @jax.jit
  def simulate(params: Params, x: Array) -> list[tuple[Array, Array]]:
    results = []
    for predict in (experiment.parameterization.bind(params), truth_of(experiment.target).predict):
      scores = jax.lax.map(lambda level, p=predict: p(jnp.asarray(lattice), level).score, levels)
      results.append((row.run(key, predict, x).path[::2], scores))
    return results

  paths, scores = zip(*jax.tree.map(np.asarray, simulate(source.params, start)), strict=True)
  figure, draw = animations.moving_clouds(
    paths,
    np.asarray(levels.sigma),
    np.full(len(paths[0]), reach),
    ["annealed Langevin, network", "annealed Langevin, exact score"],
    f"{num_chains} chains, 5 steps at each of {num_levels} levels, h = 1e-4 (sigma / 0.02)^2,\n"
    "with their last levels; grey: data; arrows: the score at this level, brighter where larger",
    colour=style.sampler_colour("annealed_langevin"),
    backdrop=np.asarray(experiment.target.sample(source.key(3), 1000)),
    field=(lattice, scores),
    trails=num_chains,
  )
  names = ["network", "exact"]
  _animate(source, figure, draw, "langevin", list(paths), np.asarray(levels.sigma), names)
  measured = steps.measure(source, source.evaluating((row,), steps.METRICS))
  table = [
    {"metric": metric, "nfe": row.num_steps * row.options["steps_per_level"], **budget_of(values)}
    for metric, values in zip(steps.METRICS, measured[0], strict=True)
  ]
  write_csv(source.out / "langevin_metrics.csv", table, source.command)


def inference(source: Source, num_steps: int = 100) -> None:
  """DDIM's inference process given x_0 = 0 at eta 1 and 0.1: the same law at every level."""
  etas = (1.0, 0.1)
  _, grid = source.sampler(
    f"ddim:{num_steps}:grid=karras:sigma_max=10.0:sigma_min=0.02:rho=5.0"  # the published levels
  )
  draw = jax.jit(lambda eta: ddim_inference(source.key(4), jnp.zeros(()), grid, eta=eta))
  # From noise to data, as the grid is; shown the other way round.
  drawn = {eta: np.asarray(draw(eta))[::-1] for eta in etas}
  std = np.asarray(grid.levels.sigma)[::-1]
  text = (
    f"one path of q(x_1, ..., x_{num_steps} | x_0 = 0) each, from the same draws; at every eta the "
    "law at a level is N(0, sigma^2)"
  )
  figure = trajectories.through_levels(
    [trajectories.LevelPath(f"eta = {eta:g}", x) for eta, x in drawn.items()], 0 * std, std, text
  )
  save(figure, source.out / "inference.png", source.command)
  rows = [
    {"level": i, "sigma": sigma, **{f"eta_{eta:g}": x[i] for eta, x in drawn.items()}}
    for i, sigma in enumerate(std)
  ]
  write_csv(source.out / "inference.csv", rows, source.command)


def _reaches(source: Source, sigmas: np.ndarray) -> np.ndarray:
  """Half the axes' width at each level: all modes and three std of the noise."""
  low, high = target_of(source.experiment, GaussianMixture).bounds
  data = float(jnp.maximum(jnp.abs(low), jnp.abs(high)).max())
  return np.hypot(1.1 * data, 3 * sigmas)


def _animate(
  source: Source,
  figure: Any,
  draw: Callable[[int], None],
  name: str,
  paths: list[np.ndarray],
  sigmas: np.ndarray,
  names: list[str],
  suffixes: tuple[str, ...] = (".gif",),
) -> None:
  """Writes an animation, and its numbers: spread and off-mode share of each cloud by frame."""
  frames = animations.render(figure, draw, len(sigmas))
  for suffix in suffixes:
    animations.save_animation(frames, source.out / f"{name}{suffix}", source.command)
  rows = []
  for frame, sigma in enumerate(sigmas):
    row: dict[str, Any] = {"frame": frame, "sigma": float(sigma)}
    for label, points in zip(names, paths, strict=True):
      off = summary.off_mode(source.experiment.target, points[frame])
      row[f"{label}_std"] = float(points[frame].std())
      row[f"{label}_off_mode_share"] = None if off is None else float(off.mean())
    rows.append(row)
  write_csv(source.out / f"{name}.csv", rows, source.command)


OF_A_RUN: dict[str, Callable[[Source], None]] = {
  "loss": loss,
  "samples": samples,
  "budget": budget,
}
OF_A_SCORE: dict[str, Callable[[Source], None]] = {
  **OF_A_RUN,
  "score_error": score_error,
  "girsanov": girsanov,
  "likelihood": likelihood,
}
FIGURES: dict[str, Callable[[Source], None]] = {
  **OF_A_SCORE,
  "noising": noising,
  "langevin": langevin,
  "ddim": ddim,
  "inference": inference,
  "steps": steps.draw,
}
