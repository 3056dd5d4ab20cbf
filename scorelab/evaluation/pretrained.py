"""Samples a pretrained model: images, network calls and seconds; there is no truth to compare with.

Writes a run directory like that of an evaluation, with no metrics in its table. samples.npz holds
the images in the model's own range; figures/ holds one sheet of images per sampler.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scorelab.config.options import check_bounds
from scorelab.errors import ConfigError
from scorelab.evaluation.draw import sample_row
from scorelab.evaluation.evaluator import read
from scorelab.evaluation.figures import typed_command
from scorelab.evaluation.table import align, row_labels
from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.row import Row
from scorelab.experiment.sampler_spec import labelled, plan_rows
from scorelab.pretrained import Pipeline, PretrainedError, load_pipeline
from scorelab.runs.files import append_jsonl, read_jsonl, write_json
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.typing import Array, Params, Predict

_ZERO_ALPHA_KINDS = ("noise", "score")  # views that do not determine x0 at alpha = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Sampling:
  """A pretrained model and the samplers to run with it.

  Attributes:
    config: the resolved config, JSON values.
    pipeline: the model.
    event_shape: shape of an image, (height, width, channels).
    labels: labels of a batch, [n], for a conditional network, or None.
    rows: samplers on their grids.
  """

  config: dict[str, Any]
  pipeline: Pipeline
  event_shape: tuple[int, int, int]
  labels: Array | None
  rows: tuple[Row, ...]

  def bind(self, row: Row, params: Params) -> Predict:
    """Returns the predict function of a row; x0 is clipped if the model's scheduler clips it."""
    clip = self.config["pretrained"]["clip"] is not False
    # DDIM's code keeps the network's noise next to a clipped x0; solvers need the two to agree.
    return self.pipeline.bind(params, self.labels, clip=clip, keep_noise=row.sampler == "ddim")


def build(config: ConfigDict, mode: str) -> Sampling:
  """Reads the model that config.pretrained names and creates the samplers.

  Raises:
    ConfigError: the model does not exist, a sampler does not fit it, or the mode is training.
  """
  if mode == "train":
    raise ConfigError("--mode=train: a pretrained model is sampled, by --mode=eval")
  check_bounds(config)
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  section = config.pretrained
  try:
    pipeline = load_pipeline(section.path, section.revision, section.variant)
  except PretrainedError as error:
    raise ConfigError(f"pretrained.path = {section.path!r}: {error}") from error
  height, width, channels = pipeline.event_shape
  height, width = section.image_size or height, section.image_size or width
  if height is None or width is None:
    raise ConfigError("pretrained.image_size must be set: the model's config does not say it")
  event_shape = (height, width, channels)
  try:
    pipeline.network.check_event(event_shape)
  except ValueError as error:
    raise ConfigError(f"pretrained.image_size = {height}: {error}") from error
  sampling = Sampling(
    config=json.loads(config.to_json()),
    pipeline=pipeline,
    event_shape=event_shape,
    labels=_labels(section.label, pipeline, config.evaluation.num_samples),
    rows=_rows(config, pipeline),
  )
  _check(sampling)
  return sampling


def _labels(label: int | None, pipeline: Pipeline, number: int) -> Array | None:
  """Returns the requested class, or all classes in turn, [number]; None without classes."""
  classes = pipeline.network.num_class_embeds
  if classes is None or pipeline.network.class_embed_type is not None:
    if pipeline.network.labelled:
      raise ConfigError(
        f"pretrained.path: class_embed_type = {pipeline.network.class_embed_type!r} has no classes "
        "to choose from: sample it in Python, by Pipeline.bind(params, label)"
      )
    if label is not None:
      raise ConfigError(f"pretrained.label = {label} is for a network with classes")
    return None
  if label is not None and not 0 <= label < classes:
    raise ConfigError(f"pretrained.label = {label} must be from 0 to {classes - 1}")
  return jnp.arange(number) % classes if label is None else jnp.full(number, label)


def _rows(config: ConfigDict, pipeline: Pipeline) -> tuple[Row, ...]:
  main = {k: v for k, v in config.sampler.items() if v is not None}
  if main["grid"] == "timesteps":  # as the model's own scheduler has them
    fields = ("spacing", "steps_offset", "to_data")
    own = {k: v for k, v in pipeline.sampler.items() if k in fields}
    main = own | main
  plans = plan_rows(main, config.evaluation.rows, has_density=False)
  return labelled([plan.make(pipeline.schedule, {}) for plan in plans])


