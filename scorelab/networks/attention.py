"""Attention among tokens [b, n, d]: softmax and linear.

References:
  Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (arXiv 1706.03762), eq. 1.
  Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021
    (arXiv 1812.01243), section 3.2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from scorelab.typing import Array

KEY_SOFTMAXES = ("channels", "positions")
DTYPES = (None, "bfloat16", "float32")
"""Dtypes of a computation; None is that of the input and parameters, which are float32."""


class Attention(nn.Module):
  """Softmax attention of every token to every token; costs n^2.

      out = softmax(q k^T / sqrt(head_dim)) v        in each head

  Attributes:
    num_heads: heads side by side.
    head_dim: channels of each.
    use_bias: whether the projection to q, k and v has a bias.
    zero_init: whether the last layer starts at zero.
    flash: whether cuDNN's fused kernels are used: on a GPU and in bfloat16 only.
    dtype: of the computation; None for that of the tokens and parameters.

  Raises:
    ValueError: flash where there is no GPU, or in another dtype.
  """

  num_heads: int = 4
  head_dim: int = 32
  use_bias: bool = False
  zero_init: bool = False
  flash: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, n, d] -> [b, n, d]."""
    shape = (3, self.num_heads, self.head_dim)
    qkv = nn.DenseGeneral(shape, use_bias=self.use_bias, dtype=self.dtype, name="qkv")(x)
    device = jax.default_backend()
    if self.flash and (device != "gpu" or qkv.dtype != jnp.bfloat16):
      raise ValueError(
        f"flash = True needs a GPU and dtype = 'bfloat16': here are a {device} and {qkv.dtype}"
      )
    implementation = "cudnn" if self.flash else None
    h = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), implementation=implementation)
    init = last_init(self.zero_init)
    out = nn.DenseGeneral(x.shape[-1], (-2, -1), kernel_init=init, dtype=self.dtype, name="out")
    return out(h)


class LinearAttention(nn.Module):
  """Attention through a head_dim x head_dim summary of all tokens, normalised; costs n.

      summary = sum over tokens of softmax(k) v^T        out = norm(W summary^T q)

  Attributes:
    num_heads: heads side by side.
    head_dim: channels of each.
    key_softmax: the axis of the softmax of k. 'positions' is Shen et al.'s.
    zero_init: whether the last normalisation starts at zero.
    dtype: of the computation; None for that of the tokens and parameters.

  Raises:
    ValueError: key_softmax is not one of KEY_SOFTMAXES.
  """

  num_heads: int = 4
  head_dim: int = 32
  key_softmax: str = "positions"
  zero_init: bool = False
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b, n, d] -> [b, n, d]."""
    if self.key_softmax not in KEY_SOFTMAXES:
      raise ValueError(
        f"key_softmax = {self.key_softmax!r} must be one of {', '.join(KEY_SOFTMAXES)}"
      )
    shape = (3, self.num_heads, self.head_dim)
    qkv = nn.DenseGeneral(shape, dtype=self.dtype, name="qkv")(x)
    q, k, v = jnp.moveaxis(qkv, 2, 0)
    k = softmax(k, axis=1 if self.key_softmax == "positions" else -1)
    q = softmax(q, axis=-1) / self.head_dim**0.5
    summary = jnp.einsum("bnhd,bnhe->bhde", k, v)
    h = jnp.einsum("bhde,bnhd->bnhe", summary, q)
    h = nn.DenseGeneral(x.shape[-1], (-2, -1), dtype=self.dtype, name="out")(h)
    return group_norm(1, zero_init=self.zero_init, dtype=self.dtype, name="norm")(h)


def softmax(x: Array, axis: int) -> Array:
  """Softmax in float32 or higher precision, returned in x's dtype."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return nn.softmax(x.astype(wide), axis=axis).astype(x.dtype)


def last_init(zero: bool) -> nn.initializers.Initializer:
  """Initializer of a residual branch's last layer: zeros, or Flax's default."""
  return nn.initializers.zeros if zero else nn.linear.default_kernel_init


def group_norm(
  num_groups: int, *, zero_init: bool = False, dtype: str | None = None, name: str | None = None
) -> nn.GroupNorm:
  """Group normalisation of each example, in float32, with PyTorch's epsilon."""
  init = nn.initializers.zeros if zero_init else nn.initializers.ones
  return nn.GroupNorm(num_groups, epsilon=1e-5, scale_init=init, dtype=dtype, name=name)
