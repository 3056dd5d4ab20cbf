"""Networks: Flax modules `(x [b, *event], c [b], label [b]) -> [b, *event]`.

A network may have `check_event(event_shape)`, which raises ValueError where it does not take such
events; of those without, any shape will do. Labels are for networks with num_classes.
"""

from collections.abc import Callable

from flax import linen as nn

from scorelab.networks.dit import DiT
from scorelab.networks.mlp import ACTIVATIONS, MLP, ResidualMLP
from scorelab.networks.unet import UNet, modern_unet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
  "dit": DiT,
  "mlp": MLP,
  "modern_unet": modern_unet,
  "residual_mlp": ResidualMLP,
  "unet": UNet,
}

__all__ = ["ACTIVATIONS", "MLP", "NETWORKS", "DiT", "ResidualMLP", "UNet", "modern_unet"]
