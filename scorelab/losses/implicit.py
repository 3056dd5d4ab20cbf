"""Implicit score matching: a score learned from points alone, by way of its divergence.

Where q is the law of the points and s* its score, integration by parts gives

    E [ div s(x) + |s(x)|^2 / 2 ]  =  E |s(x) - s*(x)|^2 / 2  -  E |s*(x)|^2 / 2

for every smooth s with q s -> 0 at infinity. The left side needs no s*; it is minimised by s* and
its minimum is -E |s*|^2 / 2. On a finite sample it has no lower bound: a network that contracts
onto the points drives it to minus infinity. J is the Jacobian of s at x; v is a random probe.

    loss         div s      |s|^2 / 2        derivatives of s      costs, in passes of s
    hyvarinen    tr J       |s|^2 / 2        d directions          1 + d
    hutchinson   v^T J v    |s|^2 / 2        one a probe           1 + num_probes
    sliced_vr    the same loss as hutchinson, by its other name
    sliced       v^T J v    (v^T s)^2 / 2    one a probe           1 + num_probes
    sliced_fd    central differences along v of the last           2 num_probes

All have the same expectation, because E v v^T = I for every law of PROBES (sliced_fd up to
O(eps^2)), and act on events of any shape. The level of each point is drawn, the point is noised
to it, and the score of q_t is learned there; the level distribution `data` adds no noise. At
sigma > 0 they have the gradient of half the denoising loss (Vincent 2011), weights alike.

References:
  Hyvarinen, "Estimation of Non-Normalized Statistical Models by Score Matching", JMLR 6, 2005,
    theorem 1: eq. 4.
  Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing
    Splines", Communications in Statistics 19(2), 1990.
  Song et al., "Sliced Score Matching: A Scalable Approach to Density and Score Estimation",
    UAI 2019 (arXiv 1905.07088), section 3.1: SSM and SSM-VR.
  Song and Ermon, NeurIPS 2019 (arXiv 1907.05600), eq. 3: SSM-VR for a score network.
  Pang et al., "Efficient Learning of Generative Models via Finite-Difference Score Matching",
    NeurIPS 2020 (arXiv 2007.03317), section 4: FD-SSM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from scorelab.losses.levels import independent, uniform_weight
from scorelab.predictions import Parameterization, noised
from scorelab.schedules import Level, Schedule
from scorelab.typing import Array, Batch, Context, Key, Loss, Metrics, Params

Score: TypeAlias = Callable[[Array], Array]
"""x [n, *event] -> s(x), of x's shape; its examples must not mix (no batch normalisation)."""
Terms: TypeAlias = Callable[[Key, Score, Array], tuple[Array, Array]]
"""(key, score, x [n, *event]) -> div s [n] and |s|^2 / 2 [n], or unbiased estimates of them."""


def hyvarinen(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = independent,
  divergence: str = "forward",
  max_parallel: int = 16,
) -> Loss:
  """E over levels of w(level) [ div s + |s|^2 / 2 ] with the exact divergence, d derivatives of s.

  Minimised by the score of q_t at every level in the support of `levels`; there it is
  -E w |score|^2 / 2. Hyvarinen 2005, eq. 4.

  Args:
    parameterization: reads the network; its examples must not mix.
    schedule: the forward process.
    levels: quantile function of the level distribution, `(schedule, u [n]) -> Level [n]`.
    score_weighting: w >= 0 on the score's squared error, elementwise: see SCORE_WEIGHTINGS.
    uniforms: draws the u, `(key, n) -> [n]`.
    divergence: 'forward' or 'reverse', the mode of the derivatives of s: see JACOBIANS.
    max_parallel: directions at a time, >= 1. It bounds memory: where there are more directions,
      they follow one another and are computed again for the gradient.

  Returns:
    A loss of batches {x [n, *event], label [n] or absent}. Its metrics, which add up to it:
    divergence [] and half_square_norm [], both weighted by w.

  Raises:
    ValueError: `divergence` is no mode.
  """
  linearize = _known(JACOBIANS, divergence, "divergence")

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    del key
    value, jacobian = linearize(score, x)
    size = x[0].size

    def diagonal(i: Array) -> Array:
      axis = jnp.broadcast_to(jax.nn.one_hot(i, size, dtype=x.dtype).reshape(x.shape[1:]), x.shape)
      return _dot(axis, jacobian(axis))

    return _total(diagonal, jnp.arange(size), max_parallel), _dot(value, value) / 2

  return _loss(parameterization, schedule, terms, levels, score_weighting, uniforms)


