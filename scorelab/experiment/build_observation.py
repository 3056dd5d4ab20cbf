"""Builds the observation that config.observation describes."""

from __future__ import annotations

import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from scorelab.config.options import choose, config_errors, options_of, refuse_unused
from scorelab.inverse import OPERATORS, Observation, observed
from scorelab.targets import GaussianMixture, splits_of
from scorelab.typing import Target


def make_observation(config: ConfigDict, target: Target) -> Observation | None:
  """Returns the observation of a config, or None.

  y is read from a file, or drawn: from the target's test point number `seed`, or a draw of it.

  Raises:
    ConfigError: an option or a file is not allowed.
  """
  section, path = config.observation, "observation"
  own = ("path", "noise_std", "seed")
  if section.name is None and section.path is None:
    refuse_unused(section, path, "no observation", (), ())
    return None
  operator, functions = None, ()
  if section.name is not None:
    make = choose(OPERATORS, section.name, f"{path}.name", "operator")
    functions = (make,)
    with config_errors(path):
      operator = make(target.event_shape, **options_of(make, section))
  refuse_unused(section, path, str(section.name), functions, own)
  noise_std = 0.1 if section.noise_std is None else section.noise_std
  with config_errors(path):
    if section.path is not None:
      if section.seed is not None:
        raise ValueError(f"seed = {section.seed} is not used: y is in {section.path}")
      given = _read(section.path)
      if operator is None and "A" not in given:
        raise ValueError(f"{section.path} has no A, and observation.name names no operator")
      observation = Observation(given["A"] if operator is None else operator, given["y"], noise_std)
      if (found := observation.operator.event_shape) != target.event_shape:
        raise ValueError(f"A observes points of shape {found}, must be {target.event_shape}")
      return observation
    assert operator is not None
    seed = 0 if section.seed is None else section.seed
    drawing, noise = jax.random.split(jax.random.key(seed))
    test = splits_of(target).get("test")
    x = target.sample(drawing, 1)[0] if test is None else jnp.asarray(test[seed % len(test)])
    return observed(noise, operator, x, noise_std)


def _read(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of an NPZ file; nothing is unpickled.

  Raises:
    ValueError: the file is no NPZ file of arrays, or lacks y.
  """
  try:
    with np.load(pathlib.Path(path), allow_pickle=False) as arrays:
      found = {name: np.asarray(arrays[name], np.float32) for name in ("A", "y") if name in arrays}
  except (zipfile.BadZipFile, AttributeError, TypeError, ValueError, EOFError) as error:
    raise ValueError(f"{path} is no NPZ file of the arrays A and y") from error
  if "y" not in found:
    raise ValueError(f"{path} has no array y")
  return found


def posterior_of(target: Target, observation: Observation | None) -> Target | None:
  """Returns the target given the observation, or None if there is none or that is not known."""
  known = observation is not None and isinstance(target, GaussianMixture)
  return target.given(observation) if known else None
