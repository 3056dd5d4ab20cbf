"""Saves and loads any of our networks: a directory with model.safetensors and config.json.

Weights are named by their paths in Flax, 'layers_0.kernel', with Flax's own order of axes.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from safetensors.numpy import save_file

from scorelab.networks import NETWORKS
from scorelab.pretrained.files import PretrainedError, read_settings
from scorelab.pretrained.layout import find_weights
from scorelab.pretrained.names import listed
from scorelab.runs.files import write_json
from scorelab.typing import Params

_FORMAT = "scorelab"
_MAX_NUMBER = 1 << 20


def save_model(
  directory: str | pathlib.Path,
  network: nn.Module,
  params: Params,
  event_shape: tuple[int, ...],
  about: Mapping[str, Any] | None = None,
) -> None:
  """Writes one of our networks and its parameters.

  Args:
    directory: created if missing.
    network: of a class in NETWORKS.
    params: its parameters.
    event_shape: shape of one point.
    about: further JSON values for the reader, such as the schedule and the parameterization.

  Raises:
    PretrainedError: the network is of another class.
  """
  name = type(network).__name__
  if name not in _classes():
    raise PretrainedError(f"{name} is no network here (known: {', '.join(sorted(_classes()))})")
  fields = (field.name for field in dataclasses.fields(network))
  options = {f: getattr(network, f) for f in fields if f not in ("name", "parent")}
  root = pathlib.Path(directory)
  root.mkdir(parents=True, exist_ok=True)
  leaves: Mapping[str, Any] = flax.traverse_util.flatten_dict(flax.core.unfreeze(params), sep=".")
  arrays = {path: np.ascontiguousarray(leaf) for path, leaf in leaves.items()}
  save_file(arrays, root / "model.safetensors", {"format": _FORMAT})
  config = {"format": _FORMAT, "network": name, "options": options}
  write_json(root / "config.json", {**config, "event_shape": event_shape, "about": about or {}})


def load_model(
  directory: str | pathlib.Path,
) -> tuple[nn.Module, Params, tuple[int, ...], dict[str, Any]]:
  """Reads a directory written by `save_model`; never runs code from its files.

  Returns:
    The network, its parameters, the shape of one point, and `about`.

  Raises:
    PretrainedError: the files are missing or damaged, or do not hold one of our networks.
  """
  root = pathlib.Path(directory)
  file = root / "config.json"
  config = read_settings(file)
  name, options = config.get("network"), config.get("options")
  if config.get("format") != _FORMAT or name not in _classes() or not isinstance(options, dict):
    raise PretrainedError(f"{file}: is no network of ours (known: {', '.join(sorted(_classes()))})")
  construct = _classes()[name]
  known = {field.name for field in dataclasses.fields(construct)} - {"name", "parent"}
  if unknown := sorted(options.keys() - known):
    raise PretrainedError(f"{file}: {name} has no option {listed(unknown)}")
  shape = _tupled(config.get("event_shape"))
  if not isinstance(shape, tuple) or not all(_is_size(n) for n in shape):
    raise PretrainedError(f"{file}: event_shape = {config.get('event_shape')!r} is no shape")
  if not all(_is_small(value) for value in options.values()):
    raise PretrainedError(f"{file}: an option of {name} is beyond {_MAX_NUMBER}")
  network = construct(**{k: _tupled(v) for k, v in options.items()})
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  c = jax.ShapeDtypeStruct((1,), jnp.float32)
  try:
    template = jax.eval_shape(network.init, jax.random.key(0), x, c)["params"]
  except Exception as error:  # options of the wrong type may raise anything
    raise PretrainedError(f"{file}: {name}: {str(error).strip().splitlines()[0]}") from None
  weights = find_weights(root, ("model",))
  leaves: Mapping[str, Any] = flax.traverse_util.flatten_dict(template, sep=".")
  if differing := sorted(leaves.keys() ^ weights.keys()):
    raise PretrainedError(f"{root}: {listed(differing)} is in the network or the file, not in both")
  for path, leaf in leaves.items():
    if weights.shapes[path] != leaf.shape:
      raise PretrainedError(f"{root}: {path} is of shape {weights.shapes[path]}, not {leaf.shape}")
  params = {path: jnp.asarray(weights[path]) for path in leaves}
  return network, flax.traverse_util.unflatten_dict(params, sep="."), shape, config.get("about", {})


def _classes() -> dict[str, type[nn.Module]]:
  """Returns the modules of NETWORKS by the names of their classes."""
  functions = (f.func if isinstance(f, functools.partial) else f for f in NETWORKS.values())
  return {f.__name__: f for f in functions if isinstance(f, type)}


def _tupled(value: Any) -> Any:
  """Converts JSON's lists to tuples."""
  return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _is_size(value: Any) -> bool:
  return type(value) is int and 0 < value <= _MAX_NUMBER


def _is_small(value: Any) -> bool:
  """Returns True if numbers, also those in lists, are small enough to build a network from."""
  if isinstance(value, list):
    return len(value) <= 64 and all(map(_is_small, value))
  return not isinstance(value, (int, float)) or abs(value) <= _MAX_NUMBER
