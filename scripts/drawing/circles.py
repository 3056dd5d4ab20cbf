"""The figures of two circles: what `scripts/figures.py ddpm_circles` and its kin draw."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.evaluation import figures as summary
from scorelab.evaluation.draw import sample_row
from scorelab.experiment.spec import Experiment
from scorelab.metrics import score_error
from scorelab.plotting import animations, circles, save, write_csv
from scorelab.predictions import noised
from scorelab.runs.files import read_jsonl
from scorelab.targets.circles import Circles, equidistant, two_circles
from scorelab.targets.empirical import Empirical, nearest_distance
from scorelab.typing import Array, Params, Predict
from scripts import published
from scripts.drawing.source import Source

# Mean losses over the 5,000 steps before, per coordinate, by step: the published notebook's code.
PUBLISHED_LOSS = {
  name: {
    int(entry.at.removesuffix(" steps")): entry.mean
    for entry in published.select("circles.csv", config=name)
    if entry.quantity == "loss"
  }
  for name in ("one_step_circles", "ddpm_circles_published")
}
PUBLISHED_LOSS["renoise_circles_published"] = PUBLISHED_LOSS["ddpm_circles_published"]


def signal_and_noise(source: Source) -> None:
  """Signal, noise and log-SNR of every level of the chain."""
  grid = source.experiment.evaluation.rows[0].grid
  assert grid is not None, "the main sampler is on no grid"
  levels, _ = grid.pairs  # all but the data
  alpha, sigma = np.asarray(levels.alpha)[::-1], np.asarray(levels.sigma)[::-1]
  save(circles.curves(alpha, sigma), source.out / "signal_and_noise.png", source.command)
  rows = [
    {"step": i + 1, "alpha": float(a), "sigma": float(s), "alpha_bar": float(a) ** 2}
    for i, (a, s) in enumerate(zip(alpha, sigma, strict=True))
  ]
  write_csv(source.out / "signal_and_noise.csv", rows, source.command)


def loss(source: Source) -> None:
  """Plots the training loss next to the published one and the least that any network can have."""
  history = read_jsonl(source.workdir.metrics)
  (dim,) = source.experiment.target.event_shape
  steps = [line["step"] for line in history]
  values = [line["loss"] / dim for line in history]
  known, floor = PUBLISHED_LOSS.get(source.name, {}), least_loss(source.experiment, source.key(0))
  every = source.experiment.log_every
  text = f"each point: mean over the {every} steps before, of all training points, per coordinate"
  figure = circles.loss(np.array(steps), np.array(values), known, floor, text)
  save(figure, source.out / "loss.png", source.command)
  rows = [
    {"step": step, "loss": value, "published": known.get(step), "least": floor}
    for step, value in zip(steps, values, strict=True)
  ]
  write_csv(source.out / "loss.csv", rows, source.command)


def least_loss(experiment: Experiment, key: Array, repeats: int = 5000) -> float:
  """The mean square of E[eps | x] - eps, per coordinate, for the exact law of the training points.

  No network that is asked for the noise has a lower loss. By draws: `repeats` of each point.
  """
  level_key, noise_key = jax.random.split(key)
  target, draw_levels = Empirical(experiment.data["x"]), experiment.loss_levels
  assert draw_levels is not None

  @jax.jit
  def measure() -> Array:
    x0 = jnp.tile(target.points, (repeats, 1))
    level = draw_levels(jax.random.uniform(level_key, (len(x0),)))
    x, truth = noised(noise_key, x0, level)
    return jnp.mean((target.predict(x, level).noise - truth.noise) ** 2)

  return float(measure())


def heat(source: Source, num: int = 512, num_samples: int = 1000, rate: float = 350.0) -> None:
  """Kernel heat maps of the data and of each row's samples, as the notebook drew them."""
  clouds = summary.run_clouds(source.experiment, source.workdir)
  sets = {"training points": np.asarray(source.experiment.data["x"])}
  for cloud in clouds:
    sets[cloud.title] = cloud.points[:num_samples]
  maps = {name: circles.kernel_map(points, num=num, rate=rate) for name, points in sets.items()}
  text = (
    f"sum of exp(-{rate:g} d^2) over the points, over its largest value, {num} x {num}; "
    f"{num_samples} samples each"
  )
  save(circles.heat_maps(maps, text), source.out / "heat.png", source.command)
  dense = _dense(source)
  rows = [
    {
      "samples": name.replace("\n", " "),
      "number": len(points),
      "distance_to_circles": float(dense.distance(points).mean()),
      "first_circle_share": float((dense.component(points) == 0).mean()),
    }
    for name, points in sets.items()
  ]
  write_csv(source.out / "heat.csv", rows, source.command)


