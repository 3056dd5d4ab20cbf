"""Row of an evaluation: a sampler on a grid, or a Langevin kernel, with its start."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from scorelab.predictions.guidance import Guidance, Sources
from scorelab.schedules import Grid
from scorelab.targets import num_classes_of
from scorelab.typing import Array, ClassifiedTarget, Key, Params, Predict, Sampler, Samples, Target

LARGEST = 4
"""A row of particles is compared with one of so many times as many."""
REFINED = 4
"""A guided row is compared with one of so many times as many steps."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the evaluation: a sampler on a grid, or a Langevin kernel.

  Attributes:
    sampler: name of the sampler.
    num_steps: N of the grid, or the steps of a chain.
    options: options set for the sampler and its grid, by name; shown in the table.
    prior: `(key, shape) -> x`, a draw of the starting point.
    true_start: `(key, data) -> x`, a start from the exact law of noised data; with the same key it
      uses the same noise as the prior.
    run: `(key, predict, x) -> Samples`; not jitted.
    grid: levels from noise to data; None for a kernel.
    method: the sampler with its options, which `run` runs on the grid; None for a kernel.
    clip: `(predict, event_ndim=) -> predict`, as in `run`; None for no clipping.
    guidance: changes predictions before the sampler sees them; None for no guidance.
    guidance_options: options of the guidance.
    posterior: `predict -> predict`, the conditional prediction of a posterior method, if any.
    exact_run: `run` for the exact conditional score, if `run` takes only that of the prior: a
      sampler of posteriors is compared with ancestral steps.
    largest_run: `run` with `LARGEST` times as many particles; None without particles.
    refined: makes the row with `REFINED` times as many steps; None without guidance, or if the grid
      has no more.
    weak: the weaker model that guidance needs: an average's decay, or an earlier step; None for
      none.
    label: unique name in tables, files and figures; '' for a row made of traced numbers.
  """

  sampler: str
  num_steps: int
  options: dict[str, Any]
  prior: Callable[[Key, tuple[int, ...]], Array]
  true_start: Callable[[Key, Array], Array]
  run: Callable[[Key, Predict, Array], Samples]
  grid: Grid | None = None
  method: Sampler | None = None
  clip: Callable[..., Predict] | None = None
  guidance: Guidance | None = None
  guidance_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  posterior: Callable[[Predict], Predict] | None = None
  exact_run: Callable[[Key, Predict, Array], Samples] | None = None
  largest_run: Callable[[Key, Predict, Array], Samples] | None = None
  refined: Callable[[], Row] | None = None
  weak: float | None = None
  label: str = ""

  @property
  def samples_prior(self) -> bool:
    """True if the row's samples are of the law whose score it is given."""
    return self.posterior is None and self.exact_run is None

  def with_exact_score(self) -> Row:
    """Returns the row that samples a posterior whose exact score it is given."""
    return dataclasses.replace(self, posterior=None, run=self.exact_run or self.run)

  def with_largest_cloud(self) -> Row:
    """Returns the row with `LARGEST` times as many particles, if it has any."""
    return dataclasses.replace(self, run=self.largest_run or self.run)

  @property
  def network_calls(self) -> int:
    """Network calls per call of the predict function that the sampler gets."""
    return self.guidance.network_calls if self.guidance else 1

  def predict(
    self,
    bind: Callable[..., Predict],
    params: Params,
    label: Array | None = None,
    weak: Params = None,
    target: Target | None = None,
  ) -> Predict:
    """Returns the predict function of this row, with guidance or a posterior method applied.

    Args:
      bind: binds a network or the exact score: `(params[, label]) -> predict`.
      params: the network's parameters.
      label: the requested classes, of x's batch shape; None for an unconditional network.
      weak: parameters of the weaker model, if the row needs one.
      target: the target, for guidance by the classes of points.
    """

    def conditioned(params: Params, label: Array | None) -> Predict:
      return bind(params) if label is None else bind(params, label)

    if self.guidance is None:
      prediction = conditioned(params, label)
      return prediction if self.posterior is None else self.posterior(prediction)
    sources = Sources(
      functools.partial(conditioned, params),
      label,
      None if self.weak is None else conditioned(weak, label),
      num_classes_of(target),
      target.log_class_prob if isinstance(target, ClassifiedTarget) else None,
      0 if target is None else len(target.event_shape),
    )
    return self.guidance.make(sources, **self.guidance_options)
