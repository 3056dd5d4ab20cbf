"""Implicit score matching: learns a score from points alone, through its divergence.

Where q is the law of the points and s* its score, integration by parts gives

    E [ div s(x) + |s(x)|^2 / 2 ]  =  E |s(x) - s*(x)|^2 / 2  -  E |s*(x)|^2 / 2

for every smooth s with q s -> 0 at infinity. The left side needs no s*, and s* minimises it. On a
finite sample it has no lower bound: a network that contracts onto the points drives it down for
ever. With J the Jacobian of s at x [d] and v a random probe, E v v^T = I,

    loss         div s      |s|^2 / 2        derivatives of s      costs, in passes of s
    hyvarinen    tr J       |s|^2 / 2        along d axes          1 + d
    hutchinson   v^T J v    |s|^2 / 2        along each probe      1 + num_probes
    sliced       v^T J v    (v^T s)^2 / 2    along each probe      1 + num_probes
    sliced_fd    as sliced, by central differences                 2 num_probes

all have the same expectation, but for sliced_fd's bias of O(eps^2). Events have any shape. Each
point is noised to its own level and the score of q_t is learned there (the level distribution
`data` adds no noise); at sigma > 0 the expected gradient is half the denoising loss's of the same
weight (Vincent, Neural Computation 2011).

References:
  Hyvarinen, "Estimation of Non-Normalized Statistical Models by Score Matching", JMLR 2005, eq. 4.
  Song et al., "Sliced Score Matching: A Scalable Approach to Density and Score Estimation",
    UAI 2019 (arXiv 1905.07088), section 3; and Song and Ermon, NeurIPS 2019, eq. 3.
  Pang et al., "Efficient Learning of Generative Models via Finite-Difference Score Matching",
    NeurIPS 2020 (arXiv 2007.03317).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.losses.levels import (
  LEVELS,
  SCORE_WEIGHTINGS,
  UNIFORMS,
  data_level,
  stratified,
  uniform_weight,
)
from scorelab.losses.probes import PROBES, averaging, inner, trace
from scorelab.predictions import Parameterization, noised
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level, Schedule
from scorelab.typing import Array, Batch, Context, Key, Loss, Metrics, Params, Scalar
from scorelab.validation import checked, require_batch

MODES = ("forward", "reverse")
Score: TypeAlias = Callable[[Array], Array]
"""x [n, *event] -> s(x), of x's shape; examples must not mix: no batch normalisation."""


@checked(levels=LEVELS, uniforms=UNIFORMS, score_weighting=SCORE_WEIGHTINGS, divergence=MODES)
def hyvarinen(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = data_level,
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  divergence: str = "forward",
  max_unrolled: Annotated[int, AtLeast(1)] = 16,
) -> Loss:
  """E over levels of w(level) [ div s + |s|^2 / 2 ], the divergence by d derivatives of s.

  Minimised by the score of q_t at every level in the support of `levels`, at -E w |score|^2 / 2.
  Hyvarinen 2005, eq. 4.

  Args:
    parameterization: reads the network, whose examples must not mix.
    schedule: the forward process.
    levels: quantile function of the level distribution, `(schedule, u [n]) -> Level [n]`.
    score_weighting: w >= 0 on the score's squared error, elementwise.
    uniforms: draws the u, `(key, n) -> [n]`.
    divergence: mode of the derivatives, 'forward' or 'reverse'.
    max_unrolled: up to this number of axes are unrolled; more run in a loop, and again for
      the gradient, so that memory does not grow with d.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics, which add up to it:
    divergence [] and half_square_norm [], weighted means.

  Raises:
    ValueError: `divergence` is neither mode.
  """

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    del key
    value, jacobian = (jax.linearize if divergence == "forward" else _reverse)(score, x)
    return trace(jacobian, x, max_unrolled), inner(value, value) / 2

  return _loss(parameterization, schedule, levels, score_weighting, uniforms, terms)