def hutchinson(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = independent,
  probes: str = "rademacher",
  num_probes: int = 1,
  divergence: str = "forward",
  max_parallel: int = 16,
) -> Loss:
  """`hyvarinen` with Hutchinson's estimate of the divergence, the mean of v^T J v over probes.

  This is also sliced score matching with variance reduction, SSM-VR (Song et al. 2019): the same
  expression, whichever the probes. With S = (J + J^T) / 2 one probe has variance 2 |S|_F^2 if
  Gaussian, less 2 sum_i S_ii^2 if Rademacher: none where S is diagonal, so none in one dimension.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes: the law of v, a name of PROBES.
    num_probes: independent probes of each point, >= 1.
    divergence, max_parallel: as for `hyvarinen`.

  Returns:
    A loss with the metrics of `hyvarinen`.

  Raises:
    ValueError: `probes` or `divergence` is not known, or num_probes < 1.
  """
  linearize = _known(JACOBIANS, divergence, "divergence")
  mean_over_probes = _probing(probes, num_probes, max_parallel)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    value, jacobian = linearize(score, x)
    return mean_over_probes(lambda v: _dot(v, jacobian(v)), key, x), _dot(value, value) / 2

  return _loss(parameterization, schedule, terms, levels, score_weighting, uniforms)


sliced_vr = hutchinson


def sliced(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = independent,
  probes: str = "rademacher",
  num_probes: int = 1,
  divergence: str = "forward",
  max_parallel: int = 16,
) -> Loss:
  """Sliced score matching, SSM: the mean of v^T J v + (v^T s)^2 / 2 over probes.

  Song et al. 2019, section 3.1. As `hutchinson`, with |s|^2 estimated by the probes too.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes, num_probes, divergence, max_parallel: as for `hutchinson`.

  Returns:
    A loss with the metrics of `hyvarinen`.

  Raises:
    ValueError: `probes` or `divergence` is not known, or num_probes < 1.
  """
  linearize = _known(JACOBIANS, divergence, "divergence")
  mean_over_probes = _probing(probes, num_probes, max_parallel)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    value, jacobian = linearize(score, x)
    return mean_over_probes(lambda v: (_dot(v, jacobian(v)), _dot(v, value) ** 2 / 2), key, x)

  return _loss(parameterization, schedule, terms, levels, score_weighting, uniforms)


def sliced_fd(
  parameterization: Parameterization,
  schedule: Schedule,
  *,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array] = uniform_weight,
  uniforms: Callable[[Key, int], Array] = independent,
  probes: str = "sphere",
  num_probes: int = 1,
  eps: float = 1e-2,
  max_parallel: int = 16,
) -> Loss:
  """`sliced` by central differences, FD-SSM: s is differentiated by its parameters alone.

      v^T J v         v . (s(x + eps v) - s(x - eps v)) / (2 eps)
      (v^T s)^2 / 2   (v . (s(x + eps v) + s(x - eps v)) / 2)^2 / 2

  By Taylor's series, with s^(k) the k-th derivative of s along v, odd powers of eps cancel in both:
  the bias is eps^2 [ v . s^(3) / 6 + (v . s) (v . s^(2)) / 2 ] + O(eps^4), and 0 for a linear s.
  It needs eps |v|, sqrt(d) eps, well below the length over which s bends (the std of a mode), and
  eps well above float32's rounding of x. Pang et al. 2020, section 4, written for a score network.

  Args:
    parameterization, schedule, levels, score_weighting, uniforms: as for `hyvarinen`.
    probes, num_probes, max_parallel: as for `hutchinson`.
    eps: > 0, in units of x. The paper's epsilon is the length of the step: sqrt(d) eps here.

  Returns:
    A loss with the metrics of `hyvarinen`.

  Raises:
    ValueError: `probes` is not known, or num_probes < 1.
  """
  mean_over_probes = _probing(probes, num_probes, max_parallel)

  def terms(key: Key, score: Score, x: Array) -> tuple[Array, Array]:
    def along(v: Array) -> tuple[Array, Array]:
      after, before = _dot(v, score(x + eps * v)), _dot(v, score(x - eps * v))
      return (after - before) / (2 * eps), (after + before) ** 2 / 8

    return mean_over_probes(along, key, x)

  return _loss(parameterization, schedule, terms, levels, score_weighting, uniforms)


