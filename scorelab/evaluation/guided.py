"""Known laws of guided rows: p(x)^(1-w) p(x | c)^w, normalised, of the requested classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from scorelab.experiment.spec import Experiment
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.tilted import tilted
from scorelab.typing import Array, Key

TiltedDraws: TypeAlias = Callable[[Key, Int[Array, " n"]], Float[Array, "n d"]]
"""(key, labels) -> a draw of the tilted law of each label."""


def known_law(experiment: Experiment, index: int) -> TiltedDraws | None:
  """Returns exact draws of the law that a row is guided towards; None if it is not known.

  It is known of mixtures on the line and in the plane, unless a class is so rare under it that
  draws by rejection would not come.

  Args:
    experiment: of concrete numbers.
    index: of the row.
  """
  guidance, target = experiment.evaluation.rows[index].guidance, experiment.target
  if guidance is None or not guidance.tilts or not isinstance(target, GaussianMixture):
    return None
  row = experiment.at(experiment.numbers).evaluation.rows[index]
  scale = float(row.guidance_options.get("guidance_scale", 1.0))
  try:
    laws = [tilted(target, label, scale) for label in range(target.num_classes)]
  except ValueError:
    return None
  of_classes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *laws)

  @jax.jit
  def draw(key: Key, labels: Array) -> Array:
    keys, n = jax.random.split(key, target.num_classes), len(labels)
    drawn = jax.vmap(lambda law, key: law.sample(key, n))(of_classes, keys)
    return drawn[labels, jnp.arange(n)]

  return draw
