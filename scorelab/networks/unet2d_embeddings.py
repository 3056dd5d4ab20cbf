"""Level and class embeddings of diffusers' `UNet2DModel`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from scorelab.typing import Array


class TimestepEmbedding(nn.Module):
  """Two dense layers with a SiLU between them."""

  width: int
  dtype: str | None = None

  @nn.compact
  def __call__(self, features: Array) -> Array:
    """[b, n] -> [b, width]."""
    h = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="linear_1")(features))
    return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(h)


class FourierFeatures(nn.Module):
  """Sines, then cosines, of 2 pi w log c, with fixed random w from N(0, 16^2)."""

  num_frequencies: int

  @nn.compact
  def __call__(self, c: Array) -> Array:
    """[b] -> [b, 2 num_frequencies]."""
    weight = self.param("weight", nn.initializers.normal(16.0), (self.num_frequencies,))
    angles = jnp.log(c)[:, None] * jax.lax.stop_gradient(weight) * (2 * jnp.pi)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def timestep_sinusoids(c: Array, width: int, cosines_first: bool, freq_shift: float) -> Array:
  """Sines and cosines of c at frequencies 1e4^(-i / (width / 2 - freq_shift)): [b] -> [b, width].

  Ho et al. 2020 have freq_shift = 1, so that the last is 1e-4, Vaswani et al. 2017
  (arXiv 1706.03762, section 3.5) have 0. A last column of zeros where the width is odd. The
  exponents are rounded to float32, as PyTorch has them: at c = 1000 one rounding is 3e-5 of a turn.
  """
  half = width // 2
  exponents = np.float32(-np.log(1e4)) * np.arange(half, dtype=np.float32)
  frequencies = np.exp((exponents / np.float32(half - freq_shift)).astype(float))
  angles = c.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
  pair = [jnp.sin(angles), jnp.cos(angles)]
  table = jnp.concatenate(pair[::-1] if cosines_first else pair, axis=-1)
  return jnp.pad(table, ((0, 0), (0, width % 2)))
