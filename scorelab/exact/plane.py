"""KL of a sampler's law in the plane from its target, by quadrature over the start.

    KL(q || target) = int p(x) F(x) dx        F = log p(x) - log |det f'(x)| - log target(f(x))

with f the sampler's map, p the law of its start, and x on lines that are oblique to the axes and to
the diagonals, on which symmetric targets have the curves where f is steep.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from scorelab.exact.cubature import Integral, Terms, integrate_plane
from scorelab.exact.pushforward import Pushforward, in_chunks
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array

_ANGLE = np.pi / 8  # of the lines
_REACH = 8.5  # standard deviations: what is outside has 2e-16 of the mass
_ROUGH, _FIRST = 0.1, 2**18  # relative error and points by which a map is known to be one to one


def plane_kl(
  push: Pushforward, first: GaussianMixture, last: GaussianMixture, rtol: float
) -> Integral:
  """Returns integrals of p F, of p, and of p where the map reverses orientation.

  If the map reverses it, the first one is a lower bound of the divergence, known to few digits.

  Args:
    push: the map, in float64.
    first, last: laws of the start and of the target, in the plane.
    rtol: relative error of the first integral.
  """
  axes = np.array([[np.cos(_ANGLE), np.sin(_ANGLE)], [-np.sin(_ANGLE), np.cos(_ANGLE)]])
  variances = np.asarray(first.variances)
  reach = _REACH * np.sqrt(variances.max(axis=1))
  centres = axes @ np.asarray(first.means).T
  low, high = (centres - reach).min(axis=1), (centres + reach).max(axis=1)
  unit = float(np.sqrt(np.asarray(last.variances).min()))
  logs = functools.partial(_log_densities, first, last)

  def terms(u: np.ndarray, v: np.ndarray) -> Terms:
    x = np.stack([u, v], axis=-1) @ axes
    y, jacobian = push(x)
    det = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    start, end = in_chunks(logs, x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
      density, log_ratio = np.exp(start), start - np.log(np.abs(det)) - end
      values = density[:, None] * np.stack([log_ratio, np.ones_like(det), det < 0], axis=-1)
    return Terms(values, y / unit, jacobian @ axes[1] / unit)

  # As many pieces for a start of several modes, in proportion, as for one.
  count = np.ceil(np.max(high - low) / (2 * _REACH * np.sqrt(variances.min())))
  pieces = (4 * int(min(count, 8)), 8 * int(min(count, 8)))
  integrate = functools.partial(
    integrate_plane, terms, (low[0], high[0]), (low[1], high[1]), first=pieces
  )
  found = integrate(rtol=max(rtol, _ROUGH), most=_FIRST)
  enough = found.error <= rtol * abs(found.value[0])
  return found if enough or found.value[2] else integrate(rtol=rtol)


@jax.jit
def _log_densities(
  first: GaussianMixture, last: GaussianMixture, x: Array, y: Array
) -> tuple[Array, Array]:
  return first._log_prob(x), last._log_prob(y)
