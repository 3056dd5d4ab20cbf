"""Embeddings of levels and of points."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from scorelab.typing import Array


class FourierFeatures(nn.Module):
  """sin and cos of random projections whose frequencies are fixed: no parameter is trained.

  Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
  Domains", NeurIPS 2020 (arXiv 2006.10739), section 5. The frequencies are the same for every seed.

  Attributes:
    num_features: projections; the output has twice as many, in [-1, 1].
    scale: std of the angular frequencies, per unit of the input.
  """

  num_features: int
  scale: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., d] -> [..., 2 num_features]."""
    frequencies = self.scale * _gaussian_table(x.shape[-1], self.num_features)
    angles = x @ jnp.asarray(frequencies, x.dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _gaussian_table(rows: int, columns: int) -> np.ndarray:
  """Standard normal draws [rows, columns], always the same: a constant of the compiled program."""
  return np.random.default_rng(0).standard_normal((rows, columns))


def harmonics(c: Array) -> Array:
  """(c - 1/2, cos 2 pi c, sin 2 pi c, -cos 4 pi c), for c in [0, 1]: [b] -> [b, 4]."""
  angle = 2 * jnp.pi * c
  return jnp.stack([c - 0.5, jnp.cos(angle), jnp.sin(angle), -jnp.cos(2 * angle)], axis=-1)


LEVEL_FEATURES: dict[str, Callable[[Array], Array]] = {
  "harmonics": harmonics,
  "identity": lambda c: c[:, None],
  "none": lambda c: c[:, None][:, :0],  # for a network of one level
}
