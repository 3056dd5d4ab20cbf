"""Networks: Flax modules `(x [b, *event], c [b]) -> [b, *event]`."""

from collections.abc import Callable

from flax import linen as nn

from scorelab.networks.additive import AdditiveMLP
from scorelab.networks.mlp import ACTIVATIONS, MLP, ResidualMLP

NETWORKS: dict[str, Callable[..., nn.Module]] = {
  "additive_mlp": AdditiveMLP,
  "mlp": MLP,
  "residual_mlp": ResidualMLP,
}

__all__ = ["ACTIVATIONS", "MLP", "NETWORKS", "AdditiveMLP", "ResidualMLP"]
