"""Score errors by level, and Girsanov's bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.evaluation.draw import Programs, of_source
from scorelab.experiment.keys import Stream
from scorelab.experiment.spec import Experiment
from scorelab.metrics import girsanov, mode_score_error, score_error
from scorelab.schedules import uniform_log_snr
from scorelab.typing import Array, ExactTarget, Key, MixtureTarget, Params

_GIRSANOV_STEPS = 48  # between the schedule's ends


def measure_scores(
  experiment: Experiment, params: Params, programs: Programs
) -> dict[str, list[float | None]]:
  """Returns the score error at each of config.evaluation.score_levels, as lists by name.

  Each list has its standard errors in `<name>_sem`; entries that are not finite are None. A mixture
  also has `relative_by_mode` [k], at the first level. Given an observation it is the error of the
  main row's conditional score, that of its posterior method. A conditional network is conditioned
  on the class of each draw, and compared with the exact score of that class.
  """
  protocol, target = experiment.evaluation, experiment.target

  @jax.jit
  def measure_all(numbers: Mapping[str, Array], params: Params, root: Key) -> dict[str, Array]:
    here = experiment.at(numbers)
    levels = here.schedule.at_ratio(jnp.asarray(protocol.score_levels))
    key, mode_key = jax.random.split(root)
    if protocol.observation is not None:
      row, bind = of_source(here, 0, "network")
      law, predict = here.law, row.predict(bind, params)
      assert isinstance(law, ExactTarget)  # measured where there is a truth
      return score_error(key, law, predict, levels, protocol.score_samples)._asdict()
    errors = here.score_error(key, params, levels, protocol.score_samples)._asdict()
    if isinstance(target, MixtureTarget) and not experiment.conditional:
      predict = here.parameterization.bind(params)
      first = jax.tree.map(lambda a: a[0], levels)
      size = 10 * protocol.score_samples
      by_mode, sem = mode_score_error(mode_key, target, predict, first, size)
      errors |= {"relative_by_mode": by_mode, "relative_by_mode_sem": sem}
    return errors

  measure_all = programs.setdefault("scores", measure_all)
  key = experiment.key(Stream.SCORE_ERROR, 0)
  errors = _as_json(measure_all(experiment.numbers, params, key))
  return {"sigma": list(protocol.score_levels), **errors}


def measure_girsanov(experiment: Experiment, params: Params, programs: Programs) -> dict[str, Any]:
  """Returns Girsanov's bound between the schedule's ends, and its parts by level.

  Levels are sigma / alpha, noisiest first. Numbers and lists by name; entries that are not finite
  are None.
  """
  target = experiment.target
  assert isinstance(target, ExactTarget)  # measured where there is a truth

  @jax.jit
  def run(numbers: Mapping[str, Array], params: Params, key: Key) -> dict[str, Array]:
    here = experiment.at(numbers)
    grid = uniform_log_snr(here.schedule, _GIRSANOV_STEPS, to_data=False)
    found = girsanov(
      key,
      target,
      here.parameterization.bind(params),
      grid.levels,
      here.schedule.prior_std(grid[0]),
      experiment.evaluation.score_samples,
    )
    return {"sigma": grid.levels.sigma / grid.levels.alpha, **found._asdict()}

  run = programs.setdefault("girsanov", run)
  key = experiment.key(Stream.SCORE_ERROR, 1)
  return _as_json(run(experiment.numbers, params, key))


def _as_json(found: Mapping[str, Array]) -> dict[str, Any]:
  """Returns numbers and lists by name; None if a number is not finite."""
  values = jax.tree.map(lambda a: np.asarray(a).tolist(), dict(found))
  return jax.tree.map(lambda number: number if np.isfinite(number) else None, values)