def _check(sampling: Sampling) -> None:
  """Raises ConfigError for a row that cannot run; found by tracing it."""
  params = sampling.pipeline.params

  def run(row: Row, params: Params) -> Array:
    key = jax.random.key(0)
    x = row.prior(key, (sampling.config["evaluation"]["num_samples"], *sampling.event_shape))
    return row.run(key, sampling.bind(row, params), x).x

  for row in sampling.rows:
    if getattr(row, "guidance", None) is not None:
      raise ConfigError(f"{row.sampler}: guidance is for models that are trained here")
    kind = sampling.pipeline.parameterization.kind
    if row.grid is not None and not row.grid.levels.alpha[0] and kind in _ZERO_ALPHA_KINDS:
      raise ConfigError(f"{row.sampler}: its grid starts at alpha = 0, where {kind!r} says no x0")
    try:
      jax.eval_shape(functools.partial(run, row), params)
    except ValueError as error:
      raise ConfigError(f"{row.sampler}: {error}") from error


def draw(sampling: Sampling, row: Row, stop: StopFlag) -> tuple[np.ndarray, int, dict[str, float]]:
  """Draws images by one row, a batch of evaluation.num_samples for each of num_keys keys.

  Returns:
    Images [n, *event_shape] in the model's range; the number of network calls per image; the
    seconds for compilation; and the seconds per image.
  """
  protocol = sampling.config["evaluation"]
  root = stream_key(jax.random.key(sampling.config["seed"]), Stream.EVALUATION, 0)
  start_key, sampler_key = jax.random.split(root)
  shape = (protocol["num_samples"], *sampling.event_shape)
  params = sampling.pipeline.params

  def inputs(k: int) -> tuple[Array, Array]:
    start = row.prior(jax.random.fold_in(start_key, k), shape)
    return jax.random.fold_in(sampler_key, k)[None], start[None]

  begun = time.monotonic()
  jitted: Any = sample_row(row, functools.partial(sampling.bind, row))
  compiled = jitted.lower(params, *inputs(0)).compile()
  ready = time.monotonic()
  batches, nfe = [], 0
  for k in range(protocol["num_keys"]):
    stop.check()
    x, calls = compiled(params, *inputs(k))
    batches.append(np.asarray(x[0]))
    nfe = int(calls)
  images = np.concatenate(batches)
  seconds = (time.monotonic() - ready) / len(images)
  return images, nfe, {"compile_seconds": ready - begun, "seconds_per_image": seconds}


def execute(sampling: Sampling, workdir: Workdir, stop: StopFlag) -> None:
  """Samples, writes and prints the table; a finished run only prints it."""
  if workdir.done.exists():
    print(table(workdir))
    print(f"{workdir.path}: already done")
    return
  rows, sheets = [], []
  for index, row in enumerate(sampling.rows):
    images, nfe, seconds = draw(sampling, row, stop)
    said = {"label": row.label, "sampler": row.sampler, "options": row.options}
    rows.append({**said, "num_steps": row.num_steps, "nfe": nfe, "metrics": {}})
    sheets.append(images)
    line = {"row": index, "nfe": nfe, "images": len(images), **seconds, "step": None}
    append_jsonl(workdir.timings, line)
  protocol = {k: sampling.config["evaluation"][k] for k in ("num_keys", "num_samples")}
  labels = [row.label for row in sampling.rows]
  np.savez(workdir.samples, **dict(zip(labels, sheets, strict=True)))
  write_json(workdir.evaluation, {"protocol": protocol, "rows": rows})
  workdir.figures.mkdir(exist_ok=True)
  notes = PngInfo()
  notes.add_text("Command", typed_command(workdir))
  for label, images in zip(labels, sheets, strict=True):
    sheet(images, sampling.pipeline.bounds).save(workdir.figures / f"{label}.png", pnginfo=notes)
  workdir.done.touch()
  print(table(workdir))
  print(workdir.path)


def sheet(images: np.ndarray, bounds: tuple[float, float]) -> Image.Image:
  """Tiles images [n, height, width, channels] of 1 or 3 channels into one, without resampling.

  `bounds` are mapped to black and white, and values beyond them are clipped. Other numbers of
  channels are averaged.
  """
  low, high = bounds
  number, height, width, channels = images.shape
  if channels not in (1, 3):
    images, channels = images.mean(-1, keepdims=True), 1
  across = math.ceil(math.sqrt(number))
  down = -(-number // across)
  tiles = np.full((down * across, height, width, channels), high, images.dtype)
  tiles[:number] = images
  rows = tiles.reshape(down, across, height, width, channels).swapaxes(1, 2)
  pixels = np.clip(
    (rows.reshape(down * height, across * width, channels) - low) / (high - low), 0, 1
  )
  return Image.fromarray(np.round(255 * pixels).astype(np.uint8).squeeze())


def table(workdir: Workdir) -> str:
  """Formats each row's number of network calls and its latest seconds per image."""
  rows = read(workdir)["rows"]
  seconds = {
    line["row"]: line["seconds_per_image"] for line in read_jsonl(workdir.timings) if "row" in line
  }
  cells = [["sampler", "NFE", "seconds an image"]]
  for index, (label, row) in enumerate(zip(row_labels(rows), rows, strict=True)):
    took = f"{seconds[index]:.3g}" if index in seconds else "-"
    cells.append([label, str(row["nfe"]), took])
  return align(cells)
