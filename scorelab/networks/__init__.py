"""Networks: Flax modules `(x [b, *event], c [b], label [b]) -> [b, *event]`.

A network may have `check_event(event_shape)`, which raises ValueError for events that it does not
take; networks without it take any shape. Labels are for networks with num_classes.
"""

from collections.abc import Callable

from flax import linen as nn

from scorelab.networks import network_registry
from scorelab.networks.embeddings import LEVEL_FEATURES
from scorelab.networks.mlp import ACTIVATIONS
from scorelab.networks.network_registry import *
from scorelab.networks.unet import modern_unet
from scorelab.validation import Registry, parts_of

NETWORKS: dict[str, Callable[..., nn.Module]] = Registry("network", parts_of(network_registry))
