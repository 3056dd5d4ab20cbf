"""Weights that other libraries trained, as parameters of our networks; and ours, for others."""

from scorelab.pretrained.annotated import unet_params
from scorelab.pretrained.diffusers import Pipeline, load_pipeline, save_pipeline
from scorelab.pretrained.files import PretrainedError

__all__ = [
  "Pipeline",
  "PretrainedError",
  "load_pipeline",
  "save_pipeline",
  "unet_params",
]
