"""Networks: Flax modules `(x [b, *event], c [b], label [b]) -> [b, *event]`.

A network may have `check_event(event_shape)`, which raises ValueError for events that it does not
take; networks without it take any shape. Labels are for networks with num_classes.
"""

from collections.abc import Callable

from flax import linen as nn

from scorelab.networks.additive import AdditiveMLP
from scorelab.networks.dit import DiT
from scorelab.networks.embeddings import LEVEL_FEATURES
from scorelab.networks.heads import HeadsMLP
from scorelab.networks.mlp import ACTIVATIONS, MLP, ResidualMLP
from scorelab.networks.unet import UNet, modern_unet
from scorelab.networks.unet2d import UNet2D
from scorelab.validation import Registry

NETWORKS: dict[str, Callable[..., nn.Module]] = Registry("network") | {
  "additive_mlp": AdditiveMLP,
  "dit": DiT,
  "heads_mlp": HeadsMLP,
  "mlp": MLP,
  "modern_unet": modern_unet,
  "residual_mlp": ResidualMLP,
  "unet": UNet,
  "unet2d": UNet2D,
}

__all__ = [
  "ACTIVATIONS",
  "LEVEL_FEATURES",
  "MLP",
  "NETWORKS",
  "AdditiveMLP",
  "DiT",
  "HeadsMLP",
  "ResidualMLP",
  "UNet",
  "UNet2D",
  "modern_unet",
]