def _loss(
  parameterization: Parameterization,
  schedule: Schedule,
  terms: Terms,
  levels: Callable[[Schedule, Array], Level],
  score_weighting: Callable[[Level], Array],
  uniforms: Callable[[Key, int], Array],
) -> Loss:
  """What the losses share: points at their levels, the weighted mean, the two terms apart."""

  def loss(params: Params, key: Key, batch: Batch, context: Context) -> tuple[Array, Metrics]:
    del context
    level_key, noise_key, probe_key = jax.random.split(key, 3)
    level = levels(schedule, uniforms(level_key, batch["x"].shape[0]))
    x, _ = noised(noise_key, batch["x"], level)
    predict = parameterization.bind(params, batch.get("label"))
    weight = score_weighting(level)
    estimates = terms(probe_key, lambda x: predict(x, level).score, x)
    divergence, half_square_norm = (jnp.mean(weight * term) for term in estimates)
    metrics = {"divergence": divergence, "half_square_norm": half_square_norm}
    return divergence + half_square_norm, metrics

  return loss


def _forward(score: Score, x: Array) -> tuple[Array, Score]:
  """s(x) and v -> J v, a tangent pass."""
  return jax.linearize(score, x)


def _reverse(score: Score, x: Array) -> tuple[Array, Score]:
  """s(x) and v -> J^T v, a cotangent pass: v^T J v is the same."""
  value, pullback = jax.vjp(score, x)
  return value, lambda v: pullback(v)[0]


JACOBIANS: dict[str, Callable[[Score, Array], tuple[Array, Score]]] = {
  "forward": _forward,
  "reverse": _reverse,
}


def _rademacher(key: Key, x: Array) -> Array:
  """Independent signs."""
  return jax.random.rademacher(key, x.shape, x.dtype)


def _gaussian(key: Key, x: Array) -> Array:
  """Standard normals."""
  return jax.random.normal(key, x.shape, x.dtype)


def _sphere(key: Key, x: Array) -> Array:
  """Uniform on the sphere of radius sqrt(d), d the size of an event."""
  v = jax.random.normal(key, x.shape, x.dtype)
  return v * jnp.sqrt(x[0].size / _dot(v, v)).reshape(-1, *[1] * (x.ndim - 1))


PROBES: dict[str, Callable[[Key, Array], Array]] = {
  "gaussian": _gaussian,
  "rademacher": _rademacher,
  "sphere": _sphere,
}
"""Laws of a probe v of x's shape [n, *event], independent for each point; all have E v v^T = I."""


def _probing(probes: str, num_probes: int, max_parallel: int) -> Callable[..., Any]:
  """(function of v, key, x) -> the mean of what it returns over probes v of x's shape."""
  draw = _known(PROBES, probes, "probes")
  if num_probes < 1:
    raise ValueError(f"num_probes = {num_probes} must be at least 1")

  def mean_over_probes(function: Callable[[Array], Any], key: Key, x: Array) -> Any:
    keys = jax.random.split(key, num_probes)
    total = _total(lambda key: function(draw(key, x)), keys, max_parallel)
    return jax.tree.map(lambda a: a / num_probes, total)

  return mean_over_probes


def _total(function: Callable[[Array], Any], inputs: Array, max_parallel: int) -> Any:
  """The sum of function(input) over the inputs' leading axis, at most `max_parallel` at a time."""
  if len(inputs) <= max_parallel:
    values = jax.vmap(function)(inputs)
  else:
    again = jax.checkpoint(function, prevent_cse=False)
    values = jax.lax.map(again, inputs, batch_size=max_parallel)
  return jax.tree.map(lambda a: jnp.sum(a, axis=0), values)


def _dot(a: Array, b: Array) -> Array:
  """Inner products of events: [n, *event] twice -> [n]."""
  return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _known(registry: Mapping[str, Any], name: str, what: str) -> Any:
  """registry[name].

  Raises:
    ValueError: there is none.
  """
  if name not in registry:
    raise ValueError(f"{what} = {name!r} is not known (known: {', '.join(sorted(registry))})")
  return registry[name]