@checked(levels=LEVELS, uniforms=UNIFORMS, score_weighting=SCORE_WEIGHTINGS, probes=PROBES)
def hutchinson(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = data_level,
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  probes: str = "rademacher",
  num_probes: Annotated[int, AtLeast(1)] = 1,
) -> Loss:
  """Like `hyvarinen`, with Hutchinson's estimate of the divergence: a mean of v^T J v.

  `sliced_vr`, sliced score matching with variance reduction (SSM-VR), is this same expression:
  another name, no other loss, whichever the probes.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes: the law of v, a name of PROBES.
    num_probes: independent probes of each point.

  Returns:
    A loss with the metrics of `hyvarinen`.

  Raises:
    ValueError: `probes` is not known or num_probes < 1.
  """
  mean_over_probes = averaging(probes, num_probes)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    value, jacobian = jax.linearize(score, x)
    return mean_over_probes(lambda v: inner(v, jacobian(v)), key, x), inner(value, value) / 2

  return _loss(parameterization, schedule, levels, score_weighting, uniforms, terms)


sliced_vr = hutchinson


@checked(levels=LEVELS, uniforms=UNIFORMS, score_weighting=SCORE_WEIGHTINGS, probes=PROBES)
def sliced(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = data_level,
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  probes: str = "rademacher",
  num_probes: Annotated[int, AtLeast(1)] = 1,
) -> Loss:
  """Sliced score matching: the mean of v^T J v + (v^T s)^2 / 2 over probes (SSM).

  Song et al. 2019, section 3. Returns and raises what `hutchinson` does.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes, num_probes: as for `hutchinson`.
  """
  mean_over_probes = averaging(probes, num_probes)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    value, jacobian = jax.linearize(score, x)
    return mean_over_probes(lambda v: (inner(v, jacobian(v)), inner(v, value) ** 2 / 2), key, x)

  return _loss(parameterization, schedule, levels, score_weighting, uniforms, terms)


@checked(levels=LEVELS, uniforms=UNIFORMS, score_weighting=SCORE_WEIGHTINGS, probes=PROBES)
def sliced_fd(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level] = data_level,
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = stratified,
  probes: str = "rademacher",
  num_probes: Annotated[int, AtLeast(1)] = 1,
  eps: Annotated[float, Above(0)] = 1e-2,
) -> Loss:
  """`sliced` by central differences (FD-SSM): s is differentiated by its parameters only.

      v^T J v         v . (s(x + eps v) - s(x - eps v)) / (2 eps)
      (v^T s)^2 / 2   (v . (s(x + eps v) + s(x - eps v)) / 2)^2 / 2

  With s'' and s''' the derivatives of s(x + h v) by h at 0, Taylor's series gives the bias
  eps^2 [ v . s''' / 6 + (v . s) (v . s'') / 2 ] + O(eps^4): 0 where s is linear. Pang et al. 2020,
  whose epsilon is the length of the step, eps |v| here.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes, num_probes: as for `hutchinson`.
    eps: step of the differences, in units of x. The step eps |v|, eps sqrt(d), should be short
      against the std of a mode and long against the rounding of x.

  Returns and raises what `hutchinson` does.
  """
  mean_over_probes = averaging(probes, num_probes)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    def along(v: Array) -> tuple[Array, Array]:
      after, before = inner(v, score(x + eps * v)), inner(v, score(x - eps * v))
      return (after - before) / (2 * eps), (after + before) ** 2 / 8

    return mean_over_probes(along, key, x)

  return _loss(parameterization, schedule, levels, score_weighting, uniforms, terms)


def _loss(
  parameterization: Parameterization,
  schedule: Schedule,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array],
  uniforms: Callable[[Key, int], Array],
  terms: Callable[[Key, Score, Array], tuple[Array, Array]],
) -> Loss:
  """The weighted mean of the terms (key, score, x [n, *event]) -> div s [n], |s|^2 / 2 [n]."""

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Scalar, Metrics]:
    del context
    require_batch(batch)
    level_key, noise_key, probe_key = jax.random.split(key, 3)
    level = levels(schedule, uniforms(level_key, batch["x"].shape[0]))
    x, _ = noised(noise_key, batch["x"], level)
    predict = parameterization.bind(params, batch.get("label"))
    estimates = terms(probe_key, lambda x: predict(x, level).score, x)
    weight = score_weighting(level)
    divergence, half_square_norm = (jnp.mean(weight * term) for term in estimates)
    metrics: Metrics = {"divergence": divergence, "half_square_norm": half_square_norm}
    return divergence + half_square_norm, metrics

  return loss


def _reverse(score: Score, x: Array) -> tuple[Array, Score]:
  """s(x) and v -> J^T v, of which v^T J^T v = v^T J v is needed."""
  value, pullback = jax.vjp(score, x)
  return value, lambda v: pullback(v)[0]
