"""Registries by section of a config, and the options of the parts in them.

Imports every part, and so JAX: what a command line needs before that is in parts.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from scorelab.config.importing import import_attribute
from scorelab.config.sections import SECTIONS, Whole
from scorelab.data.points import FILES
from scorelab.inverse import OPERATORS, POSTERIOR_SAMPLERS, POSTERIORS
from scorelab.losses import LEVELS, LOSSES, SCORE_WEIGHTINGS, UNIFORMS, WEIGHTINGS
from scorelab.metrics import METRICS
from scorelab.networks import NETWORKS
from scorelab.optimizers import RULES
from scorelab.predictions import CONDITIONINGS, PARAMETERIZATIONS, Exact
from scorelab.predictions.clipping import CLIPPINGS
from scorelab.predictions.guidance import GUIDANCES
from scorelab.ranges import Range
from scorelab.samplers import KERNELS, SAMPLERS
from scorelab.schedules import GRIDS, SCHEDULES
from scorelab.signatures import options_of_part
from scorelab.targets import TARGETS

PARTS: dict[str, dict[str, Mapping[str, Callable[..., Any]]]] = {
  "target": {"name": TARGETS | FILES},
  "schedule": {"name": SCHEDULES},
  "network": {"name": NETWORKS},
  "parameterization": {
    "name": PARAMETERIZATIONS | {"exact": Exact},
    "conditioning": CONDITIONINGS,
  },
  "loss": {
    "name": LOSSES,
    "levels": LEVELS,
    "uniforms": UNIFORMS,
    "weighting": WEIGHTINGS,
    "score_weighting": SCORE_WEIGHTINGS,
  },
  "optimizer": {"name": RULES},
  "sampler": {
    "name": SAMPLERS | KERNELS | POSTERIOR_SAMPLERS,
    "grid": GRIDS,
    "guidance": {name: guidance.options for name, guidance in GUIDANCES.items()},
    "clipping": CLIPPINGS,
    "posterior": POSTERIORS,
    "twist": POSTERIORS,
  },
  "observation": {"name": OPERATORS},
}
"""Fields that name a part, by section; `name` is the main one, and the others are nested in it."""

METRIC_PARTS: dict[str, Mapping[str, Callable[..., Any]]] = {"name": METRICS}
"""Metrics: their options are set in evaluation.metrics, 'name:field=value'."""


def named_parts(
  section: str, settings: Mapping[str, Any] | ConfigDict
) -> Iterator[Callable[..., Any]]:
  """Yields the parts that a section names, one's own among them; unknown names are left out.

  Args:
    section: 'sampler'.
    settings: its values.
  """
  for selector, known in PARTS.get(section, {}).items():
    name = settings.get(selector)
    if name in known:
      yield known[name]
    elif "." in str(name):
      try:
        part = import_attribute(str(name))
      except ImportError:  # refused when the part is made
        continue
      yield getattr(part, "options", part)  # a Guidance has them apart


def range_of(section: str, field: str, settings: Mapping[str, Any] | ConfigDict) -> Range | None:
  """Returns the range that a config allows a field; None for any number.

  It is that of the named part's option, or else of the section's own field, or else of the first
  part that has such an option.

  Args:
    section: 'sampler'; '' for the fields of no section.
    field: its name there.
    settings: the section's values.
  """
  every = (part for known in PARTS.get(section, {}).values() for part in known.values())
  own = SECTIONS.get(section, Whole)
  for part in itertools.chain(named_parts(section, settings), (own,), every):
    if field in (options := options_of_part(part)):
      return options[field].range
  return None
