"""The figures of diffusion models of images: what `scripts/figures.py ddpm_digits` draws."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial

from scorelab import evaluation, training
from scorelab.evaluation import figures as summary
from scorelab.metrics import Reference
from scorelab.plotting import images, save, style, write_csv
from scorelab.predictions import noised
from scorelab.runs.checkpoints import Checkpoints
from scorelab.runs.signals import StopFlag
from scorelab.targets import splits_of
from scorelab.typing import Array, Key, Params
from scripts.drawing import nine_modes
from scripts.drawing.source import Source

_BATCH = 100  # images sampled at a time, where the config says nothing
_DISTANCES = ("frechet", "kernel_distance", "sliced_wasserstein")


def noising(source: Source, number: int = 5) -> None:
  """Test images and their noise forwards in time: 5 images at 5 times."""
  x = jnp.asarray(splits_of(source.experiment.target)["test"][:number])
  times = np.linspace(0, 1, 5)
  columns = [x]
  for i, t in enumerate(times[1:]):
    level = source.experiment.schedule.at(jnp.asarray(t))
    columns.append(noised(jax.random.fold_in(source.key(30), i), x, level)[0])
  rows = np.stack([np.asarray(column) for column in columns], axis=1)
  headings = ["t = 0", *(f"{t:g} T" for t in times[1:-1]), "T"]
  text = "test images, x_t = alpha x_0 + sigma noise"
  save(images.table(rows, headings, text, width=1.0), source.out / "noising.png", source.command)


def denoising(source: Source, number: int = 10) -> None:
  """Ten images by ancestral sampling, at ten of its T steps."""
  T = source.config.schedule.num_levels
  row, grid = source.sampler(f"ancestral:{T}:grid=uniform")
  chosen = [0, T // 20, T // 2, 3 * T // 4, 9 * T // 10, *(T - k for k in (10, 5, 3, 2, 1))]
  chosen = sorted({min(max(step, 0), T - 1) for step in chosen})

  @jax.jit
  def run(params: Params, key: Key) -> Array:
    start_key, key = jax.random.split(key)
    start = grid.prior(start_key, (number, *source.experiment.target.event_shape))
    path = row.run(key, source.experiment.parameterization.bind(params), start).path
    return path[jnp.array(chosen)]

  path = np.asarray(run(source.params, source.key(31)))
  rows = np.moveaxis(path, 0, 1)
  text = f"ancestral sampling in {T} steps: the images after the step of this number, from 0"
  figure = images.table(rows, [str(step) for step in chosen], text)
  save(figure, source.out / "denoising.png", source.command)


def training_history(source: Source, number: int = 500) -> None:
  """Samples over training from the same noise, and their distances from the test images."""
  experiment, protocol = source.experiment, source.experiment.evaluation
  row, key = protocol.rows[0], source.key(32)
  sample = evaluation.sample_row(row, experiment.parameterization.bind)
  start = row.prior(key, (number, *experiment.target.event_shape))[None]
  target = experiment.target
  test = np.asarray(splits_of(target)["test"])
  reference = Reference(test, target)
  wanted = {name: m for name, m in protocol.metrics.items() if name.split(":")[0] in _DISTANCES}
  pages, records = [], []
  for step, params in kept(source):
    x = evaluation.sample_in_batches(
      sample, params, key[None], start, protocol.batch_size or _BATCH, StopFlag()
    )[0][0]
    pages.append(images.Album(x[:16], f"step {step}"))
    records.append({"step": step} | {name: m(key, x, reference) for name, m in wanted.items()})
    print(f"  {records[-1]}", flush=True)
  write_csv(source.out / "training.csv", records, source.command)
  text = f"{row.sampler}, {row.num_steps} steps, from the same noise"
  save(images.albums(pages, text, num_columns=4), source.out / "training.png", source.command)
  real = np.asarray(splits_of(target)["train"])
  real = real[np.random.default_rng(0).permutation(len(real))[:number]]
  floors = {name: m(key, real, reference) for name, m in wanted.items()}
  panels = {
    _label(name): (np.array([record[name] for record in records]), floors[name]) for name in wanted
  }
  text = f"{number} samples v {len(test)} test images; grey: as many training images"
  figure = images.over_steps([record["step"] for record in records], panels, text)
  save(figure, source.out / "distance.png", source.command)


def _label(name: str) -> str:
  """'frechet:features=classifier' as 'Frechet distance, features=classifier'."""
  metric, *options = name.split(":")
  return ",\n".join([style.metric_label(metric), *options])


def kept(source: Source, most: int = 8) -> list[tuple[int, Params]]:
  """(training steps, evaluated parameters) of at most so many checkpoints, the last one included.

  The others are about evenly apart on a logarithmic axis.
  """
  template = training.init_state(source.experiment)
  with Checkpoints(source.workdir.checkpoints, read_only=True) as checkpoints:
    steps = np.array(checkpoints.steps())
    wanted = np.geomspace(steps[0], steps[-1], most)
    chosen = sorted({int(steps[np.abs(np.log(steps / step)).argmin()]) for step in wanted})
    states = [(step, checkpoints.restore_step(template, step)) for step in chosen]
  return [(step, training.evaluated_params(state)) for step, state in states]


def neighbours(source: Source) -> None:
  """Plots distances of samples to the nearest training image, against test images; and pairs."""
  with np.load(source.workdir.samples) as arrays:
    drawn = {name: arrays[name] for name in summary.kept_rows(source.workdir)}
  test = np.asarray(splits_of(source.experiment.target)["test"])
  text = "training images, Euclidean distance of pixels"
  draw_neighbours(source, {"test images": test, **drawn}, "neighbours", text)


def draw_neighbours(
  source: Source, sets: Mapping[str, np.ndarray], name: str, text: str, number: int = 16
) -> None:
  """The distances of each set [n, *event] to the training images, as `name`.png and .csv.

  Args:
    source: the run.
    sets: held-out images first; of the second, `number` pairs are shown.
    name: of the files.
    text: of the caption, after the number of training images.
    number: of pairs.
  """
  train = np.asarray(splits_of(source.experiment.target)["train"])
  tree = scipy.spatial.KDTree(train.reshape(len(train), -1))
  found = {name: tree.query(x.reshape(len(x), -1)) for name, x in sets.items()}
  main = list(sets)[1]
  nearest = train[found[main][1][:number]]
  shown = [images.Album(sets[main][:number], "samples"), images.Album(nearest, "nearest")]
  distances = {name: distance for name, (distance, _) in found.items()}
  figure = images.neighbours(distances, shown, f"{len(train)} {text}")
  save(figure, source.out / f"{name}.png", source.command)
  shares = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
  rows = [
    {"images": name, "number": len(d)}
    | {f"quantile_{q:g}": float(np.quantile(d, q)) for q in shares}
    for name, d in distances.items()
  ]
  write_csv(source.out / f"{name}.csv", rows, source.command)


def samples(source: Source) -> None:
  """Plots real images next to those of each row."""
  save(summary.albums_figure(source.workdir), source.out / "samples.png", source.command)


FIGURES: dict[str, Callable[[Source], None]] = {
  "loss": nine_modes.loss,
  "samples": samples,
  "noising": noising,
  "denoising": denoising,
  "training": training_history,
  "neighbours": neighbours,
}
