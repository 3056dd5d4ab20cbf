"""Networks: Flax modules `(x [b, *event], c [b]) -> [b, *event]`."""

from collections.abc import Callable

from flax import linen as nn

from scorelab.networks.embeddings import LEVEL_FEATURES
from scorelab.networks.mlp import ACTIVATIONS, MLP, ResidualMLP

NETWORKS: dict[str, Callable[..., nn.Module]] = {
  "mlp": MLP,
  "residual_mlp": ResidualMLP,
}

__all__ = ["ACTIVATIONS", "LEVEL_FEATURES", "MLP", "NETWORKS", "ResidualMLP"]
