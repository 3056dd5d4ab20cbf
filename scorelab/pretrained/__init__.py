"""Weights that other libraries trained, as parameters of our networks."""

from scorelab.pretrained.annotated import unet_params

__all__ = ["unet_params"]
