"""Drops options of a component that the command line replaces by another.

A section of a config names a component and holds its options. If the command line names another
component, options that the config file set for the old one and that the new one does not take are
dropped. Options typed on the command line are never dropped: mistakes there are refused when
components are built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from scorelab.config.options import Section, accepted_options, choose
from scorelab.config.parts import PARTS
from scorelab.config.sections import SECTIONS
from scorelab.errors import ConfigError
from scorelab.inverse import POSTERIOR_SAMPLERS
from scorelab.losses import LEVELS, LOSSES
from scorelab.losses.levels import data_level
from scorelab.predictions.guidance import GUIDANCES
from scorelab.samplers import KERNELS

_OF_KERNELS = {"start_std", "sigma"}
_OF_SAMPLERS = {"guidance", "guidance_weak", "clipping", "posterior"}

_RATES = {"variance_preserving", "sub_vp", "vp_betas"}
"""Schedules whose beta_min and beta_max are rates over [0, 1]; those of others are of one step."""


def options_taken(path: str, section: Section) -> set[str]:
  """Returns the fields of a section that its named components take.

  Raises:
    ConfigError: a name is unknown.
  """
  main = choose(PARTS[path]["name"], section["name"], f"{path}.name", "part")
  if section["name"] == "exact":  # nothing is read of it
    return {*section}
  own = {"name"} | accepted_options(SECTIONS[path])
  if path == "sampler" and section["name"] in KERNELS:  # of one level: the grid is for other rows
    return (own - _OF_SAMPLERS) | accepted_options(main)
  if path == "sampler":
    own -= _OF_KERNELS | {"guidance_weak"}
    if section["name"] in POSTERIOR_SAMPLERS:  # they are conditional by themselves
      own -= {"guidance", "posterior"}
    elif section["posterior"] is not None:
      own -= {"guidance"}
  taken = own | accepted_options(main)
  for field, known in PARTS[path].items():
    if field in ("name", "twist") or field not in taken:  # a twist is named without options
      continue
    default = inspect.signature(main).parameters.get(field)
    if section[field] is not None:
      taken |= accepted_options(choose(known, section[field], f"{path}.{field}", "part"))
    elif default is not None and callable(default.default):
      taken |= accepted_options(default.default)
  if section.get("guidance") in GUIDANCES and "weak" in GUIDANCES[section["guidance"]].needs:
    taken.add("guidance_weak")
  return taken


def drop_old_options(config: ConfigDict, replaced: Mapping[str, Any]) -> str | None:
  """Drops options of replaced components that the new ones do not take.

  Args:
    config: the config after the command line; dropped options are set to None in it.
    replaced: the config file's values of all typed fields, by dotted name.

  Returns:
    One line that names the options that were dropped, or kept although the new component has
    another default; None if there are none.
  """
  said = []
  for path, selectors in PARTS.items():
    section = config[path]
    before = {field: replaced.get(f"{path}.{field}", section[field]) for field in section}
    swapped = [field for field in selectors if before[field] != section[field]]
    try:
      kept = path == "loss" and "name" in swapped and _keep_levels(config, before)
      old, new = options_taken(path, before), options_taken(path, section)
    except ConfigError:  # reported when the component is built
      continue
    if path == "schedule" and (before["name"] in _RATES) != (section.name in _RATES):
      new -= {"beta_min", "beta_max"}
    dropped = [
      field
      for field in section
      if swapped
      and section[field] is not None
      and f"{path}.{field}" not in replaced
      and field in old - new
    ]
    for field in dropped:
      section[field] = None
    if dropped:
      options = ", ".join(f"{path}.{field} = {before[field]!r}" for field in dropped)
      changes = (f"{path}.{f} = {section[f]!r} instead of {before[f]!r}" for f in swapped)
      said.append(f"dropped {options}: {' and '.join(changes)}")
    if kept:
      said.append(f"kept loss.levels = {section.levels!r} of {before['name']!r}")
  return "; ".join(said) or None


def _keep_levels(config: ConfigDict, before: Section) -> bool:
  """Keeps the old loss's levels if the network has no score at the new one's default level.

  Implicit losses default to the data themselves, where only some networks have a score.
  """
  names = before["name"], config.loss.name
  old, new = (choose(LOSSES, name, "loss.name", "loss") for name in names)
  of_old, of_new = (inspect.signature(loss).parameters.get("levels") for loss in (old, new))
  if config.loss.levels is not None or has_data_score(config) or not (of_old and of_new):
    return False
  if of_new.default is not data_level or of_old.default is data_level:
    return False
  name = next(name for name, levels in LEVELS.items() if levels is of_old.default)
  config.loss.levels = name
  return True


def has_data_score(config: ConfigDict) -> bool:
  """Returns True if the network has a finite score at sigma = 0, by its view and conditioning."""
  section = config.parameterization
  learned = section.name in ("score", "scaled_score") and section.conditioning != "log_sigma"
  return learned or section.name == "exact"
