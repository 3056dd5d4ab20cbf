"""MLP of a score-SDE tutorial on digits: the time embedding is added to the image itself."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from scorelab.networks.mlp import ACTIVATIONS
from scorelab.ranges import Above, AtLeast
from scorelab.typing import Array


class AdditiveMLP(nn.Module):
  """Dense layers on x + tanh(w c + b), with w and b of x's shape.

  The conditioning enters only here, and changes every coordinate by less than 1. Events with more
  axes are flattened.

  Attributes:
    widths: width of each hidden layer.
    activation: a name of ACTIVATIONS, after each hidden layer.
    output_limit: the output is clipped to [-output_limit, output_limit], with zero gradient
      outside; None does not clip.
    outputs: outputs per coordinate of the point.
  """

  widths: Annotated[tuple[int, ...], AtLeast(1)] = (512, 512, 512)
  activation: str = "silu"
  output_limit: Annotated[float, Above(0)] | None = None
  outputs: int = 1

  @nn.compact
  def __call__(self, x: Array, c: Array) -> Array:
    """[b, *event], [b] -> [b, *event], the last axis outputs times as long."""
    flat = x.reshape(x.shape[0], -1)
    h = flat + jnp.tanh(nn.Dense(flat.shape[-1], name="time")(c[:, None]))
    for width in self.widths:
      h = ACTIVATIONS[self.activation](nn.Dense(width)(h))
    h = nn.Dense(self.outputs * flat.shape[-1])(h)
    if self.output_limit is not None:
      h = jnp.clip(h, -self.output_limit, self.output_limit)
    return h.reshape(*x.shape[:-1], -1)
