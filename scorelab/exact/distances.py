"""Distances of a sampler's law from its target by whichever exact engine knows the law."""

from __future__ import annotations

from typing import Any

import jax

from scorelab.exact.flows import Exact, flow_distances, flow_kl
from scorelab.exact.laws import end_law, gaussian_law
from scorelab.exact.pushforward import draws_noise
from scorelab.exact.responses import in_float64, require_followed
from scorelab.exact.transitions import step_distances
from scorelab.schedules import Grid
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Predict, Sampler, Target

_ROUNDING = 1e-12  # relative, of Gaussian laws
_RTOL = 0.1  # in the plane: seconds, where samples are between the modes; often far more digits


def law_distances(
  sampler: Sampler,
  target: Target,
  grid: Grid,
  *,
  predict: Predict | None = None,
  start: str = "prior",
  **options: Any,
) -> dict[str, Exact]:
  """Returns distances of a sampler's law from its target: `kl` in nats and, if known, `w2`.

  By `gaussian_law` for the exact score of a Gaussian, `flow_distances` or `step_distances` on the
  line, and `flow_kl` elsewhere.

  Args:
    sampler: see the function that follows it.
    target: a GaussianMixture.
    grid: from noise to data, or to a last noisy level.
    predict: a network, or a changed truth; None is the exact score.
    start: 'prior' or 'true'; see `gaussian_law`.
    **options: of the sampler.

  Raises:
    ValueError: the law is not known, with the reason.
  """
  if not isinstance(target, GaussianMixture):
    raise ValueError(f"target = <{type(target).__name__}> is no GaussianMixture")
  if target.num_classes == 1 and predict is None:
    law, end = gaussian_law(sampler, target, grid, start=start, **options), end_law(target, grid)
    found = {"kl": law.kl(end), "w2": law.w2(end)}
    return {name: Exact(value, _ROUNDING * abs(value)) for name, value in found.items()}
  predict = target.predict if predict is None else predict
  if target.dim > 1:
    return {"kl": flow_kl(sampler, predict, target, grid, start=start, rtol=_RTOL, **options)}
  require_followed(sampler)
  with jax.enable_x64(True):
    noisy = draws_noise(sampler, predict, in_float64(grid), 1, options)
  follow = step_distances if noisy else flow_distances
  found = follow(sampler, predict, target, grid, start=start, **options)
  return {name: found[name] for name in ("kl", "w2")}
