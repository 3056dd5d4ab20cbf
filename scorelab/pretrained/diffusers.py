"""Reads and writes image models of diffusers: a directory with a `UNet2DModel` and a scheduler.

    pipeline layout   model_index.json   unet/config.json   unet/*.safetensors
                      scheduler/scheduler_config.json
    averaged          the same with unet_ema/ instead of unet/, or next to it
    flat layout       config.json   *.safetensors   scheduler_config.json

Weights may also be `.bin` files, shards and variants: see `scorelab.pretrained.layout`.

von Platen et al., "Diffusers: State-of-the-art diffusion models", 2022,
https://github.com/huggingface/diffusers.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from scorelab.networks.unet2d import UNet2D
from scorelab.predictions import Parameterization, Prediction, noise_ratio, time_index
from scorelab.pretrained.files import PretrainedError, read_settings, shown
from scorelab.pretrained.hub import resolve
from scorelab.pretrained.layout import find_weights
from scorelab.pretrained.names import torch_weights
from scorelab.pretrained.schedulers import read_scheduler, write_scheduler
from scorelab.pretrained.unet2d import WEIGHTS, read_params, read_unet2d, write_unet2d
from scorelab.runs.files import write_json
from scorelab.schedules import Level, Schedule
from scorelab.typing import Array, Params, Predict

_STEMS = (WEIGHTS, "model")
_AVERAGED = "ema"  # the variant of a folder of its own, unet_ema


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """A pretrained image model with everything needed to sample from it.

  Attributes:
    network: the module.
    params: its parameters, float32.
    schedule: the process that it was trained on.
    parameterization: reads its output.
    sampler: its scheduler's own sampler, grid and options, as in config.sampler.
    event_shape: (height, width, channels); the first two are None if the files do not give them.
    bounds: range of the images' values.
    clip: clips x0 like its scheduler, `(predict, keep_noise=...) -> predict`, or None.
  """

  network: UNet2D
  params: Params
  schedule: Schedule
  parameterization: Parameterization
  sampler: dict[str, Any]
  event_shape: tuple[int | None, int | None, int]
  bounds: tuple[float, float]
  clip: Callable[..., Predict] | None

  def bind(
    self, params: Params, label: Array | None = None, *, clip: bool = True, keep_noise: bool = True
  ) -> Predict:
    """Returns the predict function of these parameters. Call it inside the jitted function.

    Args:
      params: the pipeline's own: an argument of the jitted function, not a constant of it.
      label: class labels of x's batch shape, for a conditional network.
      clip: True to clip or threshold x0 like the scheduler.
      keep_noise: True to keep the network's own noise next to a clipped x0, as DDIM's code does.
    """
    predict = self.parameterization.bind(params, label)
    return self.clip(predict, keep_noise=keep_noise) if clip and self.clip else predict

  def predict(self, x: Array, level: Level) -> Prediction:
    """Returns the network's prediction, with x0 clipped like the scheduler."""
    return self.bind(self.params)(x, level)

  @functools.cached_property
  def _apply(self) -> Callable[..., Any]:
    return jax.jit(self.network.apply)

  def forward(self, x: Any, t: Any, class_labels: Any = None) -> np.ndarray:
    """Returns the network's raw output in diffusers' own layout, for comparison.

    Args:
      x: [b, channels, height, width].
      t: timesteps, or sigmas, [] or [b].
      class_labels: [b], for a conditional network.

    Returns:
      [b, out_channels, height, width].

    Raises:
      ValueError: labels are missing, or given to a network without classes.
    """
    if self.network.labelled != (class_labels is not None):
      raise ValueError(
        "class_labels are for a network with classes, and needed there: this one has "
        + ("some" if self.network.labelled else "none")
      )
    x = jnp.moveaxis(jnp.asarray(x, jnp.float32), 1, -1)
    c = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
    told = (c,) if class_labels is None else (c, jnp.asarray(class_labels))
    out = self._apply({"params": self.params}, x, *told)
    return np.moveaxis(np.asarray(out), -1, 1)