def film(source: Source, num_points: int = 1000) -> None:
  """The distribution through time, from noise to data: network and exact score (an MP4)."""
  experiment = source.experiment
  row = experiment.evaluation.rows[0]
  start_key, key = jax.random.split(source.key(1))
  start = row.prior(start_key, (num_points, *experiment.target.event_shape))
  dense = _dense(source)
  binds: dict[str, Callable[[Params], Predict]] = {
    "network": experiment.parameterization.bind,
    "exact score of the circles": lambda _: dense.predict,
  }
  paths = {}
  for name, bind in binds.items():
    run = jax.jit(lambda p, x, bind=bind: row.run(key, bind(p), x).path)
    paths[name] = np.concatenate([start[None], run(source.params, start)])[:101]
  title = f"{row.sampler}, {row.num_steps} steps"
  figure, draw = circles.moving_maps(paths, title, f"{num_points} samples from the same start")
  num_frames = len(paths["network"])
  frames = animations.render(figure, draw, num_frames)
  animations.save_animation(frames, source.out / "film.mp4", source.command)
  rows = []
  for frame in range(num_frames):
    line: dict[str, float] = {"step": frame}
    for name, path in paths.items():
      label = name.split()[0]
      line[f"{label}_distance_to_circles"] = float(dense.distance(path[frame]).mean())
      line[f"{label}_first_circle_share"] = float((dense.component(path[frame]) == 0).mean())
    rows.append(line)
  write_csv(source.out / "film.csv", rows, source.command)


def memorisation(source: Source, num_samples: int = 2000, num_levels: int = 25) -> None:
  """Distances of samples to the nearest training point and to the nearest held-out one."""
  experiment = source.experiment
  row, train = experiment.evaluation.rows[0], np.asarray(experiment.data["x"])
  held_out = equidistant(len(train) // 2, **_circle_options(source), turn=0.5)
  start_key, key, dense_key = jax.random.split(source.key(2), 3)
  start = row.prior(start_key, (1, num_samples, 2))
  memory, dense = Empirical(train), _dense(source)
  binds: dict[str, Callable[[Params], Predict]] = {
    "network": experiment.parameterization.bind,
    "memorising optimum": lambda _: memory.predict,
    "exact score of the circles": lambda _: dense.predict,
  }
  sets = {}
  for name, bind in binds.items():
    sample = sample_row(row, bind)
    sets[name] = np.asarray(sample(source.params, jax.random.split(key, 1), start)[0])[0]
  sets["draws of the circles"] = np.asarray(dense.sample(dense_key, num_samples))
  nearest = {
    name: (nearest_distance(x, train), nearest_distance(x, held_out)) for name, x in sets.items()
  }
  text = (
    f"{num_samples} samples each by {row.sampler}, {row.num_steps} steps, from the same start; "
    "held-out points lie half-way between training points"
  )
  levels = np.geomspace(0.03, 30, num_levels)
  errors = {
    name: _score_errors(source, target, levels)
    for name, target in (("training points", memory), ("circles", dense))
  }
  figure = circles.memorisation(sets["network"], train, nearest, levels, errors, text)
  save(figure, source.out / "memorisation.png", source.command)
  rows = []
  for name, (to_train, to_held_out) in nearest.items():
    row_of: dict[str, object] = {"samples": name, "number": num_samples}
    for label, values in (("train", to_train), ("held_out", to_held_out)):
      row_of[f"mean_distance_to_{label}"] = float(values.mean())
      for share in (10, 50, 90):
        row_of[f"{label}_percentile_{share}"] = float(np.percentile(values, share))
    row_of["distance_to_circles"] = float(dense.distance(sets[name]).mean())
    rows.append(row_of)
  write_csv(source.out / "memorisation.csv", rows, source.command)
  rows = [
    {
      "sigma": float(level),
      **{f"error_against_{n.split()[-1]}": float(e[i]) for n, e in errors.items()},
    }
    for i, level in enumerate(levels)
  ]
  write_csv(source.out / "memorisation_by_level.csv", rows, source.command)


def _circle_options(source: Source) -> dict[str, float]:
  """The circles' radius and offset."""
  section, defaults = source.config.target, {"radius": 0.5, "offset": 0.7}
  return {k: v if section[k] is None else section[k] for k, v in defaults.items()}


def _dense(source: Source) -> Circles:
  """The circles themselves, of which the training points are some."""
  options: Any = _circle_options(source)
  return two_circles(**options)


def _score_errors(source: Source, target: Circles | Empirical, ratios: np.ndarray) -> np.ndarray:
  """The network's relative score error against a truth, over that truth's own law: [levels]."""
  levels = source.experiment.schedule.at_ratio(jnp.asarray(ratios, jnp.float32))
  predict = source.experiment.parameterization.bind(source.params)
  measure = jax.jit(lambda key: score_error(key, target, predict, levels, 2048).relative)
  return np.asarray(measure(source.key(3)))


_OF_A_CHAIN: dict[str, Callable[[Source], None]] = {
  "signal_and_noise": signal_and_noise,
  "heat": heat,
  "film": film,
}
ONE_STEP_FIGURES: dict[str, Callable[[Source], None]] = {"loss": loss, "heat": heat}
PUBLISHED_FIGURES: dict[str, Callable[[Source], None]] = {**_OF_A_CHAIN, "loss": loss}
FIGURES: dict[str, Callable[[Source], None]] = _OF_A_CHAIN
MEMORISATION_FIGURES: dict[str, Callable[[Source], None]] = {
  "heat": heat,
  "memorisation": memorisation,
}