def load_pipeline(
  path: str | pathlib.Path, revision: str | None = None, variant: str | None = None
) -> Pipeline:
  """Reads a pretrained image model; never runs code from its files.

  Args:
    path: a directory in any of the layouts above, or a hub id: see `hub.resolve`.
    revision: revision of a hub id.
    variant: variant of the weights, such as 'fp16' or 'non_ema'; 'ema' is the folder unet_ema, if
      it exists. None takes the weights of unet in the highest available precision.

  Raises:
    PretrainedError: the files are missing, damaged or not supported; the message is one line and
      names the file.
  """
  directory = resolve(str(path), revision)
  unet = _unet_folder(directory, variant)
  if unet.name == f"unet_{_AVERAGED}" and variant == _AVERAGED:
    variant = None  # the folder is the variant
  scheduler = directory if unet == directory else directory / "scheduler"
  if (directory / "model_index.json").is_file():
    _check_index(directory / "model_index.json")
  file = scheduler / "scheduler_config.json"
  process = _named(file, read_scheduler, read_settings(file))
  file = unet / "config.json"
  network, event_shape = _named(file, read_unet2d, read_settings(file))
  channels = event_shape[-1]
  if network.out_channels != channels * (1 + process.learned_variance):
    raise PretrainedError(
      f"{file}: out_channels = {network.out_channels} does not go with in_channels = {channels} "
      f"and a scheduler that has {'a' if process.learned_variance else 'no'} learned variance"
    )
  weights = find_weights(unet, _STEMS, variant)
  params = _named(unet, read_params, network, channels, weights)
  conditioning = noise_ratio
  if process.num_train_steps is not None:
    conditioning = functools.partial(time_index, num_train_steps=process.num_train_steps)
  parameterization = Parameterization(
    network.apply,
    conditioning,
    process.kind,
    event_ndim=3,
    learned_variance=process.learned_variance,
  )
  return Pipeline(
    network=network,
    params=params,
    schedule=process.schedule,
    parameterization=parameterization,
    sampler=process.sampler,
    event_shape=event_shape,
    bounds=process.bounds,
    clip=process.clip,
  )


def _unet_folder(directory: pathlib.Path, variant: str | None) -> pathlib.Path:
  """Returns the folder of the network's config and weights; the directory itself if it is flat."""
  folders = ["unet", f"unet_{_AVERAGED}"]
  for name in reversed(folders) if variant == _AVERAGED else folders:
    if (directory / name / "config.json").is_file():
      return directory / name
  return directory


def _named(file: pathlib.Path, function: Callable[..., Any], *args: Any) -> Any:
  """Calls a function, and prefixes its errors with the file's name."""
  try:
    return function(*args)
  except PretrainedError as error:
    raise PretrainedError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def _check_index(file: pathlib.Path) -> None:
  """Raises PretrainedError unless a pipeline is an unconditional image model of diffusers."""
  for part, entry in read_settings(file).items():
    if part.startswith("_") or entry is None or entry == [None, None]:
      continue
    if part not in ("unet", "scheduler"):
      raise PretrainedError(
        f"{file}: {shown(part)} is a part that is not read here: unet and scheduler are"
      )
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] != "diffusers":
      raise PretrainedError(f"{file}: {part} = {shown(entry)} is not a class of diffusers")


def save_pipeline(
  directory: str | pathlib.Path,
  network: UNet2D,
  params: Params,
  schedule: Schedule,
  kind: str,
  event_shape: tuple[int, int, int],
) -> None:
  """Writes a model as a directory that diffusers loads: DDPMPipeline.from_pretrained(directory).

  Args:
    directory: created if missing.
    network: a `UNet2D`; other architectures do not fit UNet2DModel: use `save_model`.
    params: its parameters.
    schedule: a table of betas, or the geometric variance-exploding process.
    kind: of its output, 'noise', 'x0' or 'v'; 'score' for the exploding process.
    event_shape: (height, width, channels) of its images.

  Raises:
    PretrainedError: diffusers has no such network, process or output.
  """
  if not isinstance(network, UNet2D):
    raise PretrainedError(
      f"diffusers' UNet2DModel has no {type(network).__name__}: unet2d is written there, and "
      "save_model (--format=plain) writes any"
    )
  config = write_unet2d(network, event_shape)
  learned = config["out_channels"] == 2 * event_shape[-1]
  scheduler = write_scheduler(schedule, kind, learned_variance=learned)
  exploding = kind == "score"
  index = {
    "_class_name": "ScoreSdeVePipeline" if exploding else "DDPMPipeline",
    "_diffusers_version": config["_diffusers_version"],
    "scheduler": ["diffusers", scheduler["_class_name"]],
    "unet": ["diffusers", "UNet2DModel"],
  }
  root = pathlib.Path(directory)
  for name in ("unet", "scheduler"):
    (root / name).mkdir(parents=True, exist_ok=True)
  weights = torch_weights(flax.core.unfreeze(params))
  save_file(weights, root / "unet" / f"{WEIGHTS}.safetensors", {"format": "pt"})
  write_json(root / "unet" / "config.json", config)
  write_json(root / "scheduler" / "scheduler_config.json", scheduler)
  write_json(root / "model_index.json", index)
